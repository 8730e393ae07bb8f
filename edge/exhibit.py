"""The chunks and events of a replay in; the strips worth showing, in bounded memory, out: alerts, highest probabilities, rates, pauses."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import numpy as np

from kernels.findings import Finding, in_words
from kernels.signal import LEADS

from .alarm import Alert
from .decode.chunk import Chunk
from .heart import PAUSE_S, RECENT_S, SILENCE_S
from .holter import Figures, Holter
from .pipeline import Event, Seen
from .score import Scores
from .strip import STRIP_S, Strip
from .timeline import follows_gap

MOST = 48
"""So many are shown at most, the most urgent."""

_KEPT_S = 24.0
"""Before the last chunk; no strip is longer."""
_BEFORE_S, _AFTER_S = 1.5, 2.0
"""Shown around a pause."""
_LONGEST_S = 20.0
_FEW_LEADS, _FEW_HZ, _MANY_HZ = 3, 400.0, 250.0
"""A strip at a higher rate is thinned, sooner where it has more leads: on paper of 25 mm/s it looks the same."""
_MOST_OF = {"alert": 2, "pause": 5, "silence": 3, "fastest": 4, "slowest": 4}
"""Of one group; one of others. Of rates only one is shown: which is known at the end."""
_MOST_UNCLEAR = 3
"""Rates with more unclear peaks in their ten seconds share their places."""
_SETTLED_S = STRIP_S + 2.0
"""So long after a pause every window that reaches into it was told."""
_URGENCY = ("high", "medium", "low", "pause", "silence", "fastest", "slowest", "finding", "technical")
"""Alerts by priority, then what else there is to show, alerts of the signal last."""
_ROUNDING_S = 1e-6


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A strip and why it is shown."""

    strip: Strip
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Offer:
    """A stretch that may be worth a strip."""

    group: tuple[str, str]
    """Of which only the best few are kept."""
    rank: float
    at_s: float
    """What is to be seen in it."""
    start_s: float
    end_s: float
    words: str
    strip: Strip | None = None
    urgency: str = "finding"
    """One of `_URGENCY`."""

    @property
    def order(self) -> tuple[int, float]:
        """The most urgent first."""
        return _URGENCY.index(self.urgency), -self.rank


class Trail:
    """The chunks of the last seconds, as they came."""

    def __init__(self) -> None:
        self._chunks: deque[Chunk] = deque()

    def feed(self, chunk: Chunk) -> None:
        """Whatever ended too long before this one is let go."""
        self._chunks.append(chunk)
        oldest_s = chunk.start / chunk.rate_hz - _KEPT_S
        while self._chunks[0].end / self._chunks[0].rate_hz < oldest_s:
            self._chunks.popleft()

    def strip(self, start_s: float, end_s: float) -> Strip | None:
        """What is left of it, at the rate and with the leads of the last chunk in it; NaN in gaps. None where no lead is."""
        inside = [one for one in self._chunks if one.start / one.rate_hz < end_s and one.end / one.rate_hz > start_s]
        rows = [row for row, lead in enumerate(inside[-1].leads) if lead in LEADS] if inside else []
        if not rows:
            return None
        last = inside[-1]
        inside = [one for one in inside if (one.rate_hz, one.leads) == (last.rate_hz, last.leads)]
        first = max(round(start_s * last.rate_hz), inside[0].start)
        end = min(round(end_s * last.rate_hz), last.end)
        samples = np.full((len(rows), max(end - first, 0)), np.nan, np.float32)
        for one in inside:
            a, b = max(one.start, first), min(one.end, end)
            samples[:, a - first : b - first] = one.samples_mv[rows, a - one.start : b - one.start]
        return Strip(first / last.rate_hz, last.rate_hz, tuple(last.leads[row] for row in rows), samples)


class Showcase:
    """Collects while a replay runs. Of equals the first stays, so that the same samples give the same strips for any cut.

    `holter`, which is fed each step before, says what can be assessed: what cannot takes no place from what can. Neither
    do peaks no clearer than noise, which have places of their own.
    """

    def __init__(self, findings: Sequence[Finding], holter: Holter | None = None) -> None:
        self._holter = holter
        self._raise_at = {finding.name: finding.raise_at for finding in findings}
        self._kept: dict[tuple[str, str], list[_Offer]] = {}
        self._trail = Trail()
        self._begun_s, self._end_s = 0.0, 0.0
        self._last_beat_s: float | None = None
        self._unclear_s: deque[float] = deque()
        self._beats, self._silent_s = True, -RECENT_S
        """Whether heart rates are told again since the last silence, and when one last was not."""

    def add(self, chunk: Chunk | None, events: Iterable[Event]) -> None:
        """One step of `replay`. What is not kept to its end is never copied."""
        if chunk is not None:
            self._feed(chunk)
        for event in events:
            for offer in self._offers(event):
                self._keep(offer)
        self._fill(ended=chunk is None)

    def exhibits(self, figures: Figures) -> tuple[Exhibit, ...]:
        """In order of time, what shows the same seconds as one. Only pauses and rates that are in the figures."""
        shown = [offer for group, kept in self._kept.items() for offer in _best(group, [one for one in kept if _holds(one, figures)])]
        ordered = sorted(shown, key=lambda offer: (offer.start_s, offer.end_s, offer.group))
        merged = [list(same) for _, same in groupby(ordered, key=lambda offer: (round(offer.start_s, 3), round(offer.end_s, 3)))]
        urgent = sorted(merged, key=lambda same: min(one.order for one in same))[:MOST]
        in_time = sorted(urgent, key=lambda same: (same[0].start_s, same[0].end_s))
        return tuple(Exhibit(same[0].strip, tuple(one.words for one in same)) for same in in_time if same[0].strip)

    def _feed(self, chunk: Chunk) -> None:
        if follows_gap(chunk, self._end_s):
            self._begun_s, self._last_beat_s, self._beats = chunk.start / chunk.rate_hz, None, True
        self._end_s = chunk.end / chunk.rate_hz
        self._trail.feed(chunk)

    def _keep(self, offer: _Offer) -> None:
        kept = self._kept.setdefault(offer.group, [])
        kept.append(offer)
        kept.sort(key=lambda one: -one.rank)
        kept[:] = self._settled(kept) if offer.group[0] == "pause" else _best(offer.group, kept)

    def _settled(self, pauses: Sequence[_Offer]) -> list[_Offer]:
        """Without those that cannot be assessed; as long as that may still turn out, a pause takes no place from others."""
        sure = [one for one in pauses if self._holter is None or self._holter.can_assess(one.at_s, one.at_s + one.rank)]
        settled = [one for one in sure if one.at_s + one.rank + _SETTLED_S <= self._end_s]
        beaten_s = {one.at_s for one in settled[_MOST_OF["pause"] :]}
        return [one for one in sure if one.at_s not in beaten_s]

    def _sees(self, start_s: float, end_s: float) -> bool:
        return self._holter is None or self._holter.can_see(start_s, end_s)

    def _fill(self, ended: bool) -> None:
        """Copy what is whole by now."""
        for kept in self._kept.values():
            for i, offer in enumerate(kept):
                if offer.strip is None and (ended or offer.end_s <= self._end_s):
                    strip = self._trail.strip(offer.start_s, offer.end_s)
                    kept[i] = replace(offer, strip=_thinned(strip) if strip else None)

    def _offers(self, event: Event) -> Iterator[_Offer]:
        match event:
            case Scores():
                yield from self._of_scores(event)
            case Alert(state="raised"):
                yield _of_alert(event)
            case Seen():
                self._note_unclear(event)
                yield from self._of_silence(event)
                yield from self._of_rate(event)
                yield from self._of_beats(event)

    def _note_unclear(self, seen: Seen) -> None:
        self._unclear_s.extend(seen.vitals.unclear_s)
        while self._unclear_s and self._unclear_s[0] < seen.vitals.at_s - _KEPT_S:
            self._unclear_s.popleft()

    def _of_silence(self, seen: Seen) -> Iterator[_Offer]:
        """Where no heart rate is told any more."""
        at_s = seen.vitals.at_s
        if seen.vitals.heart_rate_bpm is not None:
            self._beats = self._beats or at_s - self._silent_s > RECENT_S
            return
        self._silent_s = at_s
        if self._beats and at_s - self._begun_s >= SILENCE_S and self._sees(at_s - SILENCE_S, at_s):
            self._beats = False
            start_s = max(at_s - STRIP_S, self._begun_s)
            yield _Offer(("silence", ""), 0.0, at_s, start_s, at_s, "no clear beat at its end", urgency="silence")

    def _of_scores(self, scores: Scores) -> Iterator[_Offer]:
        for name, probability in scores.probability.items():
            kept = self._kept.get(("finding", name))
            if probability >= self._raise_at.get(name, 1.0) and (not kept or probability > kept[0].rank):
                words = f"most probable {in_words(name)} ({probability:.2f})"
                yield _Offer(("finding", name), probability, scores.at_s, scores.at_s - STRIP_S, scores.at_s, words)

    def _of_rate(self, seen: Seen) -> Iterator[_Offer]:
        at_s, bpm = seen.vitals.at_s, seen.vitals.heart_rate_bpm
        if bpm is None or at_s - self._begun_s < RECENT_S - _ROUNDING_S:
            return
        unclear = sum(beat_s >= at_s - RECENT_S for beat_s in self._unclear_s)
        clarity = str(min(unclear, _MOST_UNCLEAR))
        for name, rank in (("fastest", bpm), ("slowest", -bpm)):
            kept = self._kept.get((name, clarity), [])
            if (len(kept) < _MOST_OF[name] or rank > kept[-1].rank) and self._sees(at_s - RECENT_S, at_s):
                words = f"{name} ten seconds ({bpm:.0f}/min)"
                yield _Offer((name, clarity), rank, at_s, at_s - RECENT_S, at_s, words, urgency=name)

    def _of_beats(self, seen: Seen) -> Iterator[_Offer]:
        """Pauses, as far as is known: a beat that is found later may end one."""
        before = () if self._last_beat_s is None else (self._last_beat_s,)
        beats_s = sorted((*before, *seen.vitals.beats_s))
        for a, b in pairwise(beats_s):
            if b - a > PAUSE_S:
                start_s = max(min(a - _BEFORE_S, b + _AFTER_S - STRIP_S), b + _AFTER_S - _LONGEST_S, 0.0)
                clarity = "unclear" if a in self._unclear_s or b in self._unclear_s else "clear"
                yield _Offer(("pause", clarity), b - a, a, start_s, b + _AFTER_S, f"pause of {b - a:.1f} s", urgency="pause")
        self._last_beat_s = beats_s[-1] if beats_s else None


def _of_alert(alert: Alert) -> _Offer:
    is_technical = alert.kind == "technical"
    words = f"{in_words(alert.finding)} raised" + ("" if is_technical else f" ({alert.score:.2f})")
    urgency = "technical" if is_technical else alert.priority
    return _Offer(("alert", alert.finding), alert.score, alert.at_s, alert.at_s - STRIP_S, alert.at_s, words, urgency=urgency)


def _best(group: tuple[str, str], ranked: Sequence[_Offer]) -> Sequence[_Offer]:
    return ranked[: _MOST_OF.get(group[0], 1)]


def _holds(offer: _Offer, figures: Figures) -> bool:
    if offer.strip is None:
        return False
    rate = figures.heart_rate
    match offer.group[0]:
        case "pause":
            return any(
                abs(pause.start_s - offer.at_s) < _ROUNDING_S and math.isclose(pause.length_s, offer.rank) for pause in figures.pauses
            )
        case "fastest":
            return rate is not None and rate.highest is not None and rate.highest.at_s == offer.at_s and rate.lowest != rate.highest
        case "slowest":
            return rate is not None and rate.lowest is not None and rate.lowest.at_s == offer.at_s and rate.lowest != rate.highest
        case "silence":
            return any(offer.start_s <= one.start_s < offer.at_s <= one.end_s for one in figures.no_beat)
    return True


def _thinned(strip: Strip) -> Strip:
    return thin(strip, _FEW_HZ if len(strip.leads) <= _FEW_LEADS else _MANY_HZ)


def thin(strip: Strip, most_hz: float) -> Strip:
    """Means of so many samples each that the rate is at most `most_hz`; what is left at the end is cut off."""
    together = math.ceil(strip.rate_hz / most_hz)
    whole = strip.samples_mv.shape[1] // together * together
    if together == 1 or not whole:
        return strip
    means = strip.samples_mv[:, :whole].reshape(len(strip.leads), -1, together).mean(axis=2, dtype=np.float32)
    return replace(strip, rate_hz=strip.rate_hz / together, samples_mv=means)
