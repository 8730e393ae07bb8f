"""The `Chunk`s of one source in; WFDB records on disk, a new one every hour and the oldest deleted, out.

Source: the WFDB Applications Guide, header(5) and signal(5).
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .decode.chunk import Chunk
from .record_file import INVALID, Digits, Form, RecordFile, Told, to_digits

LONGEST_GAP_S = 10.0
"""A gap up to this is filled with invalid samples; a longer one begins a new record."""

RETRY_S = 10.0
"""So much is lost after an error before the disk is tried again."""

_LONGEST_NAME = 30
"""The WFDB library takes record names of up to 50 characters; the time and a number follow the source."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_LAST_S = 253_402_214_400.0
_RECORD_FILE = re.compile(r"(?P<record>.+_(?P<stamp>\d{8}T\d{6})(?:_(?P<number>\d+))?)\.(?:dat|hea|hea\.new)")


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
        self._record: RecordFile | None = None
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
        digits = to_digits(chunk.without_loose(), self._units_per_mv)
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
            record.write(np.full((gap, len(chunk.leads)), INVALID))

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

    def _begin(self, first: npt.NDArray[np.int64], chunk: Chunk, offset: int, at_s: float) -> RecordFile:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._delete_oldest()
        self._bytes_each = next(n for n in (2, 3, 4) if n >= self._bytes_each and Form(n).fitting(first[None]))
        told = Told(self._source, chunk.leads, float(chunk.rate_hz), self._units_per_mv, _time(at_s))
        return RecordFile(self._folder, self._name, told, Form(self._bytes_each), chunk.start + offset)

    def _room(self, record: RecordFile) -> int:
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


def _time(at_s: float) -> datetime:
    """1970 where a clock is so wrong that no calendar has the day."""
    return _EPOCH + timedelta(milliseconds=round(at_s * 1000) if 0 <= at_s < _LAST_S else 0)
