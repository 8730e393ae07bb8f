"""What a viewer is told and sent, read as a browser reads it, against the chunks and messages that went in."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.decode.chunk import Chunk
from edge.web.ring import KEPT_S, Ring
from edge.web.view import BACK_S, LATE_S, View
from edge.web.ward import MOST_PASSING, Missed, Ward

from .test_web_frame import microvolts, read

Json = dict[str, Any]
LEADS = ("I", "II", "V1", "V5")
WATCHED = ["II", "V5"]


@dataclass(frozen=True)
class Sample:
    """One moment of one source."""

    at_s: float
    time_s: float
    uv: tuple[tuple[str, float | None], ...]
    """By lead, of those that are watched."""


@dataclass
class Browser:
    """Keeps what it is sent, by the contract alone."""

    view: View
    leads: dict[int, list[str]] = field(default_factory=dict)
    rate_hz: dict[int, float] = field(default_factory=dict)
    known: dict[tuple[str, ...], Json] = field(default_factory=dict)

    def look(self) -> list[Sample]:
        """The samples of one round."""
        for text in self.view.news():
            self._hear(json.loads(text))
        return [sample for told in self.view.strips() for sample in self._take(told)]

    def _take(self, told: str | bytes) -> Iterator[Sample]:
        if isinstance(told, str):
            self._hear(json.loads(told))
            return
        for frame in read(told):
            assert len(frame.uv[0]) > 0
            assert frame.rate_hz == np.float32(self.rate_hz[frame.number])
            names = [lead for i, lead in enumerate(self.leads[frame.number]) if frame.mask >> i & 1]
            for i, uv in enumerate(zip(*frame.uv, strict=True)):
                shift_s = i / self.rate_hz[frame.number]
                yield Sample(round(frame.start_s + shift_s, 6), round(frame.time_s + shift_s, 5), tuple(zip(names, uv, strict=True)))

    def _hear(self, message: Json) -> None:
        if message["type"] == "source":
            self.leads[message["number"]], self.rate_hz[message["number"]] = message["leads"], message["rate_hz"]


@dataclass
class Bed:
    """A source whose samples go into a ward, and what should be seen of each."""

    ward: Ward = field(default_factory=Ward)
    sent: list[Sample] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """How long each sample lasts."""

    def __post_init__(self) -> None:
        self.add = self.ward.tap("bed1")

    def send(self, chunk: Chunk, time_s: float) -> None:
        self.add(chunk, time_s)
        for i in range(chunk.samples_mv.shape[1]):
            off = chunk.lead_off
            uv = tuple(
                (lead, None if lead in off else microvolts(row[i]))
                for lead, row in zip(chunk.leads, chunk.samples_mv, strict=True)
                if lead in WATCHED
            )
            shift_s = i / chunk.rate_hz
            self.sent += [Sample(round((chunk.start + i) / chunk.rate_hz, 6), round(time_s + shift_s, 5), uv)] if uv else []
            self.seconds += [1 / chunk.rate_hz] if uv else []

    def tell(self) -> None:
        """As the look-out does, now and then."""
        layout = self.ward.rings()["bed1"].layout
        leads, rate_hz = (list(layout.leads), layout.rate_hz) if layout else ([], None)
        number = self.ward.number("bed1")
        self.ward.post(("source", "bed1"), {"type": "source", "source": "bed1", "number": number, "leads": leads, "rate_hz": rate_hz})


@dataclass(frozen=True)
class Step:
    """One chunk, and what happens after it."""

    gap: int
    n: int
    seed: int
    leads: tuple[str, ...]
    rate_hz: float
    off: tuple[str, ...]
    told: bool
    looked: bool


_leads = st.lists(st.sampled_from(LEADS), min_size=1, unique=True).map(tuple)
_steps = st.lists(
    st.builds(
        Step,
        gap=st.sampled_from([0, 0, 0, 0, 1, 25, 7000, -40]),
        n=st.integers(1, 400),
        seed=st.integers(0, 999),
        leads=st.sampled_from([("II", "V1", "V5")] * 4) | _leads,
        rate_hz=st.sampled_from([250.0, 250.0, 250.0, 360.0, 999.7]),
        off=st.sampled_from([(), (), ("II",)]),
        told=st.booleans(),
        looked=st.booleans(),
    ),
    max_size=30,
)


def _played(steps: list[Step], bed: Bed) -> Iterator[Step]:
    end = 0
    for step in steps:
        samples = np.random.default_rng(step.seed).normal(0, 1, (len(step.leads), step.n)).astype(np.float32)
        samples[0, :: 1 + step.seed % 7] = math.nan
        start = max(end + step.gap, 0)
        bed.send(Chunk(start, step.rate_hz, step.leads, samples, step.off), 1.8e9 + start / step.rate_hz)
        end = start + step.n
        if step.told:
            bed.tell()
        yield step


def _browser(bed: Bed) -> Browser:
    bed.tell()
    browser = Browser(View(bed.ward, lambda: 0.0))
    browser.view.watch({"bed1": WATCHED})
    return browser


@given(_steps)
def test_who_keeps_up_sees_exactly_the_samples_whatever_the_cuts_gaps_leads_and_rates(steps: list[Step]) -> None:
    bed = Bed()
    browser = _browser(bed)
    seen = list(browser.look())
    for _ in _played(steps, bed):
        seen += browser.look()
    assert seen == bed.sent


@given(_steps)
def test_who_does_not_keep_up_sees_a_suffix_after_each_jump_and_no_sample_twice(steps: list[Step]) -> None:
    bed = Bed()
    browser = _browser(bed)
    browser.look()
    done = 0
    for step in _played(steps, bed):
        if not step.looked:
            continue
        missed, lasted_s = bed.sent[done:], bed.seconds[done:]
        seen = browser.look()
        assert seen == missed[len(missed) - len(seen) :]
        assert len(seen) == len(missed) or sum(lasted_s[len(missed) - len(seen) :]) >= min(KEPT_S, BACK_S) - 1
        done = len(bed.sent)


def _chunk(start: int, n: int, leads: tuple[str, ...] = ("II", "V5"), rate_hz: float = 100.0) -> Chunk:
    samples = (np.arange(start, start + n)[None].repeat(len(leads), 0) / 1000).astype(np.float32)
    return Chunk(start, rate_hz, leads, samples)


def test_a_new_viewer_gets_ten_seconds_and_the_ring_keeps_twelve() -> None:
    bed = Bed()
    for start in range(0, 3000, 10):
        bed.send(_chunk(start, 10), start / 100)
    browser = _browser(bed)
    assert browser.look() == bed.sent[-1000:]
    assert sum(run.digits.rows.shape[1] for run in bed.ward.rings()["bed1"].since(0)) == 1200


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=20), st.floats(0, 12))
def test_back_is_the_place_of_the_sample_so_long_ago(sizes: list[int], seconds: float) -> None:
    ring, start = Ring(), 0
    for size in sizes:
        ring.add(_chunk(start, size), 0.0)
        start += size
    seen = sum(run.digits.rows.shape[1] for run in ring.since(ring.back(seconds)))
    assert seen == min(round(seconds * 100), start)


def test_a_viewer_who_is_late_is_skipped_forward_to_the_last_second() -> None:
    bed = Bed()
    browser = _browser(bed)
    browser.look()
    for start in range(0, 900, 10):
        bed.send(_chunk(start, 10), start / 100)
    browser.view.skip()
    assert browser.look() == bed.sent[-round(LATE_S * 100) :]
    bed.send(_chunk(900, 10), 9.0)
    browser.view.skip()
    assert browser.look() == bed.sent[-10:], "what is new enough is not skipped"


def test_other_leads_begin_anew_and_the_same_go_on() -> None:
    bed = Bed()
    bed.send(_chunk(0, 500, ("II", "V1", "V5")), 0.0)
    browser = _browser(bed)
    assert len(browser.look()) == 500
    browser.view.watch({"bed1": ["V5", "II", "II"]})
    assert browser.look() == []
    browser.view.watch({"bed1": ["V1"]})
    assert [sample.uv for sample in browser.look()] == [(("V1", float(i)),) for i in range(500)]
    browser.view.watch({"bed1": []})
    bed.send(_chunk(500, 5, ("II", "V1", "V5")), 5.0)
    assert browser.look() == []
    browser.view.watch({"bed1": ["aVF"], "nobody": ["II"]})
    assert browser.look() == [], "leads and sources that are not there are left alone"


def test_a_source_that_is_watched_anew_begins_a_new_stream() -> None:
    bed = Bed()
    browser = _browser(bed)
    bed.send(_chunk(5000, 100), 50.0)
    assert len(browser.look()) == 100
    bed.ward.tap("bed1")(_chunk(0, 30), 60.0)
    assert [sample.at_s for sample in browser.look()] == [i / 100 for i in range(30)]


def test_numbers_are_of_one_source_at_a_time_and_given_again_only_after_it_has_gone() -> None:
    ward = Ward()
    for name in ("a", "b", "c"):
        ward.tap(name)
    assert [ward.number(name) for name in "abc"] == [0, 1, 2]
    ward.leave({"a", "c"}, ward.rings())
    assert ward.ring("b") is None
    ward.tap("d")
    ward.tap("a")
    assert [ward.number(name) for name in "acd"] == [0, 2, 1]


def test_a_source_that_begins_while_others_are_looked_at_has_not_left() -> None:
    ward = Ward()
    ward.tap("a")
    before = ward.rings()
    ward.tap("b")
    ward.leave({"a"}, before)
    assert ward.ring("b") is not None


def test_a_source_that_left_and_began_anew_while_others_were_looked_at_is_there() -> None:
    ward = Ward()
    ward.tap("a")
    before = ward.rings()
    ward.tap("a")
    ward.leave((), before)
    assert ward.ring("a") is not None


# Messages.


def _alert(alert_id: str, seq: int, state: str) -> Json:
    return {"type": "alert", "id": alert_id, "seq": seq, "state": state, "source": "bed1", "evidence": {"strip": [1, 2, 3]}}


@given(st.lists(st.tuples(st.sampled_from(["scores", "vitals"]), st.sampled_from("abc"), st.booleans()), max_size=60))
def test_the_newest_of_each_kind_and_source_wins_and_each_is_told_once(events: list[tuple[str, str, bool]]) -> None:
    ward = Ward()
    view = View(ward, lambda: 0.0)
    told: list[Json] = []
    since: list[Json] = []
    for number, (kind, source, looked) in enumerate(events):
        ward.show({"type": kind, "source": source, "at_s": number})
        since.append({"type": kind, "source": source, "at_s": number})
        if looked:
            now = [json.loads(text) for text in view.news()]
            newest = {(message["type"], message["source"]): message for message in since}
            assert sorted(now, key=lambda one: one["at_s"]) == sorted(newest.values(), key=lambda one: one["at_s"])
            told, since = told + now, []
    last = {(kind, source): number for number, (kind, source, _) in enumerate(events)}
    known = [json.loads(text) for text in View(ward, lambda: 0.0).news()]
    assert {(message["type"], message["source"]): message["at_s"] for message in known} == last and len(known) == len(last)


@given(st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(["raised", "updated", "cleared"]), st.booleans()), max_size=60))
def test_whoever_comes_at_any_time_knows_exactly_the_alerts_that_are_on(events: list[tuple[str, str, bool]]) -> None:
    ward = Ward()
    viewers: list[tuple[View, dict[str, str]]] = []
    last: dict[str, str] = {}
    for seq, (alert_id, state, comes) in enumerate(events):
        if comes:
            viewers.append((View(ward, lambda: 0.0), {}))
        ward.show(_alert(alert_id, seq, state))
        last[alert_id] = state
        for view, on in viewers[seq % 2 :: 2]:
            _update(view, on)
    on_now = {alert_id for alert_id, state in last.items() if state != "cleared"}
    for view, on in [*viewers, (View(ward, lambda: 0.0), {})]:
        _update(view, on)
        assert {alert_id for alert_id, state in on.items() if state != "cleared"} == on_now


def _update(view: View, on: dict[str, str]) -> None:
    for text in view.news():
        message = json.loads(text)
        assert "evidence" not in message
        on[message["id"]] = message["state"]


def test_an_older_word_of_an_alert_never_replaces_a_newer_one() -> None:
    ward = Ward()
    ward.show(_alert("x", 5, "cleared"))
    ward.show(_alert("x", 2, "raised"))
    assert list(View(ward, lambda: 0.0).news()) == []


def test_replies_and_evidence_reach_those_who_are_there_and_nobody_later() -> None:
    ward = Ward()
    ward.show({"type": "vitals", "source": "bed1"})
    view = View(ward, lambda: 0.0)
    assert len(list(view.news())) == 1
    ward.show({"type": "reply", "source": "bed1", "command_id": "7", "ok": True, "why": None})
    ward.show({"type": "evidence", "source": "bed1", "id": "x", "strip": {"uv": [[1] * 9999]}})
    assert [json.loads(text) for text in view.news()] == [
        {"type": "reply", "source": "bed1", "command_id": "7", "ok": True, "why": None},
        {"type": "evidence", "source": "bed1", "id": "x"},
    ]
    assert list(view.news()) == []
    assert len(list(View(ward, lambda: 0.0).news())) == 1


def test_who_missed_more_than_is_kept_must_begin_anew_and_what_is_kept_is_bounded() -> None:
    ward = Ward()
    ward.show({"type": "vitals", "source": "bed1"})
    late, early = View(ward, lambda: 0.0), View(ward, lambda: 0.0)
    list(late.news())
    list(early.news())
    for number in range(MOST_PASSING):
        ward.show(_alert(f"a{number}", 0, "cleared"))
    assert len(list(early.news())) == MOST_PASSING
    for number in range(MOST_PASSING):
        ward.show(_alert(f"b{number}", 0, "cleared"))
    with pytest.raises(Missed):
        list(late.news())
    assert len(list(early.news())) == MOST_PASSING
    assert len(ward.news(None)[1]) == 1


def test_what_is_gone_is_said_once_and_its_messages_are_forgotten() -> None:
    bed = Bed()
    bed.tell()
    bed.ward.show({"type": "scores", "source": "bed1"})
    view = View(bed.ward, lambda: 0.0)
    assert len(list(view.news())) == 2
    for _ in range(2):
        bed.ward.leave((), bed.ward.rings())
    assert [json.loads(text) for text in view.news()] == [{"type": "gone", "source": "bed1"}]
    assert list(View(bed.ward, lambda: 0.0).news()) == []


def test_a_hello_comes_first_with_the_time_of_day_then_sources() -> None:
    bed = Bed()
    bed.ward.show({"type": "vitals", "source": "bed1"})
    bed.tell()
    bed.ward.post(("hello",), {"type": "hello", "time": 1.0})
    told = [json.loads(text) for text in View(bed.ward, lambda: 1234.5).news()]
    assert [message["type"] for message in told] == ["hello", "source", "vitals"]
    assert told[0]["time"] == 1234.5
