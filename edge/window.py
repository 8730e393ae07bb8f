"""`Chunk`s at a source's rate in; the twelve standard leads at the bundle's rate, and `Window`s cut from them, out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kernels.signal import HALF_LENGTH_S, LEADS, PolyphaseFir, Samples, to_standard_leads

from .decode.chunk import Chunk
from .fir import resampler
from .stretch import Stretch

_ROUNDING = 2
"""Where a stretch begins, and where its last output lies, may be a sample off each."""


@dataclass(frozen=True, slots=True)
class Window:
    """What a bundle scores: consecutive samples of all twelve leads."""

    start: int
    """Index of the first sample at `rate_hz`."""
    rate_hz: float
    samples_mv: Samples
    """[12, n]; NaN where a lead is absent or off."""
    begun: int
    """Index of the first sample of the stretch without a gap that it lies in."""

    @property
    def end(self) -> int:
        """Index of the sample after the last."""
        return self.start + self.samples_mv.shape[1]

    @property
    def end_s(self) -> float:
        """Stream time after the last sample."""
        return self.end / self.rate_hz


class Resample:
    """Chunks of any leads and rate -> chunks of the twelve leads at one rate; a gap or a new rate restarts the filter."""

    def __init__(self, to_hz: float) -> None:
        self._to_hz = to_hz
        self._resampler: PolyphaseFir | None = None
        self._last: Chunk | None = None
        self._waiting: list[Samples] = []
        self._told = False
        self._out: int | None = None
        self._skip = 0

    def feed(self, chunk: Chunk, needed: int = 0) -> Iterator[Chunk]:
        """What this chunk completes; after a gap first what was still inside the filter.

        It waits, as much at once costs less, while the index `needed` at the lower rate is not reached; but never
        before the first samples after a gap are told.
        """
        if not chunk.follows(self._last):
            yield from self.flush()
            self._restart(chunk)
        self._last = chunk
        self._waiting.append(chunk.without_loose())
        if not self._told or self._reach(chunk) >= needed:
            yield from self._filter()

    def flush(self) -> Iterator[Chunk]:
        """What waits and the tail of the filter, at a gap or at the end."""
        if self._resampler is not None:
            yield from self._filter()
            yield from self._emit(self._resampler.flush())
        self._resampler, self._last, self._told = None, None, False

    def _reach(self, chunk: Chunk) -> float:
        """No output up to the end of this chunk has a higher index."""
        return (chunk.end / chunk.rate_hz - HALF_LENGTH_S) * self._to_hz + _ROUNDING

    def _filter(self) -> Iterator[Chunk]:
        if self._waiting:
            assert self._resampler is not None
            waiting, self._waiting = self._waiting, []
            yield from self._emit(self._resampler.feed(waiting[0] if len(waiting) == 1 else np.concatenate(waiting, axis=1)))

    def _restart(self, chunk: Chunk) -> None:
        """A gap too short to show at the lower rate costs a sample or two after it, so that no window closes over it."""
        begun = round(chunk.start / chunk.rate_hz * self._to_hz)
        earliest = begun if self._out is None else self._out + 1
        self._skip = max(earliest - begun, 0)
        self._out = begun + self._skip
        self._resampler = resampler(chunk.rate_hz, self._to_hz)

    def _emit(self, samples: Samples) -> Iterator[Chunk]:
        skipped = min(self._skip, samples.shape[1])
        self._skip -= skipped
        samples = samples[:, skipped:]
        if samples.size:
            assert self._out is not None and self._last is not None
            leads = self._last.leads
            yield Chunk(self._out, self._to_hz, LEADS, samples if leads == LEADS else to_standard_leads(samples, leads))
            self._out += samples.shape[1]
            self._told = True


class Cut:
    """Chunks of twelve leads at the bundle's rate -> windows of `samples`, a new one every `hop`; none spans a gap."""

    def __init__(self, samples: int, hop: int) -> None:
        self._samples = samples
        self._hop = hop
        self._held = Stretch(samples)
        self._start = 0

    @property
    def start(self) -> int:
        """Index of the first sample that a window to come may contain."""
        return self._start

    @property
    def next_end(self) -> int:
        """Where the next window ends, if no gap comes before."""
        return self._start + self._samples

    def feed(self, chunk: Chunk) -> Iterator[Window]:
        """The windows that this chunk completes."""
        if chunk.start != self._held.end:
            self._start = chunk.start
        self._held.feed(chunk)
        while self.next_end <= self._held.end:
            yield Window(self._start, chunk.rate_hz, self._held.between(self._start, self.next_end), self._held.begin)
            self._start += self._hop
