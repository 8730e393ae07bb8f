"""The `Chunk`s of one source in; WFDB records on disk, a new one every hour and the oldest deleted, out.

Source: the WFDB Applications Guide, header(5) and signal(5).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kernels.signal import Samples

from .decode.chunk import LEFT_OUT, Chunk

LONGEST_GAP_S = 10.0
"""A gap up to this is filled with invalid samples; a longer one begins a new record."""

RETRY_S = 10.0
"""So much is lost after an error before the disk is tried again."""

_LONGEST_NAME = 30
"""The WFDB library takes record names of up to 50 characters; the time and a number follow the source."""

_INVALID = -(2**31)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LAST_S = 253_402_214_400.0
_RECORD_FILE = re.compile(r"(?P<record>.+_(?P<stamp>\d{8}T\d{6})(?:_(?P<number>\d+))?)\.(?:dat|hea|hea\.new)")

Digits = npt.NDArray[np.int64]
"""[n, leads]; `_INVALID` where a sample is invalid."""


def safe_name(source: str) -> str:
    """The folder, and the beginning of the record names, of a source: no two sources share one."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", source)
    if name == source and 0 < len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - 9].strip('-') or 'source'}-{digest}"


class Recorder:
    """Keeps the samples of one source. Never raises over a disk: see `error` and `lost`. It blocks while the disk is busy.

    What was fed survives the death of the process; all but the last second survives a power cut.
    Any cut of the same chunks gives the same files.
    """

    def __init__(self, folder: Path, source: str, units_per_mv: float = 1000.0, rotate_s: float = 3600.0, limit_bytes: int = 10**9) -> None:
        """With the device's own `units_per_mv` the records give back the very float32 mV that were fed.

        `limit_bytes` holds for the complete records of this source; the one being written comes on top.
        """
        self.lost = 0
        """Samples of each lead that are on no disk."""
        self.error: str | None = None
        """Why nothing is recorded just now."""
        self._name = safe_name(source)
        self._source = source
        self._folder = folder / self._name
        self._units_per_mv = abs(float(units_per_mv))
        self._rotate_s = rotate_s
        self._limit_bytes = limit_bytes
        self._bytes_each = 2
        self._record: _Record | None = None
        self._waiting = 0
        self._rest_s = 0.0

    def feed(self, chunk: Chunk, at_s: float) -> None:
        """The next samples; `at_s` is when the first of them was measured, in seconds since 1970."""
        self._waiting = chunk.samples_mv.shape[1]
        trying = self._rest_s <= 0
        self._rest_s = max(self._rest_s - self._waiting / chunk.rate_hz, 0.0)
        try:
            if trying and self._waiting:
                self._take(chunk, at_s)
        except OSError as error:
            self._give_up(error)
        self.lost += self._waiting

    def flush(self) -> None:
        """Have the disk keep what was fed, power cut or not. `feed` does so once a second of samples."""
        try:
            if self._record:
                self._record.sync()
        except OSError as error:
            self._give_up(error)

    def close(self) -> None:
        """Complete the record. Samples that are fed later begin a new one."""
        try:
            self._finish()
        except OSError as error:
            self._give_up(error)

    def _take(self, chunk: Chunk, at_s: float) -> None:
        self._bridge(chunk)
        digits = _to_digits(chunk.without_loose(), self._units_per_mv)
        done = 0
        while done < len(digits):
            done += self._write(digits[done:], chunk, done, at_s + done / chunk.rate_hz)

    def _bridge(self, chunk: Chunk) -> None:
        """Fill a short gap, so that time stays true; where the chunk does not fit the record, complete that."""
        record = self._record
        if record is None:
            return
        gap = chunk.start - record.end
        longest = min(LONGEST_GAP_S * chunk.rate_hz, self._room(record) - 1)
        if not record.suits(chunk) or not 0 <= gap <= longest:
            self._finish()
        elif gap:
            record.write(np.full((gap, len(chunk.leads)), _INVALID))

    def _write(self, digits: Digits, chunk: Chunk, offset: int, at_s: float) -> int:
        """As many as the record takes; a sample too large for it completes it, and the next is wider."""
        record = self._record = self._record or self._begin(digits[0], chunk, offset, at_s)
        part = digits[: min(self._room(record), record.form.fitting(digits))]
        if not len(part):
            self._finish()
            return 0
        record.write(part)
        self._waiting -= len(part)
        self.error = None
        if self._room(record) == 0:
            self._finish()
        elif record.unsynced >= record.rate_hz:
            record.sync()
        return len(part)

    def _begin(self, first: npt.NDArray[np.int64], chunk: Chunk, offset: int, at_s: float) -> _Record:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._delete_oldest()
        self._bytes_each = next(n for n in (2, 3, 4) if n >= self._bytes_each and _Form(n).fitting(first[None]))
        told = _Told(self._source, chunk.leads, float(chunk.rate_hz), self._units_per_mv, _time(at_s))
        return _Record(self._folder, self._name, told, _Form(self._bytes_each), chunk.start + offset)

    def _room(self, record: _Record) -> int:
        return max(round(self._rotate_s * record.rate_hz), 1) - record.samples

    def _finish(self) -> None:
        record, self._record = self._record, None
        if record:
            record.complete()

    def _give_up(self, error: OSError) -> None:
        record, self._record = self._record, None
        if record:
            record.abandon()
        self._rest_s = RETRY_S
        where = error.filename or self._folder
        self.error = (
            f"cannot record to {where}: {error.strerror or error}; mend the disk or [record] folder, it is tried every {RETRY_S:g} s"
        )

    def _delete_oldest(self) -> None:
        """Down to the limit, earlier runs' records included. Called while none is being written."""
        records: dict[tuple[str, int], list[Path]] = defaultdict(list)
        for path in sorted(self._folder.iterdir()):
            if found := _RECORD_FILE.fullmatch(path.name):
                records[found["stamp"], int(found["number"] or 1)].append(path)
        sizes = {age: sum(path.stat().st_size for path in paths) for age, paths in records.items()}
        total = sum(sizes.values())
        for age in sorted(records):
            if total <= self._limit_bytes:
                break
            total -= sizes[age]
            for path in records[age]:
                path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Form:
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
        too_large = ((np.abs(digits) > self.largest) & (digits != _INVALID)).any(axis=1)
        return int(np.argmax(too_large)) if too_large.any() else len(digits)

    def stored(self, digits: Digits) -> Digits:
        """With this format's digit for an invalid sample, the most negative one."""
        return np.where(digits == _INVALID, -self.largest - 1, digits)

    def encode(self, stored: Digits) -> bytes:
        whole = np.ascontiguousarray(stored, "<i4").view(np.uint8).reshape(-1, 4)
        return whole[:, : self.bytes_each].tobytes()


@dataclass(frozen=True, slots=True)
class _Told:
    """What the header tells of a record, but for its length."""

    source: str
    leads: tuple[str, ...]
    rate_hz: float
    units_per_mv: float
    begun: datetime

    def header(self, record: str, form: _Form, first: npt.NDArray[np.int64], checksums: npt.NDArray[np.int64], samples: int) -> str:
        """Without samples it is open: neither length nor time stand in it, as the time may only follow the length."""
        length = f" {samples} {self.begun:%H:%M:%S}.{self.begun.microsecond // 1000:03} {self.begun:%d/%m/%Y}" if samples else ""
        lines = [f"{record} {len(self.leads)} {self.rate_hz!r}{length}"]
        for lead, digit, checksum in zip(self.leads, first, checksums, strict=True):
            gain = f"{self.units_per_mv!r}(0)/mV"
            lines.append(f"{record}.dat {form.code} {gain} {form.code} 0 {digit} {checksum} 0 {_one_line(lead) or LEFT_OUT}")
        lines += [f"# cardiogloss {_version()}".rstrip(), f"# source {_one_line(self.source)}"]
        lines += [f"# begun {self.begun.isoformat(timespec='milliseconds')}"]
        return "\n".join(lines) + "\n"


class _Record:
    """One record on disk while it is written. Every method but `abandon` may raise OSError."""

    def __init__(self, folder: Path, name: str, told: _Told, form: _Form, start: int) -> None:
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


def _to_digits(samples_mv: Samples, units_per_mv: float) -> Digits:
    """[leads, n] in mV -> the nearest whole units; NaN, and what no format holds, is invalid."""
    with np.errstate(over="ignore"):
        units = np.rint(samples_mv.T.astype(np.float64) * units_per_mv)
    return np.where(np.abs(units) < -_INVALID, units, _INVALID).astype(np.int64)


def _unused(folder: Path, record: str) -> Path:
    """The signal file of a record that is not there yet, numbered from 2 where the clock gave this second before."""
    number, path = 1, folder / f"{record}.dat"
    while path.exists() or path.with_suffix(".hea").exists():
        number += 1
        path = folder / f"{record}_{number}.dat"
    return path


def _time(at_s: float) -> datetime:
    """1970 where a clock is so wrong that no calendar has the day."""
    return _EPOCH + timedelta(milliseconds=round(at_s * 1000) if 0 <= at_s < _LAST_S else 0)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _version() -> str:
    try:
        return version("cardiogloss")
    except PackageNotFoundError:
        return ""
