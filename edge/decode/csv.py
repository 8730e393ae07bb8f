"""Comma-, semicolon-, tab- or space-separated text, a column a lead, in any cut of its bytes in; `Chunk`s out."""

from __future__ import annotations

import codecs
import csv
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError
from kernels.signal import LEADS, standard_lead

from .chunk import Chunk, finite, name_leads
from .row_clock import ROWS_FOR_RATE, RowClock, learn_rate, runs, time_unit_s
from .wfdb import mv_scale

_UNIT = re.compile(r"(?P<name>.*\S)(?:\s*[(\[](?P<inside>[^)\]]+)[)\]]|[ _](?P<behind>[munp\u00b5\u03bc]V))", re.IGNORECASE)
"""`I (mV)`, `II [uV]`, `V1_mV`."""
_SEPARATOR = re.compile(r"sep=(.)", re.IGNORECASE)
"""A first line by which Excel knows it."""
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Columns:
    """What the operator says of a file that does not say it itself."""

    leads: tuple[str, ...] = ()
    """One for each signal in order, or pairs `NAME=LEAD`."""
    rate_hz: float | None = None
    mv_per_unit: float = 1.0
    partial: bool = False
    """Whether what is left of a truncated file counts."""


@dataclass(frozen=True, slots=True)
class _Layout:
    leads: tuple[str, ...]
    separator: str | None
    """None for blanks."""
    time_column: int | None
    time_unit_s: float
    mv_per_unit: tuple[float, ...]
    """Of each lead."""

    @property
    def width(self) -> int:
        return len(self.leads) + (self.time_column is not None)

    def without_time(self, cells: Sequence[str]) -> list[str]:
        return [cell for column, cell in enumerate(cells) if column != self.time_column]


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
        self._clock: RowClock | None = None
        self._separator: str | None = None
        self._plain: codecs.IncrementalDecoder | None = None
        self._held = b""
        self._rows: list[list[float]] = []
        self._any_number = False
        self._next = 0
        self.skipped = 0

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The rows that these bytes complete."""
        data = self._utf_8(data)
        *lines, self._held = (self._held + data).replace(b"\r", b"\n").split(b"\n")
        self._read(lines)
        if self._clock is not None or not self._timed or len(self._rows) >= ROWS_FOR_RATE:
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

    def _utf_8(self, data: bytes) -> bytes:
        """The same bytes, unless the file begins as UTF-16 does."""
        if self._layout is None and self._plain is None and (self._held + data)[:2] in UTF_16:
            data, self._held = self._held + data, b""
            self._plain = codecs.getincrementaldecoder("utf-16")("replace")
        return data if self._plain is None else self._plain.decode(data).encode("utf-8", "replace")

    def _read(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            text = _text(line).strip(" \r\n")
            if text.strip() and not text.startswith("#"):
                self._read_line(text)

    def _read_line(self, text: str) -> None:
        if self._layout is None:
            separator = _SEPARATOR.fullmatch(text)
            if separator:
                self._separator = separator[1]
                return
            self._layout, is_header = self._learn_layout(text)
            if is_header:
                return
        cells = _cells(text, self._layout.separator)
        while len(cells) > self._layout.width and not cells[-1]:
            cells.pop()
        if not self._any_number and _are_units(cells):
            self._layout = self._learn_units(cells, self._layout)
        else:
            time = self._layout.time_column
            self._add([_number(cell) if column != time else _time(cell) for column, cell in enumerate(cells)], self._layout)

    def _add(self, row: list[float], layout: _Layout) -> None:
        if len(row) == layout.width:
            self._any_number = self._any_number or any(math.isfinite(value) for value in row)
            self._rows.append(row)
            return
        self.skipped += 1
        if not self._timed:
            self._rows.append([math.nan] * layout.width)

    def _learn_units(self, cells: Sequence[str], layout: _Layout) -> _Layout:
        """A line of words below the header, the unit of each column."""
        units = zip(layout.leads, map(_scale, layout.without_time(cells)), strict=False)
        scales = {lead: scale for lead, scale in units if lead in LEADS}
        if len(cells) != layout.width or None in scales.values():
            raise ConfigError(f"the line below the header reads {', '.join(cells)[:60]}; delete it and give the unit with --unit")
        return replace(layout, mv_per_unit=self._scales([scales.get(lead) for lead in layout.leads]))

    def _scales(self, units_in_a_mv: Sequence[float | None]) -> tuple[float, ...]:
        """What the operator says counts before what the file says."""
        given = self._columns.mv_per_unit
        return tuple(1 / scale if scale and given == 1.0 else given for scale in units_in_a_mv)

    def _learn_layout(self, text: str) -> tuple[_Layout, bool]:
        """The columns, and whether the first line is a header."""
        separator = self._separator or next((mark for mark in ";\t," if mark in text), None)
        cells = _cells(text, separator)
        is_header = not any(math.isfinite(_number(cell)) for cell in cells) and any(_is_word(cell) for cell in cells)
        while is_header and cells and not cells[-1]:
            cells.pop()
        times = [(column, unit_s) for column, cell in enumerate(cells) if is_header and (unit_s := time_unit_s(cell))]
        time_column, unit_s = times[0] if times else (None, 1.0)
        named = [_split_unit(cell) for column, cell in enumerate(cells) if column != time_column]
        names = [name for name, _ in named]
        if not self._columns.leads and not (is_header and any(standard_lead(name) for name in names)):
            raise ConfigError(f"no lead is named at the head of the {len(names)} columns; name them in order, for example --leads I,II")
        if time_column is None and self._rate_hz is None:
            raise ConfigError("no column is called time; give the sampling rate, for example --rate 250")
        leads, scales = name_leads(names, self._columns.leads), self._scales([scale for _, scale in named])
        return _Layout(leads, separator, time_column, unit_s, scales), is_header

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
            self._rate_hz, jitters = learn_rate(time_s[:ROWS_FOR_RATE], self._rate_hz)
            self._clock = RowClock(self._rate_hz, jitters)
        kept, places = self._clock.place_all(time_s)
        self.skipped += len(rows) - len(kept)
        for begin, end in runs(places):
            yield self._chunk(int(places[begin]), rows[kept[begin:end]])

    def _chunk(self, start: int, rows: npt.NDArray[np.float64]) -> Chunk:
        assert self._layout is not None and self._rate_hz is not None
        samples = finite(rows.T * np.array(self._layout.mv_per_unit)[:, None])
        self._next = start + samples.shape[1]
        return Chunk(start, self._rate_hz, self._layout.leads, samples)


def _cells(text: str, separator: str | None) -> list[str]:
    """A decimal comma is read where the comma does not separate, or stands in quotes."""
    if '"' not in text or separator is None:
        cells = [cell.strip().strip("\"'") for cell in text.split(separator)]
        return cells if separator == "," else [cell.replace(",", ".") for cell in cells]
    try:
        quoted = next(csv.reader([text], delimiter=separator, skipinitialspace=True))
    except (csv.Error, StopIteration):
        return []
    return [cell.strip().replace(",", ".") for cell in quoted]


def _is_word(cell: str) -> bool:
    """`nan` and `1e9` are numbers."""
    return math.isnan(_number(cell)) and cell.lower() != "nan" and any(letter.isalpha() for letter in cell)


def _are_units(cells: Sequence[str]) -> bool:
    """Whether they are words, or units of some columns."""
    return all(map(_is_word, cells)) or (any(map(_scale, cells)) and all(_is_word(cell) or not cell for cell in cells))


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _time(cell: str) -> float:
    """Of `h:mm:ss.fff` in seconds."""
    hours, minutes, seconds = ["0", "0", *cell.split(":")][-3:]
    return _number(cell) if ":" not in cell else 3600 * _number(hours) + 60 * _number(minutes) + _number(seconds)


def _text(line: bytes) -> str:
    """In Latin-1 where it is no UTF-8."""
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _split_unit(cell: str) -> tuple[str, float | None]:
    """`II [uV]` -> the name, and how many of its unit are a millivolt; the whole where it names no unit."""
    found = _UNIT.fullmatch(cell)
    scale = _scale(found["inside"] or found["behind"]) if found else None
    return (found["name"], scale) if found and scale else (cell, None)


def _scale(unit: str) -> float | None:
    return mv_scale(unit.strip("()[] "))
