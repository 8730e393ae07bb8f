"""The chunks and events of a whole recording in; the figures of a holter report out: rhythm, burden, heart rate, pauses and quality."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from kernels.bundle import Card

from .alarm import Alert
from .burden import Burden, Spell, Tallies
from .decode.chunk import Chunk
from .evaluate.interval import Interval, Intervals, total_s
from .heart import Beats, HeartRate, Pause, Step, assessed_beats, heart_rate, part_doubtful, pauses, silences, trend
from .message import Message
from .pipeline import Event, Seen
from .quality import Quality
from .score import Scores
from .timeline import Rhythm, Segment, Stretches, follows_gap


@dataclass(frozen=True, slots=True)
class LeadQuality:
    """One lead of the source, derived ones too."""

    lead: str
    shares: dict[str, float]
    """State -> share of the seconds, the most frequent first."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What a holter report says of one recording."""

    duration_s: float
    """From its beginning to its end, gaps included."""
    gaps: int
    gaps_s: float
    windows: int
    not_assessable: dict[str, float]
    """Why a window had no scores -> share of all windows, the most frequent first."""
    beats: int
    """Those found while some lead was good, without peaks that stand out no more than noise."""
    heart_rate: HeartRate | None
    minutes: tuple[Step, ...]
    pauses: tuple[Pause, ...]
    """The longest first; never across what cannot be assessed."""
    pauses_unjudged: int
    """Intervals as long that reach into it: a pause, or lost contact."""
    no_beat: Intervals
    """Where for more than four seconds no clear beat was found though some lead was good: neither beats nor pauses count in it."""
    no_beat_s: float
    """As long in all."""
    rhythm: tuple[Segment, ...]
    burdens: tuple[Burden, ...]
    """The largest first; without findings that the leads never showed."""
    alerts: tuple[Spell, ...]
    """In the order they were raised, technical ones too."""
    leads: tuple[LeadQuality, ...]
    unobservable: tuple[str, ...]
    """Findings that no window could show."""

    @property
    def assessed_share(self) -> float:
        """Of all windows those that were scored; 0 where there was none."""
        return 1.0 - sum(self.not_assessable.values()) if self.windows else 0.0

    @property
    def is_scored(self) -> bool:
        """Whether any window was."""
        return bool(self.burdens)


def to_message(figures: Figures, source: str | None = None) -> Message:
    """An object with `type` holter; times in seconds of the recording, rates in beats per minute, all to four decimals.

    `source` is the recording's name, as in the other messages.
    """
    told: Message = {"type": "holter", "source": source, "assessed_share": figures.assessed_share, **asdict(figures)}
    return {name: _rounded(value) for name, value in told.items()}


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return round(value, 4)
        case dict():
            return {name: _rounded(one) for name, one in value.items()}
        case list() | tuple():
            return [_rounded(one) for one in value]
    return value


class Holter:
    """Collects while a replay runs: about 40 bytes a second and some hundred an alert; no samples.

    Beats and rates count outside gaps and seconds without a good lead, pauses outside windows that abstained, too.
    """

    def __init__(self, card: Card) -> None:
        self._window_s = card.window_s
        self._tallies, self._rhythm = Tallies(card.findings), Rhythm(card.findings)
        self._spells: dict[str, Spell] = {}
        self._open: dict[str, str] = {}
        self._beats_s, self._unclear_s = array("d"), array("d")
        self._told_s, self._told_bpm = array("d"), array("f")
        self._gaps, self._blind, self._unscored = Stretches(), Stretches(), Stretches()
        self._states: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._judged_s = -1.0
        self._abstained: Counter[str] = Counter()
        self._windows = 0
        self._unobservable: set[str] = set()
        self._end_s = 0.0

    def add(self, chunk: Chunk | None, events: Iterable[Event]) -> None:
        """One step of `replay`."""
        if chunk is not None:
            self._add_chunk(chunk)
        for event in events:
            self._add_event(event)

    def figures(self) -> Figures:
        """Of everything until now."""
        beats, spells = self.beats(), tuple(self._ended())
        found, unjudged = pauses(beats)
        no_beat = silences(beats)
        return Figures(
            duration_s=self._end_s,
            gaps=len(beats.gaps),
            gaps_s=total_s(beats.gaps),
            windows=self._windows,
            not_assessable={why: count / self._windows for why, count in self._abstained.most_common()},
            beats=assessed_beats(beats),
            heart_rate=heart_rate(beats),
            minutes=trend(beats, self._end_s),
            pauses=found,
            pauses_unjudged=unjudged,
            no_beat=no_beat,
            no_beat_s=total_s(no_beat),
            rhythm=self._rhythm.segments([(spell.finding, spell.on) for spell in spells], self._window_s),
            burdens=self._tallies.burdens(spells),
            alerts=spells,
            leads=tuple(_lead_quality(lead, states) for lead, states in self._states.items()),
            unobservable=tuple(sorted(self._unobservable - self._tallies.seen)),
        )

    def beats(self) -> Beats:
        """What was told of the heart until now."""
        told_s, told_bpm = np.array(self._told_s), np.array(self._told_bpm)
        beats_s, doubtful_s = part_doubtful(np.array(self._beats_s), np.array(self._unclear_s))
        stretches = self._gaps.union(), self._blind.union(), self._unscored.union()
        return Beats(beats_s, told_s, told_bpm, *stretches, doubtful_s, self._end_s)

    def can_assess(self, start_s: float, end_s: float) -> bool:
        """Whether, as far as is known, some lead is good all this time, and every window in it was scored."""
        return not (self._blind.overlap(start_s, end_s) or self._unscored.overlap(start_s, end_s))

    def can_see(self, start_s: float, end_s: float) -> bool:
        """Whether, as far as is known, some lead is good all this time."""
        return not self._blind.overlap(start_s, end_s)

    def _add_chunk(self, chunk: Chunk) -> None:
        start_s = chunk.start / chunk.rate_hz
        if follows_gap(chunk, self._end_s):
            self._gaps.add(self._end_s, start_s)
            self._blind.add(self._end_s, start_s)
        self._end_s = chunk.end / chunk.rate_hz

    def _add_event(self, event: Event) -> None:
        match event:
            case Scores():
                self._add_scores(event)
            case Alert(state="cleared"):
                self._close(event)
            case Alert():
                self._note(event)
            case Seen():
                self._add_seen(event)

    def _add_scores(self, scores: Scores) -> None:
        self._windows += 1
        self._unobservable.update(scores.unobservable)
        self._rhythm.feed(scores.at_s, scores.probability)
        if scores.abstained:
            self._abstained[scores.abstained] += 1
            self._unscored.add(scores.at_s - self._window_s, scores.at_s)
            return
        self._tallies.feed(scores.at_s, scores.probability)
        for finding, alert_id in self._open.items():
            spell = self._spells[alert_id]
            if scores.probability.get(finding, 0.0) > spell.peak:
                self._spells[alert_id] = replace(spell, peak=scores.probability[finding])

    def _note(self, alert: Alert) -> None:
        """Raised, or worse."""
        why = alert.why if alert.kind == "technical" else None
        began = Spell(
            alert.finding, alert.kind, alert.priority, alert.at_s, Interval(alert.onset_s, alert.onset_s), False, alert.score, why
        )
        spell = self._spells.setdefault(alert.id, began)
        self._spells[alert.id] = replace(spell, peak=max(spell.peak, alert.score))
        self._open[alert.finding] = alert.id

    def _close(self, alert: Alert) -> None:
        spell = self._spells[self._open.pop(alert.finding)]
        ended = replace(spell, on=Interval(spell.on.start_s, alert.at_s), ended=True, peak=max(spell.peak, alert.score))
        self._spells[alert.id] = ended

    def _ended(self) -> Iterable[Spell]:
        """Those that are still on last until the end."""
        for spell in self._spells.values():
            yield spell if spell.ended else replace(spell, on=Interval(spell.on.start_s, max(self._end_s, spell.on.start_s)))

    def _add_seen(self, seen: Seen) -> None:
        rate_bpm = seen.vitals.heart_rate_bpm
        self._beats_s.extend(seen.vitals.beats_s)
        self._unclear_s.extend(seen.vitals.unclear_s)
        self._told_s.append(seen.vitals.at_s)
        self._told_bpm.append(np.nan if rate_bpm is None else rate_bpm)
        if seen.quality and seen.quality.end_s > self._judged_s:
            self._judged_s = seen.quality.end_s
            self._add_quality(seen.quality)

    def _add_quality(self, quality: Quality) -> None:
        """A second, once, though vitals after a gap may tell it again."""
        states = quality.by_lead()
        for lead, state in states.items():
            self._states[lead][state] += 1
        if "good" not in states.values():
            self._blind.add(quality.start_s, quality.end_s)


def _lead_quality(lead: str, states: Counter[str]) -> LeadQuality:
    return LeadQuality(lead, {state: count / states.total() for state, count in states.most_common()})
