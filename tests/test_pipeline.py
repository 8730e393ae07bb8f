"""The whole path with the shipped model: any cut and any speed give the same bytes; bad signals abstain and say why."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.alarm import Alert
from edge.decode.chunk import Chunk
from edge.message import to_message
from edge.pipeline import Event, FollowUp, Options, Pipeline
from edge.replay import replay
from edge.score import Scores
from edge.transport.file import open_recording
from kernels.engine import Engine
from kernels.signal import LEADS

from .conftest import EXCERPT, cut, heart


def _events(engine: Engine, chunks: list[Chunk], options: Options = Options()) -> list[Event]:
    pipeline = Pipeline("bed1", engine, options)
    return [event for chunk in chunks for event in pipeline.feed(chunk)] + list(pipeline.flush())


def _lines(events: list[Event]) -> str:
    return "\n".join(json.dumps(to_message(event)) for event in events)


@settings(max_examples=12)
@given(cuts=st.lists(st.integers(0, 360 * 30), max_size=30), hop_s=st.sampled_from([0.2, 0.5, 1.0, 2.5]))
def test_any_cut_gives_the_same_bytes(engine: Engine, excerpt: Chunk, cuts: list[int], hop_s: float) -> None:
    source = Chunk(0, 360.0, excerpt.leads, excerpt.samples_mv[:, 360 * 65 : 360 * 95])
    gap = [c if c.start < 360 * 14 else Chunk(c.start + 50, c.rate_hz, c.leads, c.samples_mv) for c in cut(source, [*cuts, 360 * 14])]
    whole = [c if c.start < 360 * 14 else Chunk(c.start + 50, c.rate_hz, c.leads, c.samples_mv) for c in cut(source, [360 * 14])]
    assert _lines(_events(engine, gap, Options(hop_s))) == _lines(_events(engine, whole, Options(hop_s)))


@pytest.mark.parametrize("end", range(990, 998))
def test_a_short_gap_is_told_in_the_same_order_for_any_cut(engine: Engine, end: int) -> None:
    samples = heart(70, 14, 100)
    pieces = [Chunk(0, 100.0, LEADS, samples[:, :end]), Chunk(end + 2, 100.0, LEADS, samples[:, end + 2 :])]
    fine = [part for piece in pieces for part in cut(piece, list(range(0, 1400, 10)))]
    assert _lines(_events(engine, fine)) == _lines(_events(engine, pieces))


@settings(max_examples=15)
@given(step=st.integers(5, 300), lost=st.integers(0, 300))
def test_nothing_becomes_known_later_for_being_worked_on_less_often(engine: Engine, step: int, lost: int) -> None:
    """Oracle: a pipeline that works on every chunk as it comes."""
    source = Chunk(0, 250.0, ("I", "II"), heart(70, 30, 250)[:2])
    chunks = [
        c if c.start < 4000 else Chunk(c.start + lost, c.rate_hz, c.leads, c.samples_mv) for c in cut(source, [*range(0, 7500, step), 4000])
    ]
    patient, eager = (Pipeline("bed1", engine, Options(hop_s=2.5)) for _ in range(2))
    eager._next_known = lambda: 0  # type: ignore[method-assign]
    assert [_lines(list(patient.feed(chunk))) for chunk in chunks] == [_lines(list(eager.feed(chunk))) for chunk in chunks]


def test_sample_by_sample_equals_the_whole(engine: Engine, excerpt: Chunk) -> None:
    source = Chunk(0, 360.0, excerpt.leads, excerpt.samples_mv[:, : 360 * 12])
    assert _lines(_events(engine, cut(source, list(range(360 * 12))))) == _lines(_events(engine, [source]))


@pytest.mark.parametrize("speed", [None, 400.0])
def test_the_speed_does_not_matter(engine: Engine, speed: float | None) -> None:
    """Paced reads are small ones at other places."""
    told = [event for _, events in replay(open_recording(EXCERPT), engine, speed=speed) for event in events]
    plain = [event for _, events in replay(open_recording(EXCERPT), engine) for event in events]
    assert _lines(told) == _lines(plain)


def test_the_excerpt_raises_and_clears_atrial_fibrillation_where_the_cardiologists_saw_it(engine: Engine, excerpt: Chunk) -> None:
    """Annotated: fibrillation to 1:18, and again from 2:57 to 3:34."""
    alerts = [e for e in _events(engine, [excerpt]) if isinstance(e, Alert) and e.finding == "atrial_fibrillation"]
    assert [a.state for a in alerts] == ["raised", "cleared", "raised", "cleared"]
    assert alerts[0].at_s <= 20
    assert 78 <= alerts[1].at_s <= 98
    assert 177 <= alerts[2].at_s <= 192
    assert 214 <= alerts[3].at_s <= 234


def test_a_lossy_radio_makes_nothing_grow(engine: Engine) -> None:
    """A gap every five seconds: no window is ever whole, and no second is ever needed again."""
    pipeline = Pipeline("bed1", engine)
    sizes = []
    for i in range(200):
        told = list(pipeline.feed(Chunk(i * 1251, 250.0, ("II",), heart(70, 5, 250)[[1]])))
        assert not any(isinstance(event, Scores) for event in told)
        sizes.append(len(pickle.dumps(pipeline._scorer._seconds)) + len(pickle.dumps(pipeline._quality)))
    assert max(sizes) <= 2 * sizes[10]


def test_a_flat_line_is_a_technical_alert_and_no_score(engine: Engine) -> None:
    events = _events(engine, [Chunk(0, 250.0, LEADS, np.zeros((12, 250 * 20), np.float32))])
    scores = [e for e in events if isinstance(e, Scores)]
    assert all(s.probability == {} and "flat" in (s.abstained or "") for s in scores)
    alerts = [(a.finding, a.state) for a in events if isinstance(a, Alert)]
    assert alerts == [("no_signal", "raised")]
    assert next(a.at_s for a in events if isinstance(a, Alert)) <= 3


def test_a_stretch_of_nan_takes_its_lead_out_and_only_that(engine: Engine) -> None:
    samples = heart(70, 30, 250)[:2]
    samples[0, 250 * 12 : 250 * 16] = np.nan
    scores = [e for e in _events(engine, [Chunk(0, 250.0, ("I", "II"), samples)]) if isinstance(e, Scores)]
    states = {s.at_s: s.quality["I"] for s in scores}
    assert states[10.0] == "good"
    assert states[18.0] == "off"
    assert states[30.0] == "good"
    assert not any(s.abstained for s in scores)


def test_nan_everywhere_abstains(engine: Engine) -> None:
    scores = [e for e in _events(engine, [Chunk(0, 250.0, ("I",), np.full((1, 250 * 11), np.nan, np.float32))]) if isinstance(e, Scores)]
    assert [s.abstained for s in scores] == ["no usable lead: I off"] * 2


def test_what_the_leads_cannot_show_is_named_and_not_scored(engine: Engine) -> None:
    samples = heart(70, 10, 250)
    (one,) = [e for e in _events(engine, [Chunk(0, 250.0, ("II",), samples[[1]])]) if isinstance(e, Scores)]
    (twelve,) = [e for e in _events(engine, [Chunk(0, 250.0, LEADS, samples)]) if isinstance(e, Scores)]
    assert "left_ventricular_hypertrophy" in one.unobservable
    assert "left_ventricular_hypertrophy" not in one.probability
    assert twelve.unobservable == ()
    assert set(twelve.probability) == set(one.probability) | set(one.unobservable)


def test_evidence_is_the_signal_before_an_alert_and_after_it(engine: Engine, excerpt: Chunk) -> None:
    """Oracle: the whole recording, resampled at once."""
    from kernels.signal import resample

    whole = resample(excerpt.samples_mv, excerpt.rate_hz, 100.0)
    events = _events(engine, [excerpt])
    raised = [e for e in events if isinstance(e, Alert) and e.state == "raised"]
    strips = {e.id: [e.evidence.strip] for e in raised}
    for event in events:
        if isinstance(event, FollowUp):
            strips[event.alert.id].append(event.strip)
    for alert in raised:
        before, *after = strips[alert.id]
        assert before is not None and before.end_s == pytest.approx(alert.at_s)
        assert len(after) == 1 and after[0] is not None
        assert after[0].start_s == pytest.approx(min(alert.at_s, 260.0))
        for strip in (before, after[0]):
            begin = round(strip.start_s * 100)
            shown = strip.samples_mv[[strip.leads.index(lead) for lead in excerpt.leads]]
            np.testing.assert_allclose(shown, whole[:, begin : begin + shown.shape[1]], atol=1e-5)


def test_leads_that_come_off_end_in_a_technical_alert_and_never_in_one_of_the_heart(engine: Engine, excerpt: Chunk) -> None:
    """Real sinus rhythm that stops as a flat line, with a little of the amplifier's own noise, as an open input has it."""
    quiet = excerpt.samples_mv[:, 360 * 95 : 360 * 125].copy()
    noise = np.random.default_rng(1).normal(0, 0.002, quiet[:, 360 * 15 :].shape)
    flat = quiet.copy()
    flat[:, 360 * 15 :] = noise
    began = {True: [], False: []}  # type: dict[bool, list[Alert]]
    for is_flat, samples in ((False, quiet), (True, flat)):
        events = _events(engine, [Chunk(0, 360.0, excerpt.leads, samples)])
        began[is_flat] = [e for e in events if isinstance(e, Alert) and e.at_s > 15 and e.state == "raised"]
    technical = [e for e in began[True] if e.kind == "technical"]
    assert [e.finding for e in technical] == ["no_signal"]
    assert technical[0].at_s <= 15 + 5
    assert [e.finding for e in began[True] if e.kind == "physiological"] == []
