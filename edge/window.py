"""`Chunk`s at a source's rate in; the twelve standard leads at the bundle's rate, and `Window`s cut from them, out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kernels.signal import LEADS, Resampler, Samples, to_standard_leads

from .decode.chunk import Chunk


@dataclass(frozen=True, slots=True)
class Window:
    """What a bundle scores: consecutive samples of all twelve leads."""

    start: int
    """Index of the first sample at `rate_hz`."""
    rate_hz: float
    samples_mv: Samples
    """[12, n]; NaN where a lead is absent or off."""

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
        self._resampler: Resampler | None = None
        self._last: Chunk | None = None
        self._out: int | None = None
        self._skip = 0

    def feed(self, chunk: Chunk) -> Iterator[Chunk]:
        """What this chunk completes; after a gap first what was still inside the filter."""
        if not chunk.follows(self._last):
            yield from self.flush()
            self._restart(chunk)
        self._last = chunk
        assert self._resampler is not None
        yield from self._emit(self._resampler.feed(chunk.without_loose()))

    def flush(self) -> Iterator[Chunk]:
        """The tail of the filter, at a gap or at the end."""
        if self._resampler is not None:
            yield from self._emit(self._resampler.flush())
        self._resampler, self._last = None, None

    def _restart(self, chunk: Chunk) -> None:
        """A gap too short to show at the lower rate costs a sample or two after it, so that no window closes over it."""
        begun = round(chunk.start / chunk.rate_hz * self._to_hz)
        earliest = begun if self._out is None else self._out + 1
        self._skip = max(earliest - begun, 0)
        self._out = begun + self._skip
        self._resampler = Resampler(chunk.rate_hz, self._to_hz)

    def _emit(self, samples: Samples) -> Iterator[Chunk]:
        skipped = min(self._skip, samples.shape[1])
        self._skip -= skipped
        samples = samples[:, skipped:]
        if samples.size:
            assert self._out is not None and self._last is not None
            yield Chunk(self._out, self._to_hz, LEADS, to_standard_leads(samples, self._last.leads))
            self._out += samples.shape[1]


class Cut:
    """Chunks of twelve leads at the bundle's rate -> windows of `samples`, a new one every `hop`; none spans a gap."""

    def __init__(self, samples: int, hop: int) -> None:
        self._samples = samples
        self._hop = hop
        self._held: Samples = np.empty((len(LEADS), 0), np.float32)
        self._start = 0

    @property
    def start(self) -> int:
        """Index of the first sample that a window to come may contain."""
        return self._start

    def feed(self, chunk: Chunk) -> Iterator[Window]:
        """The windows that this chunk completes."""
        if chunk.start != self._start + self._held.shape[1]:
            self._held, self._start = chunk.samples_mv, chunk.start
        else:
            self._held = np.concatenate([self._held, chunk.samples_mv], axis=1)
        offset = 0
        while offset + self._samples <= self._held.shape[1]:
            yield Window(self._start + offset, chunk.rate_hz, self._held[:, offset : offset + self._samples])
            offset += self._hop
        self._held = self._held[:, offset:]
        self._start += offset
