"""A recording and an engine in; what the alarm path told of it (alerts, beats, heart rates) out, and what its alarm was fed."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
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
from .interval import Interval
from .truth import Seconds


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
    fed: tuple[Scores | Quality, ...]
    """What the alarm decided by, in order; empty where it was not asked for."""


def observe(recording: RecordingFile, engine: Engine, options: Options, keep: bool = False) -> Observed:
    """Replay a whole recording; with `keep`, keep what the alarm was fed. Raises ConfigError as `replay` does."""
    notebook = _Notebook(keep)
    judge = Judge()
    duration_s = 0.0
    for chunk, events in replay(recording, engine, options):
        duration_s = chunk.end / chunk.rate_hz if chunk else duration_s
        notebook.fed += judge.feed(chunk) if chunk and keep else ()
        for event in events:
            notebook.add(event)
    return notebook.close(recording.name, duration_s)


def alarm_again(observed: Observed, card: Card) -> tuple[Alarmed, ...]:
    """The alerts that another card's thresholds would have made of what the alarm was fed. The findings must be those of the engine."""
    alarm = Alarm(observed.name, card)
    nothing = Recent(card.rate_hz).before(0)
    told = [alarm.feed(one, nothing) if isinstance(one, Scores) else alarm.feed_second(one, nothing) for one in observed.fed]
    return pair((alert for alerts in told for alert in alerts), observed.duration_s)


def pair(alerts: Iterable[Alert], end_s: float) -> tuple[Alarmed, ...]:
    """Each raised alert with the one that cleared it, in the order they were raised; other states say nothing new."""
    raised: dict[str, Alarmed] = {}
    for alert in alerts:
        if alert.state == "raised":
            raised[alert.id] = Alarmed(alert.finding, alert.kind, alert.priority, alert.at_s, Interval(alert.onset_s, end_s))
        elif alert.state == "cleared" and alert.id in raised:
            raised[alert.id] = replace(raised[alert.id], on=Interval(alert.onset_s, alert.at_s))
    return tuple(raised.values())


def _when(fed: Scores | Quality) -> tuple[float, bool]:
    """The quality of a second is known before the window that ends with it is scored."""
    return (fed.at_s, True) if isinstance(fed, Scores) else (fed.end_s, False)


@dataclass(slots=True)
class _Notebook:
    keep: bool
    alerts: list[Alert] = field(default_factory=list)
    beats_s: array[float] = field(default_factory=lambda: array("d"))
    vitals_s: array[float] = field(default_factory=lambda: array("d"))
    rates_bpm: array[float] = field(default_factory=lambda: array("d"))
    fed: list[Scores | Quality] = field(default_factory=list)

    def add(self, event: Event) -> None:
        match event:
            case Alert():
                self.alerts.append(event)
            case Seen(vitals=vitals):
                self.beats_s.extend(vitals.beats_s)
                self.vitals_s.append(vitals.at_s)
                self.rates_bpm.append(np.nan if vitals.heart_rate_bpm is None else vitals.heart_rate_bpm)
            case Scores() if self.keep:
                self.fed.append(event)

    def close(self, name: str, duration_s: float) -> Observed:
        return Observed(
            name=name,
            duration_s=duration_s,
            alerts=pair(self.alerts, duration_s),
            beats_s=np.sort(np.array(self.beats_s)),
            vitals_s=np.array(self.vitals_s),
            rates_bpm=np.array(self.rates_bpm),
            fed=tuple(sorted(self.fed, key=_when)),
        )
