"""The chunks of a recording in; the whole of it, thinned, of one or two leads, out, unless it is too long for a page."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from kernels.signal import LEADS

from .decode.chunk import Chunk
from .strip import Strip

LONGEST_S = 31 * 60.0
"""Half an hour, as many recordings last, and a little more."""

MOST_LEADS = 2
MOST_HZ = 130.0
MV_PER_DIGIT = 0.0025
"""So that what it shows may drift by 80 mV."""

_PREFERRED = ("II", "V5", "V1", "I", "V2")
_NONE = -32768

_Digits = npt.NDArray[np.int16]


class Disclosure:
    """Collects while a replay runs, about two megabytes at most. Another rate or other leads end it."""

    def __init__(self) -> None:
        self._first: Chunk | None = None
        self._rows: list[int] = []
        self._together = 1
        self._offset_mv = np.zeros((0, 1), np.float32)
        self._blocks: list[_Digits] = []
        self._waiting = np.zeros((0, 0), np.float32)
        """The samples that are not a whole digit yet."""
        self._expected = 0
        self._is_over = False

    def add(self, chunk: Chunk | None) -> None:
        """One step of `replay`."""
        if chunk is None or self._is_over:
            return
        first = self._first or self._begin(chunk)
        if self._rows and chunk.end / chunk.rate_hz <= LONGEST_S and (chunk.rate_hz, chunk.leads) == (first.rate_hz, first.leads):
            self._append(chunk)
        else:
            self._is_over = True
            self._blocks.clear()

    def strip(self) -> Strip | None:
        """NaN in gaps. None of a recording that is too long, or whose leads change."""
        if self._first is None or self._is_over or not self._blocks:
            return None
        digits = np.concatenate(self._blocks, axis=1)
        samples = np.where(digits == _NONE, np.float32(np.nan), digits * np.float32(MV_PER_DIGIT) + self._offset_mv)
        leads = tuple(self._first.leads[row] for row in self._rows)
        return Strip(0.0, self._first.rate_hz / self._together, leads, samples)

    def _begin(self, chunk: Chunk) -> Chunk:
        rank = {lead: place for place, lead in enumerate(_PREFERRED)}
        there = [row for row, lead in enumerate(chunk.leads) if lead in LEADS]
        self._rows = sorted(sorted(there, key=lambda row: rank.get(chunk.leads[row], len(LEADS)))[:MOST_LEADS])
        self._first, self._together = replace(chunk, samples_mv=chunk.samples_mv[:, :0]), math.ceil(chunk.rate_hz / MOST_HZ)
        self._offset_mv = np.array([[_middle(chunk.samples_mv[row])] for row in self._rows], np.float32)
        self._waiting = np.zeros((len(self._rows), 0), np.float32)
        return self._first

    def _append(self, chunk: Chunk) -> None:
        lost = np.full((len(self._rows), max(chunk.start - self._expected, 0)), np.nan, np.float32)
        samples = np.concatenate([self._waiting, lost, chunk.samples_mv[self._rows]], axis=1)
        whole = samples.shape[1] // self._together * self._together
        self._waiting, self._expected = samples[:, whole:].copy(), chunk.end
        means = samples[:, :whole].reshape(len(self._rows), -1, self._together).mean(axis=2) - self._offset_mv
        digits = np.rint(means / MV_PER_DIGIT).clip(_NONE + 1, -_NONE - 1)
        self._blocks.append(np.where(np.isnan(digits), _NONE, digits).astype(np.int16))


def _middle(lead_mv: npt.NDArray[np.float32]) -> float:
    there = lead_mv[~np.isnan(lead_mv)]
    return float(np.median(there)) if there.size else 0.0
