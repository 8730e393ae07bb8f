"""The samples of a lead that is fed a square wave of known height in; the height as measured, and so the right scale, out.

The two state levels of a pulse are those of IEEE Std 181, told apart at its edges, so that a drifting baseline does not blur them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError
from kernels.signal import Samples

FEWEST_EDGES = 4
LARGEST_JITTER = 0.2
"""Share of the height by which one pulse in five may differ from it."""

SHORTEST_S = 2.0

_FEWEST_HZ = 0.5
"""Edges a second that are surely there: so many may be larger, as artefacts are."""
_CLOSE_S = 0.02
"""One period of 50 Hz mains: what is averaged to find an edge."""
_HUM_S = 0.1
"""Five periods of 50 Hz mains and six of 60 Hz: what is averaged to measure a level."""
_SETTLED_S = 0.04
"""So long after an edge a monitor's low-pass has settled."""
_FLAT_MV = 1e-6
_BAND = 0.15
"""Share of the height within which a level stays."""
_HELD = 0.7
"""Share of its time that a level stays in the band. A sine does for less than 0.6, a QRS complex for less than 0.5."""
_SHORTEST_LEVEL_S = 0.04
_SMALLEST_DUTY = 0.15
"""Of the period; a QRS complex takes less."""
_LARGEST_SWAY = 0.05
"""Of the period; a clock makes the pulses."""
_LOOK_S = 0.4
"""So much of a long level is looked at, before the baseline wanders off."""
_SHARP = 0.75
"""Share of the height that lies within 20 ms, or a fifth of a level, of an edge. Of a sine it is 0.65."""
_FASTEST_DROOP_HZ = 1.0
_AS_GOOD_AS_RIGHT = 0.01

Signal = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Calibration:
    """A square wave as a device measured it."""

    height_mv: float
    """From the low level to the high one, as the present scale has it."""
    factor: float
    """What the samples in mV must be multiplied by to be right."""
    pulses: int
    noise_mv: float
    """Standard deviation about the levels, mains hum included."""
    low_mv: float
    high_mv: float

    def units_per_mv(self, old: float) -> float:
        """The right scale, where `old` was the present one."""
        return old / self.factor


def measure(samples_mv: Samples, rate_hz: float, pulse_mv: float = 1.0) -> Calibration:
    """Samples [n] of one lead; `pulse_mv` is the true height, from the low level to the high one.

    An inverted wave measures the same. Baseline wander, hum, a low-pass down to 15 Hz and a high-pass up to
    0.5 Hz do not harm. Raises ConfigError, with the way to mend it, where this is no square wave.
    """
    signal = _longest_valid(np.asarray(samples_mv, np.float64))
    if len(signal) < SHORTEST_S * rate_hz:
        raise ConfigError(f"only {len(signal) / rate_hz:.1f} s of valid samples in a row; record at least {SHORTEST_S:g} s of the pulses")
    if np.ptp(signal) < _FLAT_MV:
        raise ConfigError("the lead is flat; switch the calibration pulses on, and name the lead that is fed with them")
    edges, signs = _alternating(*_edges(signal, rate_hz))
    if len(edges) < FEWEST_EDGES:
        raise ConfigError(f"only {len(edges)} edges of a square wave found; {_FEED}")
    _check_times(edges, rate_hz)
    straight = _without_droop(signal, edges, rate_hz)
    height_mv = _height(straight, edges, signs, rate_hz)
    noise_mv = _check_levels(straight, edges, signs, height_mv, rate_hz)
    middle_mv = _middle(signal, edges)
    low_mv, high_mv = middle_mv - height_mv / 2, middle_mv + height_mv / 2
    return Calibration(height_mv, pulse_mv / height_mv, int(np.sum(signs > 0)), noise_mv, low_mv, high_mv)


_FEED = "feed this lead with a square wave of 1 to 10 Hz, such as the device's own test signal, for 10 s, and nothing else"


def advise(calibration: Calibration, lead: str, units_per_mv: float | None) -> str:
    """What was measured, in words, and the line for edge.toml; `units_per_mv` is the present scale, None where the device says it."""
    pulse_mv = calibration.height_mv * calibration.factor
    off = 1 / calibration.factor - 1
    lines = [
        f"lead {lead}: {calibration.pulses} pulses of {calibration.height_mv:.4g} mV measured, {pulse_mv:g} mV expected",
        f"noise {calibration.noise_mv:.2g} mV, levels {calibration.low_mv:.3g} and {calibration.high_mv:.3g} mV",
    ]
    if units_per_mv is None:
        return "\n".join([*lines, f"the device says its scale itself; there, make every sample {calibration.factor:.4g} times as large"])
    if abs(off) <= _AS_GOOD_AS_RIGHT:
        return "\n".join([*lines, f"the scale is right within 1 %: units_per_mv = {_short(units_per_mv)} may stay"])
    lines.append(f"the scale is off by {off:+.1%}; put into edge.toml, below the [[source]] of this device:")
    return "\n".join([*lines, f"units_per_mv = {_short(calibration.units_per_mv(units_per_mv))}"])


def _short(scale: float) -> str:
    """Four digits: more were not measured."""
    return f"{float(f'{scale:.4g}'):.10g}"


def _longest_valid(signal: Signal) -> Signal:
    """The longest stretch without an invalid sample."""
    breaks = np.flatnonzero(~np.isfinite(np.concatenate([[np.nan], signal, [np.nan]])))
    longest = int(np.argmax(np.diff(breaks)))
    return signal[breaks[longest] : breaks[longest + 1] - 1]


def _edges(signal: Signal, rate_hz: float) -> tuple[Indices, Signal]:
    """Where the mean of a moment after differs most from that of a moment before, and by how much, with its sign."""
    width = max(round(_CLOSE_S * rate_hz), 2)
    mean = _moving_mean(signal, width)
    step = mean[width + 1 :] - mean[: -width - 1]
    begins = np.concatenate([[0], np.flatnonzero(np.diff(np.sign(step))) + 1, [len(step)]])
    runs = [int(a + np.argmax(np.abs(step[a:b]))) for a, b in itertools.pairwise(begins)]
    sizes = np.abs(step[runs])
    expected = max(FEWEST_EDGES, round(len(signal) / rate_hz * _FEWEST_HZ))
    typical = np.sort(sizes)[-min(expected, len(sizes))]
    kept = np.array(runs, np.intp)[sizes > typical / 2]
    return kept + width, step[kept]


def _alternating(edges: Indices, steps: Signal) -> tuple[Indices, Signal]:
    """Of several edges in one direction, one after the other, the last; and each one's direction."""
    signs = np.sign(steps)
    last = np.append(signs[1:] != signs[:-1], True)
    return edges[last], signs[last]


def _moving_mean(signal: Signal, width: int) -> Signal:
    total = np.cumsum(np.concatenate([[0.0], signal]))
    return np.asarray((total[width:] - total[:-width]) / width)


def _plateaus(signal: Signal, edges: Indices, margin: int = 0) -> list[Signal]:
    """What lies between two edges, without the margins."""
    return [signal[a + margin : b - margin] for a, b in itertools.pairwise(edges) if b - a > 2 * margin]


def _shortest(edges: Indices) -> float:
    """Samples of the shorter one of the two levels."""
    lengths = np.diff(edges)
    return float(min(np.median(lengths[::2]), np.median(lengths[1::2])))


def _check_times(edges: Indices, rate_hz: float) -> None:
    """Raises ConfigError where the edges do not come as regularly, or as far apart, as those of a square wave."""
    periods = edges[2:] - edges[:-2]
    period = float(np.median(periods))
    shortest = _shortest(edges)
    if shortest < max(_SHORTEST_LEVEL_S * rate_hz, _SMALLEST_DUTY * period):
        raise ConfigError(f"no square wave found, only brief peaks of {shortest / rate_hz:.2g} s, as an ECG has; {_FEED}")
    if np.quantile(np.abs(periods - period), 0.8) > _LARGEST_SWAY * period + 1:
        raise ConfigError(f"no square wave found: its steps come at irregular times, as in an ECG; {_FEED}")


def _without_droop(signal: Signal, edges: Indices, rate_hz: float) -> Signal:
    """Undo a first-order high-pass: between the edges it pulls the signal to its mean, the faster the further off it is.

    Both halves of each plateau give one equation, fall = droop * area - drift, for the droop in 1/s.
    """
    margin = round(min(_SETTLED_S * rate_hz, 0.2 * _shortest(edges)))
    length = round(_LOOK_S * rate_hz)
    rows = [_fall(plateau[:length], rate_hz) for plateau in _plateaus(signal, edges, margin) if len(plateau) >= 4]
    if len(rows) < FEWEST_EDGES - 1:
        return signal
    areas, times, falls = np.array(rows).T
    (droop, drift), *_ = np.linalg.lstsq(np.stack([areas, times], axis=1), falls, rcond=None)
    droop = float(np.clip(droop, 0.0, 2 * np.pi * _FASTEST_DROOP_HZ))
    middle = -drift / droop if droop else 0.0
    return np.asarray(signal + droop / rate_hz * np.cumsum(signal - middle))


def _fall(plateau: Signal, rate_hz: float) -> tuple[float, float, float]:
    """From the mean of its first half to that of its second: the area between in mV s, the time in s and the fall in mV."""
    half = len(plateau) // 2
    means = _moving_mean(plateau[: 2 * half], half)
    time_s = half / rate_hz
    return float(np.mean(means)) * time_s, time_s, float(means[0] - means[-1])


def _height(signal: Signal, edges: Indices, signs: Signal, rate_hz: float) -> float:
    """The median over pairs of one rise and one fall: what drifts adds to the one what it takes from the other."""
    first, last = _beside_an_edge(edges, rate_hz)
    whole = (edges >= last) & (edges + last <= len(signal))
    steps = [
        sign * (np.median(signal[edge + first : edge + last]) - np.median(signal[edge - last : edge - first]))
        for edge, sign in zip(edges[whole], signs[whole], strict=True)
    ]
    heights = (np.array(steps[1:]) + np.array(steps[:-1])) / 2
    if len(steps) < FEWEST_EDGES:
        raise ConfigError(f"only {len(steps)} whole edges of a square wave found; {_FEED}")
    height_mv = float(np.median(heights))
    jitter = float(np.quantile(np.abs(heights / height_mv - 1), 0.8)) if height_mv > 0 else np.inf
    if jitter > LARGEST_JITTER:
        raise ConfigError(f"no square wave found: the steps in it differ by {jitter:.0%} in height; {_FEED}")
    return height_mv


def _beside_an_edge(edges: Indices, rate_hz: float) -> tuple[int, int]:
    """From where to where, in samples from an edge, its level is measured: settled, for whole periods of the mains if it can be."""
    shortest = _shortest(edges)
    first = round(min(_SETTLED_S * rate_hz, 0.2 * shortest))
    return first, first + max(round(min(_HUM_S * rate_hz, 0.6 * shortest)), 1)


def _middle(signal: Signal, edges: Indices) -> float:
    """Half way from the typical low level to the typical high one."""
    levels = [float(np.median(plateau)) for plateau in _plateaus(signal, edges)]
    return float(np.median(levels[::2]) + np.median(levels[1::2])) / 2


def _check_levels(signal: Signal, edges: Indices, signs: Signal, height_mv: float, rate_hz: float) -> float:
    """The noise about the levels. Raises ConfigError where the signal does not stay at them between its edges."""
    width = max(round(min(_CLOSE_S * rate_hz, 0.2 * _shortest(edges))), 1)
    rises = signs * (signal[np.minimum(edges + width, len(signal) - 1)] - signal[np.maximum(edges - width, 0)])
    if np.median(rises) < _SHARP * height_mv:
        raise ConfigError(f"no square wave found: its steps are not steep; {_FEED}")
    smooth = np.convolve(signal, np.full(width, 1 / width), "same")
    length = round(_LOOK_S * rate_hz)
    for first in (0, 1):
        levels = [_without_drift(level[:length]) for level in _plateaus(smooth, edges[first:])[::2]]
        if np.median([np.mean(np.abs(level) <= _BAND * height_mv) for level in levels]) < _HELD:
            raise ConfigError(f"no square wave found: between its steps the signal does not stay level, as an ECG does not; {_FEED}")
    margin = round(min(_SETTLED_S * rate_hz, 0.2 * _shortest(edges)))
    about = np.concatenate([_without_drift(level[:length]) for level in _plateaus(signal, edges, margin)])
    return float(1.4826 * np.median(np.abs(about)))


def _without_drift(level: Signal) -> Signal:
    """Less its median and the line through the medians of its halves."""
    half = len(level) // 2
    slope = (np.median(level[-half:]) - np.median(level[:half])) / max(len(level) - half, 1) if half else 0.0
    straight = level - slope * np.arange(len(level))
    return np.asarray(straight - np.median(straight))
