"""Digits of one record in; its WFDB signal file and header, readable at every moment, out.

Source: the WFDB Applications Guide, header(5) and signal(5).
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kernels.signal import Samples

from .decode.chunk import LEFT_OUT, Chunk

INVALID = -(2**31)

Digits = npt.NDArray[np.int64]
"""[n, leads]; `INVALID` where a sample is invalid."""


@dataclass(frozen=True, slots=True)
class Form:
    """Little-endian integers of so many bytes: formats 16, 24 and 32."""

    bytes_each: int

    @property
    def code(self) -> int:
        return 8 * self.bytes_each

    @property
    def largest(self) -> int:
        return int(2 ** (self.code - 1) - 1)

    def fitting(self, digits: Digits) -> int:
        """How many rows come before the first that does not fit."""
        too_large = ((np.abs(digits) > self.largest) & (digits != INVALID)).any(axis=1)
        return int(np.argmax(too_large)) if too_large.any() else len(digits)

    def stored(self, digits: Digits) -> Digits:
        """With this format's digit for an invalid sample, the most negative one."""
        return np.where(digits == INVALID, -self.largest - 1, digits)

    def encode(self, stored: Digits) -> bytes:
        whole = np.ascontiguousarray(stored, "<i4").view(np.uint8).reshape(-1, 4)
        return whole[:, : self.bytes_each].tobytes()


@dataclass(frozen=True, slots=True)
class Told:
    """What the header tells of a record, but for its length."""

    source: str
    leads: tuple[str, ...]
    rate_hz: float
    units_per_mv: float
    begun: datetime

    def header(self, record: str, form: Form, first: npt.NDArray[np.int64], checksums: npt.NDArray[np.int64], samples: int) -> str:
        """Without samples it is open: neither length nor time stand in it, as the time may only follow the length."""
        length = f" {samples} {self.begun:%H:%M:%S}.{self.begun.microsecond // 1000:03} {self.begun:%d/%m/%Y}" if samples else ""
        lines = [f"{record} {len(self.leads)} {self.rate_hz!r}{length}"]
        for lead, digit, checksum in zip(self.leads, first, checksums, strict=True):
            gain = f"{self.units_per_mv!r}(0)/mV"
            lines.append(f"{record}.dat {form.code} {gain} {form.code} 0 {digit} {checksum} 0 {_one_line(lead) or LEFT_OUT}")
        lines += [f"# cardiogloss {_version()}".rstrip(), f"# source {_one_line(self.source)}"]
        lines += [f"# begun {self.begun.isoformat(timespec='milliseconds')}"]
        return "\n".join(lines) + "\n"


class RecordFile:
    """One record on disk while it is written. Every method but `abandon` may raise OSError."""

    def __init__(self, folder: Path, name: str, told: Told, form: Form, start: int) -> None:
        self.form = form
        self.rate_hz = told.rate_hz
        self.samples = 0
        self.unsynced = 0
        self._told = told
        self._start = start
        self._first = np.zeros(len(told.leads), np.int64)
        self._checksums = np.zeros(len(told.leads), np.int64)
        self._dat = _unused(folder, f"{name}_{told.begun:%Y%m%dT%H%M%S}")
        self._header = self._dat.with_suffix(".hea")
        self._file = self._dat.open("xb", buffering=0)
        try:
            self._write_header(0)
        except OSError:
            self.abandon()
            raise

    @property
    def end(self) -> int:
        """The source's index of the sample that comes next."""
        return self._start + self.samples

    def suits(self, chunk: Chunk) -> bool:
        return (chunk.leads, chunk.rate_hz) == (self._told.leads, self.rate_hz)

    def write(self, digits: Digits) -> None:
        """All or none of them."""
        stored = self.form.stored(digits)
        self._write_bytes(self.form.encode(stored))
        if self.samples == 0:
            self._first = stored[0]
        self._checksums = (self._checksums + stored.sum(axis=0)) % 2**16
        self.samples += len(digits)
        self.unsynced += len(digits)

    def sync(self) -> None:
        if os.fstat(self._file.fileno()).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "it was deleted while it was written", str(self._dat))
        os.fsync(self._file.fileno())
        self.unsynced = 0

    def complete(self) -> None:
        """Give the header its length."""
        try:
            self.sync()
            self._write_header(self.samples)
        finally:
            self._file.close()

    def abandon(self) -> None:
        """Leave what can be read, and nothing else."""
        with suppress(OSError):
            if self.samples:
                self.complete()
        with suppress(OSError):
            self._file.close()
            self._header.with_suffix(".hea.new").unlink(missing_ok=True)
            if not self.samples:
                self._header.unlink(missing_ok=True)
                self._dat.unlink(missing_ok=True)

    def _write_bytes(self, data: bytes) -> None:
        size = self.samples * len(self._told.leads) * self.form.bytes_each
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) or 0 :]
        except OSError:
            with suppress(OSError):
                self._file.truncate(size)
            raise

    def _write_header(self, samples: int) -> None:
        """At once or not at all, whatever dies meanwhile."""
        checksums = (self._checksums + 2**15) % 2**16 - 2**15
        text = self._told.header(self._dat.stem, self.form, self._first, checksums, samples)
        new = self._header.with_suffix(".hea.new")
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._header)
        folder = os.open(self._header.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def to_digits(samples_mv: Samples, units_per_mv: float) -> Digits:
    """[leads, n] in mV -> the nearest whole units; NaN, and what no format holds, is invalid."""
    with np.errstate(over="ignore"):
        units = np.rint(samples_mv.T.astype(np.float64) * units_per_mv)
    return np.where(np.abs(units) < -INVALID, units, INVALID).astype(np.int64)


def _unused(folder: Path, record: str) -> Path:
    """The signal file of a record that is not there yet, numbered from 2 where the clock gave this second before."""
    number, path = 1, folder / f"{record}.dat"
    while path.exists() or path.with_suffix(".hea").exists():
        number += 1
        path = folder / f"{record}_{number}.dat"
    return path


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _version() -> str:
    try:
        return version("cardiogloss")
    except PackageNotFoundError:
        return ""
