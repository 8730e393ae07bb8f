"""`Chunk`s of twelve leads at the bundle's rate in; the `Strip` before any moment, as evidence for an alert, out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernels.signal import LEADS, Samples

from .decode.chunk import Chunk
from .stretch import Stretch

STRIP_S = 10.0


@dataclass(frozen=True, slots=True)
class Strip:
    """A few seconds of what the source's leads showed."""

    start_s: float
    rate_hz: float
    leads: tuple[str, ...]
    samples_mv: Samples
    """[leads, n]; NaN where there is no signal."""

    @property
    def end_s(self) -> float:
        """Stream time after the last sample."""
        return self.start_s + self.samples_mv.shape[1] / self.rate_hz


@dataclass(frozen=True, slots=True)
class Tail:
    """The last samples before a moment, not yet copied."""

    start: int
    rate_hz: float
    samples_mv: Samples
    """[12, n]"""

    def strip(self) -> Strip:
        """A copy, without the leads that the source does not have; the signal as it came, however bad."""
        there = [i for i, lead in enumerate(self.samples_mv) if not np.isnan(lead).all()]
        leads = tuple(LEADS[i] for i in there)
        return Strip(round(self.start / self.rate_hz, 6), self.rate_hz, leads, self.samples_mv[there].copy())


class Recent:
    """The last ten seconds since the last gap."""

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._most = round(STRIP_S * rate_hz)
        self._held = Stretch(self._most)

    def feed(self, chunk: Chunk) -> None:
        """What came; moments up to its end may be asked for next."""
        self._held.feed(chunk)

    @property
    def end(self) -> int:
        """Index of the sample after the last."""
        return self._held.end

    def before(self, end: int) -> Tail:
        """Up to ten seconds that end before this index, which lies in the last chunk or at its end."""
        held = self._held
        last = min(max(end, held.first), held.end)
        first = max(last - self._most, held.first)
        return Tail(first, self._rate_hz, held.between(first, last))
