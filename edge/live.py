"""The `Arrival`s of one live source in; what its pipeline makes of them out, with the time of day, and its accounts beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

from kernels.engine import Engine
from kernels.signal import Samples

from .alarm import Alert
from .clock import Arrival, Clock
from .command import Acknowledge, Close, Command, Reply, Report, Silence, TakeOver, Wake
from .contract import AlertState, to_alert
from .decode.chunk import Chunk
from .decode.device import Decoder, Tally
from .pipeline import Event, FollowUp, Pending, Pipeline, Seen
from .play import SLOWEST_SHARE
from .score import Scores
from .scribe import Recording

_COUNTED = tuple(field.name for field in fields(Tally))

State = Literal["online", "stalled", "offline"]

Tap = Callable[[Chunk, float], object]
"""Sees samples as they come, and when the first was measured, in seconds since 1970; it returns at once."""


@dataclass(frozen=True, slots=True)
class Dated:
    """An event, and when it was by the clock on the wall."""

    event: Event | Reply
    time_s: float
    """Seconds since 1970."""
    onset_time_s: float
    """The same for the onset of an alert, from its first word to its last."""


class Live:
    """One source from its bytes to its events. No I/O, clock or thread."""

    def __init__(
        self,
        name: str,
        decoder: Callable[[], Decoder],
        pipeline: Pipeline,
        recording: Recording | None = None,
        begun_time_s: float = 0.0,
        tap: Tap | None = None,
    ) -> None:
        """`begun_time_s` says, in seconds since 1970, when it began to be watched, for as long as no sample tells the time."""
        self.name = name
        self.clock = Clock()
        self.sampled_at_s: float | None = None
        """When the last sample came, on the clock of the arrivals."""
        self.heard_at_s: float | None = None
        """When the last bytes came."""
        self._recording = recording
        self._tap = tap
        self._begun_time_s = begun_time_s
        self._onsets: dict[str, float] = {}
        self._new_decoder = decoder
        self._decoder = decoder()
        self._pipeline = pipeline
        self._before: Counter[str] = Counter(dict.fromkeys(_COUNTED, 0))
        self._accounts = self._count()
        self._refused: str | None = None
        self._unread: str | None = None

    def prepare(self, arrival: Arrival) -> list[Pending]:
        """What these bytes make known but for the probabilities."""
        if arrival.opened:
            self._start_decoder()
        self.heard_at_s, self._decoder.last_error = arrival.at_s, None
        pending = self._prepare(self._decoder.feed(arrival.data), arrival)
        self._accounts = self._count()
        return pending

    def prepare_late(self, now_s: float) -> list[Pending]:
        """What was held back for long enough, though nothing came after it."""
        pending = [self._take(chunk) for chunk in self.clock.settle(now_s)]
        self._accounts = self._count()
        return pending

    def prepare_end(self, arrival: Arrival) -> list[Pending]:
        """The same for what was still held back anywhere, at the end of the source."""
        pending = self._prepare(self._decoder.flush(), arrival)
        pending += [self._take(chunk) for chunk in self.clock.flush()]
        self._accounts = self._count()
        if self._recording:
            self._recording.end()
        return [*pending, self._pipeline.prepare_end()]

    @property
    def is_holding(self) -> bool:
        """Whether samples wait for a doubt to settle."""
        return self.clock.is_holding

    @property
    def engine(self) -> Engine:
        """What its windows are cut for."""
        return self._pipeline.engine

    def finish(self, pending: Pending, probability: Samples) -> Iterator[Dated]:
        """With the engine's rows [windows, findings]: the events."""
        return self._date(self._pipeline.finish(pending, probability))

    def rescore(self, pipeline: Pipeline) -> Iterator[Dated]:
        """Go on with another pipeline, for a new model; its windows begin anew, what is on stays so."""
        last, self._pipeline = self._pipeline, pipeline
        return self._date(pipeline.succeed(last))

    def obey(self, command: Command, time_s: float) -> Iterator[Dated]:
        """What a command at this moment (seconds since 1970) changes."""
        return self._date(self._obey(command, self._stream_time(time_s)), time_s)

    def _obey(self, command: Command, at_s: float) -> Iterator[Event | Reply]:
        alarm = self._pipeline.alarm
        match command:
            case Report(finding, why):
                yield from alarm.report(finding, why, at_s)
            case TakeOver(states):
                yield from self._take_over(states)
            case Close(why):
                yield from alarm.close(why, alarm.now_s)
            case Wake():
                yield from alarm.wake(at_s)
            case Silence() if command.finding and not alarm.alerts_for(command.finding):
                yield self._reply(command, f"{command.finding} is no finding that alerts")
            case Silence():
                yield from alarm.silence(command.finding, command.for_s, command.by, at_s)
                yield self._reply(command)
            case Acknowledge():
                is_on = any(alert.id == command.id for alert in alarm.on)
                yield from alarm.acknowledge(command.id, command.by, at_s)
                yield self._reply(command, None if is_on else f"no alert {command.id} is on at {self.name}")

    def _take_over(self, states: Sequence[AlertState]) -> Iterator[Alert]:
        self._onsets |= {state.id: state.onset_time for state in states}
        return self._pipeline.alarm.take_over([to_alert(state, self._begun_time_s) for state in states])

    def _reply(self, command: Acknowledge | Silence, why: str | None = None) -> Reply:
        return Reply(self.name, command.command_id, why is None, why)

    def _date(self, events: Iterable[Event | Reply], now_s: float | None = None) -> Iterator[Dated]:
        """By the samples, or where a command made them `now_s`."""
        for event in events:
            time_s = onset_s = now_s or self._time_of(self._at(event))
            if isinstance(event, Alert):
                onset_s = self._onsets.setdefault(event.id, self._time_of(event.onset_s))
                if event.state == "cleared":
                    del self._onsets[event.id]
            yield Dated(event, time_s, onset_s)

    def _time_of(self, at_s: float) -> float:
        return self.clock.time_of(at_s) if self.clock.has_begun else self._begun_time_s + at_s

    def _stream_time(self, time_s: float) -> float:
        """Of a moment after the last sample."""
        now_s = self._pipeline.alarm.now_s
        return round(now_s + max(time_s - self._time_of(now_s), 0.0), 3)

    def _at(self, event: Event | Reply) -> float:
        match event:
            case Scores() | Alert() | FollowUp():
                return event.at_s
            case Seen():
                return event.vitals.at_s
            case Reply():
                return self._pipeline.alarm.now_s

    def accounts(self) -> dict[str, int]:
        """What came and what did not since the source began: the sums of `Tally`, with what only the times of arrival tell."""
        return {**self._accounts, "unrecorded": self._recording.lost if self._recording else 0}

    @property
    def problem(self) -> str | None:
        """What is wrong now, in words."""
        return self._refused or self._unread or (self._recording.error if self._recording else None)

    def _count(self) -> dict[str, int]:
        """Anew each time and never changed, as another thread may be reading the last."""
        tally = self._decoder.tally
        counts = {name: getattr(tally, name) + self._before[name] for name in _COUNTED}
        counts["lost"] += self.clock.lost
        return counts

    def _start_decoder(self) -> None:
        self._before.update(asdict(self._decoder.tally))
        self._decoder = self._new_decoder()

    def _prepare(self, chunks: Iterator[Chunk], arrival: Arrival) -> list[Pending]:
        accepted = [chunk for chunk in chunks if self._accepts(chunk)]
        if accepted:
            self.sampled_at_s, self._unread = arrival.at_s, None
        elif self._decoder.last_error:
            self._unread = self._decoder.last_error
        return [self._take(chunk) for chunk in self.clock.feed(accepted, arrival, self._decoder.turn)]

    def _take(self, chunk: Chunk) -> Pending:
        if self._recording or self._tap:
            self._let_see(chunk, self.clock.time_of(chunk.start / chunk.rate_hz))
        return self._pipeline.prepare(chunk)

    def _let_see(self, chunk: Chunk, time_s: float) -> None:
        if self._recording:
            self._recording.keep(chunk, time_s)
        if self._tap:
            self._tap(chunk, time_s)

    def _accepts(self, chunk: Chunk) -> bool:
        slowest_hz = SLOWEST_SHARE * self._pipeline.rate_hz
        slow = chunk.rate_hz < slowest_hz
        self._refused = f"{chunk.rate_hz:g} Hz is too slow for this model, which needs {slowest_hz:g} Hz or more" if slow else None
        return not slow and chunk.samples_mv.shape[1] > 0
