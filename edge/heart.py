"""The beats and heart rates of a whole recording, and where it cannot be assessed, in; rates, their trend and histogram, and pauses out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .evaluate.interval import Intervals, union
from .timeline import Mask, Seconds, overlapped

PAUSE_S = 2.0
"""A longer interval between two beats is a pause: a limit that holter reports commonly use, and no standard fixes."""

BIN_BPM = 5
RECENT_S = 10.0
"""A told heart rate is the mean of so long."""

_Floats = npt.NDArray[np.floating]
_ROUNDING_S = 1e-6


@dataclass(frozen=True, slots=True)
class Beats:
    """What was told of the heart, all in stream time."""

    beats_s: Seconds
    """[beats] in order."""
    told_s: Seconds
    """[n] in order: when a heart rate was told, about once a second."""
    told_bpm: _Floats
    """[n] means of the ten seconds before; NaN where none could be told."""
    gaps: Intervals
    blind: Intervals
    """Where no lead is good; the gaps are part of it."""
    abstained: Intervals
    """The windows that no probability was told of."""

    def intervals(self) -> tuple[Seconds, Seconds]:
        """When each interval between two beats began and ended, without those that reach into what cannot be assessed."""
        starts_s, ends_s = self.beats_s[:-1], self.beats_s[1:]
        sure = ~overlapped(starts_s, ends_s, self.blind)
        return starts_s[sure], ends_s[sure]

    def rates(self) -> tuple[Seconds, _Floats]:
        """When and what was told of ten whole seconds that can be assessed; of any seconds where there are no such."""
        told = ~np.isnan(self.told_bpm)
        whole = told & (self.told_s >= RECENT_S - _ROUNDING_S) & ~overlapped(self.told_s - RECENT_S, self.told_s, self.blind)
        chosen = whole if whole.any() else told
        return self.told_s[chosen], self.told_bpm[chosen]


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
    lowest: Moment
    highest: Moment
    histogram: tuple[Bin, ...]


def heart_rate(beats: Beats) -> HeartRate | None:
    """None where none was told."""
    at_s, bpm = beats.rates()
    starts_s, ends_s = beats.intervals()
    if not len(bpm) or not len(starts_s):
        return None
    low, high = int(bpm.argmin()), int(bpm.argmax())
    return HeartRate(
        mean_bpm=_mean(starts_s, ends_s),
        lowest=Moment(float(at_s[low]), float(bpm[low])),
        highest=Moment(float(at_s[high]), float(bpm[high])),
        histogram=_histogram(bpm),
    )


def trend(beats: Beats, duration_s: float, step_s: float = 60.0) -> tuple[Step, ...]:
    """Every `step_s` from the beginning; the last step may be cut short."""
    at_s, bpm = beats.rates()
    starts_s, ends_s = beats.intervals()
    edges_s = np.arange(0.0, max(duration_s - _ROUNDING_S, 0.0) + step_s, step_s)
    told, ended = np.searchsorted(at_s, edges_s + _ROUNDING_S), np.searchsorted(ends_s, edges_s)
    within = np.minimum(np.searchsorted(at_s, edges_s + min(RECENT_S, step_s) - _ROUNDING_S)[:-1], told[1:])
    return tuple(
        _step(float(edges_s[i]), bpm[within[i] : told[i + 1]], starts_s[ended[i] : ended[i + 1]], ends_s[ended[i] : ended[i + 1]])
        for i in range(len(edges_s) - 1)
    )


def pauses(beats: Beats) -> tuple[tuple[Pause, ...], int]:
    """The longest first, and how many more intervals were as long, but reach into what cannot be assessed, gaps apart."""
    starts_s, ends_s = beats.beats_s[:-1], beats.beats_s[1:]
    long = (ends_s - starts_s > PAUSE_S) & ~overlapped(starts_s, ends_s, beats.gaps)
    sure = long & ~overlapped(starts_s, ends_s, union(beats.blind + beats.abstained))
    found = [Pause(float(a), float(b - a)) for a, b in zip(starts_s[sure], ends_s[sure], strict=True)]
    return tuple(sorted(found, key=lambda pause: (-pause.length_s, pause.start_s))), int(long.sum()) - len(found)


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
    bins = (bpm // BIN_BPM).astype(np.int64)
    counts = np.bincount(bins)
    return tuple(Bin(i * BIN_BPM, float(counts[i] / len(bpm))) for i in range(int(bins.min()), len(counts)))
