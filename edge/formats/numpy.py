"""A NumPy array, or an archive of arrays, in; its leads, read in slices, out.

Source: the NumPy Enhancement Proposal 1, A simple file format for NumPy arrays.
"""

from __future__ import annotations

import errno
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples

from ..decode.chunk import PAIR, finite, name_leads
from ..decode.csv import Columns
from ..decode.wfdb import FASTEST_HZ
from .rates import Series, merge
from .recording import RecordingFile, damaged, said
from .truncation import truncated

_MOST_BYTES = 1 << 27
"""Of samples in an archive, which cannot be read in slices."""
_FEW_BYTES = 1 << 12
"""Of what an archive says besides."""
_SAMPLES = ("samples_mv", "signal", "ecg", "arr_0")
_RATES = ("rate_hz", "fs", "sampling_rate")
_LEADS = "leads"


@dataclass(frozen=True, slots=True)
class _Header:
    """What stands before the numbers of an array."""

    shape: tuple[int, ...]
    fortran: bool
    kind: np.dtype[Any]
    offset: int
    """Of the first number, in bytes."""

    @property
    def size(self) -> int:
        """Bytes of all numbers."""
        return math.prod(self.shape) * self.kind.itemsize

    def shaped(self, numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return numbers.reshape(self.shape, order="F" if self.fortran else "C")


@dataclass(frozen=True, slots=True)
class _Layout:
    """Which way an array lies."""

    leads: int
    samples: int
    leads_first: bool

    def cut(self, array: npt.NDArray[Any], begin: int, end: int) -> npt.NDArray[Any]:
        """[leads, end - begin]."""
        if array.ndim == 1:
            return array[None, begin:end]
        return array[:, begin:end] if self.leads_first else array[begin:end].T


def open_numpy(path: Path, columns: Columns) -> RecordingFile:
    """A `.npy` of shape [n], [n, leads] or [leads, n], or a `.npz` of `samples_mv`, `signal` or `ecg`, its rate, and `leads`.

    Raises ConfigError for Python objects, which are never read, for a damaged file, and where leads or rate stay unknown.
    """
    with path.open("rb") as file:
        is_archive = file.read(2) == b"PK"
    with _library_errors():
        return _open_archive(path, columns) if is_archive else _open_array(path, columns)


@contextmanager
def _library_errors() -> Iterator[None]:
    """A damaged archive may also send its reader to a place before the file begins."""
    try:
        with damaged("NumPy"):
            yield
    except (EOFError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise ConfigError(f"NumPy cannot read it ({said(error)}); copy it again") from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):
            raise
        raise ConfigError(f"NumPy cannot read it ({said(error)}); copy it again") from error


def _open_array(path: Path, columns: Columns) -> RecordingFile:
    with path.open("rb") as file:
        header = _read_header(file)
        held = file.seek(0, 2) - header.offset
    rate_hz = _rate(columns.rate_hz)
    names, layout = _learn(header, columns.leads)
    if held < header.size:
        if not columns.partial:
            raise truncated(held / header.size * layout.samples / rate_hz, layout.samples / rate_hz)
        header, layout = _held(header, layout, held)

    def read(begin: int, end: int) -> Samples:
        # Mapped anew each time: what was read before shall not count as memory in use.
        with _library_errors():
            array = np.memmap(path, header.kind, "r", header.offset, header.shape, "F" if header.fortran else "C")
            return _mv(layout.cut(array, begin, end), columns)

    return merge(path.stem, [_leads_only(Series(names[: layout.leads], rate_hz, layout.samples, read))])


def _held(header: _Header, layout: _Layout, held: int) -> tuple[_Header, _Layout]:
    """What is whole of a truncated array: samples of all leads, or all samples of the first leads."""
    by_lead = len(header.shape) == 2 and layout.leads_first != header.fortran
    whole = held * (layout.leads if by_lead else layout.samples) // header.size
    layout = replace(layout, leads=whole) if by_lead else replace(layout, samples=whole)
    if not whole:
        raise ConfigError("holds no whole lead; copy it again" if by_lead else "holds no sample; copy it again")
    size = (layout.leads, layout.samples) if layout.leads_first else (layout.samples, layout.leads)
    return replace(header, shape=size if len(header.shape) == 2 else size[:1]), layout


def _open_archive(path: Path, columns: Columns) -> RecordingFile:
    with zipfile.ZipFile(path) as archive:
        held = {name.removesuffix(".npy"): name for name in archive.namelist()}
        name = next((name for name in _SAMPLES if name in held), None)
        if name is None:
            raise ConfigError(f"holds {', '.join(held)[:60] or 'nothing'}; call the samples one of {', '.join(_SAMPLES)}")
        rate_name = next((name for name in _RATES if name in held), None)
        said_hz = None if rate_name is None else float(_load(archive, held[rate_name], _FEW_BYTES)[0].item())
        said_leads = tuple(map(str, _load(archive, held[_LEADS], _FEW_BYTES)[0].ravel())) if _LEADS in held else ()
        array, header = _load(archive, held[name], _MOST_BYTES)
    if said_hz is not None and columns.rate_hz not in (None, said_hz):
        raise ConfigError(f"--rate {columns.rate_hz:g} contradicts its {rate_name} of {said_hz:g} Hz; leave --rate out")
    if name == "samples_mv" and columns.mv_per_unit != 1.0:
        raise ConfigError("--unit contradicts the name samples_mv; leave --unit out")
    names, layout = _learn(header, columns.leads, said_leads)

    def read(begin: int, end: int) -> Samples:
        return _mv(layout.cut(array, begin, end), columns)

    return merge(path.stem, [_leads_only(Series(names, _rate(said_hz or columns.rate_hz), layout.samples, read))])


def _load(archive: zipfile.ZipFile, name: str, most_bytes: int) -> tuple[npt.NDArray[Any], _Header]:
    """One array, of which no more is unpacked than its header promises."""
    with archive.open(name) as file:
        header = _read_header(file)
        if header.size > most_bytes:
            raise ConfigError(f"its {name} takes {header.size >> 20} MB unpacked, {most_bytes >> 20} are allowed; save it alone, as .npy")
        return header.shaped(np.frombuffer(file.read(header.size), header.kind)), header


def _read_header(file: IO[bytes]) -> _Header:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ConfigError("its array has columns with names; save the samples as plain numbers")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, kind = read(file)
    if kind.hasobject:
        raise ConfigError("holds Python objects, which may run a program when they are read; save the samples as plain numbers")
    if kind.kind not in "iufU" or min(shape, default=0) < 0:
        raise ConfigError(f"holds an array of {kind} {list(shape)}; save the samples as plain numbers")
    return _Header(shape[1:] if len(shape) == 3 and shape[0] == 1 else shape, fortran, kind, file.tell())


def _learn(header: _Header, given: Sequence[str], said: Sequence[str] = ()) -> tuple[tuple[str, ...], _Layout]:
    """The leads and which way they lie: of two dimensions the smaller counts them, unless only the other one fits their names."""
    shape = header.shape
    if header.kind.kind == "U" or len(shape) not in (1, 2) or 0 in shape:
        raise ConfigError(f"its array has the shape {list(shape)}; save one recording of numbers a file, [n], [n, leads] or [leads, n]")
    first = len(shape) == 2 and _leads_first(shape, 0 if any(PAIR in name for name in given) else len(given or said))
    layout = _Layout(1, shape[0], False) if len(shape) == 1 else _Layout(shape[not first], shape[first], first)
    if not (given or said):
        example = ",".join(LEADS) if layout.leads == 12 else "I,II,..." if layout.leads > 1 else "I"
        raise ConfigError(f"does not name its {layout.leads} leads; name them in order, for example --leads {example}")
    found = said if len(said) == layout.leads else tuple(map(str, range(1, layout.leads + 1)))
    return name_leads(found, given or (() if found is said else said)), layout


def _leads_first(shape: Sequence[int], named: int) -> bool:
    fits = [size == named for size in shape]
    if any(fits) and not all(fits):
        return fits[0]
    if shape[0] == shape[1]:
        raise ConfigError(
            f"its array is square, {list(shape)}, so which way the leads lie is unknown; save it as [n, leads] with more samples"
        )
    return shape[0] < shape[1]


def _mv(samples: npt.NDArray[Any], columns: Columns) -> Samples:
    with np.errstate(over="ignore", invalid="ignore"):
        return finite(samples.astype(np.float64) * columns.mv_per_unit)


def _leads_only(series: Series) -> Series:
    rows = [row for row, name in enumerate(series.leads) if name in LEADS]
    names = tuple(series.leads[row] for row in rows)
    return Series(names, series.rate_hz, series.samples, lambda begin, end: series.read(begin, end)[rows])


def _rate(rate_hz: float | None) -> float:
    if rate_hz is None:
        raise ConfigError("does not say its sampling rate; give it, for example --rate 250")
    if not 0 < rate_hz <= FASTEST_HZ:
        raise ConfigError(f"has a rate of {rate_hz:g} Hz; it must be positive and at most {FASTEST_HZ:g} Hz")
    return rate_hz
