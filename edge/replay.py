"""A `RecordingFile` in; the events that a live source with these samples would give out, and their summary."""

from __future__ import annotations

import statistics
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from kernels.engine import Engine

from .alarm import Alert
from .decode.chunk import Chunk
from .pipeline import Event, Options, Seen
from .play import Play
from .score import Scores
from .track import score
from .transport.file import RecordingFile


def replay(
    recording: RecordingFile, engine: Engine, options: Options = Options(), speed: float | None = None
) -> Iterator[tuple[Chunk | None, list[Event]]]:
    """Each chunk with what it made known; last None with what the end made known.

    `speed` 1 is real time, None as fast as possible. Raises ConfigError for a recording that is too slow
    or nowhere long enough for one window.
    """
    play = Play(recording, _paced(recording.chunks(_block(speed)), speed), engine, options)
    while step := play.next():
        yield step.chunk, play.finish(step, score(engine, step.jobs))


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


MOST_STRIPS = 4
"""So many alerts of each finding keep their strips, the first: those of a day could fill the memory."""


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
    _begun: Counter[str] = field(default_factory=Counter)

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
                self._begun[event.finding] += 1
                raised = event if self._begun[event.finding] <= MOST_STRIPS else _without_strip(event)
                self.episodes[event.id] = self._open[event.finding] = Episode(raised, event.score)
            case Alert(state="updated"):
                self._open[event.finding].peak = event.score
            case Alert():
                self._open.pop(event.finding).cleared = _without_strip(event)
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


def _without_strip(alert: Alert) -> Alert:
    return replace(alert, evidence=replace(alert.evidence, strip=None))
