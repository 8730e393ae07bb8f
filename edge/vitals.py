"""`Chunk`s of twelve leads at the bundle's rate in; beats and the heart rate, second by second, out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from kernels.signal import LEADS, Samples

from .decode.chunk import Chunk
from .fir import StridedFir

Energy = npt.NDArray[np.float64]

LAG_S = 0.6
"""How long after a sample its beats are told: the filters, and the look ahead for a larger peak. Looking back finds some later."""

_LEAST_ENERGY = 0.01
"""In mV over all leads: a QRS complex of a tenth of a millivolt in one lead has more."""
_LEAST_CONTRAST = 3.5
"""Of the largest peak to the quietest tenth of the time: noise seldom reaches it in one lead and not in several."""

_REFRACTORY_S = 0.2
_T_WAVE_S = 0.36
_T_WAVE_SHARES = 0.8, 0.5
"""A peak with less of the last beat's energy is its T wave: at the end of the refractory time, and when T waves end."""
_SEARCH_BACK_AFTER = 1.5
"""In usual intervals; a premature beat of little energy hides in a pause of hardly more."""

_LOOK_S = 0.15
_SMOOTH_S = 0.12
_FILTER_HALF_S = 0.15
_LEARN_S = 2.0
_RELEARN_S = 3.0
_RECENT_S = 10.0
_SILENCE_S = 4.0
"""Without a beat for so long there is no heart rate to tell."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """What the beats say at one moment."""

    at_s: float
    heart_rate_bpm: float | None
    """The mean of the last ten seconds; None where there are too few beats, or nothing clearer than noise."""
    beats_s: tuple[float, ...]
    """Stream times of the R peaks that became certain since the last `Vitals`; each is told once."""
    unclear_s: tuple[float, ...] = ()
    """Those of them that stand out no more than a peak of noise may."""


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
    clear: bool
    """Whether it stands out of its surroundings, as a peak of noise seldom does."""


class BeatDetector:
    """Detection energy at a fixed rate -> R peaks: adaptive thresholds (Pan and Tompkins 1985), search-back (Hamilton 2002).

    Three seconds without a beat, it learns its thresholds anew from the last two: neither an artefact nor a
    change of leads blinds it for longer, and noise alone teaches it nothing. Works on local maxima, so the
    cut of the input does not matter.
    """

    def __init__(self, rate_hz: float) -> None:
        self._refractory = round(_REFRACTORY_S * rate_hz)
        self._look = round(_LOOK_S * rate_hz)
        self._t_wave = round(_T_WAVE_S * rate_hz)
        self._learn_span = round(_LEARN_S * rate_hz)
        self._relearn_after = round(_RELEARN_S * rate_hz)
        self._usual_interval = rate_hz
        self._held: Energy = np.zeros(self._learn_span)
        self._held_from = -self._learn_span
        self._done = 0
        self._peaks: deque[tuple[int, float]] = deque()
        self._signal: float | None = None
        self._noise = 0.0
        self._last: int | None = None
        self._last_height = 0.0
        self._missed: tuple[int, float] | None = None
        self._intervals: deque[int] = deque(maxlen=8)

    def feed(self, energy: Energy) -> Iterator[_Beat]:
        """Beats that are certain once these samples are known."""
        self._held = np.concatenate([self._held, energy])
        maxima = self._maxima()
        beats = [(beat, at, self._last_height) for at, height in maxima for beat in self._judge(at, height)]
        if beats:
            for (beat, at, height), quiet in zip(beats, self._quiet([at for _, at, _ in beats]), strict=True):
                yield _Beat(beat, at + self._look, clear=height >= _LEAST_CONTRAST * quiet)
        before = max(self._done - self._learn_span - self._look, self._held_from)
        # A copy: a view would keep the whole chunk.
        self._held, self._held_from = self._held[before - self._held_from :].copy(), before

    def _quiet(self, at: Sequence[int]) -> list[float]:
        """The quietest tenth of the energy up to each of these."""
        first = np.array(at) - self._learn_span - self._held_from
        return tenths(self._held[first[:, None] + np.arange(self._learn_span + 1)])

    def _maxima(self) -> list[tuple[int, float]]:
        """New samples that are larger than all around them within `look`, and how large."""
        first, look = self._done - self._look - self._held_from, self._look
        part = self._held[max(first, 0) :]
        if len(part) <= 2 * look:
            return []
        middle, beside = part[look:-look], _largest(part, look)
        before, after = beside[: len(middle)], beside[look + 1 : look + 1 + len(middle)]
        peaks = np.flatnonzero((middle > before) & (middle >= after))
        begin = self._held_from + max(first, 0) + look
        self._done = begin + len(middle)
        return list(zip((begin + peaks).tolist(), middle[peaks].tolist(), strict=True))

    def _judge(self, at: int, height: float) -> Iterator[int]:
        self._peaks.append((at, height))
        while self._peaks[0][0] <= at - self._learn_span:
            self._peaks.popleft()
        if self._is_blind(at):
            yield from self._learn(*self._quiet([at]))
            return
        if self._missed and self._last is not None and at - self._last > _SEARCH_BACK_AFTER * self._usual_interval:
            yield from self._search_back(*self._missed)
        yield from self._consider(at, height)

    def _is_blind(self, at: int) -> bool:
        if self._signal is None or self._last is None:
            return at >= self._learn_span
        return at - self._last > self._relearn_after

    def _learn(self, quiet: float) -> Iterator[int]:
        """Thresholds from the last peaks, and the beats among these; nothing where no peak stands out."""
        largest = max(height for _, height in self._peaks)
        if largest < max(_LEAST_ENERGY, _LEAST_CONTRAST * quiet):
            return
        self._signal = _median(height for _, height in self._peaks if height > 0.5 * largest)
        # What the pause before was is unknown; it is no interval between beats.
        self._noise, self._missed, self._last = quiet, None, None
        self._intervals.clear()
        for peak in tuple(self._peaks):
            yield from self._consider(*peak)

    def _consider(self, at: int, height: float) -> Iterator[int]:
        soon = self._soon(at)
        if self._signal is None or soon > 1:
            return
        if height > self._threshold(0.3) and not self._is_t_wave(soon, height):
            yield self._accept(at, height)
            return
        self._noise += 0.125 * (height - self._noise)
        if soon <= 0:  # in the pause after a premature beat, its T wave is the largest peak
            self._missed = max(self._missed or (at, height), (at, height), key=lambda peak: peak[1])

    def _soon(self, at: int) -> float:
        """How soon after a beat: above 1 while the heart is refractory, 0 and less when its T wave is over."""
        if self._last is None:
            return 0.0
        return (self._t_wave - (at - self._last)) / (self._t_wave - self._refractory)

    def _is_t_wave(self, soon: float, height: float) -> bool:
        """The sooner after a beat, the more of its energy a second one must have."""
        early, late = _T_WAVE_SHARES
        return soon > 0 and height < (late + (early - late) * soon) * self._last_height

    def _search_back(self, at: int, height: float) -> Iterator[int]:
        self._missed = None
        if height > self._threshold(0.12):
            yield self._accept(at, height)

    def _threshold(self, share: float) -> float:
        assert self._signal is not None
        return self._noise + share * (self._signal - self._noise)

    def _accept(self, at: int, height: float) -> int:
        """An artefact lifts the threshold by an eighth at most: a peak counts as twice the usual."""
        assert self._signal is not None
        self._signal += 0.125 * (min(height, 2 * self._signal) - self._signal)
        if self._last is not None:
            self._intervals.append(at - self._last)
            self._usual_interval = _median(self._intervals)
        self._last, self._last_height, self._missed = at, height, None
        return at


class Monitor:
    """Chunks of twelve leads -> one `Vitals` a second. A gap starts the detector anew."""

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._lag = round(LAG_S * rate_hz)
        self._delay = (_qrs_taps(rate_hz).shape[1] + _mean_taps(rate_hz).shape[1]) // 2 - 1
        self._expected: int | None = None
        self._restart(0)

    def _restart(self, start: int) -> None:
        self._band = StridedFir(_qrs_taps(self._rate_hz))
        self._smooth = StridedFir(_mean_taps(self._rate_hz))
        self._detector = BeatDetector(self._rate_hz)
        self._last_mv: Samples = np.zeros((len(LEADS), 1), np.float32)
        self._waiting: list[Samples] = []
        self._certain: deque[_Beat] = deque()
        self._recent: deque[tuple[float, bool]] = deque()
        self._origin = start
        self._tick = int(start / self._rate_hz) + 1

    def feed(self, chunk: Chunk) -> Iterator[tuple[int, Vitals]]:
        """The seconds whose beats are final, each behind the index of the sample that made them so."""
        if chunk.start != self._expected:
            yield from self._end(known_by=chunk.start + 1)
            self._restart(chunk.start)
        self._expected = chunk.end
        self._waiting.append(chunk.samples_mv)
        if self.next_at <= chunk.end:
            energy = self._smooth.feed(_power(self._band.feed(self._filled(self._take()))))
            self._certain.extend(self._detector.feed(energy[0].astype(np.float64)))
        while self.next_at <= chunk.end:
            yield self.next_at, self._vitals(float(self._tick), self.next_at - self._delay - self._origin)
            self._tick += 1

    def flush(self) -> Iterator[tuple[int, Vitals]]:
        """The beats that were still in the filters when the stream ended."""
        if self._expected is not None:
            yield from self._end(known_by=self._expected + self._lag + self._delay)

    def _end(self, known_by: int) -> Iterator[tuple[int, Vitals]]:
        """The beats before a gap, which is known by the first sample after it, or before the end."""
        if self._expected is None:
            return
        tail = self._smooth.flush(_power(self._band.flush(self._filled(self._take()))))[0]
        silence = np.zeros(round(_LOOK_S * self._rate_hz))
        self._certain.extend(self._detector.feed(np.concatenate([tail, silence])))
        if self._certain:
            yield known_by, self._vitals(self._expected / self._rate_hz, self._certain[-1].known_at + 1)
        self._expected = None

    @property
    def next_at(self) -> int:
        """The index at whose sample the next second is told, if no gap comes before."""
        return self._known_at(self._tick)

    def _known_at(self, tick: int) -> int:
        return round(tick * self._rate_hz) + self._lag

    def _filled(self, samples_mv: Samples) -> Samples:
        """Without NaN: a lead keeps its last value, so that losing contact makes no edge."""
        if not samples_mv.size:
            return samples_mv
        unseen = np.isnan(samples_mv)
        if not unseen.any():
            self._last_mv = samples_mv[:, -1:].copy()
            return samples_mv
        silent = unseen.all(axis=1, keepdims=True)
        filled = np.where(silent, self._last_mv, samples_mv) if silent.any() else samples_mv
        if (unseen & ~silent).any():
            filled = _carried(np.concatenate([self._last_mv, filled], axis=1))
        self._last_mv = filled[:, -1:].copy()
        return filled

    def _take(self) -> Samples:
        """What waits [12, n]: as much at once costs less, and nothing is told of it before a second is full."""
        waiting, self._waiting = self._waiting or [self._last_mv[:, :0]], []
        return waiting[0] if len(waiting) == 1 else np.concatenate(waiting, axis=1)

    def _vitals(self, at_s: float, certain_by: int) -> Vitals:
        """`certain_by` counts energy samples since the last gap."""
        beats: list[tuple[float, bool]] = []
        while self._certain and self._certain[0].known_at < certain_by:
            beat = self._certain.popleft()
            beats.append(((self._origin + beat.at) / self._rate_hz, beat.clear))
        self._recent.extend(beats)
        while self._recent and self._recent[0][0] <= at_s - _RECENT_S:
            self._recent.popleft()
        unclear_s = tuple(beat for beat, clear in beats if not clear)
        return Vitals(at_s, _heart_rate(sorted(self._recent), at_s), tuple(beat for beat, _ in beats), unclear_s)


def _power(band: Samples) -> Samples:
    """[1, n]: of the QRS band over all leads, to be smoothed over the length of a complex."""
    summed: Samples = np.abs(band).sum(axis=0, keepdims=True)
    return summed


def _carried(whole_mv: Samples) -> Samples:
    """Rows [leads, 1 + n] -> [leads, n]: in the place of NaN what came last before it."""
    seen = np.where(np.isnan(whole_mv), 0, np.arange(whole_mv.shape[1]))
    return np.take_along_axis(whole_mv, np.maximum.accumulate(seen, axis=1), axis=1)[:, 1:]


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _largest(values: Energy, length: int) -> Energy:
    """Of each so many samples one after another."""
    done = 1
    while done < length:
        step = min(done, length - done)
        values = np.maximum(values[step:], values[:-step])
        done += step
    return values


def tenths(rows: Energy) -> list[float]:
    """The tenth percentile of each row [rows, n], as `numpy.percentile` interpolates it, without its preparations."""
    place = 0.1 * (rows.shape[1] - 1)
    low = int(place)
    share = place - low
    below, above = np.partition(rows, (low, low + 1), axis=1)[:, low : low + 2].T
    between: Energy = below + (above - below) * share if share < 0.5 else above - (above - below) * (1 - share)
    return between.tolist()


def _heart_rate(beats: list[tuple[float, bool]], at_s: float) -> float | None:
    """None with too few beats, none of late, or most of them no clearer than noise."""
    if len(beats) < 3 or at_s - beats[-1][0] > _SILENCE_S or 2 * sum(clear for _, clear in beats) <= len(beats):
        return None
    return round(60 * (len(beats) - 1) / (beats[-1][0] - beats[0][0]), 1)
