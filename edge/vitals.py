"""`Chunk`s of twelve leads at the bundle's rate in; beats and the heart rate, second by second, out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from kernels.signal import PolyphaseFir, Samples

from .decode.chunk import Chunk

Energy = npt.NDArray[np.float64]

LAG_S = 0.6
"""How long after a sample its beats are final: the filters, and the look ahead for a larger peak."""

_REFRACTORY_S = 0.2
_T_WAVE_S = 0.36
_LOOK_S = 0.15
_SMOOTH_S = 0.12
_FILTER_HALF_S = 0.15
_WARM_UP_S = 2.0
_RECENT_S = 10.0
_SILENCE_S = 4.0
"""Without a beat for so long there is no heart rate to tell."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """What the beats say at one moment."""

    at_s: float
    heart_rate_bpm: float | None
    """From the median interval of the last ten seconds; None where there are too few beats."""
    beats_s: tuple[float, ...]
    """Stream times of the R peaks that became certain since the last `Vitals`; each is told once."""


@lru_cache(maxsize=4)
def _qrs_taps(rate_hz: float) -> npt.NDArray[np.float64]:
    """A band-pass of 5 to 18 Hz, where a QRS complex has most of its energy (Thakor et al. 1984), as one row of taps."""
    half = round(_FILTER_HALF_S * rate_hz)
    t = np.arange(-half, half + 1) / rate_hz
    taps = (2 * 18 * np.sinc(2 * 18 * t) - 2 * 5 * np.sinc(2 * 5 * t)) * np.hamming(2 * half + 1) / rate_hz
    return (taps - taps.mean())[None]


@lru_cache(maxsize=4)
def _mean_taps(rate_hz: float) -> npt.NDArray[np.float64]:
    taps = round(_SMOOTH_S * rate_hz) | 1
    return np.full((1, taps), 1 / taps)


@dataclass(frozen=True, slots=True)
class _Beat:
    at: int
    known_at: int
    """Index of the energy sample that made it certain."""


class BeatDetector:
    """Detection energy at a fixed rate -> R peaks: adaptive thresholds and search-back (Pan and Tompkins 1985).

    Works on local maxima, so the cut of the input does not matter.
    """

    def __init__(self, rate_hz: float) -> None:
        self._refractory = round(_REFRACTORY_S * rate_hz)
        self._look = round(_LOOK_S * rate_hz)
        self._t_wave = round(_T_WAVE_S * rate_hz)
        self._usual_interval = rate_hz
        self._warm_up = round(_WARM_UP_S * rate_hz)
        self._held: Energy = np.empty(0)
        self._held_from = 0
        self._signal: float | None = None
        self._noise = 0.0
        self._last: int | None = None
        self._last_height = 0.0
        self._missed: tuple[int, float] | None = None
        self._intervals: deque[int] = deque(maxlen=8)

    def feed(self, energy: Energy) -> Iterator[_Beat]:
        """Beats that are certain once these samples are known."""
        self._held = np.concatenate([self._held, energy])
        if self._signal is None and len(self._held) >= self._warm_up:
            first = self._held[: self._warm_up]
            self._signal, self._noise = float(first.max()), float(np.median(first))
        if self._signal is not None and len(self._held) > 2 * self._look:
            yield from self._scan()

    def _scan(self) -> Iterator[_Beat]:
        look = self._look
        around = np.lib.stride_tricks.sliding_window_view(self._held, 2 * look + 1)
        middle = self._held[look:-look]
        peaks = np.flatnonzero((middle == around.max(axis=1)) & (middle > around[:, :look].max(axis=1)))
        for peak in peaks.tolist():
            at = self._held_from + look + peak
            known_at = max(at + look, self._warm_up)
            yield from (_Beat(beat, known_at) for beat in self._judge(at, float(middle[peak])))
        self._held = self._held[len(middle) :]
        self._held_from += len(middle)

    def _judge(self, at: int, height: float) -> Iterator[int]:
        if self._missed and self._last is not None and at - self._last > 1.66 * self._usual_interval:
            yield from self._search_back(*self._missed)
        if self._last is not None and at - self._last < self._refractory:
            return
        if height > self._threshold(0.3) and not self._is_t_wave(at, height):
            yield self._accept(at, height)
        else:
            self._noise += 0.125 * (height - self._noise)
            self._missed = max(self._missed or (at, height), (at, height), key=lambda peak: peak[1])

    def _is_t_wave(self, at: int, height: float) -> bool:
        """Soon after a beat and under half of its energy."""
        return self._last is not None and at - self._last < self._t_wave and height < 0.5 * self._last_height

    def _search_back(self, at: int, height: float) -> Iterator[int]:
        self._missed = None
        if height > self._threshold(0.12):
            yield self._accept(at, height)

    def _threshold(self, share: float) -> float:
        assert self._signal is not None
        return self._noise + share * (self._signal - self._noise)

    def _accept(self, at: int, height: float) -> int:
        """An artefact may not lift the threshold for good: a peak counts as twice the usual at most."""
        assert self._signal is not None
        self._signal += 0.125 * (min(height, 2 * self._signal) - self._signal)
        if self._last is not None:
            self._intervals.append(at - self._last)
            self._usual_interval = float(np.median(self._intervals))
        self._last, self._last_height, self._missed = at, height, None
        return at


class Monitor:
    """Chunks of twelve leads -> one `Vitals` a second. A gap starts the detector anew."""

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._expected: int | None = None

    def feed(self, chunk: Chunk) -> Iterator[Vitals]:
        """The seconds whose beats are final."""
        if chunk.start != self._expected:
            self._restart(chunk.start)
        self._expected = chunk.end
        self._certain.extend(self._detector.feed(self._energy(chunk.samples_mv)))
        while (self._tick + LAG_S) * self._rate_hz <= chunk.end:
            yield self._vitals(float(self._tick))
            self._tick += 1

    def _restart(self, start: int) -> None:
        self._band = PolyphaseFir(_qrs_taps(self._rate_hz))
        self._smooth = PolyphaseFir(_mean_taps(self._rate_hz))
        self._detector = BeatDetector(self._rate_hz)
        self._certain: deque[_Beat] = deque()
        self._recent: deque[float] = deque()
        self._origin = start
        self._tick = int(start / self._rate_hz) + 1

    def _energy(self, samples_mv: Samples) -> Energy:
        """The size of the QRS band over all leads that are there, smoothed over the length of a complex."""
        band = np.abs(self._band.feed(np.nan_to_num(samples_mv)))
        return self._smooth.feed(band.sum(axis=0, keepdims=True))[0].astype(np.float64)

    def _vitals(self, at_s: float) -> Vitals:
        beats_s = tuple(self._take(round((at_s + LAG_S) * self._rate_hz) - self._filter_delay - self._origin))
        self._recent.extend(beats_s)
        while self._recent and self._recent[0] <= at_s - _RECENT_S:
            self._recent.popleft()
        return Vitals(at_s, _heart_rate(list(self._recent), at_s), beats_s)

    def _take(self, known_by: int) -> Iterator[float]:
        while self._certain and self._certain[0].known_at < known_by:
            yield (self._origin + self._certain.popleft().at) / self._rate_hz

    @property
    def _filter_delay(self) -> int:
        return (_qrs_taps(self._rate_hz).shape[1] + _mean_taps(self._rate_hz).shape[1]) // 2 - 1


def _heart_rate(beats_s: list[float], at_s: float) -> float | None:
    if len(beats_s) < 3 or at_s - beats_s[-1] > _SILENCE_S:
        return None
    return round(60 / float(np.median(np.diff(beats_s))), 1)
