"""A `Config`, and messages as they come, in; every source that is watched, and the state it is in, out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial

import structlog

from kernels.engine import Engine

from .clock import Arrival
from .command import Close, Command, TakeOver
from .config import Config, Source
from .contract import AlertState
from .inbox import Inbox
from .live import Dated, Live, Tap
from .pipeline import Options, Pipeline
from .reader import Reader
from .record import Recorder
from .scribe import Recording, Scribe
from .supervisor import Supervisor
from .transport.open import open_transport
from .transport.stream import Transport
from .watched import FORGET_S, Watched, is_forgotten, look_at
from .worker import Post

MOST_COMMANDS = 1000
"""For one source, not obeyed yet."""
LONGEST_NAME = 64
"""Of a source; a longer topic level is refused."""
MOST_DISCOVERED = 512
"""More topics than this are noise, or an attack."""
MOST_ELSEWHERE = 4096
"""Topics of other monitors that are remembered as such."""

_FAREWELL_S = 1.0
_UNITS_PER_MV = 1000.0
"""Of a recording, where the device's messages say no scale once for all."""

log = structlog.get_logger()


@dataclass(slots=True)
class Roster:
    """All sources. Its methods may be called by any thread."""

    engine: Engine
    supervisor: Supervisor
    wake: Callable[[], object]
    """Called when something waits to be scored."""
    ignore: Callable[[str], bool] = lambda topic: False
    """Topics that are never a source."""
    scribe: Scribe | None = None
    """Who records, where anything is to be recorded."""
    tap: Callable[[str], Tap] | None = None
    """Who sees the samples of a source."""
    monotonic_s: Callable[[], float] = time.monotonic
    since_1970_s: Callable[[], float] = time.time
    journal: dict[str, list[AlertState]] = field(default_factory=dict)
    """What was on at each source when the last monitor ended, until the source is watched again."""
    stream_of: Callable[[Source, str, str], str] = lambda source, name, new: new
    """The name of the stretch of time that a source goes on with, else the new one."""
    end_stream: Callable[[str], object] = lambda name: None
    """What the source reads next is another stretch."""
    config: Config | None = None
    ignored: int = 0
    """Messages that belong to no source, or are stale."""
    _begun_s: float = field(default_factory=time.monotonic)
    _is_closed: bool = False
    _watched: dict[str, Watched] = field(default_factory=dict)
    _left: list[Post] = field(default_factory=list)
    _gone: list[Watched] = field(default_factory=list)
    _by_topic: dict[str, Watched] = field(default_factory=dict)
    _elsewhere: set[str] = field(default_factory=set)
    """Topics of sources that another monitor of the site watches."""
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def apply(self, config: Config) -> None:
        """Watch what this config names. A source whose table is the same goes on undisturbed."""
        transports = {source.name: open_transport(source) for source in config.mine}
        # Before the lock: a disk that hangs must not hold up whoever scores.
        streams = self._name_streams(config)
        with self._lock:
            same_record = self.config is None or self.config.record == config.record
            kept = {source for source in config.mine if same_record or not source.record}
            gone = [one for one in self._watched.values() if one.config not in kept or (one.topic and one.name in transports)]
            self._remove(gone)
            self.config = config
            self._elsewhere.clear()
        self._flush(gone, gone, "no longer watched")
        with self._lock:
            for source in config.mine:
                if source.name and source.name not in self._watched:
                    stream = streams.get(source.name) or self._name_stream(source, source.name)
                    self._watch(source, source.name, transports[source.name], stream)

    def rescore(self, engine: Engine) -> Iterator[tuple[str, Dated]]:
        """Score with another model from the next round on; what that ends, by source. For the thread that scores."""
        with self._lock:
            self.engine = engine
            watched = list(self._watched.values())
        for one in watched:
            for event in one.post.live.rescore(self._pipeline(one.name, one.stream)):
                yield one.name, event

    def command(self, topic_source: str, command: Command) -> bool:
        """Have a command obeyed by the next round; whether there is such a source, with room for it."""
        with self._lock:
            watched = self._watched.get(topic_source)
        if watched is None or watched.post.commands.qsize() >= MOST_COMMANDS:
            return False
        if watched.config.file:
            # Its alerts have changed by more than what is in the file, so that reading it again would tell others.
            self.end_stream(watched.name)
        watched.post.commands.put((command, self.since_1970_s()))
        self.wake()
        return True

    def unclaimed(self, now_s: float) -> list[AlertState]:
        """What was on at sources that did not come back for so long that they would be forgotten."""
        with self._lock:
            if not self.journal or now_s - self._begun_s < FORGET_S:
                return []
            gone, self.journal = self.journal, {}
        return [state for states in gone.values() for state in states]

    def hear(self, topic: str, payload: bytes, retained: bool) -> None:
        """A message of a device. A retained one is old and no part of the stream."""
        if topic in self._elsewhere:
            return
        now_s, time_s = self.monotonic_s(), self.since_1970_s()
        watched = None if self._is_closed or retained or self.ignore(topic) else self._route(topic)
        if watched is None:
            self.ignored += topic not in self._elsewhere
            return
        silent_s = now_s - watched.heard_s if watched.heard_s is not None else 0.0
        watched.heard_s = now_s
        watched.post.inbox.put(Arrival(payload, now_s, time_s, silent_s))

    def posts(self) -> list[Post]:
        """What the next round is to look after, with the sources that leave."""
        with self._lock:
            left, self._left = self._left, []
            return [*left, *(watched.post for watched in self._watched.values())]

    def watched(self) -> list[Watched]:
        """Every source, by name."""
        with self._lock:
            return sorted(self._watched.values(), key=lambda watched: watched.name)

    def has(self, name: str) -> bool:
        """Whether there is such a source."""
        with self._lock:
            return name in self._watched

    def tick(self, now_s: float) -> list[Watched]:
        """Look at every source; those of which there is news. A stalled line is opened anew."""
        time_s = self.since_1970_s()
        changed = [watched for watched in self.watched() if look_at(watched, now_s, time_s)]
        self._end_streams()
        with self._lock:
            forgotten = [watched for watched in self._watched.values() if is_forgotten(watched, now_s)]
            self._remove(forgotten)
        self._flush(forgotten, forgotten, "no longer watched")
        with self._lock:
            gone, self._gone = self._gone, []
            left = [watched for watched in gone if watched.name not in self._watched]
        return left + changed

    @property
    def ended(self) -> bool:
        """Whether no source will ever send again."""
        if self.config is None or any(source.mqtt for source in self.config.source):
            return False
        return all(watched.reader and watched.reader.ended for watched in self.watched())

    def leave_all(self) -> list[str]:
        """Stop listening, for good; what waits can still be scored by one more round. The sources that had been read to their ends.

        What is on at the others stays so, for the next daemon to go on with.
        """
        self._is_closed = True
        with self._lock:
            leaving = list(self._watched.values())
            self._remove(leaving)
        ended = [watched for watched in leaving if watched.reader and watched.reader.ended]
        self._flush(leaving, [watched for watched in ended if not watched.flushed], "the stream has ended")
        return [watched.name for watched in ended]

    def _route(self, topic: str) -> Watched | None:
        with self._lock:
            if topic not in self._by_topic:
                found = self._find(topic)
                if found is None:
                    return None
                self._by_topic[topic] = found
            return self._by_topic[topic]

    def _find(self, topic: str) -> Watched | None:
        """The source that names this topic, else the one whose wildcard takes it."""
        assert self.config is not None
        for source in sorted(self.config.source, key=lambda source: source.has_wildcards):
            name = source.name_of(topic)
            if name is not None:
                return self._discover(source, name, topic) if self._is_mine(name, topic) else None
        return None

    def _is_mine(self, name: str, topic: str) -> bool:
        """Whether this source falls to this monitor; the topics of those that do not are remembered."""
        assert self.config is not None
        if self.config.share.has(name):
            return True
        if len(self._elsewhere) >= MOST_ELSEWHERE:
            self._elsewhere.clear()
        self._elsewhere.add(topic)
        return False

    def _discover(self, source: Source, name: str, topic: str) -> Watched | None:
        """The first topic of a name has it, until it is forgotten, unless the config gives the name: two streams must never be joined."""
        assert self.config is not None
        known = self._watched.get(name)
        if any(one.name == name and (one != source or known is None) for one in self.config.source):
            return None
        if known:
            return known if known.topic in (None, topic) and known.config == source else None
        if len(self._watched) >= MOST_DISCOVERED or len(name) > LONGEST_NAME:
            return None
        log.info("source discovered", source=name, topic=topic)
        watched = self._watch(source, name, None, self._name_stream(source, name))
        watched.topic = topic
        return watched

    def _name_streams(self, config: Config) -> dict[str, str]:
        """Of the sources that are new, or were changed."""
        before = {watched.name: watched.config for watched in self.watched()}
        for name, source in before.items():
            if source.file and source not in config.source:
                self.end_stream(name)
        return {source.name: self._name_stream(source, source.name) for source in config.mine if source != before.get(source.name)}

    def _name_stream(self, source: Source, name: str) -> str:
        return self.stream_of(source, name, _stream_name(self.since_1970_s()))

    def _watch(self, source: Source, name: str, transport: Transport | None, stream: str) -> Watched:
        inbox, now_s, time_s = Inbox(self.wake), self.monotonic_s(), self.since_1970_s()
        decoder = partial(source.kind.decoder, source.wiring())
        tap = self.tap(name) if self.tap else None
        live = Live(name, decoder, self._pipeline(name, stream), self._recording(source, name), time_s, tap)
        reader = Reader(name, transport, inbox, self.supervisor) if transport else None
        watched = self._watched[name] = Watched(source, name, Post(live, inbox), reader, now_s, stream, now_s)
        self._take_over(watched, time_s)
        if reader:
            reader.start()
        return watched

    def _end_streams(self) -> None:
        """What has been read to its end is told to its end, though other sources go on."""
        for watched in self.watched():
            if watched.reader and watched.reader.ended and not watched.flushed:
                watched.flushed = watched.post.ended = True
                watched.post.commands.put((Close("the stream has ended"), self.since_1970_s()))
                self.wake()

    def _take_over(self, watched: Watched, time_s: float) -> None:
        """Go on with what was on; a file that is read again tells it again by itself."""
        states = [state for state in self.journal.pop(watched.name, ()) if state.stream != watched.stream]
        watched.stalled = any(state.finding == "stalled" for state in states)
        if states:
            watched.post.commands.put((TakeOver(tuple(states)), time_s))

    def _remove(self, leaving: list[Watched]) -> None:
        """Nothing new reaches them. Called with the lock."""
        for watched in leaving:
            if watched.reader:
                watched.reader.stop()
            del self._watched[watched.name]
            watched.state = "offline"
        self._gone += leaving
        self._by_topic.clear()

    def _flush(self, leaving: list[Watched], over: list[Watched], why: str) -> None:
        """What waits is for one more round, once their lines are closed. Called without the lock, as those who bring bytes need it."""
        if not leaving:
            return
        until_s = time.monotonic() + _FAREWELL_S
        for watched in leaving:
            if watched.reader:
                watched.reader.join(max(until_s - time.monotonic(), 0.0))
        for watched in leaving:
            watched.post.ended |= not watched.flushed
        # After the end, so that whoever takes the one has the other.
        for watched in over:
            watched.post.commands.put((Close(why), self.since_1970_s()))
        with self._lock:
            self._left += [watched.post for watched in leaving]
        self.wake()

    def _pipeline(self, name: str, stream: str) -> Pipeline:
        hop_s = self.config.model.hop_s if self.config else Options().hop_s
        return Pipeline(name, self.engine, Options(hop_s, stream))

    def _recording(self, source: Source, name: str) -> Recording | None:
        table = self.config.record if self.config else None
        if not source.record or table is None or self.scribe is None:
            return None
        recorder = Recorder(table.folder, name, source.wiring().units_per_mv or _UNITS_PER_MV, table.rotate_s, int(table.limit_mb * 1e6))
        return Recording(self.scribe, recorder)


def _stream_name(time_s: float) -> str:
    """A name that no other start of a source has: the moment, in UTC."""
    return datetime.fromtimestamp(time_s, timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
