"""The beats and heart rates of a whole recording, and where it cannot be assessed, in; rates, their trend and histogram, and pauses out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .evaluate.interval import Interval, Intervals, union, without
from .timeline import Mask, Seconds, overlapped

PAUSE_S = 2.0
"""A longer interval between two beats is a pause: a limit that holter reports commonly use, and no standard fixes."""

SILENCE_S = 4.0
"""Longer without a clear beat, and some lead good, is told by itself; so long after a beat no heart rate is told any more."""

BIN_BPM = 5
RECENT_S = 10.0
"""A told heart rate is the mean of so long."""
LEAST_STEP_S = 10.0
"""What is left at the end of a trend and shorter belongs to the step before."""

_AROUND = 6
"""Beats on either side that decide with one whether it is one."""

_Floats = npt.NDArray[np.floating]
_ROUNDING_S = 1e-6


@dataclass(frozen=True, slots=True)
class Beats:
    """What was told of the heart, all in stream time."""

    beats_s: Seconds
    """[beats] in order, without the doubtful."""
    told_s: Seconds
    """[n] in order: when a heart rate was told, about once a second."""
    told_bpm: _Floats
    """[n] means of the ten seconds before; NaN where none could be told."""
    gaps: Intervals
    blind: Intervals
    """Where no lead is good; the gaps are part of it."""
    abstained: Intervals
    """The windows that no probability was told of."""
    doubtful_s: Seconds = field(default_factory=lambda: np.zeros(0))
    """Peaks in order that were told as beats where most peaks are no clearer than noise."""
    end_s: float = 0.0

    def intervals(self) -> tuple[Seconds, Seconds]:
        """When each interval between two beats began and ended, without those that reach into what cannot be assessed."""
        starts_s, ends_s = self.beats_s[:-1], self.beats_s[1:]
        sure = ~overlapped(starts_s, ends_s, self.blind) & ~self.doubted(starts_s, ends_s)
        return starts_s[sure], ends_s[sure]

    def rates(self) -> tuple[Seconds, _Floats]:
        """When and what was told of ten whole seconds that can be assessed."""
        since_s = self.told_s - RECENT_S
        sure = ~overlapped(since_s, self.told_s, self.blind) & ~self.doubted(since_s, self.told_s)
        whole = sure & (since_s >= -_ROUNDING_S) & ~np.isnan(self.told_bpm)
        return self.told_s[whole], self.told_bpm[whole]

    def doubted(self, starts_s: Seconds, ends_s: Seconds) -> Mask:
        """Which of the stretches [n] hold a doubtful peak."""
        return np.asarray(np.searchsorted(self.doubtful_s, starts_s) < np.searchsorted(self.doubtful_s, ends_s, "right"), np.bool_)


@dataclass(frozen=True, slots=True)
class Moment:
    """The ten seconds that end at `at_s`."""

    at_s: float
    rate_bpm: float


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a trend; None where too few beats were found."""

    start_s: float
    lowest_bpm: float | None
    """Of the means of ten seconds that lie in it."""
    mean_bpm: float | None
    """Of the intervals that end in it: their number by their sum."""
    highest_bpm: float | None


@dataclass(frozen=True, slots=True)
class Bin:
    """One bar of a histogram: from `from_bpm` to before `BIN_BPM` more."""

    from_bpm: int
    share: float
    """Of the seconds at which a heart rate was told."""


@dataclass(frozen=True, slots=True)
class Pause:
    """More than two seconds from one beat to the next."""

    start_s: float
    length_s: float


@dataclass(frozen=True, slots=True)
class HeartRate:
    """Of the whole recording."""

    mean_bpm: float
    """Of all intervals that can be assessed: their number by their sum."""
    lowest: Moment | None
    """None, as the highest, where no ten whole seconds can be assessed; then the histogram is empty."""
    highest: Moment | None
    histogram: tuple[Bin, ...]


def part_doubtful(told_s: Seconds, unclear_s: Seconds) -> tuple[Seconds, Seconds]:
    """All that were told as beats, and those of them no clearer than noise -> the beats, and the doubtful, both in order.

    Most of the thirteen around a beat decide, as far as no silence parts them from it: one weak beat among clear ones
    remains, one clear peak in noise does not. A median keeps edges, so that the first beat after noise remains, too.
    """
    ordered = np.sort(told_s)
    clear = np.cumsum(np.concatenate([[False], ~np.isin(ordered, unclear_s)]), dtype=np.int64)
    edges = np.concatenate([[0], np.flatnonzero(np.diff(ordered) > SILENCE_S) + 1, [len(ordered)]])
    at = np.arange(len(ordered))
    run = np.searchsorted(edges, at, "right") - 1
    first, last = np.maximum(at - _AROUND, edges[run]), np.minimum(at + _AROUND + 1, edges[run + 1])
    kept = 2 * (clear[last] - clear[first]) > last - first
    return ordered[kept], ordered[~kept]


def heart_rate(beats: Beats) -> HeartRate | None:
    """None where fewer than three beats follow each other."""
    at_s, bpm = beats.rates()
    starts_s, ends_s = beats.intervals()
    if len(starts_s) < 2:
        return None
    lowest, highest = (Moment(float(at_s[i]), float(bpm[i])) for i in (bpm.argmin(), bpm.argmax())) if len(bpm) else (None, None)
    return HeartRate(_mean(starts_s, ends_s), lowest, highest, _histogram(bpm))


def trend(beats: Beats, duration_s: float, step_s: float = 60.0) -> tuple[Step, ...]:
    """Every `step_s` from the beginning; the last may be shorter, or longer by less than ten seconds."""
    at_s, bpm = beats.rates()
    starts_s, ends_s = beats.intervals()
    edges_s = np.append(np.arange(0.0, max(duration_s - LEAST_STEP_S + _ROUNDING_S, min(duration_s, step_s)), step_s), np.inf)
    told, ended = np.searchsorted(at_s, edges_s + _ROUNDING_S), np.searchsorted(ends_s, edges_s)
    within = np.minimum(np.searchsorted(at_s, edges_s + min(RECENT_S, step_s) - _ROUNDING_S)[:-1], told[1:])
    return tuple(
        _step(float(edges_s[i]), bpm[within[i] : told[i + 1]], starts_s[ended[i] : ended[i + 1]], ends_s[ended[i] : ended[i + 1]])
        for i in range(len(edges_s) - 1)
    )


def pauses(beats: Beats) -> tuple[tuple[Pause, ...], int]:
    """The longest first, and how many more intervals were as long, but reach into what cannot be assessed; without gaps and silences."""
    starts_s, ends_s = beats.beats_s[:-1], beats.beats_s[1:]
    long = (ends_s - starts_s > PAUSE_S) & ~overlapped(starts_s, ends_s, union(beats.gaps + silences(beats)))
    sure = long & ~overlapped(starts_s, ends_s, union(beats.blind + beats.abstained)) & ~beats.doubted(starts_s, ends_s)
    found = [Pause(float(a), float(b - a)) for a, b in zip(starts_s[sure], ends_s[sure], strict=True)]
    return tuple(sorted(found, key=lambda pause: (-pause.length_s, pause.start_s))), int(long.sum()) - len(found)


def silences(beats: Beats) -> Intervals:
    """Where some lead is good and no clear beat was found for long, head and tail of the recording included.

    Either the heart stood still or fibrillated, or the leads show too little of it. An interval between two beats without
    as much as a doubtful peak is a pause instead.
    """
    points_s = np.concatenate([[0.0], beats.beats_s, [beats.end_s]])
    starts_s, ends_s = points_s[:-1], points_s[1:]
    open_ended = overlapped(starts_s, ends_s, beats.blind) | beats.doubted(starts_s, ends_s)
    open_ended[[0, -1]] = True
    long = open_ended & (ends_s - starts_s > SILENCE_S)
    whole = map(Interval, starts_s[long].tolist(), ends_s[long].tolist())
    return tuple(part for one in whole for part in without([one], beats.blind) if part.length_s > SILENCE_S)


def assessed_beats(beats: Beats) -> int:
    """How many beats lie where some lead is good."""
    inside: Mask = overlapped(beats.beats_s - _ROUNDING_S, beats.beats_s + _ROUNDING_S, beats.blind)
    return int((~inside).sum())


def _step(start_s: float, bpm: _Floats, starts_s: Seconds, ends_s: Seconds) -> Step:
    lowest, highest = (float(bpm.min()), float(bpm.max())) if len(bpm) else (None, None)
    return Step(start_s, lowest, _mean(starts_s, ends_s) if len(starts_s) else None, highest)


def _mean(starts_s: Seconds, ends_s: Seconds) -> float:
    return float(60 * len(starts_s) / (ends_s - starts_s).sum())


def _histogram(bpm: _Floats) -> tuple[Bin, ...]:
    if not len(bpm):
        return ()
    bins = (bpm // BIN_BPM).astype(np.int64)
    counts = np.bincount(bins)
    return tuple(Bin(i * BIN_BPM, float(counts[i] / len(bpm))) for i in range(int(bins.min()), len(counts)))
