"""`Chunk`s at a source's own rate in; the state of each lead, second by second, out."""

from __future__ import annotations

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
        self._held: Samples | None = None
        self._last: Chunk | None = None
        self._start = 0

    def feed(self, chunk: Chunk) -> Iterator[Quality]:
        """The seconds that this chunk completes, and what of one was there when a gap came."""
        yield from self._take(chunk)
        assert self._held is not None
        block = max(round(chunk.rate_hz), 1)
        for _ in range(self._held.shape[1] // block):
            states = judge(self._held[:, :block], chunk.leads, chunk.rate_hz)
            yield Quality(self._start / chunk.rate_hz, (self._start + block) / chunk.rate_hz, states)
            self._held = self._held[:, block:]
            self._start += block

    def _take(self, chunk: Chunk) -> Iterator[Quality]:
        if chunk.follows(self._last) and self._held is not None:
            self._held = np.concatenate([self._held, chunk.without_loose()], axis=1)
        else:
            yield from self._break_off()
            self._held, self._start = chunk.without_loose(), chunk.start
        self._last = chunk

    def _break_off(self) -> Iterator[Quality]:
        """Most of a second is judged as if it were whole: a source that loses samples all the time must be judged, too."""
        if self._last is not None and self._held is not None and self._held.shape[1] >= _MOST_OF * self._last.rate_hz:
            states = judge(self._held, self._last.leads, self._last.rate_hz)
            yield Quality(self._start / self._last.rate_hz, self._last.end / self._last.rate_hz, states)


def judge(samples_mv: Samples, leads: tuple[str, ...], rate_hz: float) -> tuple[State, ...]:
    """One second of a source's leads [leads, n] -> the state of each of the twelve; a derived lead is as bad as I and II."""
    states: dict[str, State] = {lead: _state(x, rate_hz) for lead, x in zip(leads, samples_mv, strict=True)}
    if {"I", "II"} <= states.keys():
        worst = states["II"] if states["I"] == "good" else states["I"]
        states = dict.fromkeys(("III", "aVR", "aVL", "aVF"), worst) | states
    return tuple(states.get(lead, "absent") for lead in LEADS)


def _state(lead_mv: npt.NDArray[np.float32], rate_hz: float) -> State:
    if np.isnan(lead_mv).any():
        return "off"
    span = float(np.ptp(lead_mv))
    if span < FLAT_MV:
        return "flat"
    if span > IMPLAUSIBLE_MV:
        return "implausible"
    if _at_rail(lead_mv, rate_hz):
        return "saturated"
    noise, mains = _high_frequency(lead_mv, rate_hz)
    return "mains" if mains > MAINS_MV else "noise" if noise > NOISE_MV else "good"


def _at_rail(lead_mv: npt.NDArray[np.float32], rate_hz: float) -> bool:
    """Whether it stands still, far from where it usually is."""
    still = max(round(RAIL_S * rate_hz), 2)
    far = np.abs(lead_mv - np.median(lead_mv)) > RAIL_MV
    if not far.any():
        return False
    same = np.concatenate([[False], (np.diff(lead_mv) == 0) & far[1:]])
    return bool(np.convolve(same, np.ones(still), "valid").max(initial=0.0) >= still)


def _high_frequency(lead_mv: npt.NDArray[np.float32], rate_hz: float) -> tuple[float, float]:
    """Root mean square in mV above 40 Hz without mains, and of mains (50 or 60 Hz)."""
    taper, noise, mains = _bands(len(lead_mv), rate_hz)
    spectrum = np.abs(np.fft.rfft(lead_mv * taper)) / len(lead_mv)
    power = 2 * spectrum**2 / 0.375
    return float(np.sqrt(power[noise].sum())), float(np.sqrt(power[mains].sum())) if rate_hz > 125 else 0.0


@lru_cache(maxsize=32)
def _bands(samples: int, rate_hz: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The taper of a second, and which of its frequencies are noise and which mains."""
    hz = np.fft.rfftfreq(samples, 1 / rate_hz)
    mains = (np.abs(hz - 50) <= 2) | (np.abs(hz - 60) <= 2)
    return np.hanning(samples), (hz > 40) & (hz < 150) & ~mains, mains
