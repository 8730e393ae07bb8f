"""The `Chunk`s of one source in; `Scores`, `Alert`s and `Vitals` out, the same whatever the cut of the chunks."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from kernels.engine import Engine

from .alarm import Alarm, Alert, Rule
from .decode.chunk import Chunk
from .quality import Judge, Quality
from .score import Scorer, Scores
from .vitals import Monitor, Vitals
from .window import Cut, Resample, Window


@dataclass(frozen=True, slots=True)
class Seen:
    """The vitals of one second and the state of the leads in it."""

    source: str
    vitals: Vitals
    quality: Quality | None


Event = Scores | Alert | Seen


@dataclass(frozen=True, slots=True)
class Options:
    """How a source is watched."""

    hop_s: float = 1.0
    rule: Rule = field(default_factory=Rule)


class Pipeline:
    """All pure stages of one source, in one loop. Stream time only; no I/O, clock or thread.

    Within one call, events are ordered by the sample that made them known, so that a long chunk gives
    them in the same order as many short ones.
    """

    def __init__(self, source: str, engine: Engine, options: Options = Options()) -> None:
        card = engine.bundle.card
        self._source = source
        self._judge = Judge()
        self._resample = Resample(card.rate_hz)
        self._cut = Cut(card.samples, max(round(options.hop_s * card.rate_hz), 1))
        self._monitor = Monitor(card.rate_hz)
        self._scorer = Scorer(source, engine)
        self._alarm = Alarm(source, card.findings, options.rule)
        self._quality: deque[Quality] = deque()

    def feed(self, chunk: Chunk) -> Iterator[Event]:
        """What this chunk makes known."""
        for quality in self._judge.feed(chunk):
            self._scorer.observe(quality)
            self._quality.append(quality)
        yield from self._advance(list(self._resample.feed(chunk)))

    def flush(self) -> Iterator[Event]:
        """What the end of the stream makes known. Alerts that are raised stay so: nobody saw them end."""
        yield from self._advance(list(self._resample.flush()), ended=True)

    def _advance(self, resampled: list[Chunk], ended: bool = False) -> Iterator[Event]:
        windows: list[Window] = []
        vitals: list[tuple[int, Vitals]] = []
        for chunk in resampled:
            windows.extend(self._cut.feed(chunk))
            vitals.extend(self._monitor.feed(chunk))
        if ended:
            vitals.extend(self._monitor.flush())
        known: list[tuple[int, Scores | Seen]] = [(at, self._seen(told)) for at, told in vitals]
        known += zip((window.end for window in windows), self._scorer.feed(windows), strict=True)
        for _, event in sorted(known, key=lambda item: item[0]):
            yield event
            if isinstance(event, Scores):
                yield from self._alarm.feed(event)

    def _seen(self, vitals: Vitals) -> Seen:
        """Joined with the last second of quality that ended by then."""
        while len(self._quality) > 1 and self._quality[1].end_s <= vitals.at_s:
            self._quality.popleft()
        now = self._quality[0] if self._quality and self._quality[0].end_s <= vitals.at_s else None
        return Seen(self._source, vitals, now)
