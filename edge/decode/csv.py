"""Comma-, semicolon-, tab- or space-separated text, a column a lead, in any cut of its bytes in; `Chunk`s out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError
from kernels.signal import standard_lead

from .chunk import Chunk, finite, name_leads

_TIME_NAMES = {"t": 1.0, "time": 1.0, "time_s": 1.0, "seconds": 1.0, "time_ms": 1e-3, "ms": 1e-3}
_ROWS_FOR_RATE = 500
_CUSTOMARY_HZ = (100, 125, 128, 130, 200, 250, 256, 300, 360, 400, 500, 512, 1000)

_LATE = 0.9
"""Samples behind its place from which a row is after a gap and not just late."""
_FOLLOW = 0.02
"""The share of each row's lateness by which the clock is followed, so that drift is no gap."""
_FARTHEST_S = 60.0
"""A time stamp farther ahead, or one that goes back, counts only if the next row goes on from it."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What the operator says of a file that does not say it itself."""

    leads: tuple[str, ...] = ()
    rate_hz: float | None = None
    mv_per_unit: float = 1.0


@dataclass(frozen=True, slots=True)
class _Layout:
    leads: tuple[str, ...]
    separator: str | None
    """None for blanks."""
    time_unit_s: float | None
    """None without a time column."""

    @property
    def width(self) -> int:
        return len(self.leads) + (self.time_unit_s is not None)


class _Clock:
    """Time stamps of rows -> their sample indices; None for a row that has no place."""

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._origin_s: float | None = None
        self._next = 0
        self._suspect_s: float | None = None

    def place(self, time_s: float) -> int | None:
        """The index of the next row. Lost rows are counted, late ones are not a gap."""
        if not math.isfinite(time_s):
            return None
        if self._origin_s is None:
            self._origin_s = time_s
        ahead = (time_s - self._origin_s) * self._rate_hz - self._next
        if ahead <= -_LATE or ahead > _FARTHEST_S * self._rate_hz:
            return self._place_suspect(time_s, ahead)
        self._suspect_s = None
        lost = round(ahead) if ahead >= _LATE else 0
        self._origin_s += _FOLLOW * (ahead - lost) / self._rate_hz
        self._next += lost + 1
        return self._next - 1

    def _place_suspect(self, time_s: float, ahead: float) -> int | None:
        """A restarted clock or a long pause, once a second row confirms it."""
        before, self._suspect_s = self._suspect_s, time_s
        if before is None or not 0 < (time_s - before) * self._rate_hz < 1.5:
            return None
        self._next += max(round(ahead), 1)
        self._origin_s = time_s - self._next / self._rate_hz
        self._suspect_s = None
        self._next += 1
        return self._next - 1


class CsvDecoder:
    """Rows of numbers with an optional header line and an optional time column, which gives rate and gaps.

    A cell that is empty or no finite number becomes NaN. A row of another length is NaN throughout, or,
    where a time column shows the gap, left out like a row whose time is out of order; `skipped` counts
    both. Raises ConfigError where leads or rate stay unknown.
    """

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._rate_hz = columns.rate_hz
        self._layout: _Layout | None = None
        self._clock: _Clock | None = None
        self._held = b""
        self._rows: list[list[float]] = []
        self._any_number = False
        self._next = 0
        self.skipped = 0

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The rows that these bytes complete."""
        *lines, self._held = (self._held + data).split(b"\n")
        self._read(lines)
        if self._clock is not None or not self._timed or len(self._rows) >= _ROWS_FOR_RATE:
            yield from self._emit()

    def flush(self) -> Iterator[Chunk]:
        """A last line without its end, and the rows held back to learn the rate."""
        self._read([self._held])
        self._held = b""
        yield from self._emit()
        if self._layout is None or not self._any_number:
            raise ConfigError("holds no row of numbers; give a column a lead, with a decimal point, and a header line or --leads")

    @property
    def decoded(self) -> int:
        """Index after the last sample so far; lost rows are counted too."""
        return self._next

    @property
    def _timed(self) -> bool:
        return self._layout is not None and self._layout.time_unit_s is not None

    def _read(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            text = line.decode("utf-8-sig", errors="replace").strip()
            if text and not text.startswith("#"):
                self._read_line(text)

    def _read_line(self, text: str) -> None:
        if self._layout is None:
            self._layout, is_header = self._learn_layout(text)
            if is_header:
                return
        row = [_number(cell) for cell in _cells(text, self._layout.separator)]
        if len(row) == self._layout.width:
            self._any_number = self._any_number or any(math.isfinite(value) for value in row)
            self._rows.append(row)
            return
        self.skipped += 1
        if not self._timed:
            self._rows.append([math.nan] * self._layout.width)

    def _learn_layout(self, text: str) -> tuple[_Layout, bool]:
        """The columns, and whether the first line is a header."""
        separator = max(",;\t", key=text.count) if any(mark in text for mark in ",;\t") else None
        cells = _cells(text, separator)
        is_header = not any(math.isfinite(_number(cell)) for cell in cells) and any(_is_word(cell) for cell in cells)
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
        rows, self._rows = np.array(self._rows, np.float64), []
        if self._layout.time_unit_s is None:
            yield self._chunk(self._next, rows)
            return
        time_s = rows[:, 0] * self._layout.time_unit_s
        if self._clock is None:
            self._rate_hz = _learn_rate(time_s[:_ROWS_FOR_RATE], self._rate_hz)
            self._clock = _Clock(self._rate_hz)
        placed = [(place, row) for row, place in enumerate(map(self._clock.place, time_s.tolist())) if place is not None]
        self.skipped += len(rows) - len(placed)
        for run in _runs(placed):
            yield self._chunk(run[0][0], rows[[row for _, row in run], 1:])

    def _chunk(self, start: int, rows: npt.NDArray[np.float64]) -> Chunk:
        assert self._layout is not None and self._rate_hz is not None
        samples = finite(rows.T * self._columns.mv_per_unit)
        self._next = start + samples.shape[1]
        return Chunk(start, self._rate_hz, self._layout.leads, samples)


def _runs(placed: Sequence[tuple[int, int]]) -> Iterator[Sequence[tuple[int, int]]]:
    """(index, row) pairs, cut where an index does not follow the one before."""
    begin = 0
    for i in range(1, len(placed) + 1):
        if i == len(placed) or placed[i][0] != placed[i - 1][0] + 1:
            yield placed[begin:i]
            begin = i


def _learn_rate(time_s: npt.NDArray[np.float64], given_hz: float | None) -> float:
    """From rows without a gap; the customary rate where the steps do not tell it from that. Must agree with what was given."""
    time_s = time_s[np.isfinite(time_s)]
    step = np.diff(time_s)
    rising = step[step > 0]
    if not rising.size:
        raise ConfigError("the time column does not rise; leave it out and give the sampling rate, for example --rate 250")
    if (step == 0).mean() > 0.01:
        raise ConfigError("rows share a time, so the time column is too coarse; leave it out and give the rate, for example --rate 250")
    steady = rising[rising < 1.5 * np.median(rising) + 2e-3]
    mean_s = float(steady.mean())
    tolerance = 5e-4 + float(np.abs(steady - mean_s).max()) / float(steady.sum())
    near = [float(hz) for hz in _CUSTOMARY_HZ if abs(hz * mean_s - 1) < tolerance]
    if given_hz is not None and abs(given_hz * mean_s - 1) > 0.01:
        raise ConfigError(f"--rate {given_hz:g} contradicts the time column, which runs at {1 / mean_s:g} Hz; leave --rate out")
    return given_hz or (near[0] if near else round(1 / mean_s, 3))


def _cells(text: str, separator: str | None) -> list[str]:
    """A decimal comma is read where the comma does not separate."""
    cells = [cell.strip().strip("\"'") for cell in text.split(separator)]
    return cells if separator == "," else [cell.replace(",", ".") for cell in cells]


def _is_word(cell: str) -> bool:
    return any(letter.isalpha() for letter in cell) and cell.lower() != "nan"


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
