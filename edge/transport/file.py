"""The path of a recording in; its bytes, decoded to `Chunk`s, out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from kernels.findings import ConfigError

from ..decode.chunk import Chunk, name_leads
from ..decode.csv import Columns, CsvDecoder
from ..decode.wfdb import UnsupportedFormat, WfdbDecoder, frame_bytes, parse_header

_SIGNALS = (".hea", ".dat", ".mat")
_SLICE_S = 60


class RecordingFile(Protocol):
    """A recording on disk that is read from its beginning, in bounded memory."""

    @property
    def name(self) -> str:
        """What the source is called in scores and alerts."""
        ...

    @property
    def duration_s(self) -> float | None:
        """None where the file does not tell before it is read."""
        ...

    def chunks(self, block: int = 1 << 14) -> Iterator[Chunk]:
        """The samples, reading `block` bytes at a time. Raises OSError where the disk fails."""
        ...


def open_recording(path: Path, columns: Columns = Columns(), partial: bool = False) -> RecordingFile:
    """A WFDB record (its .hea, .dat or bare name) or a CSV file.

    Raises ConfigError with the way to mend it for anything else, and for a truncated signal file
    unless `partial`.
    """
    try:
        return _open(path, columns, partial)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _open(path: Path, columns: Columns, partial: bool) -> RecordingFile:
    if path.is_dir():
        raise ConfigError("is a folder; name one recording in it")
    bare = path.with_suffix("") if path.suffix in _SIGNALS else path
    header = bare.with_name(bare.name + ".hea")
    if header.is_file():
        return _open_wfdb(header, columns, partial)
    if path.suffix in _SIGNALS or any(bare.with_name(bare.name + ending).is_file() for ending in _SIGNALS):
        raise ConfigError(f"its header {header.name} is missing; put it beside the signal file")
    if not path.is_file():
        raise ConfigError("no such recording; give a WFDB record (name or .hea) or a .csv file")
    with path.open("rb") as file:
        if b"\0" in file.read(4096):
            raise ConfigError("is no recording that cardiogloss reads; give a WFDB record (name or .hea) or a .csv file")
    return CsvFile(path, columns)


def _open_wfdb(header: Path, columns: Columns, partial: bool) -> RecordingFile:
    text = header.read_text(encoding="utf-8", errors="replace")
    try:
        return WfdbFile(header, text, columns, partial)
    except UnsupportedFormat as reason:
        return WfdbLibraryFile(header, columns, str(reason))


@dataclass(frozen=True, slots=True)
class CsvFile:
    """A text file, decoded as it is read."""

    path: Path
    columns: Columns

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def duration_s(self) -> float | None:
        return None

    def chunks(self, block: int = 1 << 14) -> Iterator[Chunk]:
        decoder = CsvDecoder(self.columns)
        with self.path.open("rb") as file:
            while data := file.read(block):
                yield from decoder.feed(data)
        yield from decoder.flush()
        if decoder.decoded == 0:
            raise ConfigError(f"{self.path}: holds no row of numbers; give a WFDB record or a CSV file with a column a lead")


class WfdbFile:
    """A record whose signals lie in one file of a plain format."""

    def __init__(self, header: Path, text: str, columns: Columns, partial: bool) -> None:
        self._header = parse_header(text)
        self._columns = columns
        WfdbDecoder(self._header, columns.leads)
        self._signals = header.with_name(self._header.signals[0].file)
        if not self._signals.is_file():
            raise ConfigError(f"its signal file {self._signals.name} is missing; put it beside the header")
        self.name = self._header.name
        held = (self._signals.stat().st_size - self._header.signals[0].offset) / frame_bytes(self._header)
        self._check_length(int(held), partial)
        samples = min(int(held), self._header.samples or int(held))
        self.duration_s: float | None = samples / self._header.rate_hz

    def _check_length(self, held: int, partial: bool) -> None:
        promised, rate_hz = self._header.samples, self._header.rate_hz
        if promised is not None and held < promised and not partial:
            raise ConfigError(
                f"{self._signals.name} is truncated: it holds {held / rate_hz:.2f} of {promised / rate_hz:.2f} s; "
                "copy it again, or replay what is there with --partial"
            )

    def chunks(self, block: int = 1 << 14) -> Iterator[Chunk]:
        decoder = WfdbDecoder(self._header, self._columns.leads)
        with self._signals.open("rb") as file:
            while data := file.read(block):
                yield from decoder.feed(data)
        yield from decoder.flush()


class WfdbLibraryFile:
    """A record of any other kind (several segments or files, FLAC, odd formats), read in slices by the wfdb package."""

    def __init__(self, header: Path, columns: Columns, reason: str) -> None:
        try:
            import wfdb
        except ImportError as error:
            raise ConfigError(f"{reason}; to read it: pip install 'cardiogloss[formats]'") from error
        self._read = wfdb.rdrecord
        self._path = str(header.with_suffix(""))
        self._columns = columns
        head = wfdb.rdheader(self._path)
        self.name: str = header.stem
        self._rate_hz, self._samples = float(head.fs), int(head.sig_len)
        self.duration_s: float | None = self._samples / self._rate_hz

    def chunks(self, block: int = 1 << 14) -> Iterator[Chunk]:
        step = round(_SLICE_S * self._rate_hz)
        for start in range(0, self._samples, step):
            record = self._read(self._path, sampfrom=start, sampto=min(start + step, self._samples))
            leads = name_leads(record.sig_name, self._columns.leads)
            yield Chunk(start, self._rate_hz, leads, record.p_signal.T.astype(np.float32))
