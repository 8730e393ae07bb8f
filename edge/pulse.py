"""The `Vitals` of one source in; whether its pulse bears out what a finding says of it, as irregular or slow, out."""

from __future__ import annotations

from collections import deque
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from kernels.findings import Finding

from .vitals import Vitals

INTERVALS = 16
"""So many RR intervals are compared; at 60 to 120 per minute the last 8 to 16 seconds."""
IRREGULAR = 0.8
"""Of the pairs of beats so many do not repeat each other."""

_FEWEST = 6
_MEMORY_S = 30.0
"""A beat before this is forgotten."""
_LONGEST_S = 3.0
"""More is a gap, and no interval between beats."""
_FRESH_S = 5.0
"""A heart rate is believed for so long."""
_SAME_SHARE, _SAME_S = 0.1, 0.06
"""Within this share of the mean interval two are the same, or within this time: a wide QRS complex is not located more closely."""
_BEYOND = 0.05
"""A rate that lies so far on the wrong side of its limit speaks against the finding."""


class Pulse:
    """Remembers the latest beats and the heart rate."""

    def __init__(self) -> None:
        self._beats_s: deque[float] = deque(maxlen=INTERVALS + 1)
        self._rate_bpm: float | None = None
        self._told_s = 0.0

    def feed(self, vitals: Vitals) -> None:
        """Take the beats that became certain."""
        self._beats_s.extend(vitals.beats_s)
        self._rate_bpm, self._told_s = vitals.heart_rate_bpm, vitals.at_s

    def fits(self, finding: Finding, at_s: float) -> bool | None:
        """Whether it is as the finding asks; False where it speaks against it, None where it does neither."""
        if finding.irregular and not self.is_irregular(at_s):
            return None
        if finding.above_bpm is None and finding.below_bpm is None:
            return True
        rate_bpm = self.rate_bpm(at_s)
        return None if rate_bpm is None else _lies_between(rate_bpm, finding.above_bpm or 0.0, finding.below_bpm or np.inf)

    def rate_bpm(self, at_s: float) -> float | None:
        """The heart rate; None where none was told of late."""
        return self._rate_bpm if at_s - self._told_s <= _FRESH_S else None

    def is_irregular(self, at_s: float) -> bool:
        """Of the last beats before stream time `at_s`; False with too few of them."""
        beats_s = np.array(sorted(beat_s for beat_s in self._beats_s if beat_s > at_s - _MEMORY_S))
        intervals_s = beats_s[1:] - beats_s[:-1]
        intervals_s = intervals_s[intervals_s <= _LONGEST_S]
        return len(intervals_s) >= _FEWEST and scatter(intervals_s) >= IRREGULAR


def scatter(intervals_s: npt.NDArray[np.float64]) -> float:
    """The share, 0 to 1, of pairs of points (RR[i], RR[i + 1]) that lie apart, of three intervals or more.

    It is what a recurrence plot (Eckmann et al. 1987) of the intervals leaves empty. A sinus rhythm, however fast,
    bigeminy and trigeminy repeat their points; fibrillation does not.
    """
    points = np.stack([intervals_s[:-1], intervals_s[1:]])
    apart_s = np.abs(points[:, :, None] - points[:, None, :]).max(axis=0)
    same_s = max(_SAME_SHARE * float(intervals_s.mean()), _SAME_S)
    return float((apart_s[_pairs(points.shape[1])] > same_s + 1e-9).mean())


@lru_cache(maxsize=INTERVALS)
def _pairs(points: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The indices of each two of so many points."""
    first, second = np.triu_indices(points, 1)
    return first, second


def _lies_between(rate_bpm: float, above_bpm: float, below_bpm: float) -> bool | None:
    if above_bpm <= rate_bpm < below_bpm:
        return True
    is_beyond = rate_bpm < above_bpm * (1 - _BEYOND) or rate_bpm >= below_bpm * (1 + _BEYOND)
    return False if is_beyond else None
