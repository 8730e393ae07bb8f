"""Samples of many sources in; their sliding windows out, by the arithmetic of resident.cu in NumPy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .signal import LEADS, Samples, phase_taps, ratio

Due = Sequence[tuple[int, int]]
"""Pairs of a source and the output sample that its window ends before."""

SOURCE = np.dtype(
    [(name, np.int64) for name in ("ring_at", "taps_at", "up", "down")]
    + [(name, np.int32) for name in ("capacity", "leads", "half", "phases")]
    + [("row", np.int32, (len(LEADS),))]
)
"""What the kernel knows of a source, as resident.cu lays it out."""
ROW_FIELDS = 5
"""source, start, before, fed, fresh_at: 64 bits each."""
ABSENT, DERIVED = -1, -2

_LIMB_FROM_I_AND_II = ((-1.0, 1.0), (-0.5, -0.5), (1.0, -0.5), (-0.5, 1.0))
_NO_WINDOW = -1


@dataclass(frozen=True, slots=True)
class Source:
    """What one device measures; leads outside `LEADS` are left out."""

    leads: tuple[str, ...]
    rate_hz: float


class Streams(ABC):
    """What is known of the streams of all sources, by the number of each: what came, what is held, what is due.

    Samples are counted from the beginning of a stream, in 64 bits. The first stands for the unseen before it, and
    in a stream that `flush` has ended the last for the unseen after it, as in `kernels.signal.PolyphaseFir`.
    Output samples are at `to_hz`; windows have `samples` of them. `slack_s` is how far a source may be ahead of the
    end of a window that is due; more than that is held from no source.
    """

    def __init__(self, sources: Sequence[Source], to_hz: float, samples: int, slack_s: float = 2.0) -> None:
        self.samples = samples
        self._sources = tuple(sources)
        self._rows = [_rows_of(source) for source in sources]
        self._table, self._taps = _tables(sources, self._rows, to_hz, samples, slack_s)
        self._ring_samples = int((self._table["leads"].astype(np.int64) * self._table["capacity"]).sum())
        self._room = [max(round(slack_s * source.rate_hz), 1) for source in sources]
        self._fed = np.zeros(len(sources), np.int64)
        self._before = np.zeros(len(sources), np.int64)
        self._ended = np.zeros(len(sources), np.bool_)
        self._waiting: dict[int, list[Samples]] = {}

    def feed(self, source: int, samples_mv: Samples) -> None:
        """The next samples [leads, n] of a source. Raises ValueError for another number of leads, or after `flush`."""
        if self._ended[source]:
            raise ValueError(f"the stream of source {source} has ended; restart it")
        if len(samples_mv) != len(self._sources[source].leads):
            raise ValueError(f"source {source} has {len(self._sources[source].leads)} leads, not {len(samples_mv)}")
        while samples_mv.shape[1]:
            taken = self._take(source, samples_mv)
            samples_mv = samples_mv[:, taken:]
            if samples_mv.shape[1]:
                self._make_room()

    def flush(self, source: int) -> None:
        """The stream ends here, as at a gap: what was still inside the filter comes out."""
        self._ended[source] = True

    def restart(self, source: int) -> None:
        """A new stream begins, as after a gap; windows of the old one that were not gathered are lost."""
        self._fed[source] = self._before[source] = 0
        self._ended[source] = False
        self._waiting.pop(source, None)

    def ready(self) -> npt.NDArray[np.int64]:
        """How many output samples of each stream there are: a window may end here and not later."""
        end = self._fed - np.where(self._ended, 0, self._table["half"])
        made: npt.NDArray[np.int64] = np.maximum(-(-end * self._table["up"] // self._table["down"]), 0)
        return made

    @abstractmethod
    def _make_room(self) -> None:
        """A tick of which no window is due."""

    def _take(self, source: int, samples_mv: Samples) -> int:
        """A copy of as many as there is room for."""
        room = self._room[source] - int(self._fed[source] - self._before[source])
        part = np.asarray(samples_mv[self._rows[source], :room], np.float32)
        if part.shape[1]:
            self._waiting.setdefault(source, []).append(part)
            self._fed[source] += part.shape[1]
        return part.shape[1]

    def _stage_bytes(self, windows: int) -> int:
        """What a tick may have to upload."""
        waiting = sum(room * len(rows) for room, rows in zip(self._room, self._rows, strict=True))
        return 8 * ROW_FIELDS * (windows + len(self._sources)) + 4 * waiting

    def _stage(self, due: Due, memory: npt.NDArray[np.uint8]) -> tuple[int, int]:
        """Write the rows of a tick and then its new samples; how many rows, and how many bytes. Raises ValueError."""
        windows = self._checked(np.array(due, np.int64).reshape(-1, 2))
        touched = list(self._waiting)
        rows = np.empty((len(windows) + len(touched), ROW_FIELDS), np.int64)
        source = rows[:, 0] = np.concatenate([windows[:, 0], np.array(touched, np.int64)])
        rows[:, 1] = _NO_WINDOW
        rows[: len(windows), 1] = windows[:, 1] - self.samples
        rows[:, 2], rows[:, 3] = self._before[source], self._fed[source]
        fresh_at, end = self._lay(memory[rows.nbytes :].view(np.float32))
        rows[:, 4] = fresh_at[source]
        memory[: rows.nbytes].view(np.int64)[:] = rows.ravel()
        self._before[touched] = self._fed[touched]
        self._waiting.clear()
        return len(rows), rows.nbytes + 4 * end

    def _lay(self, memory: Samples) -> tuple[npt.NDArray[np.int64], int]:
        """The waiting samples one source after the other, [leads, n] each: where each begins, and where all end."""
        at, end = np.zeros(len(self._sources), np.int64), 0
        for source, parts in self._waiting.items():
            shape = len(parts[0]), sum(part.shape[1] for part in parts)
            at[source], begin, end = end, end, end + shape[0] * shape[1]
            np.concatenate(parts, axis=1, out=memory[begin:end].reshape(shape))
        return at, end

    def _checked(self, due: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Raises ValueError unless each window is whole, and still held."""
        of, start = self._table[due[:, 0]], due[:, 1] - self.samples
        first = np.maximum(start * of["down"] // of["up"] - of["half"], 0)
        late = first < self._fed[due[:, 0]] - of["capacity"]
        early = due[:, 1] > self.ready()[due[:, 0]]
        for wrong, why in ((start < 0, "begins before its stream"), (early, "is not complete"), (late, "is no longer held")):
            if wrong.any():
                source, end = due[wrong][0]
                raise ValueError(f"the window of source {source} that ends at {end} {why}")
        return due


class Twin(Streams):
    """What the GPU does, on the CPU: the oracle of the kernel, itself tested against `kernels.signal`."""

    def __init__(self, sources: Sequence[Source], to_hz: float, samples: int, slack_s: float = 2.0) -> None:
        super().__init__(sources, to_hz, samples, slack_s)
        self._rings = np.zeros(self._ring_samples, np.float32)

    def gather(self, due: Due) -> Samples:
        """The windows [due, 12, samples]. Raises ValueError where one is not complete, or no longer held."""
        memory = np.zeros(self._stage_bytes(len(due)), np.uint8)
        rows, _ = self._stage(due, memory)
        split = 8 * ROW_FIELDS * rows
        fresh = memory[split:].view(np.float32)
        for source, _, before, fed, at in memory[:split].view(np.int64).reshape(rows, ROW_FIELDS)[len(due) :]:
            self._keep(self._table[source], before, fed, fresh[at:])
        return np.array([self._window(source, end - self.samples) for source, end in due], np.float32).reshape(-1, len(LEADS), self.samples)

    def _make_room(self) -> None:
        self.gather(())

    def _keep(self, of: Any, before: int, fed: int, fresh: Samples) -> None:
        places = np.arange(before, fed) % of["capacity"]
        self._ring(of)[:, places] = fresh[: of["leads"] * (fed - before)].reshape(of["leads"], fed - before)

    def _window(self, source: int, start: int) -> Samples:
        of = self._table[source]
        position = np.arange(start, start + self.samples) * of["down"]
        count = 2 * of["half"] + 1
        at = np.clip((position // of["up"] - of["half"])[:, None] + np.arange(count), 0, self._fed[source] - 1)
        phase = position % of["up"] * of["phases"] // of["up"]
        taps = self._taps[of["taps_at"] :][: of["phases"] * count].reshape(of["phases"], count)[phase]
        measured = (self._ring(of)[:, at % of["capacity"]] * taps).sum(axis=-1, dtype=np.float32)
        return _standard(measured, of["row"])

    def _ring(self, of: Any) -> Samples:
        end = of["ring_at"] + of["leads"] * of["capacity"]
        ring: Samples = self._rings[of["ring_at"] : end].reshape(of["leads"], of["capacity"])
        return ring


def _standard(measured: Samples, row: npt.NDArray[np.int32]) -> Samples:
    window = np.full((len(LEADS), measured.shape[1]), np.nan, np.float32)
    window[row >= 0] = measured[row[row >= 0]]
    for lead, (of_i, of_ii) in enumerate(_LIMB_FROM_I_AND_II, start=2):
        if row[lead] == DERIVED:
            window[lead] = np.float32(of_i) * window[0] + np.float32(of_ii) * window[1]
    return window


def _rows_of(source: Source) -> list[int]:
    """Which of the leads that a source sends are kept, in the order of the ring."""
    return sorted({name: i for i, name in enumerate(source.leads) if name in LEADS}.values())


def _leads_of(source: Source, rows: list[int]) -> list[int]:
    """For each standard lead its row of the ring, `ABSENT` or `DERIVED`."""
    place = {source.leads[row]: i for i, row in enumerate(rows)}
    limb = DERIVED if {"I", "II"} <= set(place) else ABSENT
    return [place.get(lead, limb if lead in LEADS[2:6] else ABSENT) for lead in LEADS]


def _tables(
    sources: Sequence[Source], rows: list[list[int]], to_hz: float, samples: int, slack_s: float
) -> tuple[npt.NDArray[Any], Samples]:
    """The table of `SOURCE`s, and the taps of all their rates one after the other."""
    table = np.zeros(len(sources), SOURCE)
    taps = {source.rate_hz: phase_taps(source.rate_hz, to_hz) for source in sources}
    taps_at = dict(zip(taps, np.cumsum([0, *(each.size for each in taps.values())]), strict=False))
    ring_at = 0
    for number, (source, kept) in enumerate(zip(sources, rows, strict=True)):
        step, (phases, count) = ratio(source.rate_hz, to_hz), taps[source.rate_hz].shape
        spanned = -(-samples * step.numerator // step.denominator) + count
        capacity = spanned + max(round(slack_s * source.rate_hz), 1)
        wide = ring_at, taps_at[source.rate_hz], step.denominator, step.numerator
        table[number] = *wide, capacity, len(kept), count // 2, phases, _leads_of(source, kept)
        ring_at += len(kept) * capacity
    return table, np.concatenate([each.ravel() for each in taps.values()]).astype(np.float32)
