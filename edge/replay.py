"""A `RecordingFile` in; the events that a live source with these samples would give out, and their summary."""

from __future__ import annotations

import statistics
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from kernels.bundle import Card
from kernels.engine import Engine
from kernels.findings import ConfigError

from .alarm import Alert
from .decode.chunk import Chunk
from .pipeline import Event, Options, Pipeline, Seen
from .score import Scores
from .transport.file import RecordingFile

SLOWEST_SHARE = 0.8
"""A source may be this much slower than the bundle's rate before the QRS loses its shape."""


def replay(
    recording: RecordingFile, engine: Engine, options: Options = Options(), speed: float | None = None
) -> Iterator[tuple[Chunk | None, list[Event]]]:
    """Each chunk with what it made known; last None with what the end made known.

    `speed` 1 is real time, None as fast as possible. Raises ConfigError for a recording that is too slow
    or nowhere long enough for one window.
    """
    pipeline = Pipeline(recording.name, engine, options)
    card = engine.bundle.card
    scored = False
    for chunk in _paced(recording.chunks(_block(speed)), speed):
        _check_rate(recording.name, chunk, card)
        events = list(pipeline.feed(chunk))
        scored = scored or any(isinstance(event, Scores) for event in events)
        yield chunk, events
    events = list(pipeline.flush())
    if not scored and not any(isinstance(event, Scores) for event in events):
        raise ConfigError(
            f"{recording.name}: no stretch of {card.window_s:g} s without a gap, so there is nothing to score; give a longer recording"
        )
    yield None, events


def _block(speed: float | None) -> int:
    """In real time small reads, for a steady flow."""
    return 1 << 14 if speed is None else 1 << 10


def _paced(chunks: Iterator[Chunk], speed: float | None) -> Iterator[Chunk]:
    begun_s = time.monotonic()
    for chunk in chunks:
        if speed is not None:
            due_s = begun_s + chunk.end / chunk.rate_hz / speed
            time.sleep(max(due_s - time.monotonic(), 0.0))
        yield chunk


def _check_rate(name: str, chunk: Chunk, card: Card) -> None:
    slowest_hz = SLOWEST_SHARE * card.rate_hz
    if chunk.rate_hz < slowest_hz:
        raise ConfigError(
            f"{name}: {chunk.rate_hz:g} Hz is too slow for this model, which needs {slowest_hz:g} Hz or more; record at a higher rate"
        )


@dataclass(slots=True)
class Episode:
    """One alert from its beginning to its end, as far as it was seen."""

    raised: Alert
    peak: float
    cleared: Alert | None = None


@dataclass(slots=True)
class Summary:
    """What a whole recording showed."""

    duration_s: float = 0.0
    episodes: dict[str, Episode] = field(default_factory=dict)
    """By alert id, in the order of their beginning."""
    probabilities: dict[str, array[float]] = field(default_factory=dict)
    heart_rates_bpm: array[float] = field(default_factory=lambda: array("f"))
    windows: int = 0
    abstained: dict[str, int] = field(default_factory=dict)
    """Reason -> windows."""
    unobservable: set[str] = field(default_factory=set)
    _open: dict[str, Episode] = field(default_factory=dict)

    def add(self, chunk: Chunk | None, events: list[Event]) -> None:
        """Count in one step of `replay`."""
        if chunk is not None:
            self.duration_s = chunk.end / chunk.rate_hz
        for event in events:
            self._add_event(event)

    def _add_event(self, event: Event) -> None:
        match event:
            case Scores():
                self._add_scores(event)
            case Alert(state="raised"):
                self.episodes[event.id] = self._open[event.finding] = Episode(event, event.score)
            case Alert(state="updated"):
                self._open[event.finding].peak = event.score
            case Alert():
                self._open.pop(event.finding).cleared = event
            case Seen(vitals=vitals) if vitals.heart_rate_bpm is not None:
                self.heart_rates_bpm.append(vitals.heart_rate_bpm)

    def _add_scores(self, scores: Scores) -> None:
        self.windows += 1
        self.unobservable.update(scores.unobservable)
        if scores.abstained:
            self.abstained[scores.abstained] = self.abstained.get(scores.abstained, 0) + 1
        for finding, probability in scores.probability.items():
            self.probabilities.setdefault(finding, array("f")).append(probability)
            if finding in self._open:
                self._open[finding].peak = max(self._open[finding].peak, probability)

    def median(self, finding: str) -> float:
        """The median probability of a finding over its windows; 0 where it was never scored."""
        return statistics.median(self.probabilities.get(finding) or (0.0,))
