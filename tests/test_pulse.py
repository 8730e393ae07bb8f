"""The second opinion of the beats: fibrillation is irregular through and through, and slow is slow."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.pulse import Pulse, scatter
from edge.vitals import Vitals
from kernels.findings import Finding

from .conftest import ARCHIVE


def _finding(**more: object) -> Finding:
    return Finding.model_validate({"name": "x", "prompts": ["x"]} | more)


def _pulse(intervals_s: Sequence[float], rate_bpm: float | None = None) -> tuple[Pulse, float]:
    """The pulse after these intervals, and the moment."""
    pulse, beats = Pulse(), np.cumsum([1.0, *intervals_s])
    for beat in beats:
        pulse.feed(Vitals(float(beat), rate_bpm, (float(beat),)))
    return pulse, float(beats[-1])


@given(st.lists(st.floats(0.3, 2.0), min_size=3, max_size=20))
def test_the_scatter_is_the_share_of_pairs_of_beats_that_differ(intervals_s: list[float]) -> None:
    """Oracle: pair by pair, in words."""
    same_s = max(0.1 * sum(intervals_s) / len(intervals_s), 0.06)
    pairs = list(itertools.combinations(itertools.pairwise(intervals_s), 2))
    apart = [max(abs(a - c), abs(b - d)) for (a, b), (c, d) in pairs]
    near = sum(abs(gap - same_s) < 1e-7 for gap in apart)
    assert scatter(np.array(intervals_s)) == pytest.approx(sum(gap > same_s for gap in apart) / len(pairs), abs=(near + 0.01) / len(pairs))


@pytest.mark.parametrize(
    ("name", "intervals_s"),
    [
        ("sinus", [0.8] * 16),
        ("breathing", [0.8 + 0.05 * np.sin(i / 2) for i in range(16)]),
        ("bigeminy", [0.6, 1.1] * 8),
        ("trigeminy", [0.8, 0.6, 1.1] * 6),
        ("one premature beat", [0.8] * 8 + [0.5, 1.1] + [0.8] * 6),
        ("speeding up", [1.0 - 0.03 * i for i in range(16)]),
    ],
)
def test_what_repeats_is_not_irregular(name: str, intervals_s: list[float]) -> None:
    pulse, now_s = _pulse(intervals_s)
    assert not pulse.is_irregular(now_s)


def test_intervals_drawn_at_random_are_irregular() -> None:
    rng = np.random.default_rng(5)
    found = [pulse.is_irregular(now_s) for pulse, now_s in (_pulse(rng.uniform(0.4, 1.2, 16).tolist()) for _ in range(100))]
    assert np.mean(found) > 0.9


@pytest.mark.skipif(not (ARCHIVE / "mitdb").exists(), reason="the archive is not there")
def test_annotated_fibrillation_is_irregular_and_sinus_rhythm_is_not() -> None:
    """The cardiologists' beats of MIT-BIH 203 (fibrillation throughout but for flutter) and 122 (sinus rhythm throughout)."""
    import wfdb

    share = {}
    for record in ("203", "122"):
        notes = wfdb.rdann(str(ARCHIVE / "mitdb" / record), "atr")
        beats = np.array([s for s, symbol in zip(notes.sample, notes.symbol, strict=True) if symbol in "NLRAVFaJSejEfQ/"]) / 360
        share[record] = np.mean(
            [_pulse(np.diff(beats[i : i + 17]).tolist())[0].is_irregular(17 * 2.0) for i in range(0, len(beats) - 17, 8)]
        )
    assert share["203"] > 0.75
    assert share["122"] < 0.01


def test_too_few_beats_and_beats_long_ago_show_nothing() -> None:
    rng = np.random.default_rng(5)
    few, now_s = _pulse(rng.uniform(0.4, 1.2, 5).tolist())
    assert not few.is_irregular(now_s)
    many, now_s = _pulse(rng.uniform(0.4, 1.2, 16).tolist())
    assert many.is_irregular(now_s) and not many.is_irregular(now_s + 29)


def test_a_gap_hides_no_irregular_pulse() -> None:
    """Twelve seconds without a beat, told as one interval, would make all others look alike."""
    rng = np.random.default_rng(5)
    pulse, now_s = _pulse([*rng.uniform(0.4, 1.2, 8), 12.0, *rng.uniform(0.4, 1.2, 8)])
    assert pulse.is_irregular(now_s)


@pytest.mark.parametrize(
    ("asked", "rate_bpm", "fits"),
    [
        ({"above_bpm": 100.0}, 100.0, True), ({"above_bpm": 100.0}, 97.0, None), ({"above_bpm": 100.0}, 94.0, False),
        ({"below_bpm": 60.0}, 59.9, True), ({"below_bpm": 60.0}, 60.0, None), ({"below_bpm": 60.0}, 63.0, False),
        ({"above_bpm": 100.0}, None, None), ({}, None, True), ({"irregular": True}, 80.0, None),
    ],
)  # fmt: skip
def test_a_rate_fits_speaks_against_or_does_neither(asked: dict[str, object], rate_bpm: float | None, fits: bool | None) -> None:
    pulse, now_s = _pulse([0.8] * 16, rate_bpm)
    assert pulse.fits(_finding(**asked), now_s) is fits


def test_a_rate_of_long_ago_is_none() -> None:
    pulse, now_s = _pulse([0.5] * 16, 120.0)
    assert pulse.fits(_finding(above_bpm=100.0), now_s + 4) is True
    assert pulse.fits(_finding(above_bpm=100.0), now_s + 6) is None
