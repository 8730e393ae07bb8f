"""A Parquet table, a column a lead, in; its leads, read by pyarrow a few rows at a time, out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples

from ..decode.chunk import Chunk, finite, name_leads
from ..decode.csv import Columns
from ..decode.row_clock import ROWS_FOR_RATE, RowClock, learn_rate, runs, time_unit_s
from ..decode.wfdb import FASTEST_HZ, mv_scale
from .rates import Series, merge
from .recording import BLOCK, RecordingFile, damaged, library, said

_TICKS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
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
        rate_hz, _ = _learn_clock(file, layout)
        return ParquetRecording(path, layout, rate_hz, file.metadata.num_rows)


class ParquetRecording:
    """A row a sample. Rows are lost where the time says so."""

    def __init__(self, path: Path, layout: _Layout, rate_hz: float, rows: int) -> None:
        self._path, self._layout, self._rate_hz = path, layout, rate_hz
        self.name = path.stem
        self.duration_s: float | None = None if layout.time else rows / rate_hz

    def chunks(self, block: int = BLOCK) -> Iterator[Chunk]:
        """About `block` bytes of 16-bit samples at a time, without rows whose time is out of order.

        Raises ConfigError for a pause above `LONGEST_GAP_S`, or where no sample is valid.
        """
        any_valid, end = False, 0
        with _opened(self._path) as file:
            _, clock = _learn_clock(file, self._layout)
            rows = max(block // (2 * len(self._layout.leads)), 1)
            for batch in _batches(file, self._layout, rows):
                samples = _samples(batch, self._layout)
                kept, places = self._place(batch, clock, end)
                end += len(places)
                samples = samples[:, kept]
                any_valid = any_valid or bool(np.isfinite(samples).any())
                for first, last in runs(places):
                    yield Chunk(int(places[first]), self._rate_hz, self._layout.leads, samples[:, first:last])
        if not any_valid:
            raise ConfigError("holds no valid sample, all of them are NaN; export it again")

    def _place(self, batch: Any, clock: RowClock | None, end: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]:
        """Which rows are kept, and the indices of their samples; `end` is how many rows came before."""
        if clock is not None:
            return clock.place_all(_times_s(batch, self._layout))
        return np.arange(batch.num_rows), np.arange(end, end + batch.num_rows)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """pyarrow reports also a damaged file as the system's error, but without its number."""
    parquet = library("pyarrow.parquet")
    try:
        with damaged("pyarrow"), parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
            yield file
    except (MemoryError, library("pyarrow").ArrowException) as error:
        raise ConfigError(f"pyarrow cannot read it ({said(error)}); copy it again") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ConfigError(f"pyarrow cannot read it ({said(error)}); copy it again") from error


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
    named = time_unit_s(field.name) is not None and _is_number(field.type, types)
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


def _times_s(batch: Any, layout: _Layout) -> npt.NDArray[np.float64]:
    """Seconds since whenever; a row without a time is NaN."""
    types, column = library("pyarrow").types, batch.column(layout.time)
    if types.is_timestamp(column.type) or types.is_duration(column.type):
        tick_s = _TICKS[column.type.unit]
        column = column.cast("int64")
    else:
        tick_s = time_unit_s(layout.time or "") or 1.0
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64) * tick_s


def _learn_clock(file: Any, layout: _Layout) -> tuple[float, RowClock | None]:
    """The rate that is said, or else what the first rows keep to, and the clock by which the rows are placed."""
    if layout.time is None:
        if layout.rate_hz is None:
            raise ConfigError("no column is called time; give the sampling rate, for example --rate 250")
        return layout.rate_hz, None
    time_s = _times_s(next(_batches(file, layout, ROWS_FOR_RATE)), layout)
    rate_hz, jitters = learn_rate(time_s, layout.rate_hz)
    return rate_hz, RowClock(rate_hz, jitters)
