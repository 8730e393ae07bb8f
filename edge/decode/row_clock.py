"""The time stamps of the rows of a table in; the rate, and the place of each row among the samples, out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError

from .chunk import LONGEST_GAP_S, too_long
from .wfdb import FASTEST_HZ

ROWS_FOR_RATE = 500
"""So many rows are enough to learn the rate from."""
SLOWEST_HZ = 20.0
"""No ECG is sampled so slowly, but a clock that counts something else seems to be."""

_TIME = re.compile(
    r"(?:elapsed[ _]*)?(?:t|time|time[ _]*stamp|elapsed|s|sec|seconds|(?P<own>ms|milliseconds))[ _]*"
    r"[(\[]?(?P<unit>s|sec|seconds|ms|milliseconds|us|\u00b5s|\u03bcs|ns)?[)\]]?",
    re.IGNORECASE,
)
_UNITS_S = {"ms": 1e-3, "milliseconds": 1e-3, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ns": 1e-9}
CUSTOMARY_HZ = (100, 125, 128, 130, 200, 250, 256, 300, 360, 400, 500, 512, 1000)

_LATE = 0.9
"""So many samples behind its place a row is after a gap."""
_LATE_S = 1e-3
"""Half a sample more than this, where the clock jitters."""
_STEADY = 0.15
"""A step that is so much of a sample off a whole number of samples comes from a clock that jitters."""
_FOLLOW = 0.02
"""The share of each row's lateness by which the clock is followed, so that drift is no gap."""
_LARGEST_S = 1e12
"""No clock counts so many seconds."""
_FARTHEST_S = 60.0
"""A time stamp farther ahead, or one that goes back, counts only if the next row goes on from it."""


def time_unit_s(name: str) -> float | None:
    """What a column of this name counts, in seconds; None where it is no time."""
    found = _TIME.fullmatch(name.strip())
    return _UNITS_S.get((found["unit"] or found["own"] or "s").lower(), 1.0) if found else None


class RowClock:
    """Time stamps of rows -> their sample indices; None for a row that has no place."""

    def __init__(self, rate_hz: float, jitters: bool) -> None:
        self._rate_hz = rate_hz
        self._late = max(_LATE, _LATE_S * rate_hz + 0.5) if jitters else _LATE
        self._origin_s: float | None = None
        self._next = 0
        self._suspect_s: float | None = None

    def place(self, time_s: float) -> int | None:
        """The index of the next row. Lost rows are counted, late ones are not a gap.

        Raises ConfigError for a pause above `LONGEST_GAP_S`.
        """
        if not abs(time_s) < _LARGEST_S:
            return None
        if self._origin_s is None:
            self._origin_s = time_s
        ahead = (time_s - self._origin_s) * self._rate_hz - self._next
        if ahead <= -self._late or ahead > _FARTHEST_S * self._rate_hz:
            return self._place_suspect(time_s, ahead)
        self._suspect_s = None
        lost = round(ahead) if ahead >= self._late else 0
        self._origin_s += _FOLLOW * (ahead - lost) / self._rate_hz
        self._next += lost + 1
        return self._next - 1

    def place_all(self, time_s: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
        """Which of these rows have a place, and their indices."""
        places = [self.place(at_s) for at_s in time_s.tolist()]
        kept = [row for row, place in enumerate(places) if place is not None]
        return np.array(kept, np.intp), np.array([place for place in places if place is not None], np.int64)

    def _place_suspect(self, time_s: float, ahead: float) -> int | None:
        """A restarted clock or a long pause, once a second row confirms it."""
        before, self._suspect_s = self._suspect_s, time_s
        if before is None or not 0 < (time_s - before) * self._rate_hz < 1.5:
            return None
        if ahead > LONGEST_GAP_S * self._rate_hz:
            raise too_long(ahead / self._rate_hz)
        self._next += max(round(ahead), 1)
        self._origin_s = time_s - self._next / self._rate_hz
        self._suspect_s = None
        self._next += 1
        return self._next - 1


def learn_rate(time_s: npt.NDArray[np.float64], given_hz: float | None) -> tuple[float, bool]:
    """The rate of rows of which some may be lost, and whether their clock jitters.

    The customary rate where the stamps do not tell it from that. Raises ConfigError where they do not rise, or
    contradict what was given.
    """
    step = np.diff(time_s[np.abs(time_s) < _LARGEST_S])
    rising = step[step > 0]
    if not rising.size:
        raise ConfigError("the time column does not rise in seconds or ms; leave it out and give the rate, for example --rate 250")
    if (step < 0).mean() > 0.1:
        raise ConfigError("the time column does not rise from row to row; sort the rows, or leave it out and give the rate with --rate")
    if (step == 0).mean() > 0.01:
        raise ConfigError("rows share a time, so the time column is too coarse; leave it out and give the rate, for example --rate 250")
    near = rising[rising < 20 * np.median(rising)]
    period_s, rounding = _period(near)
    tolerance = 5e-4 + rounding * period_s / float(near.sum())
    snapped = [float(hz) for hz in CUSTOMARY_HZ if abs(hz * period_s - 1) < tolerance]
    rate_hz = snapped[0] if snapped else round(1 / period_s, 3)
    if 1 / period_s < SLOWEST_HZ:
        raise ConfigError("its time column seems to count ms or samples; call it time_ms, or leave it out and give the rate with --rate")
    if given_hz is not None and abs(given_hz * period_s - 1) > 0.01:
        raise ConfigError(f"--rate {given_hz:g} contradicts the time column, which runs at {rate_hz:g} Hz; leave --rate out")
    if not 0 < rate_hz <= FASTEST_HZ:
        raise ConfigError(f"the time column runs at {rate_hz:g} Hz; leave it out and give the rate, for example --rate 250")
    return given_hz or rate_hz, rounding > _STEADY or len(rising) < len(step)


def _period(step_s: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The time of one sample, and the worst rounding in samples: a step is one sample or, over lost rows, several.

    A clock that jitters too much to tell lost rows from late ones gets the mean of its short steps.
    """
    period_s = float(np.median(step_s))
    for _ in range(4):
        samples = np.maximum(np.round(step_s / period_s), 1)
        period_s = float(step_s.sum() / samples.sum())
    rounding = float(np.abs(step_s / period_s - samples).max())
    if rounding > _STEADY:
        short = step_s[step_s < 1.5 * np.median(step_s) + 2 * _LATE_S]
        period_s = float(short.mean())
        rounding = float(np.abs(short / period_s - 1).max())
    return period_s, rounding


def runs(places: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Begin and end of each stretch of these indices in which none is missing."""
    if len(places):
        yield from pairwise([0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)])
