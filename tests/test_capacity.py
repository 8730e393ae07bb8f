"""Many sources in real time: every window is scored exactly once, none before it is complete; and the largest number is found."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import capacity as module
from edge.capacity import Capacity, Plan, Run, completed, most, play, voices
from kernels.bundle import Bundle
from kernels.engine import Engine, Result
from kernels.findings import ConfigError
from kernels.signal import Samples

from .conftest import EXCERPT

PLAN = Plan(EXCERPT, EXCERPT, rate_hz=250.0)


class Quick(Engine):
    """Answers at once, on windows of two seconds."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = Bundle(b"", bundle.card.model_copy(update={"window_s": 2.0}))

    def run(self, ecg: Samples) -> Result:
        assert ecg.shape[1:] == (12, 200)
        return Result(np.zeros((len(ecg), len(self.bundle.card.findings)), np.float32), np.zeros((len(ecg), 1), np.float32))

    def close(self) -> None: ...


def _due_s(at_s: int) -> float:
    """Of the frame of 62 samples, which is what a quarter of a second rounds to at 250 Hz, that ends a tenth after the last."""
    return math.ceil((at_s - 0.01 + 0.1) * 250 / 62) * 62 / 250


def test_every_window_is_scored_exactly_once_and_not_before_it_is_complete(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: a window ends with each second from the second on, and a tenth of a second more makes its last sample known."""
    monkeypatch.setattr(module, "_SETTLE_S", 0.5)
    engine = Quick(bundle)
    run = play(engine, voices(PLAN, 6.0), sources=2, seconds=1.5)
    expected = {(i, float(at_s)): begin + _due_s(at_s) for i, begin in enumerate(run.begin_s) for at_s in range(2, 6)}
    expected = {window: due_s for window, due_s in expected.items() if due_s <= 6.0}
    assert run.told.keys() == expected.keys() and len(expected) == 7
    assert run.repeated == 0
    assert all(run.told[window] >= due_s for window, due_s in expected.items())


def test_a_dry_run_tells_which_frame_completes_a_window(bundle: Bundle) -> None:
    found = completed(Quick(bundle), voices(PLAN, 60.0)[0])
    assert found == {float(at_s): pytest.approx(_due_s(at_s)) for at_s in range(2, 60)}


@pytest.mark.parametrize("rate_hz", [0.0, 10.0, float("nan"), -250.0, 1e9])
def test_a_rate_that_no_device_has_is_refused(rate_hz: float) -> None:
    with pytest.raises(ConfigError, match="--rate"):
        voices(Plan(EXCERPT, EXCERPT, rate_hz=rate_hz), 5.0)


def test_the_voices_differ_and_are_as_long_as_is_asked() -> None:
    frames = voices(PLAN, 5.0)
    assert {len(one) for one in frames} == {20}
    assert len({one[0].data for one in frames}) == len(frames)


def _run_of(told: dict[tuple[int, float], float]) -> Run:
    return Run([0.0], told, 0, warm_s=0.0, end_s=10.0, backlog_s=0.0, core=0.5)


def test_a_window_that_was_never_scored_is_as_late_as_the_end_and_not_sustained() -> None:
    complete = [{1.0: 1.0, 2.0: 2.0}]
    both = module._sum_up(_run_of({(0, 1.0): 1.1, (0, 2.0): 2.1}), complete, 10.0)
    one = module._sum_up(_run_of({(0, 1.0): 1.1}), complete, 10.0)
    assert (both.sustained, both.unscored, both.worst_ms) == (True, 0, pytest.approx(100, abs=0.2))
    assert (one.sustained, one.unscored, one.worst_ms) == (False, 1, pytest.approx(8000))


def _trial(sources: int, limit: int) -> Capacity:
    enough = sources <= limit
    return Capacity(sources, 1.0, enough, 0.0, 10.0, 100.0 if enough else 900.0, 900.0, min(sources / (1.1 * limit), 1.0), 1.0, 0, 1.0)


@given(limit=st.integers(1, 5000))
def test_the_largest_number_is_found_to_two_percent_in_few_trials(limit: int) -> None:
    trials: list[int] = []

    def capacity(plan: Plan, sources: int) -> Capacity:
        trials.append(sources)
        return _trial(sources, limit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "capacity", capacity)
        found = most(PLAN, lambda trial: None)
    assert found.sources <= limit <= max(1.02 * found.sources, found.sources + 1)
    assert len(trials) == len(set(trials)) <= 20


def test_a_core_too_slow_for_one_source_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "capacity", lambda plan, sources: _trial(sources, 0.5))
    with pytest.raises(ConfigError, match="smaller --bundle"):
        most(PLAN, lambda trial: None)
