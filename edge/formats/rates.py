"""Leads that are read apart, each at a rate and from a moment of its own, in; one recording of them all, at the fastest rate, out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kernels.findings import ConfigError
from kernels.signal import Samples, phase_taps, ratio

from ..decode.chunk import LONGEST_GAP_S, too_long
from .recording import Annotation, Slices, Stretch

Read = Callable[[int, int], Samples]
"""`read(begin, end)` [leads, end - begin] in mV, as of a `Stretch`."""


@dataclass(frozen=True, slots=True)
class Series:
    """Samples of a few leads without a gap, all of one rate."""

    leads: tuple[str, ...]
    rate_hz: float
    samples: int
    read: Read
    start_s: float = 0.0
    """Since the recording began."""

    @property
    def duration_s(self) -> float:
        return self.samples / self.rate_hz


@dataclass(frozen=True, slots=True)
class _Placed:
    """A series at the recording's rate."""

    start: int
    end: int
    rows: tuple[int, ...]
    read: Read


def merge(name: str, series: Sequence[Series], notes: Callable[[], Sequence[Annotation]] = tuple) -> Slices:
    """A recording of all the leads, NaN where one has no samples; what none of them has is a gap.

    Where two series have the same lead at the same time the longer one counts. Raises ConfigError where there is no
    sample at all, and for a gap above `LONGEST_GAP_S`.
    """
    kept = sorted((part for part in series if part.samples), key=lambda part: part.duration_s)
    if not kept:
        raise ConfigError("holds no sample; export or copy it again")
    rate_hz = max(part.rate_hz for part in kept)
    leads = tuple(dict.fromkeys(lead for part in series for lead in part.leads))
    placed = [_place(part, rate_hz, leads) for part in kept]
    return sounding(Slices(name, rate_hz, leads, [_stretch(group, len(leads)) for group in _touching(placed, rate_hz)], notes))


def sounding(recording: Slices) -> Slices:
    """The same recording. Raises ConfigError where all its samples are NaN; otherwise only its beginning is read."""
    if not any(np.isfinite(chunk.samples_mv).any() for chunk in recording.chunks()):
        raise ConfigError("holds no valid sample, all of them are NaN; export it again")
    return recording


def at_rate(series: Series, to_hz: float) -> Read:
    """The series at another rate: the same bits as `kernels.signal.resample` gives of each lead, but from anywhere."""
    if series.rate_hz == to_hz:
        return series.read
    taps, step = phase_taps(series.rate_hz, to_hz), ratio(series.rate_hz, to_hz)
    reach = np.arange(taps.shape[1]) - taps.shape[1] // 2

    def read(begin: int, end: int) -> Samples:
        position = np.arange(begin, end) * step.numerator
        nearest = position // step.denominator
        # The first and the last sample stand for what lies beyond them, as they do in a stream.
        needed = np.clip(nearest[:, None] + reach, 0, series.samples - 1)
        first = int(needed[0, 0])
        held = series.read(first, int(needed[-1, -1]) + 1).astype(np.float64)
        weights = taps[position % step.denominator * len(taps) // step.denominator]
        return np.stack([(lead[needed - first] * weights).sum(axis=-1) for lead in held]).astype(np.float32)

    return read


def _place(series: Series, rate_hz: float, leads: Sequence[str]) -> _Placed:
    start = round(series.start_s * rate_hz)
    step = ratio(series.rate_hz, rate_hz)
    samples = -(-series.samples * step.denominator // step.numerator)
    return _Placed(start, start + samples, tuple(map(leads.index, series.leads)), at_rate(series, rate_hz))


def _touching(placed: Sequence[_Placed], rate_hz: float) -> Iterator[list[_Placed]]:
    """Those between two gaps, each list as long as nothing is missing."""
    group: list[_Placed] = []
    end = 0
    for part in sorted(placed, key=lambda part: part.start):
        if group and part.start > end:
            if part.start - end > LONGEST_GAP_S * rate_hz:
                raise too_long((part.start - end) / rate_hz)
            yield group
            group = []
        group.append(part)
        end = max(end, part.end)
    yield group


def _stretch(group: Sequence[_Placed], leads: int) -> Stretch:
    begun, ended = group[0].start, max(part.end for part in group)
    by_length = sorted(group, key=lambda part: part.end - part.start)

    def read(begin: int, end: int) -> Samples:
        samples = np.full((leads, end - begin), np.nan, np.float32)
        for part in by_length:
            first, last = max(begin + begun, part.start), min(end + begun, part.end)
            if first < last:
                samples[part.rows, first - begin - begun : last - begin - begun] = part.read(first - part.start, last - part.start)
        return samples

    return Stretch(begun, ended - begun, read)
