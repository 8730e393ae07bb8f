"""A recording and an engine in; what the alarm path told of it (alerts, beats, heart rates) out, and what its alarm was fed."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from kernels.bundle import Card
from kernels.engine import Engine

from ..alarm import Alarm, Alert, Kind
from ..pipeline import Event, Options, Seen
from ..quality import Judge, Quality
from ..replay import replay
from ..score import Scores
from ..strip import Recent
from ..transport.file import RecordingFile
from ..vitals import Vitals
from .interval import Interval
from .truth import Seconds

Fed = Vitals | Quality | Scores

_ROUNDING_S = 1e-6


@dataclass(frozen=True, slots=True)
class Alarmed:
    """One alert from its beginning to its end."""

    finding: str
    kind: Kind
    priority: str
    raised_s: float
    """When a user learns of it."""
    on: Interval
    """From its onset, the end of the first window that counted, to when it cleared, or to the end of the recording.

    A late clearing is not trimmed: it is what a user sees.
    """


@dataclass(frozen=True, slots=True)
class Observed:
    """All that a user would have seen of one recording."""

    name: str
    duration_s: float
    alerts: tuple[Alarmed, ...]
    beats_s: Seconds
    vitals_s: Seconds
    rates_bpm: Seconds
    """At `vitals_s`; NaN where no heart rate was told."""
    fed: tuple[Fed, ...]
    """What the alarm decided by, in order; empty where it was not asked for."""


def observe(recording: RecordingFile, engine: Engine, options: Options, keep: bool = False) -> Observed:
    """Replay a whole recording; with `keep`, keep what the alarm was fed. Raises ConfigError as `replay` does."""
    notebook = _Notebook(keep)
    judge = Judge()
    duration_s = 0.0
    for chunk, events in replay(recording, engine, options):
        duration_s = chunk.end / chunk.rate_hz if chunk else duration_s
        notebook.judged += judge.feed(chunk) if chunk and keep else ()
        for event in events:
            notebook.add(event)
    return notebook.close(recording.name, duration_s)


def alarm_again(observed: Observed, card: Card) -> tuple[Alarmed, ...]:
    """The alerts that another card's thresholds would have made of what the alarm was fed. The findings must be those of the engine."""
    return pair(_alerts(observed.fed, Alarm(observed.name, card), card.rate_hz), observed.duration_s)


def pair(alerts: Iterable[Alert], end_s: float) -> tuple[Alarmed, ...]:
    """Each raised alert with the one that cleared it, in the order they were raised; other states say nothing new."""
    raised: dict[str, Alarmed] = {}
    for alert in alerts:
        if alert.state == "raised":
            raised[alert.id] = Alarmed(alert.finding, alert.kind, alert.priority, alert.at_s, Interval(alert.onset_s, end_s))
        elif alert.state == "cleared" and alert.id in raised:
            raised[alert.id] = replace(raised[alert.id], on=Interval(alert.onset_s, alert.at_s))
    return tuple(raised.values())


def _alerts(fed: Iterable[Fed], alarm: Alarm, rate_hz: float) -> Iterator[Alert]:
    nothing = Recent(rate_hz).before(0)
    for one in fed:
        match one:
            case Vitals():
                alarm.note(one)
            case Quality():
                yield from alarm.feed_second(one, nothing)
            case Scores():
                yield from alarm.feed(one, nothing)


@dataclass(slots=True)
class _Notebook:
    keep: bool
    alerts: list[Alert] = field(default_factory=list)
    beats_s: array[float] = field(default_factory=lambda: array("d"))
    vitals_s: array[float] = field(default_factory=lambda: array("d"))
    rates_bpm: array[float] = field(default_factory=lambda: array("d"))
    fed: list[Fed] = field(default_factory=list)
    judged: deque[Quality] = field(default_factory=deque)
    """The seconds of quality whose turn in `fed` has not come."""

    def add(self, event: Event) -> None:
        match event:
            case Alert():
                self.alerts.append(event)
            case Seen(vitals=vitals):
                self.beats_s.extend(vitals.beats_s)
                self.vitals_s.append(vitals.at_s)
                self.rates_bpm.append(np.nan if vitals.heart_rate_bpm is None else vitals.heart_rate_bpm)
                self.fed += [vitals] if self.keep else []
            case Scores() if self.keep:
                self._take_judged(event.at_s)
                self.fed.append(event)

    def _take_judged(self, by_s: float) -> None:
        """The pipeline tells vitals and scores in its alarm's order; a second's quality comes before a window that ends with it."""
        while self.judged and self.judged[0].end_s <= by_s + _ROUNDING_S:
            self.fed.append(self.judged.popleft())

    def close(self, name: str, duration_s: float) -> Observed:
        self._take_judged(np.inf)
        return Observed(
            name=name,
            duration_s=duration_s,
            alerts=pair(self.alerts, duration_s),
            beats_s=np.sort(np.array(self.beats_s)),
            vitals_s=np.array(self.vitals_s),
            rates_bpm=np.array(self.rates_bpm),
            fed=tuple(self.fed),
        )
