"""What a source costs: engine and stages are told apart to the millisecond, and what follows for a core is right."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from edge import sizing as module
from edge.load import Figures
from edge.sizing import BUSY, Cost, MeteredStream, Plan, Sizing, measure, metered, size
from kernels.bundle import Bundle, golden_windows
from kernels.engine import Engine, Result, StreamEngine, open_engine
from kernels.findings import ConfigError
from kernels.signal import Samples

from .conftest import EXCERPT

PLAN = Plan(EXCERPT, sources=5, seconds=3.0)


class Clock:
    """A processor that works only where a test says so."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Slow(Engine):
    """Takes three milliseconds a window, and one of its own for each call."""

    def __init__(self, bundle: Bundle, clock: Clock) -> None:
        self.bundle, self._clock, self.windows = bundle, clock, 0

    def run(self, ecg: Samples) -> Result:
        self._clock.now_s += 0.003 * len(ecg)
        return Result(np.zeros((len(ecg), len(self.bundle.card.findings)), np.float32), np.zeros((len(ecg), 1), np.float32))

    def close(self) -> None: ...


def test_the_engine_is_told_from_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a processor that works for 3 ms a window and 2 ms a second of a source, whatever this machine is doing."""
    clock = Clock()
    monkeypatch.setattr(module, "open_engine", lambda bundle, name: Slow(bundle, clock))
    monkeypatch.setattr(module, "_clock_of", lambda name: clock)
    given = module.Live.prepare

    def prepare(live: Any, arrival: Any) -> Any:
        # A quarter of a second of one source.
        clock.now_s += 0.0005
        return given(live, arrival)

    monkeypatch.setattr(module.Live, "prepare", prepare)
    cost = measure(PLAN, "cardiogloss")
    assert (cost.engine_ms, cost.stages_ms) == (pytest.approx(3.0), pytest.approx(2.0))
    assert measure(Plan(EXCERPT, hop_s=2.0, sources=4, seconds=4.0), "cardiogloss").engine_ms == pytest.approx(3.0)


@pytest.mark.parametrize("name", ["cardiogloss-int8", "cardiogloss-stream"])
def test_a_metered_engine_says_the_same_to_the_bit_and_counts_its_time(name: str) -> None:
    with open_engine(Bundle.read(Path(name))) as engine:
        windows = golden_windows(engine.bundle.card.samples)
        one = metered(engine, time.perf_counter)
        assert isinstance(one, StreamEngine) == isinstance(engine, StreamEngine) == isinstance(one, MeteredStream)
        begun_s = time.perf_counter()
        answers = [one.run(windows)]
        answers += [_step(one, windows)] if isinstance(one, MeteredStream) else []
        assert 0 < one.spent_s <= time.perf_counter() - begun_s
        np.testing.assert_array_equal(answers[0].probability, engine.run(windows).probability)
        if isinstance(engine, StreamEngine):
            np.testing.assert_array_equal(answers[1].probability, _step(engine, windows).probability)


def _step(engine: StreamEngine, windows: Samples) -> Result:
    return engine.step(windows[:, :, : engine.stride], np.stack([engine.begin()] * len(windows)))[0]


def test_the_real_thing_is_measured() -> None:
    cost = measure(PLAN, "cardiogloss-stream")
    assert 0 < cost.engine_ms < 1000 and 0 < cost.stages_ms < 1000 and cost.process_mb > 30


@given(st.floats(0.01, 400), st.floats(0.01, 400), st.floats(0, 400), st.sampled_from([0.5, 1.0, 5.0]))
def test_a_core_takes_as_many_sources_as_keep_it_busy_for_seven_tenths_and_no_more(
    engine_ms: float, stages_ms: float, transport_ms: float, hop_s: float
) -> None:
    cost = Cost("x", engine_ms, stages_ms, 100.0, 0.2)
    count = cost.sources_a_core(hop_s, transport_ms)

    def busy(sources: int) -> float:
        # In an hour.
        windows = 3600 / hop_s * sources
        return (windows * engine_ms + 3600 * sources * (stages_ms + transport_ms)) / 3.6e6

    assert busy(count) <= BUSY + 1e-9 < busy(count + 1) + 2e-9


def test_what_a_live_daemon_needs_beyond_engine_and_stages_is_the_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 sources in half a minute, of which 320 windows came: 16 * 30 s * (1.5 + 6) ms + 320 * 4 ms are 4.88 s of processor time."""
    figures = dict.fromkeys(Figures.__dataclass_fields__, 0) | {"windows_scored": 320, "cores": 4.88 / 30}
    monkeypatch.setattr(module, "load", lambda *asked: Figures(**figures))  # type: ignore[arg-type]
    monkeypatch.setattr(module, "_apart", lambda plan, bundle: Cost(bundle, 4.0 if plan.engine == "onnx" else 1.0, 1.5, 100.0, 0.2))
    # The daemon of the trial has the default engine, whichever is asked about.
    assert size(replace(PLAN, engine="openvino"), ["cardiogloss-int8"], live=16).transport_ms == pytest.approx(6.0, abs=0.01)
    sized = size(PLAN, ["cardiogloss"], live=16)
    assert sized.transport_ms == pytest.approx(6.0, abs=0.01)
    assert sized.sources == {"cardiogloss": int(700 / (4 + 1.5 + 6))}
    assert size(PLAN, ["cardiogloss"]).transport_ms is None


def test_where_there_is_no_broker_this_is_told_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_apart", lambda plan, bundle: pytest.fail("measured"))
    monkeypatch.setattr("edge.load.shutil.which", lambda *name, **where: None)
    with pytest.raises(ConfigError, match=r"apt-get install mosquitto.*--live 0"):
        size(PLAN, ["cardiogloss"], live=16)


def test_a_bundle_that_the_engine_cannot_run_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_apart", lambda plan, bundle: Cost(bundle, 4.0, 1.5, 100.0, 0.2))
    assert set(size(PLAN).sources) == {"cardiogloss", "cardiogloss-int8", "cardiogloss-stream"}
    assert set(size(Plan(EXCERPT, engine="openvino")).sources) == {"cardiogloss", "cardiogloss-int8"}


@pytest.mark.parametrize(
    ("plan", "words"), [(Plan(EXCERPT, rate_hz=10.0), "--rate"), (Plan(EXCERPT, hop_s=11.0), "--hop"), (Plan(EXCERPT, hop_s=0.0), "--hop")]
)
def test_what_cannot_be_is_refused(plan: Plan, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        size(plan, ["cardiogloss"])


def test_a_recording_without_a_lead_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("t,breath\n" + "".join(f"{i / 100},{i % 7}\n" for i in range(300)))
    with pytest.raises(ConfigError, match="lead"):
        size(Plan(tmp_path / "x.csv"), ["cardiogloss"])


def test_the_command_tells_a_table_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    sized = Sizing("aarch64", 6, 2, 250.0, 1.0, "onnx", 6.0, (Cost("cardiogloss", 4.0, 1.5, 150.0, 0.2),))
    monkeypatch.setattr(module, "size", lambda *asked: sized)
    app = typer.Typer()
    app.command()(module.sizing_command)
    told = json.loads(CliRunner().invoke(app, [str(EXCERPT), "--json"]).output)
    assert told["sources_a_core"] == {"cardiogloss": 60} and told["costs"][0]["engine_ms"] == 4.0
    shown = CliRunner().invoke(app, [str(EXCERPT)]).output
    assert re.search(r"^cardiogloss +4 +1.5 +150 +0.2 +60 *$", shown, flags=re.MULTILINE) and "6 ms more" in shown
