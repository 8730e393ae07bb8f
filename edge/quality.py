"""`Chunk`s at a source's own rate in; the state of each lead, second by second, out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from kernels.signal import LEADS, Samples

from .decode.chunk import Chunk

State = Literal["good", "absent", "off", "flat", "saturated", "implausible", "noise", "mains"]

_MOST_OF = 0.75

FLAT_MV = 0.02
"""A second that spans less shows no heart: electrode or amplifier is not connected."""

RAIL_MV = 2.0
RAIL_S = 0.04
"""So long at one value, so far from the median, is an amplifier at its limit."""

IMPLAUSIBLE_MV = 30.0
"""No surface ECG is that large: the scale is wrong, or the electrode moves."""

NOISE_MV = 0.12
"""Root mean square above 40 Hz, without mains, that buries P and T waves."""

MAINS_MV = 1.0
"""The resampler takes 50 and 60 Hz off by 40 dB; a hum above this remains visible."""


@dataclass(frozen=True, slots=True)
class Quality:
    """The state of the twelve leads during one second."""

    start_s: float
    end_s: float
    states: tuple[State, ...]
    """In the order of `LEADS`."""

    def by_lead(self) -> dict[str, State]:
        """The leads that the source has."""
        return {lead: state for lead, state in zip(LEADS, self.states, strict=True) if state != "absent"}


class Judge:
    """Chunks of one source -> one `Quality` a second, on the source's own samples; a gap begins a new second."""

    def __init__(self) -> None:
        self._held: list[Samples] = []
        self._last: Chunk | None = None
        self._start = 0

    def feed(self, chunk: Chunk) -> Iterator[Quality]:
        """The seconds that this chunk completes, and what of one was there when a gap came."""
        if not chunk.follows(self._last):
            yield from self._break_off()
            self._held, self._start = [], chunk.start
        self._last = chunk
        self._held.append(chunk.without_loose())
        block = max(round(chunk.rate_hz), 1)
        if chunk.end - self._start >= block:
            yield from self._judge(np.concatenate(self._held, axis=1), block)

    def _judge(self, samples_mv: Samples, block: int) -> Iterator[Quality]:
        assert self._last is not None
        leads, rate_hz = self._last.leads, self._last.rate_hz
        whole = samples_mv.shape[1] // block * block
        self._held = [samples_mv[:, whole:]]
        for at in range(0, whole, block):
            states = judge(samples_mv[:, at : at + block], leads, rate_hz)
            yield Quality(self._start / rate_hz, (self._start + block) / rate_hz, states)
            self._start += block

    def _break_off(self) -> Iterator[Quality]:
        """Most of a second is judged as if it were whole: a source that loses samples all the time must be judged, too."""
        if self._last is not None and self._last.end - self._start >= _MOST_OF * self._last.rate_hz:
            states = judge(np.concatenate(self._held, axis=1), self._last.leads, self._last.rate_hz)
            yield Quality(self._start / self._last.rate_hz, self._last.end / self._last.rate_hz, states)


def judge(samples_mv: Samples, leads: tuple[str, ...], rate_hz: float) -> tuple[State, ...]:
    """One second of a source's leads [leads, n] -> the state of each of the twelve; a derived lead is as bad as I and II."""
    states = dict(zip(leads, _states(samples_mv, rate_hz), strict=True))
    if {"I", "II"} <= states.keys():
        worst = states["II"] if states["I"] == "good" else states["I"]
        states = dict.fromkeys(("III", "aVR", "aVL", "aVF"), worst) | states
    return tuple(states.get(lead, "absent") for lead in LEADS)


def _states(samples_mv: Samples, rate_hz: float) -> list[State]:
    """Of each row [leads, n]."""
    spans = np.ptp(samples_mv, axis=1).tolist()
    states = [_from_span(lead, span, rate_hz) for lead, span in zip(samples_mv, spans, strict=True)]
    beating = [row for row, state in enumerate(states) if state == "good"]
    if beating:
        for row, noise, mains in zip(beating, *_high_frequency(samples_mv[beating], rate_hz), strict=True):
            states[row] = "mains" if mains > MAINS_MV else "noise" if noise > NOISE_MV else "good"
    return states


def _from_span(lead_mv: npt.NDArray[np.float32], span_mv: float, rate_hz: float) -> State:
    """What shows without a look at its frequencies; the span of a lead with a NaN is NaN."""
    if math.isnan(span_mv):
        return "off"
    if span_mv < FLAT_MV:
        return "flat"
    if span_mv > IMPLAUSIBLE_MV:
        return "implausible"
    # Nothing lies farther from the median than the span.
    return "saturated" if span_mv > RAIL_MV and _at_rail(lead_mv, rate_hz) else "good"


def _at_rail(lead_mv: npt.NDArray[np.float32], rate_hz: float) -> bool:
    """Whether it stands still, far from where it usually is."""
    still = max(round(RAIL_S * rate_hz), 2)
    stands = lead_mv[1:] == lead_mv[:-1]
    if _longest_run(stands) < still:
        return False
    far = np.abs(lead_mv - np.median(lead_mv)) > RAIL_MV
    same = np.concatenate([[False], stands & far[1:]])
    return bool(np.convolve(same, np.ones(still), "valid").max(initial=0.0) >= still)


def _longest_run(is_so: npt.NDArray[np.bool_]) -> int:
    """Of True."""
    breaks = np.flatnonzero(~is_so)
    if len(breaks) == 0:
        return len(is_so)
    between = int((breaks[1:] - breaks[:-1]).max(initial=1)) - 1
    return max(int(breaks[0]), between, len(is_so) - 1 - int(breaks[-1]))


def _high_frequency(samples_mv: Samples, rate_hz: float) -> tuple[list[float], list[float]]:
    """Of each row the root mean square in mV above 40 Hz without mains, and of mains (50 or 60 Hz)."""
    taper, noise, mains = _bands(samples_mv.shape[1], rate_hz)
    spectrum = np.abs(np.fft.rfft(samples_mv * taper)) / samples_mv.shape[1]
    power = 2 * spectrum**2 / 0.375
    of_noise, of_mains = (np.sqrt(power.compress(band, axis=1).sum(axis=1)).tolist() for band in (noise, mains))
    return of_noise, of_mains if rate_hz > 125 else [0.0] * len(samples_mv)


@lru_cache(maxsize=32)
def _bands(samples: int, rate_hz: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The taper of a second, and which of its frequencies are noise and which mains."""
    hz = np.fft.rfftfreq(samples, 1 / rate_hz)
    mains = (np.abs(hz - 50) <= 2) | (np.abs(hz - 60) <= 2)
    return np.hanning(samples), (hz > 40) & (hz < 150) & ~mains, mains
