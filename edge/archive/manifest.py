"""A folder of results in; what of an archive is done there, and what is to do, out, however often a run was killed."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

from kernels.findings import ConfigError

from ..shard import share
from .find import Entry
from .part import Block, clear_rests, read_parts, sync_folder

VERSION = 2
"""Of the lines: results of another one are not gone on with."""
_MOST_TOGETHER = 32
_MOST_BYTES = 2 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the results of a recording, besides its samples."""

    root: str
    """The folder that the recordings' names begin in."""
    bundle: str
    """The sha256 of the model."""
    hop_s: float
    columns: str
    partial: bool
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several runs that share an archive: the recordings whose name falls to it."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/8` is the second of eight. Raises ConfigError."""
        try:
            return cls(*share(text, 1_000_000))
        except ValueError as error:
            raise ConfigError(f"--shard {text!r} {error}") from error

    def has(self, entry: Entry) -> bool:
        """Whoever asks, the same."""
        return crc32(entry.name.encode()) % self.of == self.number - 1


@dataclass(frozen=True, slots=True)
class Task:
    """Recordings that are scored together and end up in one part."""

    entries: tuple[Entry, ...]

    @property
    def name(self) -> str:
        """Of its part: another set of recordings has another one."""
        told = "\n".join(f"{entry.name} {entry.bytes} {entry.changed_ns}" for entry in self.entries)
        return f"{crc32(self.entries[0].name.encode()):08x}-{crc32(told.encode()):08x}-{len(self.entries)}"

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.entries)

    def alone(self) -> list[Task]:
        """Each recording by itself."""
        return [Task((entry,)) for entry in self.entries]


class Manifest:
    """The results under one folder."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.parts = out / "parts"

    @contextmanager
    def open(self, settings: Settings, shard: Shard) -> Iterator[None]:
        """To add results. Raises ConfigError where another run does so, or where the results there came about otherwise."""
        _make(self.parts, self.out)
        with ExitStack() as locks:
            _take(locks, self.out / f"shard-{shard.number}-of-{shard.of}.lock")
            self._clear(locks)
            with self.alone():
                self._agree(settings)
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While no other shard writes the tables."""
        with (self.out / "tables.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _clear(self, locks: ExitStack) -> None:
        """What killed runs have left, where no other run is under way."""
        lock = locks.enter_context((self.out / "run.lock").open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            clear_rests(self.parts)
        except BlockingIOError:
            pass
        fcntl.flock(lock, fcntl.LOCK_SH)

    def _agree(self, settings: Settings) -> None:
        told = self.out / "run.json"
        if not told.exists():
            draft = told.with_suffix(".tmp")
            draft.write_text(json.dumps(asdict(settings), indent=1) + "\n", encoding="utf-8")
            draft.replace(told)
            sync_folder(self.out)
        try:
            before = json.loads(told.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{told} is damaged, so the results beside it cannot be trusted; give another --out") from error
        differ = [name for name, value in asdict(settings).items() if before.get(name) != value]
        if differ:
            was = ", ".join(f"{name} {before.get(name)!r}" for name in differ)
            raise ConfigError(f"{self.out} holds results with another {was}; ask for the same, or give another --out")

    def blocks(self, entries: Iterable[Entry]) -> list[Block]:
        """Of these recordings what was tried, ordered by name; one that was changed since was not."""
        wanted = set(entries)
        done: dict[Entry, Block] = {}
        for block in read_parts(self.parts):
            if block.entry in wanted and (not block.failed or block.entry not in done or done[block.entry].failed):
                done[block.entry] = block
        return [done[entry] for entry in sorted(done)]


def cut(entries: Sequence[Entry]) -> list[Task]:
    """Tasks of so many recordings that they are worth a file; the largest first, so that no core waits long for the last."""
    tasks: list[Task] = []
    held: list[Entry] = []
    for entry in sorted(entries):
        if held and (len(held) == _MOST_TOGETHER or sum(one.bytes for one in held) + entry.bytes > _MOST_BYTES):
            tasks.append(Task(tuple(held)))
            held = []
        held.append(entry)
    tasks += [Task(tuple(held))] if held else []
    return sorted(tasks, key=lambda task: -task.bytes)


def _make(parts: Path, out: Path) -> None:
    try:
        parts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be made ({error.strerror}); name a new folder, or one of an earlier run") from error


def _take(locks: ExitStack, lock: Path) -> None:
    """Given back by the system, however the process ends."""
    try:
        fcntl.flock(locks.enter_context(lock.open("w")), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"another run is writing into {lock.parent}; wait for it, or give another --out") from None
