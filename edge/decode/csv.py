"""Comma- or tab-separated text, a column a lead, in any cut of its bytes in; `Chunk`s out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError

from .chunk import Chunk, name_leads, standard_lead

_TIME_NAMES = {"t": 1.0, "time": 1.0, "time_s": 1.0, "seconds": 1.0, "time_ms": 1e-3, "ms": 1e-3}
_ROWS_FOR_RATE = 500
_CUSTOMARY_HZ = (100, 125, 128, 130, 200, 250, 256, 300, 360, 400, 500, 512, 1000)


@dataclass(frozen=True, slots=True)
class Columns:
    """What the operator says of a file that does not say it itself."""

    leads: tuple[str, ...] = ()
    rate_hz: float | None = None
    mv_per_unit: float = 1.0


@dataclass(frozen=True, slots=True)
class _Layout:
    leads: tuple[str, ...]
    separator: str
    time_unit_s: float | None
    """None without a time column."""


class CsvDecoder:
    """Rows of numbers with an optional header line and an optional time column, which gives rate and gaps.

    A cell that is empty or no number becomes NaN. A row of another length, or one whose time does not
    rise, is left out and counted in `skipped`. Raises ConfigError from the first rows on, where leads or
    rate stay unknown.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._rate_hz = columns.rate_hz
        self._layout: _Layout | None = None
        self._held = b""
        self._rows: list[list[float]] = []
        self._last_time: float | None = None
        self._next = 0
        self.skipped = 0

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The rows that these bytes complete."""
        *lines, self._held = (self._held + data).split(b"\n")
        self._read(lines)
        if self._rate_hz is not None or len(self._rows) >= _ROWS_FOR_RATE:
            yield from self._emit()

    def flush(self) -> Iterator[Chunk]:
        """A last line without its end, and the rows held back to learn the rate."""
        self._read([self._held])
        self._held = b""
        yield from self._emit()

    @property
    def decoded(self) -> int:
        """Index after the last sample so far; lost rows are counted too."""
        return self._next

    def _read(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            text = line.decode("utf-8", errors="replace").strip()
            if text and not text.startswith("#"):
                self._read_line(text)

    def _read_line(self, text: str) -> None:
        if self._layout is None:
            self._layout, is_header = self._learn_layout(text)
            if is_header:
                return
        row = [_number(cell) for cell in text.split(self._layout.separator)]
        if len(row) == len(self._layout.leads) + (self._layout.time_unit_s is not None):
            self._rows.append(row)
        else:
            self.skipped += 1

    def _learn_layout(self, text: str) -> tuple[_Layout, bool]:
        """The columns, and whether the first line is a header."""
        separator = max(",;\t", key=text.count)
        cells = [cell.strip().strip('"') for cell in text.split(separator)]
        is_header = any(np.isnan(_number(cell)) for cell in cells if cell)
        time_unit_s = _TIME_NAMES.get(cells[0].lower()) if is_header else None
        names = cells if time_unit_s is None else cells[1:]
        if not self._columns.leads and not (is_header and any(standard_lead(name) for name in names)):
            raise ConfigError(f"no lead is named at the head of the {len(names)} columns; name them in order, for example --leads I,II")
        if time_unit_s is None and self._rate_hz is None:
            raise ConfigError("the file has no time column; give its sampling rate, for example --rate 250")
        return _Layout(name_leads(names, self._columns.leads), separator, time_unit_s), is_header

    def _emit(self) -> Iterator[Chunk]:
        if self._layout is None or not self._rows:
            return
        rows = np.array(self._rows, np.float64)
        self._rows = []
        if self._layout.time_unit_s is None:
            yield self._chunk(rows)
            return
        time_s = rows[:, 0] * self._layout.time_unit_s
        self._rate_hz = self._rate_hz or _rate(time_s)
        for lost, run in self._runs(time_s):
            self._next += lost
            yield self._chunk(rows[run, 1:])

    def _runs(self, time_s: npt.NDArray[np.float64]) -> Iterator[tuple[int, list[int]]]:
        """Rows that follow each other without a gap, behind the number of samples lost before them."""
        assert self._rate_hz is not None
        lost, run = 0, list[int]()
        for row, now in enumerate(time_s.tolist()):
            step = 1.0 if self._last_time is None else (now - self._last_time) * self._rate_hz
            if not step > 0:
                self.skipped += 1
                continue
            self._last_time = now
            if step > 1.5 and run:
                yield lost, run
                run = []
            lost = round(step) - 1 if step > 1.5 else (lost if run else 0)
            run.append(row)
        if run:
            yield lost, run

    def _chunk(self, rows: npt.NDArray[np.float64]) -> Chunk:
        assert self._layout is not None and self._rate_hz is not None
        samples = (rows.T * self._columns.mv_per_unit).astype(np.float32)
        self._next += samples.shape[1]
        return Chunk(self._next - samples.shape[1], self._rate_hz, self._layout.leads, samples)


def _rate(time_s: npt.NDArray[np.float64]) -> float:
    """The mean step of rows without a gap, taken to the customary rate where it lies within half a percent."""
    step = np.diff(time_s)
    step = step[step < 1.5 * np.median(step[step > 0])] if (step > 0).any() else step[:0]
    mean_s = step[step >= 0].mean() if step.size else 0.0
    if not mean_s > 0:
        raise ConfigError("the time column does not rise; give the sampling rate, for example --rate 250")
    near = [float(hz) for hz in _CUSTOMARY_HZ if abs(hz * mean_s - 1) < 5e-3]
    return near[0] if near else round(1 / mean_s, 3)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")
