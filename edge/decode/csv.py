"""Comma-, semicolon-, tab- or space-separated text, a column a lead, in any cut of its bytes in; `Chunk`s out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError
from kernels.signal import standard_lead

from .chunk import Chunk, finite, name_leads
from .wfdb import FASTEST_HZ, mv_scale

_TIME = re.compile(r"(elapsed[ _]*)?(t|time|time[ _]*stamp|s|sec|seconds|ms|milliseconds)[ _]*[(\[]?(s|sec|seconds|ms|milliseconds)?[)\]]?")
_ROWS_FOR_RATE = 500
_CUSTOMARY_HZ = (100, 125, 128, 130, 200, 250, 256, 300, 360, 400, 500, 512, 1000)

_LATE = 0.9
"""So many samples behind its place a row is after a gap."""
_LATE_S = 1e-3
"""Half a sample more than this, where the clock jitters."""
_STEADY = 0.15
"""A step that is so much of a sample off a whole number of samples comes from a clock that jitters."""
_FOLLOW = 0.02
"""The share of each row's lateness by which the clock is followed, so that drift is no gap."""
_LARGEST_S = 1e12
"""No clock counts so many seconds."""
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
    time_column: int | None
    time_unit_s: float

    @property
    def width(self) -> int:
        return len(self.leads) + (self.time_column is not None)


class _Clock:
    """Time stamps of rows -> their sample indices; None for a row that has no place."""

    def __init__(self, rate_hz: float, jitters: bool) -> None:
        self._rate_hz = rate_hz
        self._late = max(_LATE, _LATE_S * rate_hz + 0.5) if jitters else _LATE
        self._origin_s: float | None = None
        self._next = 0
        self._suspect_s: float | None = None

    def place(self, time_s: float) -> int | None:
        """The index of the next row. Lost rows are counted, late ones are not a gap."""
        if not abs(time_s) < _LARGEST_S:
            return None
        if self._origin_s is None:
            self._origin_s = time_s
        ahead = (time_s - self._origin_s) * self._rate_hz - self._next
        if ahead <= -self._late or ahead > _FARTHEST_S * self._rate_hz:
            return self._place_suspect(time_s, ahead)
        self._suspect_s = None
        lost = round(ahead) if ahead >= self._late else 0
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
        self._mv_per_unit = columns.mv_per_unit
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
        return self._layout is not None and self._layout.time_column is not None

    def _read(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            text = line.decode("utf-8-sig", errors="replace").strip(" \r\n")
            if text.strip() and not text.startswith("#"):
                self._read_line(text)

    def _read_line(self, text: str) -> None:
        if self._layout is None:
            self._layout, is_header = self._learn_layout(text)
            if is_header:
                return
        cells = _cells(text, self._layout.separator)
        while len(cells) > self._layout.width and not cells[-1]:
            cells.pop()
        if not self._any_number and all(_is_word(cell) for cell in cells):
            self._learn_units(cells)
        else:
            self._add([_number(cell) for cell in cells], self._layout)

    def _add(self, row: list[float], layout: _Layout) -> None:
        if len(row) == layout.width:
            self._any_number = self._any_number or any(math.isfinite(value) for value in row)
            self._rows.append(row)
            return
        self.skipped += 1
        if not self._timed:
            self._rows.append([math.nan] * layout.width)

    def _learn_units(self, cells: Sequence[str]) -> None:
        """A line of words below the header, one unit for all leads."""
        assert self._layout is not None
        units = {cell for column, cell in enumerate(cells) if column != self._layout.time_column}
        scale = mv_scale(next(iter(units))) if len(units) == 1 else None
        if scale is None:
            raise ConfigError(f"the line below the header reads {', '.join(cells)[:60]}; delete it and give the unit with --unit")
        if self._mv_per_unit == 1.0:
            self._mv_per_unit = 1 / scale

    def _learn_layout(self, text: str) -> tuple[_Layout, bool]:
        """The columns, and whether the first line is a header."""
        separator = next((mark for mark in ";\t," if mark in text), None)
        cells = _cells(text, separator)
        is_header = not any(math.isfinite(_number(cell)) for cell in cells) and any(_is_word(cell) for cell in cells)
        while is_header and cells and not cells[-1]:
            cells.pop()
        times = [column for column, cell in enumerate(cells) if is_header and _TIME.fullmatch(cell.lower())]
        time_column = times[0] if times else None
        names = [cell for column, cell in enumerate(cells) if column != time_column]
        if not self._columns.leads and not (is_header and any(standard_lead(name) for name in names)):
            raise ConfigError(f"no lead is named at the head of the {len(names)} columns; name them in order, for example --leads I,II")
        if time_column is None and self._rate_hz is None:
            raise ConfigError("no column is called time; give the sampling rate, for example --rate 250")
        time_unit_s = 1.0 if time_column is None or not re.search("ms|milli", cells[time_column].lower()) else 1e-3
        return _Layout(name_leads(names, self._columns.leads), separator, time_column, time_unit_s), is_header

    def _emit(self) -> Iterator[Chunk]:
        if self._layout is None or not self._rows:
            return
        rows, self._rows = np.array(self._rows, np.float64), []
        if self._layout.time_column is None:
            yield self._chunk(self._next, rows)
            return
        time_s = rows[:, self._layout.time_column] * self._layout.time_unit_s
        rows = np.delete(rows, self._layout.time_column, axis=1)
        if self._clock is None:
            self._rate_hz, jitters = _learn_rate(time_s[:_ROWS_FOR_RATE], self._rate_hz)
            self._clock = _Clock(self._rate_hz, jitters)
        placed = [(place, row) for row, place in enumerate(map(self._clock.place, time_s.tolist())) if place is not None]
        self.skipped += len(rows) - len(placed)
        for run in _runs(placed):
            yield self._chunk(run[0][0], rows[[row for _, row in run]])

    def _chunk(self, start: int, rows: npt.NDArray[np.float64]) -> Chunk:
        assert self._layout is not None and self._rate_hz is not None
        samples = finite(rows.T * self._mv_per_unit)
        self._next = start + samples.shape[1]
        return Chunk(start, self._rate_hz, self._layout.leads, samples)


def _runs(placed: Sequence[tuple[int, int]]) -> Iterator[Sequence[tuple[int, int]]]:
    """(index, row) pairs, cut where an index does not follow the one before."""
    begin = 0
    for i in range(1, len(placed) + 1):
        if i == len(placed) or placed[i][0] != placed[i - 1][0] + 1:
            yield placed[begin:i]
            begin = i


def _learn_rate(time_s: npt.NDArray[np.float64], given_hz: float | None) -> tuple[float, bool]:
    """The rate of rows of which some may be lost, and whether their clock jitters.

    The customary rate where the stamps do not tell it from that. Must agree with what was given.
    """
    step = np.diff(time_s[np.abs(time_s) < _LARGEST_S])
    rising = step[step > 0]
    if not rising.size:
        raise ConfigError("the time column does not rise in seconds or ms; leave it out and give the rate, for example --rate 250")
    if (step == 0).mean() > 0.01:
        raise ConfigError("rows share a time, so the time column is too coarse; leave it out and give the rate, for example --rate 250")
    near = rising[rising < 20 * np.median(rising)]
    period_s, rounding = _period(near)
    tolerance = 5e-4 + rounding * period_s / float(near.sum())
    snapped = [float(hz) for hz in _CUSTOMARY_HZ if abs(hz * period_s - 1) < tolerance]
    rate_hz = snapped[0] if snapped else round(1 / period_s, 3)
    if given_hz is not None and abs(given_hz * period_s - 1) > 0.01:
        raise ConfigError(f"--rate {given_hz:g} contradicts the time column, which runs at {rate_hz:g} Hz; leave --rate out")
    if not 0 < rate_hz <= FASTEST_HZ:
        raise ConfigError(f"the time column runs at {rate_hz:g} Hz; leave it out and give the rate, for example --rate 250")
    return given_hz or rate_hz, rounding > _STEADY or len(rising) < len(step)


def _period(step_s: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The time of one sample, and the worst rounding in samples: a step is one sample or, over lost rows, several.

    A clock that jitters too much to tell lost rows from late ones gets the mean of its short steps.
    """
    period_s = float(np.median(step_s))
    for _ in range(4):
        samples = np.maximum(np.round(step_s / period_s), 1)
        period_s = float(step_s.sum() / samples.sum())
    rounding = float(np.abs(step_s / period_s - samples).max())
    if rounding > _STEADY:
        short = step_s[step_s < 1.5 * np.median(step_s) + 2 * _LATE_S]
        period_s = float(short.mean())
        rounding = float(np.abs(short / period_s - 1).max())
    return period_s, rounding


def _cells(text: str, separator: str | None) -> list[str]:
    """A decimal comma is read where the comma does not separate."""
    cells = [cell.strip().strip("\"'") for cell in text.split(separator)]
    return cells if separator == "," else [cell.replace(",", ".") for cell in cells]


def _is_word(cell: str) -> bool:
    """`nan` and `1e9` are numbers."""
    return math.isnan(_number(cell)) and cell.lower() != "nan" and any(letter.isalpha() for letter in cell)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
