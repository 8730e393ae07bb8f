"""A Parquet table, a column a lead, in; its leads, read by pyarrow a few rows at a time, out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples

from ..decode.chunk import Chunk, finite, name_leads
from ..decode.csv import Columns
from ..decode.wfdb import FASTEST_HZ, mv_scale
from .rates import Series, merge
from .recording import BLOCK, RecordingFile, damaged, library

_TIME = re.compile(r"(t|time|time[ _]?stamp|elapsed|seconds|milliseconds)([ _]?[(\[]?(s|sec|ms)[)\]]?)?", re.IGNORECASE)
_MILLISECONDS = re.compile(r"milli|\bms\b|_ms\b", re.IGNORECASE)
_TICKS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_ROWS_FOR_RATE = 512
_WHOLE_HZ = 5e-4
"""A rate this near, as a share, to a whole number is that number: time stamps are rounded."""
_TOLERANCE = 0.01
_MOST_BYTES = 1 << 27
"""Of a row of lists, which cannot be read in slices."""
_BUFFER = 1 << 16


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which column is what."""

    leads: tuple[str, ...]
    columns: tuple[str, ...]
    """Of the leads, in the same order."""
    time: str | None
    mv_per_unit: float
    rate_hz: float | None
    lists: bool
    """Whether a cell holds all samples of a lead."""


def open_parquet(path: Path, columns: Columns) -> RecordingFile:
    """A row a sample, with a column of time or the rate in `--rate` or in the schema's `rate_hz`, or one row of lists.

    The schema's `unit` counts too. Raises ConfigError for a damaged file, and where leads or rate stay unknown.
    """
    with _opened(path) as file:
        layout = _learn(file.schema_arrow, columns)
        if not file.metadata.num_rows:
            raise ConfigError("holds no row; export it again")
        if layout.lists:
            return _open_row(path, file, layout)
        rate_hz = _learn_rate(file, layout)
        return ParquetRecording(path, layout, rate_hz, file.metadata.num_rows)


class ParquetRecording:
    """A row a sample. Rows are lost where the time says so."""

    def __init__(self, path: Path, layout: _Layout, rate_hz: float, rows: int) -> None:
        self._path, self._layout, self._rate_hz = path, layout, rate_hz
        self.name = path.stem
        self.duration_s: float | None = None if layout.time else rows / rate_hz

    def chunks(self, block: int = BLOCK) -> Iterator[Chunk]:
        """About `block` bytes of 16-bit samples at a time. Raises ConfigError where the time does not rise, or no sample is valid."""
        places, any_valid = _Places(self._rate_hz), False
        with _opened(self._path) as file:
            rows = max(block // (2 * len(self._layout.leads)), 1)
            for batch in _batches(file, self._layout, rows):
                samples = _samples(batch, self._layout)
                any_valid = any_valid or bool(np.isfinite(samples).any())
                index = places.place(_times_s(batch, self._layout), samples.shape[1])
                yield from self._runs(index, samples)
        if not any_valid:
            raise ConfigError("holds no valid sample, all of them are NaN; export it again")

    def _runs(self, index: npt.NDArray[np.int64], samples: Samples) -> Iterator[Chunk]:
        """Cut where rows are lost."""
        edges = [0, *(np.flatnonzero(np.diff(index) > 1) + 1).tolist(), len(index)]
        for begin, end in pairwise(edges):
            yield Chunk(int(index[begin]), self._rate_hz, self._layout.leads, samples[:, begin:end])


class _Places:
    """Times of rows -> indices of samples."""

    def __init__(self, rate_hz: float) -> None:
        self._rate_hz = rate_hz
        self._last_s: float | None = None
        self._next = 0

    def place(self, time_s: npt.NDArray[np.float64] | None, rows: int) -> npt.NDArray[np.int64]:
        """Of this many rows more. Raises ConfigError where the time does not rise."""
        steps = np.ones(rows, np.int64) if time_s is None else self._steps(time_s)
        index = self._next - 1 + np.cumsum(steps)
        self._next = int(index[-1]) + 1
        return index

    def _steps(self, time_s: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        before_s = time_s[0] - 1 / self._rate_hz if self._last_s is None else self._last_s
        steps = np.diff(time_s, prepend=before_s) * self._rate_hz
        if not (steps > 0).all() or not np.isfinite(steps).all():
            raise ConfigError("its time does not rise from row to row; sort the rows, or leave the column out and give --rate")
        self._last_s = float(time_s[-1])
        return np.maximum(np.round(steps), 1).astype(np.int64)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """pyarrow reports also a damaged file as the system's error, but without its number."""
    parquet = library("pyarrow.parquet")
    try:
        with damaged("pyarrow"), parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
            yield file
    except (MemoryError, library("pyarrow").ArrowException) as error:
        raise ConfigError(f"pyarrow cannot read it ({str(error)[:80]}); copy it again") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ConfigError(f"pyarrow cannot read it ({str(error)[:80]}); copy it again") from error


def _learn(schema: Any, columns: Columns) -> _Layout:
    types = library("pyarrow").types
    times = [field.name for field in schema if _is_time(field, types)]
    lists = [field.name for field in schema if _is_list(field.type, types) and _is_number(field.type.value_type, types)]
    numbers = [field.name for field in schema if _is_number(field.type, types) and field.name not in times[:1]]
    found = lists or [name for name in numbers if not name.startswith("__index_level_")]
    if len(set(schema.names)) < len(schema.names):
        raise ConfigError("two of its columns have the same name; rename one")
    if not found:
        raise ConfigError("no column holds numbers; give a column a lead, or one row with a list a lead")
    names = name_leads(found, columns.leads)
    kept = [(name, column) for name, column in zip(names, found, strict=True) if name in LEADS]
    said_hz, mv_per_unit = _said(schema.metadata or {}, columns)
    time = times[0] if times and not lists else None
    return _Layout(tuple(n for n, _ in kept), tuple(c for _, c in kept), time, mv_per_unit, said_hz, bool(lists))


def _is_time(field: Any, types: Any) -> bool:
    named = bool(_TIME.fullmatch(field.name)) and _is_number(field.type, types)
    return named or types.is_timestamp(field.type) or types.is_duration(field.type)


def _is_number(kind: Any, types: Any) -> bool:
    return types.is_floating(kind) or types.is_integer(kind)


def _is_list(kind: Any, types: Any) -> bool:
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _said(metadata: dict[bytes, bytes], columns: Columns) -> tuple[float | None, float]:
    """The rate and the mV of a unit, of the operator or the schema; they must not contradict each other."""
    rate, unit = metadata.get(b"rate_hz"), metadata.get(b"unit")
    rate_hz = columns.rate_hz if rate is None else float(rate)
    if columns.rate_hz not in (None, rate_hz):
        raise ConfigError(f"--rate {columns.rate_hz:g} contradicts the rate_hz of its schema, {rate_hz:g}; leave --rate out")
    if rate_hz is not None and not 0 < rate_hz <= FASTEST_HZ:
        raise ConfigError(f"has a rate of {rate_hz:g} Hz; it must be positive and at most {FASTEST_HZ:g} Hz")
    if unit is None:
        return rate_hz, columns.mv_per_unit
    scale = mv_scale(unit.decode(errors="replace"))
    if scale is None or columns.mv_per_unit not in (1.0, 1 / scale):
        raise ConfigError(f"its schema gives the unit {unit.decode(errors='replace')!r}; it must be mV, uV or V, and --unit the same")
    return rate_hz, 1 / scale


def _open_row(path: Path, file: Any, layout: _Layout) -> RecordingFile:
    """All samples of a lead in one cell."""
    if file.metadata.num_rows > 1:
        raise ConfigError(f"holds {file.metadata.num_rows} recordings, one a row; write each into a file of its own")
    if layout.rate_hz is None:
        raise ConfigError("does not say its sampling rate; give it, for example --rate 250")
    size = file.metadata.row_group(0).total_byte_size
    if size > _MOST_BYTES:
        raise ConfigError(f"its row takes {size >> 20} MB unpacked, {_MOST_BYTES >> 20} are allowed; write a row a sample instead")
    table = file.read(columns=list(layout.columns), use_threads=False)
    leads = [table.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False) for name in layout.columns]
    if len({len(lead) for lead in leads}) > 1:
        raise ConfigError("its lists differ in length; write as many samples of every lead, NaN where there is none")
    samples = _mv(leads, layout)
    return merge(path.stem, [Series(layout.leads, layout.rate_hz, len(leads[0]), lambda begin, end: samples[:, begin:end])])


def _batches(file: Any, layout: _Layout, rows: int) -> Iterator[Any]:
    wanted = [*layout.columns, *([layout.time] if layout.time else [])]
    batches = file.iter_batches(batch_size=rows, columns=wanted, use_threads=False)
    return (batch for batch in batches if batch.num_rows)


def _samples(batch: Any, layout: _Layout) -> Samples:
    columns = [batch.column(name).to_numpy(zero_copy_only=False) for name in layout.columns]
    return _mv(columns, layout)


def _mv(columns: Sequence[npt.NDArray[Any]], layout: _Layout) -> Samples:
    with np.errstate(over="ignore", invalid="ignore"):
        return finite(np.array(columns, np.float64) * layout.mv_per_unit)


def _times_s(batch: Any, layout: _Layout) -> npt.NDArray[np.float64] | None:
    """Seconds since whenever; a row without a time is NaN."""
    if layout.time is None:
        return None
    types, column = library("pyarrow").types, batch.column(layout.time)
    if types.is_timestamp(column.type) or types.is_duration(column.type):
        tick_s = _TICKS[column.type.unit]
        column = column.cast("int64")
    else:
        tick_s = 1e-3 if _MILLISECONDS.search(layout.time) else 1.0
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64) * tick_s


def _learn_rate(file: Any, layout: _Layout) -> float:
    """What is said, or else what the first rows keep to."""
    if layout.time is None:
        if layout.rate_hz is None:
            raise ConfigError("no column is called time; give the sampling rate, for example --rate 250")
        return layout.rate_hz
    time_s = _times_s(next(_batches(file, layout, _ROWS_FOR_RATE)), layout)
    found_hz = _rate_of(time_s if time_s is not None else np.empty(0))
    if layout.rate_hz is not None and abs(found_hz / layout.rate_hz - 1) > _TOLERANCE:
        raise ConfigError(f"the rate of {layout.rate_hz:g} Hz contradicts its time, which runs at {found_hz:g} Hz; leave one out")
    return layout.rate_hz or found_hz


def _rate_of(time_s: npt.NDArray[np.float64]) -> float:
    step_s = np.diff(time_s)
    near = step_s[step_s < 1.5 * np.median(step_s)] if len(step_s) else step_s
    period_s = float(near.mean()) if len(near) else math.nan
    if not 1 / FASTEST_HZ <= period_s < math.inf:
        raise ConfigError("its time does not rise in seconds or ms; leave the column out and give the rate, for example --rate 250")
    rate_hz = 1 / period_s
    return float(round(rate_hz)) if abs(round(rate_hz) / rate_hz - 1) < _WHOLE_HZ else round(rate_hz, 3)
