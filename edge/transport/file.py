"""The path of a recording in; its bytes, decoded to `Chunk`s, out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kernels.findings import ConfigError

from ..decode.chunk import Chunk, finite, name_leads
from ..decode.csv import Columns, CsvDecoder
from ..decode.device import Decoder, Device
from ..decode.wfdb import FASTEST_HZ, UnsupportedFormat, WfdbDecoder, frame_bytes, mv_scale, parse_header, voltage_leads

_SIGNALS = (".hea", ".dat", ".mat")


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
        """The samples, about `block` bytes at a time. Raises OSError where the disk fails."""
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


def open_capture(path: Path, device: Device, columns: Columns = Columns()) -> RecordingFile:
    """What a serial device sent, raw. Raises ConfigError where there is no such file, or the device cannot be so."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the raw bytes of a {device.title}")
    if device.by_message:
        raise ConfigError(f"--device {device.name} comes in whole messages, which a file does not keep apart; name a serial device")
    if columns.mv_per_unit != 1.0:
        raise ConfigError("--unit is for CSV files; the device says its own, so leave it out")
    wiring = device.wire(columns.leads, columns.rate_hz)
    return DecodedFile(
        path, partial(device.decoder, wiring), f"nothing in it comes from {device.title}; `cardiogloss devices` names others"
    )


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
    return DecodedFile(path, lambda: CsvDecoder(columns))


def _open_wfdb(header: Path, columns: Columns, partial: bool) -> RecordingFile:
    if columns.rate_hz is not None or columns.mv_per_unit != 1.0:
        raise ConfigError("--rate and --unit are for CSV files; the header of a WFDB record says both, so leave them out")
    text = header.read_text(encoding="utf-8", errors="replace")
    try:
        return WfdbFile(header, text, columns, partial)
    except UnsupportedFormat as reason:
        return WfdbLibraryFile(header, columns, str(reason))


@dataclass(frozen=True, slots=True)
class DecodedFile:
    """A file of text, or of a serial device's bytes as they came, decoded as it is read."""

    path: Path
    decoder: Callable[[], CsvDecoder | Decoder]
    empty: str = ""
    """What to say where it holds no sample, if the decoder does not."""

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def duration_s(self) -> float | None:
        return None

    def chunks(self, block: int = 1 << 14) -> Iterator[Chunk]:
        """Raises ConfigError, with the path, where there is no sample, or leads or rate stay unknown."""
        try:
            yield from self._decode(block)
        except ConfigError as error:
            raise ConfigError(f"{self.path}: {error}") from error

    def _decode(self, block: int) -> Iterator[Chunk]:
        decoder, chunks = self.decoder(), 0
        with self.path.open("rb") as file:
            found = chain.from_iterable(map(decoder.feed, iter(partial(file.read, block), b"")))
            for chunk in chain(found, decoder.flush()):
                chunks += 1
                yield chunk
        if not chunks and self.empty:
            raise ConfigError(self.empty)


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
        """The samples that the header promises, or as many as there are."""
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
        self._wfdb: Any = wfdb
        self._path = str(header.with_suffix(""))
        self.name = header.stem
        with _library_errors():
            head = wfdb.rdheader(self._path)
            self._rate_hz, self._samples = float(head.fs), int(head.sig_len)
            first = wfdb.rdrecord(self._path, sampfrom=0, sampto=min(self._samples, 1))
        scales = [mv_scale(unit) for unit in first.units]
        self._leads = voltage_leads(name_leads(first.sig_name, columns.leads), [scale is not None for scale in scales])
        self._mv_per_unit = np.array([math.nan if scale is None else 1 / scale for scale in scales])[:, None]
        self.duration_s: float | None = self._samples / self._rate_hz

    def chunks(self, block: int = 1 << 14) -> Iterator[Chunk]:
        """About `block` bytes of 16-bit samples at a time."""
        step = max(block // (2 * len(self._leads)), 1)
        for start in range(0, self._samples, step):
            with _library_errors():
                record = self._wfdb.rdrecord(self._path, sampfrom=start, sampto=min(start + step, self._samples))
            yield Chunk(start, self._rate_hz, self._leads, finite(record.p_signal.T * self._mv_per_unit))


def columns_of(leads: str, rate: float | None, unit: str) -> Columns:
    """What --leads, --rate and --unit say. Raises ConfigError where they cannot be so."""
    if rate is not None and not 0 < rate <= FASTEST_HZ:
        raise ConfigError(f"--rate {rate:g} must be positive and at most {FASTEST_HZ:g}")
    return Columns(lead_names(leads), rate, _mv_per_unit(unit))


def lead_names(text: str) -> tuple[str, ...]:
    """`I, II,-` -> the names, as --leads has them."""
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _mv_per_unit(unit: str) -> float:
    units_in_a_mv = mv_scale(unit)
    if units_in_a_mv is not None:
        return 1 / units_in_a_mv
    try:
        scale = float(unit)
    except ValueError:
        scale = math.nan
    if not 0 < abs(scale) < math.inf:
        raise ConfigError(f"--unit {unit!r} is unknown; allowed are mV, uV, V, or the mV of one unit as a number")
    return scale


@contextmanager
def _library_errors() -> Iterator[None]:
    """What the package raises over a damaged record, as one line."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"the wfdb package cannot read it ({said}); mend or copy the record again") from error
