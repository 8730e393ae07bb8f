"""`Chunk`s at a source's own rate in; the state of each lead, second by second, out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from kernels.signal import LEADS, Samples

from .decode.chunk import Chunk

Flags = npt.NDArray[np.bool_]

State = Literal["good", "absent", "off", "flat", "saturated", "implausible", "noise", "mains"]

_MOST_OF = 0.75
_MOST_SAMPLES = 1 << 15
"""Judged at once: what is made of more does not stay in the cache next to the core."""

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
        return dict(by_lead(self.states))


@lru_cache(maxsize=1024)
def by_lead(states: tuple[State, ...]) -> dict[str, State]:
    """The leads that are not absent. Shared: not to be changed."""
    return {lead: state for lead, state in zip(LEADS, states, strict=True) if state != "absent"}


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
            yield from self._judge(_joined(self._held), block)

    def _judge(self, samples_mv: Samples, block: int) -> Iterator[Quality]:
        assert self._last is not None
        leads, rate_hz = self._last.leads, self._last.rate_hz
        whole = samples_mv.shape[1] // block * block
        self._held = [samples_mv[:, whole:]]
        at_once = max(_MOST_SAMPLES // (block * len(leads)), 1) * block
        for begin in range(0, whole, at_once):
            for states in judge_seconds(samples_mv[:, begin : min(begin + at_once, whole)], block, leads, rate_hz):
                yield Quality(self._start / rate_hz, (self._start + block) / rate_hz, states)
                self._start += block

    def _break_off(self) -> Iterator[Quality]:
        """Most of a second is judged as if it were whole: a source that loses samples all the time must be judged, too."""
        if self._last is not None and self._last.end - self._start >= _MOST_OF * self._last.rate_hz:
            states = judge(_joined(self._held), self._last.leads, self._last.rate_hz)
            yield Quality(self._start / self._last.rate_hz, self._last.end / self._last.rate_hz, states)


def _joined(parts: Sequence[Samples]) -> Samples:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def judge(samples_mv: Samples, leads: tuple[str, ...], rate_hz: float) -> tuple[State, ...]:
    """One second of a source's leads [leads, n] -> the state of each of the twelve; a derived lead is as bad as I and II."""
    (states,) = judge_seconds(samples_mv, samples_mv.shape[1], leads, rate_hz)
    return states


def judge_seconds(samples_mv: Samples, block: int, leads: tuple[str, ...], rate_hz: float) -> list[tuple[State, ...]]:
    """The same of each second of [leads, seconds * block]."""
    seconds = np.ascontiguousarray(samples_mv).reshape(-1, block)
    states = _states(seconds, rate_hz)
    count = len(seconds) // len(leads)
    return [_of_twelve(leads, tuple(states[second::count])) for second in range(count)]


@lru_cache(maxsize=1024)
def _of_twelve(leads: tuple[str, ...], states: tuple[State, ...]) -> tuple[State, ...]:
    """The states of the leads of a source -> of each of the twelve."""
    known: dict[str, State] = dict(zip(leads, states, strict=True))
    if {"I", "II"} <= known.keys():
        worst = known["II"] if known["I"] == "good" else known["I"]
        known = dict.fromkeys(("III", "aVR", "aVL", "aVF"), worst) | known
    return tuple(known.get(lead, "absent") for lead in LEADS)


def _states(seconds_mv: Samples, rate_hz: float) -> list[State]:
    """Of each row [seconds, n]; the span of one with a NaN is NaN."""
    spans = (seconds_mv.max(axis=1) - seconds_mv.min(axis=1)).astype(np.float64)
    beating = (spans >= FLAT_MV) & (spans <= IMPLAUSIBLE_MV)
    states: list[State] = ["good"] * len(spans)
    for row in np.flatnonzero(~beating).tolist():
        states[row] = _from_span(float(spans[row]))
    # Nothing lies farther from the median than the span.
    wide = np.flatnonzero(beating & (spans > RAIL_MV))
    for row in wide[_at_rail(seconds_mv[wide], rate_hz)].tolist() if len(wide) else ():
        states[row], beating[row] = "saturated", False
    rows = np.flatnonzero(beating)
    loud, humming = _high_frequency(seconds_mv if len(rows) == len(states) else seconds_mv[rows], rate_hz)
    for at in np.flatnonzero(loud | humming).tolist():
        states[rows[at]] = "mains" if humming[at] else "noise"
    return states


def _from_span(span_mv: float) -> State:
    """Of a lead that shows no heart, or more than one."""
    if math.isnan(span_mv):
        return "off"
    return "flat" if span_mv < FLAT_MV else "implausible"


def _at_rail(seconds_mv: Samples, rate_hz: float) -> Flags:
    """Of each row whether it stands still, far from where it usually is."""
    still = max(round(RAIL_S * rate_hz), 2)
    far = np.abs(seconds_mv - _median(seconds_mv)) > RAIL_MV
    return _has_run(_stands(seconds_mv) & far[:, 1:], still)


def _median(rows: Samples) -> Samples:
    """[rows, 1], as `numpy.median` finds it, without its preparations; no NaN."""
    low, high = (rows.shape[1] - 1) // 2, rows.shape[1] // 2
    ordered = np.partition(rows, (low, high), axis=1)
    middle: Samples = (ordered[:, low : low + 1] + ordered[:, high : high + 1]) / np.float32(2)
    return middle


def _stands(seconds_mv: Samples) -> Flags:
    """Whether each sample but the first of a row is as the one before."""
    return np.equal(seconds_mv[:, 1:], seconds_mv[:, :-1])


def _has_run(is_so: Flags, length: int) -> Flags:
    """Whether so many of a row are True one after another."""
    done = 1
    while done < length:
        step = min(done, length - done)
        is_so = is_so[:, step:] & is_so[:, :-step]
        done += step
    return np.logical_or.reduce(is_so, axis=1)


def _high_frequency(seconds_mv: Samples, rate_hz: float) -> tuple[Flags, Flags]:
    """Of each row whether its root mean square above 40 Hz without mains is too large, and that of mains (50 or 60 Hz)."""
    samples = seconds_mv.shape[1]
    taper, noise, mains = _bands(samples, rate_hz)
    spectrum = np.fft.rfft(seconds_mv * taper)
    loud = _root_mean_square(spectrum, noise, samples) > NOISE_MV
    return loud, _root_mean_square(spectrum, mains, samples) > MAINS_MV if rate_hz > 125 else np.zeros_like(loud)


def _root_mean_square(spectrum: npt.NDArray[np.complex128], band: Flags, samples: int) -> npt.NDArray[np.float64]:
    """Of what lies in a band, in mV."""
    amplitude = np.abs(spectrum.compress(band, axis=1)) / samples
    return np.sqrt((2 * amplitude**2 / 0.375).sum(axis=1))


@lru_cache(maxsize=32)
def _bands(samples: int, rate_hz: float) -> tuple[npt.NDArray[np.float64], Flags, Flags]:
    """The taper of a second, and which of its frequencies are noise and which mains."""
    hz = np.fft.rfftfreq(samples, 1 / rate_hz)
    mains = (np.abs(hz - 50) <= 2) | (np.abs(hz - 60) <= 2)
    return np.hanning(samples), (hz > 40) & (hz < 150) & ~mains, mains
