"""The laws of the parts between a line and the broker: what waits is bounded, what is scored together is scored as if alone."""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import worker
from edge.alarm import Alert, Evidence
from edge.clock import Arrival
from edge.command import Reply
from edge.config import Config, Source
from edge.decode.chunk import Chunk
from edge.decode.device import Decoder, Wiring
from edge.decode.devices import device
from edge.decode.frame import FrameDecoder, FrameEncoder
from edge.health import Health, SourceHealth
from edge.inbox import LITTLE_BYTES, OVERHEAD_BYTES, Inbox
from edge.live import Dated, Live
from edge.message import SCHEMA, to_message
from edge.outbox import Letter
from edge.pipeline import Event, Pipeline
from edge.publish import Publisher, StandardOutput
from edge.reader import Reader
from edge.record import Recorder
from edge.roster import Roster
from edge.score import Scores
from edge.scribe import Recording, Scribe
from edge.supervisor import Supervisor
from edge.track import Job, score
from edge.transport.stream import EndOfStream, Transport
from edge.worker import Post, Worker
from kernels.engine import Engine
from kernels.signal import LEADS, Samples

from .broker import wait_for
from .daemon import Json, bare, between, frames, scored

WIRING = Wiring((), 0.0, 0.0)


def _arrival(data: bytes, at_s: float = 0.0, **more: Any) -> Arrival:
    return Arrival(data, at_s, 1.7e9 + at_s, **more)


# Inbox


@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(1, 3000))
def test_an_inbox_keeps_the_newest_within_its_bound_and_counts_the_rest(data: list[bytes], bound: int) -> None:
    inbox = Inbox(lambda: None, bound)
    for i, one in enumerate(data):
        inbox.put(_arrival(one, i))
        assert inbox.held_bytes <= max(bound, len(one) + OVERHEAD_BYTES)
    oldest_s = inbox.oldest_s
    taken = inbox.take()
    assert [one.data for one in taken] == data[len(data) - len(taken) :]
    assert inbox.dropped_bytes == sum(map(len, data[: len(data) - len(taken)]))
    assert (inbox.held_bytes, inbox.take(), inbox.oldest_s) == (0, [], None)
    assert oldest_s == (taken[0].at_s if taken else None)


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=30), st.integers(1, 3000))
def test_what_follows_dropped_bytes_says_that_something_is_missing(data: list[bytes], bound: int) -> None:
    inbox = Inbox(lambda: None, bound)
    for one in data:
        inbox.put(_arrival(one))
    taken = inbox.take()
    assert [one.opened for one in taken] == [bool(inbox.dropped_bytes), *[False] * (len(taken) - 1)]


def test_a_flood_of_empty_messages_has_a_bound_too() -> None:
    inbox = Inbox(lambda: None, 10_000)
    for _ in range(1000):
        inbox.put(_arrival(b""))
    assert len(inbox.take()) <= 10_000 // OVERHEAD_BYTES


def test_an_inbox_wakes_who_scores_and_has_room_again_once_that_was_taken() -> None:
    woken: list[None] = []
    inbox = Inbox(lambda: woken.append(None))
    assert inbox.has_room(0)
    inbox.put(_arrival(bytes(LITTLE_BYTES)))
    assert len(woken) == 1 and not inbox.has_room(0.01)
    threading.Timer(0.05, inbox.take).start()
    assert inbox.has_room(30)


# Live


def _live(engine: Engine, name: str = "one", decoder: Callable[[], Decoder] = lambda: FrameDecoder(WIRING)) -> Live:
    return Live(name, decoder, Pipeline(name, engine))


def test_a_rate_too_slow_is_refused_in_words_until_a_better_one_comes(engine: Engine) -> None:
    live = _live(engine)
    slow, fast = (Chunk(0, hz, ("I",), np.zeros((1, 50), np.float32)) for hz in (79.0, 80.0))
    assert not any(live.prepare(_arrival(frame)) for frame in frames(slow))
    assert "79 Hz is too slow" in str(live.problem) and "80 Hz or more" in str(live.problem)
    assert live.sampled_at_s is None
    assert any(live.prepare(_arrival(frame, opened=i == 0)) for i, frame in enumerate(frames(fast)))
    assert live.problem is None and live.sampled_at_s is not None


def test_accounts_add_up_over_every_opening_of_the_line(engine: Engine, excerpt: Chunk) -> None:
    live, sent = _live(engine), frames(between(excerpt, 0, 3))
    for opened_s in (0, 3, 6):
        for i, frame in enumerate(sent):
            live.prepare(_arrival(b"?" + frame, opened_s + 0.1 * i, opened=i == 0))
    counts = live.accounts()
    assert counts["samples"] == 3 * 3 * 360
    assert counts["garbage"] == 3 * 30


def test_what_was_wrong_with_the_bytes_is_taken_back_once_they_are_right(engine: Engine, excerpt: Chunk) -> None:
    live, sent = _live(engine), frames(between(excerpt, 0, 1))
    live.prepare(_arrival(bytes(100)))
    assert "CRC-32" in str(live.problem)
    live.prepare(_arrival(sent[0][:20]))
    assert live.problem is not None
    live.prepare(_arrival(sent[0][20:]))
    assert live.problem is None


# Worker


def _posts(names: list[str], engine: Engine, **decoders: Callable[[], Decoder]) -> list[Post]:
    return [Post(_live(engine, name, decoders.get(name, lambda: FrameDecoder(WIRING))), Inbox(lambda: None)) for name in names]


class _Told:
    """Collects what a worker tells."""

    def __init__(self) -> None:
        self.messages: dict[str, list[Json]] = {}
        self.times_s: list[float] = []

    def __call__(self, source: str, dated: Dated) -> None:
        assert not isinstance(dated.event, Reply)
        self.messages.setdefault(source, []).append(json.loads(json.dumps(to_message(dated.event))))
        self.times_s.append(dated.time_s)

    @property
    def events(self) -> dict[str, list[Json]]:
        return {source: bare(messages) for source, messages in self.messages.items()}


@pytest.fixture
def stretches(excerpt: Chunk) -> dict[str, Chunk]:
    """Four patients who share a heart, but not its time."""
    return {f"patient-{i}": replace(between(excerpt, 40 * i, 40 * i + 25), start=0) for i in range(4)}


@pytest.mark.parametrize("size", [1, 30, 250])
def test_sources_scored_together_are_told_what_each_is_told_alone(size: int, stretches: dict[str, Chunk], engine: Engine) -> None:
    """However much comes at once; and a round with more windows than a batch is still in order."""
    told = _Told()
    together, posts = Worker(told, Supervisor()), _posts(list(stretches), engine)
    sent = [frames(chunk) for chunk in stretches.values()]
    for at in range(0, 250, size):
        for post, data in zip(posts, sent, strict=True):
            for frame in data[at : at + size]:
                post.inbox.put(_arrival(frame))
        together.round(posts)
    for post in posts:
        post.ended = True
    assert together.round(posts) == 0
    assert told.events == {name: scored([chunk], name, engine) for name, chunk in stretches.items()}
    assert together.windows == 4 * 16 and not any(post.ended for post in posts)


def test_a_backlog_is_scored_in_batches_and_told_as_it_goes(excerpt: Chunk, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counted(engine: Engine, jobs: Sequence[Job]) -> Samples:
        sizes.append(len(jobs))
        return score(engine, jobs)

    monkeypatch.setattr(worker, "score", counted)
    told = _Told()
    one, (post,) = Worker(told, Supervisor()), _posts(["one"], engine)
    for frame in frames(excerpt):
        post.inbox.put(_arrival(frame))
    assert one.round([post]) == 2700
    # The last of 261 needs the end of the stream.
    assert max(sizes) <= 64 and sum(sizes) == one.windows == 260
    assert told.events["one"] == scored([excerpt], "one", engine, ended=False)


def test_what_comes_right_before_the_end_of_a_source_is_not_flushed_away(excerpt: Chunk, engine: Engine) -> None:
    """The end is set by another thread, while a round that has already taken what waited goes on."""
    chunk, told = between(excerpt, 0, 25), _Told()
    sent = frames(chunk)
    one, (post,) = Worker(told, Supervisor()), _posts(["one"], engine)

    class Late(Inbox):
        def take(self) -> list[Arrival]:
            taken = super().take()
            if sent:
                self.put(_arrival(b"".join(sent)))
                sent.clear()
                post.ended = True
            return taken

    post.inbox = Late(lambda: None)
    for frame in sent[:100]:
        post.inbox.put(_arrival(frame))
    del sent[:100]
    while one.round([post]):
        pass
    assert told.events["one"] == scored([chunk], "one", engine)


class _Faulty(FrameDecoder):
    def feed(self, data: bytes) -> Iterator[Chunk]:
        raise ZeroDivisionError("a fault of ours")


def test_a_fault_of_ours_in_one_source_does_not_silence_the_others(stretches: dict[str, Chunk], engine: Engine) -> None:
    told = _Told()
    names = ["faulty", *stretches]
    one, posts = Worker(told, Supervisor()), _posts(names, engine, faulty=lambda: _Faulty(WIRING))
    for post in posts:
        for frame in frames(stretches[post.live.name]) if post.live.name in stretches else [b"1", b"2"]:
            post.inbox.put(_arrival(frame))
        post.ended = True
    one.round(posts)
    assert one.supervisor.faults == 2
    assert told.events == {name: scored([chunk], name, engine) for name, chunk in stretches.items()}


def test_an_event_has_the_time_of_day_at_which_its_sample_came(excerpt: Chunk, engine: Engine) -> None:
    told = _Told()
    one, (post,) = Worker(told, Supervisor()), _posts(["one"], engine)
    for i, frame in enumerate(frames(between(excerpt, 0, 12))):
        post.inbox.put(_arrival(frame, 0.1 * (i + 1)))
        one.round([post])
    begun_s = 1.7e9
    at_s = [message["at_s"] for message in told.messages["one"]]
    assert told.times_s == pytest.approx([begun_s + at for at in at_s], abs=1e-3)


# Publisher

SCORES = Scores("bed-1", 12.0, {"asystole": 0.9}, {"II": "good"})
ALERT = Alert("id", 0, "bed-1", "s", "asystole", "physiological", "high", "raised", 12.0, 10.0, 0.9, evidence=Evidence(((12.0, 0.9),)))


def _published(tell: Callable[[Publisher], None]) -> list[tuple[str, Json, int, bool]]:
    sent: list[tuple[str, Json, int, bool]] = []
    tell(Publisher("clinic/ecg", "ward", lambda topic, payload, qos, retain: sent.append((topic, json.loads(payload), qos, retain))))
    return sent


def test_scores_go_out_once_and_an_alert_is_posted_with_its_state_but_for_the_evidence() -> None:
    (scores,) = _published(lambda publisher: publisher.tell("bed-1", Dated(SCORES, 1.7e9, 1.7e9)))
    assert (scores[0], *scores[2:]) == ("clinic/ecg/ward/bed-1/scores", 0, False)
    posted: list[Letter] = []
    publisher = Publisher("clinic/ecg", "ward", lambda *message: None)
    publisher.post = posted.append
    publisher.tell("bed-1", Dated(ALERT, 1.7e9, 1.7e9 - 2))
    (letter,) = posted
    assert (letter.topic, letter.state_topic, letter.key) == ("clinic/ecg/ward/bed-1/alert", "clinic/ecg/ward/bed-1/alert/asystole", "id/0")
    assert letter.state == {key: value for key, value in letter.message.items() if key != "evidence"}
    assert letter.message["onset_time"] == 1.7e9 - 2


def test_without_an_outbox_an_alert_goes_out_as_it_is() -> None:
    (news,) = _published(lambda publisher: publisher.tell("bed-1", Dated(ALERT, 1.7e9, 1.7e9)))
    assert (news[0], *news[2:]) == ("clinic/ecg/ward/bed-1/alert", 1, False)


@pytest.mark.parametrize("event", [SCORES, ALERT])
def test_every_event_says_its_schema_its_site_and_the_time(event: Event) -> None:
    for _, message, _, _ in _published(lambda publisher: publisher.tell("bed-1", Dated(event, 1_700_000_000.12345, 0.0))):
        assert (message["schema"], message["site"], message["source"], message["time"]) == (SCHEMA, "ward", "bed-1", 1_700_000_000.123)


def test_states_are_retained_and_the_will_is_what_an_orderly_end_says() -> None:
    (status,) = _published(lambda publisher: publisher.tell_status("bed-1", "stalled", "why", 1.7e9, {"lost": 3}))
    assert (status[0], *status[2:]) == ("clinic/ecg/ward/bed-1/status", 1, True)
    assert (status[1]["schema"], status[1]["state"], status[1]["why"], status[1]["lost"]) == (SCHEMA, "stalled", "why", 3)
    (online,), (offline,) = (_published(tell) for tell in (Publisher.tell_online, Publisher.tell_offline))
    assert online[0] == offline[0] == "clinic/ecg/ward/status" and online[2:] == offline[2:] == (1, True)
    assert (online[1]["state"], offline[1]["state"]) == ("online", "offline")
    topic, payload = Publisher("clinic/ecg", "ward", lambda *message: None).will
    assert (topic, json.loads(payload)) == offline[:2]


@pytest.mark.parametrize(
    ("topic", "owned"),
    [
        ("cardiogloss/home/a/scores", True), ("cardiogloss/home/status", True), ("cardiogloss/home/a/alert/vf", True),
        ("cardiogloss/home/a/ecg", False), ("cardiogloss/other/a/scores", False), ("wearables/a", False),
    ],
)  # fmt: skip
def test_only_topics_that_go_out_are_owned(topic: str, owned: bool) -> None:
    assert Publisher("cardiogloss", "home", lambda *message: None).owns(topic) is owned


# Health


def _source(name: str, state: Any, required: bool = True, why: str | None = None) -> SourceHealth:
    return SourceHealth(name, state, required, why, {}, 0, 0, 0, None, None)


@pytest.mark.parametrize(
    ("broker", "sources", "missing"),
    [
        (True, [_source("a", "online")], []),
        (None, [_source("a", "online"), _source("b", "offline", required=False)], []),
        (False, [_source("a", "online")], ["the broker cannot be reached"]),
        (True, [_source("a", "stalled", why="no cable"), _source("b", "offline")], ["a is stalled: no cable", "b is offline"]),
        (True, [], ["no source has sent anything yet"]),
    ],
)
def test_what_keeps_it_from_being_ready_is_said_in_words(broker: bool | None, sources: list[SourceHealth], missing: list[str]) -> None:
    assert Health("bundle", True, broker, tuple(sources), 0, 0, 0, 0, {}).missing == missing


# Reader


class _Scripted(Transport):
    """A line that gives what it is told to: bytes, or an error to raise. At the end of the script it is silent."""

    name = "scripted"

    def __init__(self, *script: bytes | BaseException, can_wait: bool = False) -> None:
        self.can_wait = can_wait
        self.opens, self.closes = 0, 0
        self._script = list(script)

    def open(self) -> None:
        self.opens += 1

    def read(self, timeout_s: float) -> bytes:
        step = self._script.pop(0) if self._script else b""
        if isinstance(step, BaseException):
            raise step
        if not step:
            time.sleep(timeout_s)
        return step

    def close(self) -> None:
        self.closes += 1


def _read(transport: _Scripted, inbox: Inbox, known: Callable[[Reader], object]) -> Reader:
    reader = Reader("one", transport, inbox, Supervisor())
    reader.start()
    try:
        wait_for(partial(known, reader), "the reader")
    finally:
        reader.stop()
        reader.join()
    assert transport.opens == transport.closes
    return reader


def test_a_reader_marks_the_first_bytes_of_each_opening() -> None:
    transport, inbox = _Scripted(b"a", b"b", OSError(errno.EIO, "unplugged"), b"c", b"d"), Inbox(lambda: None)
    reader = _read(transport, inbox, lambda reader: inbox.held_bytes == 4 + 4 * OVERHEAD_BYTES)
    assert [(one.data, one.opened) for one in inbox.take()] == [(b"a", True), (b"b", False), (b"c", True), (b"d", False)]
    assert (reader.opened, reader.problem, reader.failed, reader.ended) == (2, None, False, False)


def test_a_reader_tells_why_a_line_failed_until_bytes_come_again() -> None:
    transport = _Scripted(b"a", OSError(errno.EIO, "unplugged"))
    reader = _read(transport, Inbox(lambda: None), lambda reader: reader.problem)
    assert "unplugged" in str(reader.problem)


def test_a_reader_counts_only_the_time_in_which_it_listened_as_silence() -> None:
    inbox = Inbox(lambda: None)
    _read(_Scripted(b"a", b"", b"", b"", b"b", b"c"), inbox, lambda reader: inbox.held_bytes == 3 + 3 * OVERHEAD_BYTES)
    first, second, third = inbox.take()
    assert first.silent_s == 0 and third.silent_s == 0
    assert 0.29 < second.silent_s <= 0.31 < second.at_s - first.at_s + 0.05


def test_a_reader_ends_with_its_file_and_never_drops_what_can_wait() -> None:
    data = [bytes([i]) * 50_000 for i in range(60)]
    inbox, taken = Inbox(lambda: None), list[bytes]()

    def ended(reader: Reader) -> bool:
        taken.extend(arrival.data for arrival in inbox.take())
        return reader.ended

    reader = _read(_Scripted(*data, EndOfStream("over"), can_wait=True), inbox, ended)
    taken.extend(arrival.data for arrival in inbox.take())
    assert reader.ended and taken == data and inbox.dropped_bytes == 0


@pytest.mark.parametrize(("can_wait", "opens"), [(False, 2), (True, 1)])
def test_a_stalled_line_is_opened_anew_but_never_a_file_which_would_begin_again(can_wait: bool, opens: int) -> None:
    transport = _Scripted(b"a", can_wait=can_wait)
    inbox = Inbox(lambda: None)
    reader = Reader("one", transport, inbox, Supervisor())
    reader.start()
    wait_for(lambda: inbox.held_bytes, "the bytes")
    reader.reopen("nothing came")
    wait_for(lambda: transport.opens == opens, "the line to be opened anew")
    time.sleep(0.5 if can_wait else 0)
    assert transport.closes == opens - 1
    reader.stop()
    reader.join()
    assert reader.problem == "nothing came"


@pytest.mark.parametrize("stood_still", [True, False])
def test_a_clock_that_jumps_is_a_pause_where_nothing_came_meanwhile_else_it_was_set(stood_still: bool, engine: Engine) -> None:
    """The device counts its frames, not the seconds in which it took no sample."""
    live = Live("one", partial(device("json").decoder, device("json").wire()), Pipeline("one", engine))
    quiet_s = 10.0 if stood_still else 0.0
    for i in range(40):
        t_s, at_s = 1.7e9 + i + 10 * (i >= 20), i + quiet_s * (i >= 20)
        message = {"seq": i, "t": t_s, "hz": 250, "leads": ["I"], "mv": [0.0] * 250}
        live.prepare(_arrival(json.dumps(message).encode(), at_s, silent_s=1.0 + quiet_s * (i == 20)))
    live.prepare_end(_arrival(b"", 60.0))
    assert live.accounts()["lost"] == (pytest.approx(2500, abs=70) if stood_still else 0)
    assert live.accounts()["clock_steps"] == 1


@pytest.mark.parametrize("together", [1, 2, 5])
def test_a_pause_is_a_gap_however_many_frames_come_at_once(together: int, engine: Engine) -> None:
    """A frame behind the doubtful one must not vouch for it."""
    live = Live("one", partial(device("frame").decoder, WIRING), Pipeline("one", engine))
    wiring = Wiring(("II",), 250.0, 1000.0)
    before, after = FrameEncoder(wiring, 1.7e9), FrameEncoder(wiring, 1.7e9 + 25)
    after._seq = 20
    second = np.zeros((1, 250), np.float32)
    data = [before.feed(second) for _ in range(20)] + [after.feed(second) for _ in range(20)]
    for i in range(0, 40, together):
        at_s = i + together + (5.0 if i >= 20 else 0.0)
        live.prepare(_arrival(b"".join(data[i : i + together]), at_s, silent_s=together + (5.0 if i == 20 else 0.0)))
    live.prepare_end(_arrival(b"", 60.0))
    assert live.accounts()["lost"] == pytest.approx(1250, abs=70)


def test_samples_in_doubt_are_not_held_until_the_next_message(engine: Engine) -> None:
    live = Live("one", partial(device("json").decoder, device("json").wire()), Pipeline("one", engine))

    def message(seq: int) -> bytes:
        return json.dumps({"seq": seq, "hz": 250, "leads": ["I"], "mv": [0.0] * 2500}).encode()

    for seq, at_s in ((0, 10.0), (1, 20.0)):
        live.prepare(_arrival(message(seq), at_s, silent_s=10.0))
    live.prepare(_arrival(json.dumps({"hz": 250, "leads": ["I"], "mv": [0.0] * 2500}).encode(), 60.0, silent_s=40.0))
    assert live.is_holding and not live.prepare_late(60.4)
    (pending,) = live.prepare_late(60.6)
    assert pending.known and not live.is_holding


# Roster


class _Virtual:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def _roster(engine: Engine, clock: _Virtual, *sources: Source) -> Roster:
    roster = Roster(engine, Supervisor(), lambda: None, monotonic_s=clock)
    roster.apply(Config(source=sources))
    return roster


def test_other_words_about_the_same_state_are_told_only_now_and_then(engine: Engine) -> None:
    """What is wrong with a message may differ from one to the next."""
    clock = _Virtual()
    roster, told = _roster(engine, clock, Source(mqtt="+/ecg")), list[str | None]()
    scorer = Worker(lambda *event: None, Supervisor())
    for i in range(100):
        clock.now_s += 0.25
        roster.hear("a/ecg", b"?" * (i + 1) + b"{", False)
        roster.hear("a/ecg", json.dumps({"hz": 1 + i / 10, "leads": ["I"], "mv": [0]}).encode(), False)
        scorer.round(roster.posts())
        told += [watched.why for watched in roster.tick(clock.now_s)]
    assert len(told) == 25 // 5 and len(set(told)) == len(told) and all(told)


def test_one_name_is_one_topic_and_a_retained_message_is_none(engine: Engine) -> None:
    roster = _roster(engine, _Virtual(), Source(mqtt="+/+/ecg"))
    roster.hear("a/b-c/ecg", b"1", False)
    roster.hear("a-b/c/ecg", b"2", False)
    roster.hear("new/one/ecg", b"3", True)
    assert [watched.name for watched in roster.watched()] == ["a-b-c"] and roster.ignored == 2


def test_a_source_that_came_and_stalled_says_what_to_check(engine: Engine, excerpt: Chunk) -> None:
    clock = _Virtual()
    roster, scorer = _roster(engine, clock, Source(name="one", mqtt="one/ecg")), Worker(lambda *event: None, Supervisor())
    for frame in frames(between(excerpt, 0, 1)):
        roster.hear("one/ecg", frame, False)
    scorer.round(roster.posts())
    assert [watched.state for watched in roster.tick(clock.now_s)] == ["online"]
    clock.now_s += 5.1
    (watched,) = roster.tick(clock.now_s)
    assert watched.state == "stalled" and "device sends" in str(watched.why)


def test_a_topic_with_an_endless_name_is_no_source(engine: Engine) -> None:
    """Its status would have a topic longer than MQTT allows."""
    roster = _roster(engine, _Virtual(), Source(mqtt="+/ecg"))
    roster.hear("a" * 65 + "/ecg", b"1", False)
    roster.hear("a" * 64 + "/ecg", b"1", False)
    assert [len(watched.name) for watched in roster.watched()] == [64] and roster.ignored == 1


@pytest.mark.parametrize("order", [1, -1])
def test_a_named_topic_goes_to_its_name_whatever_the_order_of_the_sources(engine: Engine, order: int) -> None:
    sources = (Source(mqtt="ward/+/ecg"), Source(name="p1", mqtt="ward/bed1/ecg"))[::order]
    roster = _roster(engine, _Virtual(), *sources)
    roster.hear("ward/bed1/ecg", b"1", False)
    roster.hear("ward/bed2/ecg", b"1", False)
    assert {watched.name: watched.post.inbox.held_bytes > 0 for watched in roster.watched()} == {"p1": True, "bed2": True}


def test_a_name_that_the_config_gives_is_never_discovered(engine: Engine) -> None:
    """Nor while its line is only about to be opened, as during a reload."""
    named = Source(name="bed1", device="frame", serial="/nowhere")
    roster = Roster(engine, Supervisor(), lambda: None, monotonic_s=_Virtual())
    roster.config = Config(source=(Source(mqtt="ward/+/ecg"), named))
    roster.hear("ward/bed1/ecg", b"1", False)
    assert roster.watched() == [] and roster.ignored == 1


def test_a_source_that_the_config_comes_to_name_is_no_longer_the_discovered_one(engine: Engine) -> None:
    wild, named = Source(mqtt="ward/+/ecg"), Source(name="bed1", mqtt="other/ecg")
    roster = _roster(engine, _Virtual(), wild)
    roster.hear("ward/bed1/ecg", b"1", False)
    roster.apply(Config(source=(wild, named)))
    roster.hear("other/ecg", b"1", False)
    (watched,) = roster.watched()
    assert watched.config == named and watched.post.inbox.held_bytes
    assert [post.live.name for post in roster.posts()] == ["bed1", "bed1"], "what the discovered one sent is still scored"


def test_a_source_that_left_is_told_before_one_that_came_under_its_name(engine: Engine) -> None:
    clock = _Virtual()
    roster = _roster(engine, clock, Source(name="one", mqtt="one/ecg"), Source(name="two", mqtt="two/ecg"))
    roster.apply(Config(source=(Source(name="one", mqtt="another/ecg"),)))
    assert [(watched.name, watched.state) for watched in roster.tick(clock.now_s)] == [("two", "offline")]


def test_while_a_device_may_still_appear_nothing_has_ended(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    capture = Source(name="one", device="frame", file=tmp_path / "empty")
    alone, beside = _roster(engine, _Virtual(), capture), _roster(engine, _Virtual(), capture, Source(mqtt="+/ecg"))
    wait_for(lambda: alone.ended, "the end of the file")
    wait_for(lambda: all(watched.reader is None or watched.reader.ended for watched in beside.watched()), "the end of the file")
    assert not beside.ended
    for roster in (alone, beside):
        roster.leave_all()


def test_after_the_end_nothing_is_discovered_and_what_came_before_is_scored(engine: Engine) -> None:
    """Devices go on sending while the daemon stops: each message would keep it alive."""
    roster = _roster(engine, _Virtual(), Source(mqtt="+/ecg"))
    roster.hear("one/ecg", b"1", False)
    roster.leave_all()
    roster.hear("one/ecg", b"2", False)
    assert [(post.live.name, len(post.inbox.take()), post.ended) for post in roster.posts()] == [("one", 1, True)]
    assert roster.watched() == [] and roster.posts() == []


# What must not end what runs for weeks


def test_a_fault_is_told_the_first_the_tenth_and_the_hundredth_time(capsys: pytest.CaptureFixture[str]) -> None:
    supervisor = Supervisor()
    for _ in range(150):
        assert supervisor.guard("bed1", lambda: 1 / 0) is None
    assert supervisor.guard("bed1", lambda: 7) == 7
    assert supervisor.faults == 150
    assert capsys.readouterr().out.count("ZeroDivisionError: division by zero") == 3


class _HungDisk(Recorder):
    """Its disk hangs until it is let go."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "one")
        self.let_go = threading.Event()

    def feed(self, chunk: Chunk, at_s: float) -> None:
        self.let_go.wait(30)
        super().feed(chunk, at_s)


def test_a_disk_that_hangs_delays_nobody_and_what_finds_no_room_is_counted(tmp_path: Path) -> None:
    recorder = _HungDisk(tmp_path)
    scribe = Scribe(Supervisor())
    recording = Recording(scribe, recorder)
    minute = Chunk(0, 500.0, LEADS, np.zeros((12, 500 * 60), np.float32))
    begun_s = time.monotonic()
    for i in range(60):
        recording.keep(replace(minute, start=i * 30_000), 60.0 * i)
    recording.end()
    assert time.monotonic() - begun_s < 2
    refused = recording.lost
    assert 0 < refused < 60 * 30_000 and refused % 30_000 == 0
    recorder.let_go.set()
    scribe.close()
    assert recording.lost == refused


def test_a_fault_while_recording_ends_no_other_recording(tmp_path: Path) -> None:
    supervisor = Supervisor()
    scribe = Scribe(supervisor)
    scribe.ask(list[None]().pop)
    recording = Recording(scribe, Recorder(tmp_path, "one"))
    recording.keep(Chunk(0, 250.0, ("I",), np.zeros((1, 250), np.float32)), 0.0)
    recording.end()
    scribe.close()
    assert supervisor.faults == 1
    assert len(list(tmp_path.rglob("*.hea"))) == 1


def test_a_line_that_meets_a_fault_of_ours_is_tried_again() -> None:
    transport = _Scripted(ValueError("nobody thought of this"), b"a")
    reader = _read(transport, Inbox(lambda: None), lambda reader: reader.opened == 2 and not reader.problem)
    assert not reader.failed


def test_when_whoever_read_standard_output_has_gone_it_is_known_and_nothing_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    monkeypatch.setattr("edge.publish._STDOUT", writing)
    output = StandardOutput()
    output.send("a", "b", 0, False)
    wait_for(lambda: output.is_closed, "the end to be known")
    output.send("a", "b", 0, False)
    output.close()
    os.close(writing)


def test_a_reader_of_standard_output_that_does_not_read_keeps_who_scores_waiting_but_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    monkeypatch.setattr("edge.publish._STDOUT", writing)
    monkeypatch.setattr("edge.publish._FAREWELL_S", 0.2)
    monkeypatch.setattr("edge.publish._MOST_LINES", 10)
    output = StandardOutput()
    scoring = threading.Thread(target=lambda: [output.send("a/scores", "x" * 10_000, 0, False) for _ in range(50)], daemon=True)
    scoring.start()
    scoring.join(0.3)
    assert scoring.is_alive()
    output.send("a/status", "told at once", 1, True)
    output.close()
    scoring.join(5)
    assert not scoring.is_alive()
    os.close(reading)
    output._thread.join(5)
    os.close(writing)


@pytest.mark.parametrize(("topic", "own"), [
    ("cardiogloss/home/status", True), ("cardiogloss/home/bed1/scores", True), ("cardiogloss/home/bed1/alert/x", True),
    ("cardiogloss/home/bed1/ecg", False), ("cardiogloss/home/bed1/raw", False), ("cardiogloss/other/bed1/scores", False),
])  # fmt: skip
def test_only_what_goes_out_is_our_own(topic: str, own: bool) -> None:
    assert Publisher("cardiogloss", "home", lambda *message: None).owns(topic) == own


def test_accounts_never_go_back_nor_raise_while_a_line_opens_anew(excerpt: Chunk, engine: Engine) -> None:
    """They are read by another thread than the one that counts."""
    live = Live("one", partial(device("frame").decoder, WIRING), Pipeline("one", engine))
    data = frames(between(excerpt, 0, 0.2))
    seen: list[int] = []
    over = threading.Event()
    switch_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        reading = threading.Thread(target=lambda: [seen.append(live.accounts()["samples"]) for _ in iter(over.is_set, True)])
        reading.start()
        for i in range(400):
            live.prepare(_arrival(data[i % len(data)], float(i), opened=True))
        over.set()
        reading.join()
    finally:
        sys.setswitchinterval(switch_s)
    assert seen == sorted(seen) and seen
