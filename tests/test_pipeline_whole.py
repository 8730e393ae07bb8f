"""A recording as an archive feeds it, whole, and as a device does, in pieces: the same bytes, whatever befalls its leads."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.alarm import Alarm, Alert
from edge.decode.chunk import Chunk
from edge.message import to_message
from edge.pipeline import Options, Pipeline
from edge.quality import Judge, State
from edge.track import score
from kernels.engine import Engine
from kernels.signal import LEADS

from .conftest import cut, heart

SECONDS = 24

FAULTS = ("nan", "flat", "rail", "hum", "huge", "noise", "absent")


def _befallen(lead_mv: np.ndarray, fault: str, rate_hz: float) -> np.ndarray:
    t = np.arange(len(lead_mv)) / rate_hz
    match fault:
        case "nan":
            return np.full_like(lead_mv, np.nan)
        case "flat":
            return np.full_like(lead_mv, 0.3)
        case "rail":
            return np.where(t % 2 < 1.3, 5.0, lead_mv)
        case "hum":
            return lead_mv + 3 * np.sin(2 * np.pi * 50 * t)
        case "huge":
            return 100 * lead_mv
        case "noise":
            return lead_mv + 0.5 * np.random.default_rng(1).standard_normal(len(t))
    return np.where(t % 0.3 < 0.01, np.nan, lead_mv)


def _source(rate_hz: float, leads: tuple[str, ...], faults: list[tuple[int, int, str]]) -> Chunk:
    """`faults` are the lead, the second at which it begins to go wrong for four, and how."""
    samples = heart(75, SECONDS, rate_hz)[[LEADS.index(lead) for lead in leads]]
    for lead, second, fault in faults:
        part = slice(round(second * rate_hz), round((second + 4) * rate_hz))
        samples[lead % len(leads), part] = _befallen(samples[lead % len(leads), part], fault, rate_hz)
    return Chunk(0, rate_hz, leads, samples)


def _with_gap(chunks: list[Chunk], after: int, lost: int) -> list[Chunk]:
    return [chunk if chunk.start < after else replace(chunk, start=chunk.start + lost) for chunk in chunks]


def _as_an_archive(engine: Engine, chunks: list[Chunk]) -> list[str]:
    """All that is to be scored first, and then the engine once."""
    pipeline = Pipeline("bed1", engine)
    pending = [*map(pipeline.prepare, chunks), pipeline.prepare_end()]
    rows = iter(score(engine, [job for one in pending for job in one.jobs]))
    told = [event for one in pending for event in pipeline.finish(one, np.array([next(rows) for _ in one.jobs]))]
    return [json.dumps(to_message(event)) for event in told]


def _as_a_device(engine: Engine, chunks: list[Chunk]) -> list[str]:
    pipeline = Pipeline("bed1", engine)
    told = [event for chunk in chunks for event in pipeline.feed(chunk)] + list(pipeline.flush())
    return [json.dumps(to_message(event)) for event in told]


@settings(max_examples=25)
@given(
    rate_hz=st.sampled_from([100.0, 128.0, 250.0, 500.0]),
    leads=st.sampled_from([LEADS, ("I", "II"), ("II", "V1", "V5"), ("V2",)]),
    faults=st.lists(st.tuples(st.integers(0, 11), st.integers(0, SECONDS - 5), st.sampled_from(FAULTS)), max_size=6),
    cuts=st.lists(st.integers(0, SECONDS * 500), max_size=25),
    lost=st.sampled_from([0, 0, 1, 40, 3000]),
)
def test_fed_whole_it_gives_the_bytes_of_any_cut(
    engine: Engine, rate_hz: float, leads: tuple[str, ...], faults: list[tuple[int, int, str]], cuts: list[int], lost: int
) -> None:
    source = _source(rate_hz, leads, faults)
    after = round(13.3 * rate_hz)
    whole, pieces = (_with_gap(cut(source, at), after, lost) for at in ([after], [*cuts, after]))
    assert _as_an_archive(engine, whole) == _as_a_device(engine, pieces)


@pytest.mark.parametrize("together", [1, 7, 100])
def test_seconds_judged_together_are_judged_like_one_alone(together: int) -> None:
    """So many seconds a chunk, of all leads with every fault in turn, against each second by itself with its leads one by one."""
    faults = [(lead, 5 * (lead % 4), fault) for lead, fault in enumerate(2 * FAULTS[:6])]
    source = _source(250.0, LEADS, faults)
    judge = Judge()
    told = [second.states for part in cut(source, list(range(0, source.end, 250 * together))) for second in judge.feed(part)]
    assert len(told) == SECONDS
    assert {state for states in told for state in states} >= {"off", "flat", "saturated", "mains", "implausible", "noise", "good"}
    for at, states in enumerate(told):
        assert states == tuple(_alone(source, lead, at) for lead in LEADS)


def _alone(source: Chunk, lead: str, second: int) -> State:
    """By a judge that sees this lead and this second only."""
    samples = source.samples_mv[[LEADS.index(lead)], 250 * second : 250 * (second + 1)]
    (one,) = Judge().feed(Chunk(0, 250.0, (lead,), samples))
    return one.by_lead()[lead]


def test_sources_that_share_what_a_bundle_says_share_nothing_else(engine: Engine) -> None:
    """Side by side and one after the other: the alerts of each are those that it has alone."""
    flat, plain = _source(250.0, ("I", "II"), [(lead, second, "flat") for lead in (0, 1) for second in (2, 6)]), _source(250.0, LEADS, [])
    alone = [_as_a_device(engine, [source]) for source in (flat, plain)]
    pipelines = [Pipeline("bed1", engine, Options()) for _ in range(2)]
    told = [[json.dumps(to_message(event)) for event in p.feed(source)] for p, source in zip(pipelines, (flat, plain), strict=True)]
    told = [told[i] + [json.dumps(to_message(event)) for event in p.flush()] for i, p in enumerate(pipelines)]
    assert told == alone
    assert '"finding": "no_signal"' in "".join(told[0])


def test_what_a_reader_does_to_the_leads_of_one_event_changes_no_other(engine: Engine) -> None:
    """The states of the leads are worked out once for all seconds alike, and never handed out for writing."""
    source = _source(250.0, ("I", "II"), [(0, 2, "flat"), (1, 2, "flat"), (0, 6, "flat"), (1, 6, "flat")])
    wanted = _as_a_device(engine, [source])
    pipeline = Pipeline("bed1", engine)
    for event in [*pipeline.feed(source), *pipeline.flush()]:
        message = to_message(event)
        for kept in (message.get("quality"), event.quality if isinstance(event, Alert) else None):
            (kept or {}).clear()
    assert _as_a_device(engine, [source]) == wanted


def test_a_rate_of_windows_of_its_own_does_not_reach_the_next_alarm(engine: Engine) -> None:
    """What is worked out once for all sources hangs on how often windows come."""
    card = engine.bundle.card
    slow, usual = (Alarm("bed1", card, hop_s=hop_s) for hop_s in (60.0, 1.0))
    memory_s = [{watch.episode._rule.memory_s for watch in alarm._watches.values()} for alarm in (slow, usual)]
    assert max(memory_s[0]) > max(memory_s[1])
