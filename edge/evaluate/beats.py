"""Reference beats and told beats and heart rates in; matched and missed beats, and the error of the heart rate, out.

Source: ANSI/AAMI EC57: beats match one to one within 150 ms, the first five minutes are for learning, and
ventricular flutter and fibrillation are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .interval import Interval, Intervals
from .observe import Observed
from .tally import Counts, ratio
from .truth import Seconds, Truth

MATCH_S = 0.15
LEARNING_S = 300.0
RECENT_S = 10.0
"""A heart rate is the mean of so long before it was told."""

Mask = npt.NDArray[np.bool_]

_ROUNDING_S = 1e-9


@dataclass(frozen=True, slots=True)
class BeatCounts(Counts):
    """One recording, or several added up."""

    matched: int
    missed: int
    extra: int
    rates: int
    """Whole seconds of the recording, gaps too, at which the reference has a heart rate."""
    told: int
    """Those of them in which one was told."""
    squares: float
    """Sum of squared errors in 1/min, over `told`."""
    magnitudes: float

    @property
    def sensitivity(self) -> float | None:
        return ratio(self.matched, self.matched + self.missed)

    @property
    def predictivity(self) -> float | None:
        return ratio(self.matched, self.matched + self.extra)

    @property
    def rms_bpm(self) -> float | None:
        mean = ratio(self.squares, self.told)
        return None if mean is None else mean**0.5

    @property
    def mae_bpm(self) -> float | None:
        return ratio(self.magnitudes, self.told)

    @property
    def told_share(self) -> float | None:
        return ratio(self.told, self.rates)


def match(reference_s: Seconds, found_s: Seconds, window_s: float = MATCH_S) -> tuple[Mask, Mask]:
    """Which reference beats and which found ones have a partner, each of its own: as many pairs as there can be.

    Both in order. The earliest that still fits is taken, which never costs a pair later.
    """
    is_matched, is_right = np.zeros(len(reference_s), np.bool_), np.zeros(len(found_s), np.bool_)
    i = j = 0
    while i < len(reference_s) and j < len(found_s):
        late_s = found_s[j] - reference_s[i]
        if abs(late_s) <= window_s + _ROUNDING_S:
            is_matched[i] = is_right[j] = True
        i, j = i + (late_s >= -window_s - _ROUNDING_S), j + (late_s <= window_s + _ROUNDING_S)
    return is_matched, is_right


def count_beats(truth: Truth, observed: Observed, learning_s: float = LEARNING_S) -> BeatCounts:
    """Everything after the learning time and outside ventricular flutter. A pair counts where its reference beat lies."""
    is_matched, is_right = match(truth.beats_s, observed.beats_s)
    counts = _is_scored(truth.beats_s, truth.fibrillation, learning_s)
    extra = ~is_right & _is_scored(observed.beats_s, truth.fibrillation, learning_s)
    errors, rates = _rate_errors(truth, observed, learning_s)
    told = errors[~np.isnan(errors)]
    return BeatCounts(
        matched=int((counts & is_matched).sum()),
        missed=int((counts & ~is_matched).sum()),
        extra=int(extra.sum()),
        rates=rates,
        told=len(told),
        squares=float((told**2).sum()),
        magnitudes=float(np.abs(told).sum()),
    )


def mean_rate(beats_s: Seconds, at_s: float) -> float | None:
    """The mean rate in 1/min of the beats in the ten seconds up to `at_s`; None of fewer than three."""
    first, last = np.searchsorted(beats_s, (at_s - RECENT_S, at_s), side="right").tolist()
    recent = beats_s[first:last]
    return 60 * (len(recent) - 1) / float(recent[-1] - recent[0]) if len(recent) > 2 else None


def _is_scored(at_s: Seconds, excluded: Intervals, learning_s: float) -> Mask:
    scored: Mask = at_s >= learning_s
    for hole in excluded:
        scored &= (at_s < hole.start_s) | (at_s >= hole.end_s)
    return scored


def _rate_errors(truth: Truth, observed: Observed, learning_s: float) -> tuple[Seconds, int]:
    """Told less reference, NaN where none was told, for each whole second that has a reference; and how many these are."""
    told = dict(zip(observed.vitals_s.tolist(), observed.rates_bpm.tolist(), strict=True))
    errors = []
    for at_s in map(float, range(1, int(observed.duration_s) + 1)):
        recent = Interval(at_s - RECENT_S, at_s)
        if recent.start_s < learning_s or recent.overlaps_any(truth.fibrillation):
            continue
        reference = mean_rate(truth.beats_s, at_s)
        if reference is not None:
            errors.append(told.get(at_s, np.nan) - reference)
    return np.array(errors, np.float64), len(errors)
