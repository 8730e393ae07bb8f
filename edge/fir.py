"""Samples of a few leads in chunks of any length in; the same bits as from `kernels.signal.PolyphaseFir`, in less time, out."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from kernels.signal import PolyphaseFir, Samples, phase_taps, ratio

Rows = npt.NDArray[np.float64]
"""[n, leads]: a shift by a sample is then a shift of one long row, whatever the number of leads."""

Taps = npt.NDArray[np.float64]

_MOST_PHASES, _FEW = 8, 8
"""More phases, as of a rate that is no round number, leave each of a short chunk fewer outputs than are worth a pass of its own."""
_MOST_PRODUCTS = 1 << 15
"""As many as the cache next to the core holds; more would have the memory allocated anew each time, too."""
_MANY = 4096
"""Products with one tap: from so many on, a call for each tap costs less than to keep the products of all."""
_AT_ONCE = 1 << 14


class StridedFir(PolyphaseFir):
    """Takes the outputs of one phase at a time, from views of the samples that are held, where its parent gathers copies.

    Each output is summed as it is there: of two leads or more over the taps in their order, of one lead pairwise.
    """

    def __init__(self, taps: Taps, step: Fraction = Fraction(1)) -> None:
        super().__init__(taps, step)
        self._rows: Rows | None = None

    def feed(self, samples_mv: Samples) -> Samples:
        """Samples [leads, n] in, the outputs [leads, m] that they complete out."""
        if samples_mv.shape[1] == 0:
            return np.empty((len(samples_mv), 0), np.float32)
        rows = self._append(samples_mv)
        return self._outputs(rows, self._held_from + len(rows) - self._half)

    def flush(self, last_mv: Samples | None = None) -> Samples:
        """The outputs of the last samples [leads, n], if any, and those for which the very last is repeated."""
        if last_mv is not None and last_mv.size:
            self._rows = self._append(last_mv)
        if self._rows is None:
            return np.empty((0, 0), np.float32)
        end = self._held_from + len(self._rows)
        return self._outputs(np.concatenate([self._rows, np.repeat(self._rows[-1:], self._half, axis=0)]), end)

    def _append(self, samples_mv: Samples) -> Rows:
        """The rows that are held and these; the first of all stands for those before it."""
        held = np.repeat(samples_mv[:, :1].T, self._half, axis=0) if self._rows is None else self._rows
        rows = np.empty((len(held) + samples_mv.shape[1], len(samples_mv)))
        rows[: len(held)] = held
        rows[len(held) :] = samples_mv.T
        return rows

    def _outputs(self, rows: Rows, end: int) -> Samples:
        """Every output that lies before input sample `end`; laid out like the parent's, as sums over the leads follow it."""
        stop = max(-(-end * self._up // self._down), self._made)
        out = np.zeros((stop - self._made, rows.shape[1]))
        sum_up = self._gather if self._up > _MOST_PHASES and len(out) < _FEW * self._up else self._stride
        busy = _busy(rows)
        if busy is None:
            sum_up(rows, out)
        else:
            of_busy = np.empty((len(out), len(busy)))
            sum_up(rows.take(busy, axis=1), of_busy)
            out[:, busy] = of_busy
        self._made = stop
        before = stop * self._down // self._up - self._half
        # A copy: a view would keep the whole chunk.
        self._rows, self._held_from = rows[before - self._held_from :].copy(), before
        return out.astype(np.float32).T

    def _gather(self, rows: Rows, out: Rows) -> None:
        """What few outputs are made of, each for itself."""
        position = np.arange(self._made, self._made + len(out)) * self._down
        first = position // self._up - self._half - self._held_from
        inputs = rows[first[:, None] + np.arange(self._taps.shape[1])]
        phase = position % self._up * len(self._taps) // self._up
        np.add.reduce(inputs * self._taps[phase][:, :, None], axis=1, out=out)

    def _stride(self, rows: Rows, out: Rows) -> None:
        leads, taps = rows.shape[1], self._taps.shape[1]
        many = leads > 1 and out.size > _MANY * self._up
        at_once = max(_AT_ONCE // leads if many else _MOST_PRODUCTS // (leads * taps), 1) * self._up
        sum_up = self._one_by_one if many else self._together
        for begin in range(0, len(out), at_once):
            block = out[begin : begin + at_once]
            for made in range(min(self._up, len(block))):
                at, phase = divmod((self._made + begin + made) * self._down, self._up)
                inputs = rows[at - self._half - self._held_from :]
                sum_up(inputs, self._taps[phase * len(self._taps) // self._up], block[made :: self._up])

    def _together(self, inputs: Rows, taps: Taps, out: Rows) -> None:
        """All products of some outputs [n, leads] of one phase, and then their sums."""
        (count, leads), (row, one) = out.shape, inputs.strides
        if leads == 1:
            windows: Rows = np.ndarray((count, len(taps)), np.float64, inputs, strides=(row * self._down, one))
            np.add.reduce(windows * taps, axis=1, out=out[:, 0])
            return
        # At the same rate the leads lie in one row without a hole.
        shape, step = ((1, out.size), one) if self._down == 1 else ((leads, count), row * self._down)
        view: Rows = np.ndarray((len(taps), *shape), np.float64, inputs, strides=(row, one, step))
        # Laid out anew, with the taps outermost: else NumPy sums them pairwise where that is how the view lies in memory.
        products = np.multiply(view, taps[:, None, None], order="C")
        out[...] = np.add.reduce(products, axis=0).T.reshape(out.shape)

    def _one_by_one(self, inputs: Rows, taps: Taps, out: Rows) -> None:
        """The products of many outputs [n, leads] of one phase with one tap after another, each added to the last."""
        leads, held = inputs.shape[1], len(out) + (len(taps) - 1) // self._down
        # Every `down`-th input: of these, the outputs take one more with each tap.
        lanes = [np.ascontiguousarray(inputs[first :: self._down][:held]).ravel() for first in range(min(self._down, len(taps)))]
        shifted = (lanes[i % self._down][i // self._down * leads :][: out.size] for i in range(len(taps)))
        total, product = next(shifted) * taps[0], np.empty(out.size)
        for inputs_of, tap in zip(shifted, taps[1:].tolist(), strict=True):
            total += np.multiply(inputs_of, tap, out=product)
        out[...] = total.reshape(out.shape)


def _busy(rows: Rows) -> npt.NDArray[np.intp] | None:
    """The leads that are not zero throughout, as are those that a source does not have; None where all are to be summed.

    Two at least, as one alone would be summed in another order.
    """
    if rows.shape[1] <= 2 or rows[-1].all():
        return None
    busy = np.flatnonzero(rows.any(axis=0))
    return busy if len(busy) > 1 else np.union1d(busy, (0, 1))


def resample(samples_mv: Samples, rate_hz: float, to_hz: float) -> Samples:
    """What `kernels.signal.resample` gives, in little memory."""
    whole = resampler(rate_hz, to_hz)
    return np.concatenate([whole.feed(samples_mv), whole.flush()], axis=1)


def resampler(rate_hz: float, to_hz: float) -> PolyphaseFir:
    """What `kernels.signal.Resampler` is."""
    return StridedFir(phase_taps(rate_hz, to_hz), ratio(rate_hz, to_hz))
