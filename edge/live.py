"""The `Arrival`s of one live source in; what its pipeline makes of them out, with the time of day, and its accounts beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from typing import Literal

from kernels.engine import Engine
from kernels.signal import Samples

from .alarm import Alert
from .clock import Arrival, Clock
from .decode.chunk import Chunk
from .decode.device import Decoder, Tally
from .pipeline import Event, Pending, Pipeline, Seen
from .replay import SLOWEST_SHARE
from .score import Scores
from .scribe import Recording

_COUNTED = tuple(field.name for field in fields(Tally))

State = Literal["online", "stalled", "offline"]


class Live:
    """One source from its bytes to its events. No I/O, clock or thread."""

    def __init__(self, name: str, decoder: Callable[[], Decoder], pipeline: Pipeline, recording: Recording | None = None) -> None:
        self.name = name
        self.clock = Clock()
        self.sampled_at_s: float | None = None
        """When the last sample came, on the clock of the arrivals."""
        self.heard_at_s: float | None = None
        """When the last bytes came."""
        self._recording = recording
        self._new_decoder = decoder
        self._decoder = decoder()
        self._pipeline = pipeline
        self._before: Counter[str] = Counter()
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

    def finish(self, pending: Pending, probability: Samples) -> Iterator[tuple[Event, float]]:
        """With the engine's rows [windows, findings]: each event and its seconds since 1970."""
        for event in self._pipeline.finish(pending, probability):
            yield event, self.clock.time_of(_stream_time(event))

    def rescore(self, pipeline: Pipeline) -> None:
        """Go on with another pipeline, for a new model; its windows begin anew."""
        self._pipeline = pipeline

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
        if self._recording:
            self._recording.keep(chunk, self.clock.time_of(chunk.start / chunk.rate_hz))
        return self._pipeline.prepare(chunk)

    def _accepts(self, chunk: Chunk) -> bool:
        slowest_hz = SLOWEST_SHARE * self._pipeline.rate_hz
        slow = chunk.rate_hz < slowest_hz
        self._refused = f"{chunk.rate_hz:g} Hz is too slow for this model, which needs {slowest_hz:g} Hz or more" if slow else None
        return not slow and chunk.samples_mv.shape[1] > 0


def _stream_time(event: Event) -> float:
    match event:
        case Scores() | Alert():
            return event.at_s
        case Seen():
            return event.vitals.at_s
