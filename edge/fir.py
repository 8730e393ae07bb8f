"""Samples of a few leads in short chunks in; the same bits as from `kernels.signal.PolyphaseFir`, in less time, out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from kernels.signal import PolyphaseFir, Samples, phase_taps, ratio

_MOST_PHASES = 8
"""More, as of a rate that is no round number, leave each phase too few outputs to be worth a pass of its own."""
_MOST_PRODUCTS = 1 << 15
"""As many as the cache next to the core holds; more would have the memory allocated anew each time, too."""


class StridedFir(PolyphaseFir):
    """Takes the outputs of one phase at a time, from views of the samples that are held, where its parent gathers copies.

    Each output is summed as it is there: of two leads or more over the taps in their order, of one lead pairwise.
    """

    def _emit(self, end: int) -> Samples:
        if self._up > _MOST_PHASES:
            return super()._emit(end)
        assert self._held is not None
        leads, stop = len(self._held), max(-(-end * self._up // self._down), self._made)
        out = np.empty((leads, stop - self._made), order="F")  # as its parent's: sums over the leads follow it
        most = max(_MOST_PRODUCTS // (leads * self._taps.shape[1]), 1) * self._up
        for begin in range(self._made, stop, most):
            for made in range(begin, min(begin + self._up, stop)):
                part = out[:, made - self._made : min(begin + most, stop) - self._made : self._up]
                self._sum(made, part)
        self._made = stop
        self._drop(stop * self._down // self._up - self._half)
        return out.astype(np.float32)

    def _sum(self, made: int, out: npt.NDArray[np.float64]) -> None:
        """[leads, n]: this output and those that follow it in the same phase."""
        assert self._held is not None
        at, phase = divmod(made * self._down, self._up)
        taps = self._taps[phase * len(self._taps) // self._up]
        (leads, count), (row, one) = out.shape, self._held.strides
        offset = (at - self._half - self._held_from) * one
        if leads == 1:
            shape, strides = (1, count, len(taps)), (row, one * self._down, one)
            np.add.reduce(np.ndarray(shape, np.float64, self._held, offset, strides) * taps, axis=2, out=out)
        else:
            shape, strides = (len(taps), leads, count), (one, row, one * self._down)
            # Laid out anew, with the taps outermost: else NumPy sums them pairwise where that is how the view lies in memory.
            products = np.multiply(np.ndarray(shape, np.float64, self._held, offset, strides), taps[:, None, None], order="C")
            np.add.reduce(products, axis=0, out=out)


def resample(samples_mv: Samples, rate_hz: float, to_hz: float) -> Samples:
    """What `kernels.signal.resample` gives, in little memory."""
    whole = resampler(rate_hz, to_hz)
    return np.concatenate([whole.feed(samples_mv), whole.flush()], axis=1)


def resampler(rate_hz: float, to_hz: float) -> PolyphaseFir:
    """What `kernels.signal.Resampler` is."""
    return StridedFir(phase_taps(rate_hz, to_hz), ratio(rate_hz, to_hz))
