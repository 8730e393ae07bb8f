"""The lines of some recordings in; one file that holds them all or does not exist, and its lines again, out.

A part is a sequence of blocks, one a recording: a line of JSON (the entry, and how many bytes follow), then these bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from .find import Entry

ENDING = ".part"
_UNDER_WAY = ".tmp"
_IN_MEMORY = 1 << 20


@dataclass(frozen=True, slots=True)
class Block:
    """Where the lines of one recording are."""

    entry: Entry
    part: Path
    offset: int
    size: int
    failed: bool = False
    """Whether the recording could not be scored, so that it is worth another try."""

    def lines(self) -> Iterator[bytes]:
        """Each with its end."""
        with self.part.open("rb") as file:
            file.seek(self.offset)
            left = self.size
            while left > 0:
                line = file.readline()
                left -= len(line)
                yield line


@dataclass(slots=True)
class OpenBlock:
    """Where the lines of a recording go, in memory as long as they are few."""

    file: IO[bytes]
    failed: bool = False

    def replace(self, line: bytes) -> None:
        """Only this line is to stand there."""
        self.file.seek(0)
        self.file.truncate()
        self.file.write(line)


class PartWriter:
    """Blocks one after the other; several may be open at once, and are written when they are closed."""

    def __init__(self, file: IO[bytes], folder: Path) -> None:
        self._file, self._folder = file, folder

    @contextmanager
    def block(self, entry: Entry) -> Iterator[OpenBlock]:
        """Of one recording."""
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, dir=str(self._folder)) as lines:
            block = OpenBlock(lines)
            yield block
            size = lines.tell()
            lines.seek(0)
            self._file.write(json.dumps(asdict(entry) | {"follow": size, "failed": block.failed}).encode() + b"\n")
            shutil.copyfileobj(lines, self._file)


@contextmanager
def write_part(folder: Path, name: str) -> Iterator[PartWriter]:
    """A part that is there, whole and on the disk, once this ends well; and not at all else."""
    under_way = folder / f"{name}.{os.getpid()}{_UNDER_WAY}"
    try:
        with under_way.open("wb") as file:
            yield PartWriter(file, folder)
            file.flush()
            os.fsync(file.fileno())
        under_way.replace(folder / f"{name}{ENDING}")
        sync_folder(folder)
    finally:
        under_way.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """So that a new name in it outlives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_parts(folder: Path) -> Iterator[Block]:
    """All blocks of all parts, the oldest part first."""
    for part in sorted(folder.glob(f"*{ENDING}"), key=lambda part: (part.stat().st_mtime_ns, part.name)):
        yield from _read_part(part)


def _read_part(part: Path) -> Iterator[Block]:
    """Up to where it is damaged, if a disk has done that: what follows is not done then."""
    with part.open("rb") as file, suppress(ValueError, KeyError, TypeError):
        whole = os.fstat(file.fileno()).st_size
        while head := file.readline():
            told: dict[str, Any] = json.loads(head)
            size, failed = told.pop("follow"), told.pop("failed")
            block = Block(Entry(**told), part, file.tell(), size, failed)
            if file.seek(size, os.SEEK_CUR) > whole:
                return
            yield block


def clear_rests(folder: Path) -> None:
    """Delete what a killed run has left half written."""
    for rest in folder.glob(f"*{_UNDER_WAY}"):
        rest.unlink(missing_ok=True)
