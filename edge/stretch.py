"""`Chunk`s of twelve leads at the bundle's rate in; any part of the last seconds since the last gap out."""

from __future__ import annotations

import numpy as np

from kernels.signal import LEADS, Samples

from .decode.chunk import Chunk

_SPARE = 4
"""A quarter of what is kept is the room for more: that much is written before anything is moved."""


class Stretch:
    """Consecutive samples. What was handed out is never written again, so nobody needs a copy of it."""

    def __init__(self, kept: int) -> None:
        """At least `kept` samples before the last chunk stay."""
        self.begin = 0
        """Index of the first sample after the last gap."""
        self.end = 0
        """Index of the sample after the last."""
        self._kept = kept
        self._held: Samples = np.empty((len(LEADS), 0), np.float32)
        self._filled = 0

    @property
    def first(self) -> int:
        """Index of the first sample that is still there."""
        return self.end - self._filled

    def feed(self, chunk: Chunk) -> None:
        """After a gap it begins anew."""
        if chunk.start != self.end:
            self._held, self._filled, self.begin = chunk.samples_mv, 0, chunk.start
        elif self._filled + chunk.samples_mv.shape[1] > self._held.shape[1]:
            self._make_room(chunk.samples_mv.shape[1])
        filled = self._filled + chunk.samples_mv.shape[1]
        if self._held is not chunk.samples_mv:
            self._held[:, self._filled : filled] = chunk.samples_mv
        self._filled, self.end = filled, chunk.end

    def between(self, first: int, last: int) -> Samples:
        """[12, last - first] from index `first` on, without a copy."""
        offset = self.first
        return self._held[:, first - offset : last - offset]

    def _make_room(self, samples: int) -> None:
        kept = self._held[:, max(self._filled - self._kept, 0) : self._filled]
        self._filled = kept.shape[1]
        self._held = np.empty((len(LEADS), self._filled + samples + self._kept // _SPARE), np.float32)
        self._held[:, : self._filled] = kept
