"""The `Chunk`s of one source in; `Scores`, `Alert`s and `Vitals` out, the same whatever the cut of the chunks."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from kernels.engine import Engine
from kernels.signal import Samples

from .alarm import Alarm, Alert
from .decode.chunk import Chunk
from .quality import Judge, Quality
from .score import Draft, Scorer, Scores
from .strip import STRIP_S, Recent, Strip, Tail
from .track import Job, Track, score
from .vitals import Monitor, Vitals
from .window import Cut, Resample


@dataclass(frozen=True, slots=True)
class Seen:
    """The vitals of one second and the state of the leads in it."""

    source: str
    vitals: Vitals
    quality: Quality | None


@dataclass(frozen=True, slots=True)
class FollowUp:
    """What the leads showed in the seconds after an alert was raised."""

    alert: Alert
    at_s: float
    strip: Strip


Event = Scores | Alert | Seen | FollowUp

_Item = Draft | Seen | Quality

_LATEST_VITALS_S = 5.0
"""Longer after its samples no heart rate is told."""
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Options:
    """How a source is watched."""

    hop_s: float = 1.0
    stream: str = ""
    """Names the stretch of time that the source's seconds count in; a replay's has no name."""


@dataclass(frozen=True, slots=True)
class Pending:
    """What a chunk made known, in order, each with the samples before it, where some windows still wait for the engine."""

    known: tuple[tuple[_Item, Tail], ...]
    end: Tail | None = None
    """The last samples of all, at the end of the stream."""

    @property
    def jobs(self) -> list[Job]:
        """What the engine is to do, in order."""
        return [item.job for item, _ in self.known if isinstance(item, Draft) and item.job]


class Pipeline:
    """All pure stages of one source, in one loop. Stream time only; no I/O, clock or thread.

    `prepare` and `finish` leave the engine to the caller, who may score the windows of many sources at once;
    `feed` is both with its own engine. Within one call, events are ordered by the sample that made them
    known, so that a long chunk gives them in the same order as many short ones.
    """

    def __init__(self, source: str, engine: Engine, options: Options = Options()) -> None:
        card = engine.bundle.card
        self.rate_hz = card.rate_hz
        self._source = source
        self.engine = engine
        self._judge = Judge()
        self._resample = Resample(card.rate_hz)
        self._cut = Cut(card.samples, max(round(options.hop_s * card.rate_hz), 1))
        self._monitor = Monitor(card.rate_hz)
        self._scorer = Scorer(source, card.findings, Track(engine))
        self.alarm = Alarm(source, card, options.stream, options.hop_s)
        self._recent = Recent(card.rate_hz)
        self._raised: deque[Alert] = deque()
        self._judged: deque[Quality] = deque()
        self._quality: deque[Quality] = deque()

    def feed(self, chunk: Chunk) -> Iterator[Event]:
        """What this chunk makes known."""
        yield from self._run(self.prepare(chunk))

    def flush(self) -> Iterator[Event]:
        """What the end of the stream makes known. Alerts that are raised stay so: nobody saw them end."""
        yield from self._run(self.prepare_end())

    def prepare(self, chunk: Chunk) -> Pending:
        """What this chunk makes known but for the probabilities."""
        for quality in self._judge.feed(chunk):
            self._scorer.observe(quality)
            self._quality.append(quality)
            self._judged.append(quality)
        return self._advance(list(self._resample.feed(chunk, self._next_known())))

    def prepare_end(self) -> Pending:
        """The same for the end of the stream."""
        return self._advance(list(self._resample.flush()), ended=True)

    def finish(self, pending: Pending, probability: Samples) -> Iterator[Event]:
        """With the engine's rows [windows, findings] for what `prepare` gave. In the order of the calls of `prepare`."""
        rows = iter(probability)
        for item, tail in pending.known:
            match item:
                case Seen():
                    self.alarm.note(item.vitals)
                    yield item
                case Quality():
                    yield from self._alert(self.alarm.feed_second(item, tail), item.end_s, tail)
                case Draft():
                    scores = item.scores if item.job is None else self._scorer.fill(item, next(rows))
                    yield scores
                    yield from self._alert(self.alarm.feed(scores, tail), scores.at_s, tail)
        if pending.end:
            yield from self._follow_up(math.inf, pending.end)

    def succeed(self, last: Pipeline) -> Iterator[Alert]:
        """Go on where another pipeline of the same stream ends, as for a new model; the windows begin anew."""
        self._raised = last._raised
        yield from self.alarm.succeed(last.alarm)

    def _run(self, pending: Pending) -> Iterator[Event]:
        return self.finish(pending, score(self.engine, pending.jobs))

    def _alert(self, alerts: Iterator[Alert], at_s: float, tail: Tail) -> Iterator[Event]:
        """With the evidence that the time since an earlier alert has made."""
        for alert in alerts:
            yield alert
            if alert.state == "raised":
                self._raised.append(alert)
        yield from self._follow_up(at_s, tail)

    def _follow_up(self, at_s: float, tail: Tail) -> Iterator[FollowUp]:
        while self._raised and self._raised[0].at_s + STRIP_S <= at_s:
            strip = tail.strip()
            yield FollowUp(self._raised.popleft(), round(strip.end_s, 6), strip)

    def _advance(self, resampled: list[Chunk], ended: bool = False) -> Pending:
        if not resampled and not ended:
            return Pending(())
        known: list[tuple[int, _Item, Tail]] = []
        for chunk in resampled:
            self._recent.feed(chunk)
            items: list[tuple[int, _Item]] = [(window.end, self._scorer.draft(window)) for window in self._cut.feed(chunk)]
            items += [(at, self._seen(told)) for at, told in self._monitor.feed(chunk)]
            items += self._judgements(chunk.end)
            known += [(at, item, self._recent.before(at)) for at, item in items]
        if ended:
            known += [(at, self._seen(told), self._recent.before(at)) for at, told in self._monitor.flush()]
        self._forget()
        end = self._recent.before(self._recent.end) if ended else None
        return Pending(tuple((item, tail) for _, item, tail in sorted(known, key=_order)), end)

    def _next_known(self) -> int:
        """Up to here nothing becomes known, if no gap comes before."""
        at = min(self._cut.next_end, self._monitor.next_at)
        return min(at, self._index_after(self._judged[0])) if self._judged else at

    def _judgements(self, end: int) -> Iterator[tuple[int, Quality]]:
        """The seconds that are over by this index, though the resampler told their samples later than they were judged."""
        while self._judged and (at := self._index_after(self._judged[0])) <= end:
            yield at, self._judged.popleft()

    def _index_after(self, quality: Quality) -> int:
        return math.ceil(quality.end_s * self.rate_hz - _ROUNDING)

    def _forget(self) -> None:
        """However often a gap begins a window anew, nothing grows."""
        start_s = self._cut.start / self.rate_hz
        self._scorer.forget(start_s)
        while len(self._quality) > 1 and self._quality[1].end_s <= start_s - _LATEST_VITALS_S:
            self._quality.popleft()

    def _seen(self, vitals: Vitals) -> Seen:
        """Joined with the last second of quality that ended by then."""
        while len(self._quality) > 1 and self._quality[1].end_s <= vitals.at_s:
            self._quality.popleft()
        now = self._quality[0] if self._quality and self._quality[0].end_s <= vitals.at_s else None
        return Seen(self._source, vitals, now)


def _order(known: tuple[int, _Item, Tail]) -> tuple[int, int]:
    """By the sample that made it known; of the same sample the vitals first, and the quality before the window."""
    return known[0], (Seen, Quality, Draft).index(type(known[1]))
