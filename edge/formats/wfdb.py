"""The header of a WFDB record in; the recording, decoded here where its signals lie in one plain file, by the wfdb package else, out."""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from kernels.findings import ConfigError
from kernels.signal import Samples

from ..decode.chunk import Chunk, finite, name_leads
from ..decode.wfdb import UnsupportedFormat, WfdbDecoder, frame_bytes, mv_scale, parse_header, voltage_leads
from .recording import BLOCK, Annotation, RecordingFile, Slices, Stretch, damaged, library, said

_NOTES = ("atr", "ecg", "qrs")
"""Endings of annotation files, the most trusted first."""


def open_wfdb(header: Path, leads: Sequence[str] = (), partial: bool = False) -> RecordingFile:
    """Raises ConfigError for a record that is damaged, and for a truncated signal file unless `partial`."""
    text = header.read_bytes().decode(errors="replace")
    try:
        return WfdbFile(header, text, leads, partial)
    except UnsupportedFormat as reason:
        return _open_by_library(header, leads, str(reason))


class WfdbFile:
    """A record whose signals lie in one file of a plain format."""

    def __init__(self, header: Path, text: str, leads: Sequence[str], partial: bool) -> None:
        self._path, self._leads = header, leads
        self._header = parse_header(text)
        WfdbDecoder(self._header, leads)
        self._signals = header.with_name(self._header.files[0])
        self._size = _size_of(self._signals)
        self.name = self._header.name
        held = (self._size - self._header.signals[0].offset) / frame_bytes(self._header)
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

    def chunks(self, block: int = BLOCK) -> Iterator[Chunk]:
        """The samples that the header promises, or as many as there are."""
        decoder = WfdbDecoder(self._header, self._leads)
        left = self._size
        # Unbuffered, and no more room than there are bytes: most files of an archive are read at once.
        with self._signals.open("rb", buffering=0) as file:
            while data := file.read(min(block, left)):
                left -= len(data)
                yield from decoder.feed(data)
        yield from decoder.flush()

    def annotations(self) -> Sequence[Annotation]:
        return _annotations(self._path.with_suffix(""), self._header.rate_hz)


def _size_of(signals: Path) -> int:
    """In bytes. Raises ConfigError where there is no such file."""
    try:
        found = signals.stat()
    except (FileNotFoundError, NotADirectoryError):
        found = None
    if found is None or not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"its signal file {signals.name} is missing; put it beside the header")
    return found.st_size


def _open_by_library(header: Path, leads: Sequence[str], reason: str) -> RecordingFile:
    """A record of several segments or files, of FLAC or an odd format."""
    try:
        wfdb = library("wfdb")
    except ConfigError as error:
        raise ConfigError(f"{reason}; {error}") from error
    path = str(header.with_suffix(""))
    with _library_errors():
        head = wfdb.rdheader(path)
        rate_hz, samples = float(head.fs), int(head.sig_len)
        first = wfdb.rdrecord(path, sampfrom=0, sampto=min(samples, 1))
    scales = [mv_scale(unit) for unit in first.units]
    names = voltage_leads(name_leads(first.sig_name, leads), [scale is not None for scale in scales])
    mv_per_unit = np.array([math.nan if scale is None else 1 / scale for scale in scales])[:, None]

    def read(begin: int, end: int) -> Samples:
        with _library_errors():
            return finite(wfdb.rdrecord(path, sampfrom=begin, sampto=end).p_signal.T * mv_per_unit)

    return Slices(header.stem, rate_hz, names, [Stretch(0, samples, read)], lambda: _annotations(header.with_suffix(""), rate_hz))


def _annotations(record: Path, rate_hz: float) -> Sequence[Annotation]:
    """Of the first annotation file beside the record. A beat is its symbol; a change of rhythm or a comment is its words."""
    ending = next((ending for ending in _NOTES if record.with_name(f"{record.name}.{ending}").is_file()), None)
    if ending is None:
        return ()
    try:
        with _library_errors():
            read = library("wfdb").rdann(str(record), ending)
    except ConfigError:
        return ()
    words = [note.strip("\0 ") for note in read.aux_note]
    told = zip(read.sample.tolist(), read.symbol, words, strict=True)
    return [Annotation(at / (read.fs or rate_hz), note or symbol) for at, symbol, note in told]


@contextmanager
def _library_errors() -> Iterator[None]:
    """The package reports also what is missing, or misnamed in a header, as the system's error."""
    try:
        with damaged("the wfdb package"):
            yield
    except OSError as error:
        raise ConfigError(f"the wfdb package cannot read it ({said(error)}); mend or copy the record again") from error
