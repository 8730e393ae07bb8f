"""A path in; a SQLite database of our own, sound and open for this process alone, out."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import structlog

from kernels.findings import ConfigError

_PATIENCE_S = 2.0
"""A daemon that is being restarted needs a moment to let go of the file."""
_FULL = ("disk is full", "disk I/O error", "No space left", "File too large")
"""No mistake of the operator's: whoever looks after the daemon starts it again."""
_MAGIC = b"SQLite format 3\0"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Layout:
    """What a database of ours is like."""

    key: str
    """Of the config, where its file is named."""
    application: int
    version: int
    schema: str
    """SQL that makes the tables."""
    pragmas: tuple[str, ...] = ()
    """Before the file is made or read."""
    replaces_rubbish: bool = False
    """Whether what is no database at all is moved aside, too, as a broken one of ours is; else it is refused."""


def open_database(path: Path, layout: Layout) -> sqlite3.Connection:
    """Makes the folder. A database of ours that is no longer sound is moved aside, and a new one begun.

    Raises ConfigError where the file cannot be opened or written, is something else, or is in use, and OSError where its disk is full.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return _connect(path, layout)
        except sqlite3.DatabaseError as error:
            if not _is_unsound(error):
                raise
            return _connect(path, layout)
    except (OSError, sqlite3.Error) as error:
        if any(words in str(error) for words in _FULL):
            raise OSError(f"{path}: {error}; make room on its disk") from error
        raise ConfigError(f"{layout.key}: {path}: {_in_words(error)}") from error


@contextmanager
def mapped() -> Iterator[None]:
    """What SQLite raises is an OSError."""
    try:
        yield
    except sqlite3.Error as error:
        raise OSError(str(error)) from error


def select(db: sqlite3.Connection, query: str, *given: object) -> Iterator[Any]:
    """Its rows. Raises OSError."""
    with mapped(), closing(db.execute(query, given)) as rows:
        yield from rows


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing. Raises OSError."""
    with mapped():
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
            db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise


def _connect(path: Path, layout: Layout) -> sqlite3.Connection:
    """Raises sqlite3.Error, and ConfigError for what is not ours; what is, and is not sound, has then been moved aside."""
    is_ours = layout.replaces_rubbish or _is_ours(path, layout.application)
    db = sqlite3.connect(path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False)
    try:
        for pragma in (*layout.pragmas, "locking_mode = EXCLUSIVE", "journal_mode = WAL"):
            db.execute(f"PRAGMA {pragma}")
        _make_or_check(db, path, layout)
    except BaseException as error:
        if _is_unsound(error) and is_ours:
            # Before the close, which removes the WAL by its name.
            log.error("database moved aside", file=str(path), to=str(_move_aside(path)), why=str(error))
        db.close()
        if _is_unsound(error) and not is_ours:
            raise ConfigError(f"{layout.key}: {path} is no database; give another file, or take this one away") from error
        raise
    return db


def _is_ours(path: Path, application: int) -> bool:
    """Whether the beginning of the file says so, or there is none, or a power cut left zeros of it (sqlite.org/fileformat.html)."""
    try:
        with path.open("rb") as file:
            head = file.read(72)
    except FileNotFoundError:
        return True
    return not head.strip(b"\0") or (head.startswith(_MAGIC) and int.from_bytes(head[68:72], "big") == application)


def _is_unsound(error: BaseException) -> bool:
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)


def _make_or_check(db: sqlite3.Connection, path: Path, layout: Layout) -> None:
    """Raises ConfigError for the file of another program, and sqlite3.Error."""
    application, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        names = f"PRAGMA application_id = {layout.application}; PRAGMA user_version = {layout.version};"
        db.executescript(f"BEGIN; {layout.schema} {names} COMMIT; PRAGMA wal_checkpoint(TRUNCATE)")
    elif application != layout.application:
        raise ConfigError(f"{layout.key}: {path} is the database of another program; give a file of its own")
    elif version != layout.version:
        raise ConfigError(f"{layout.key}: {path} was written by another version of cardiogloss; give another file")
    elif (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise sqlite3.DatabaseError(found)
    # Whoever else has the file open, or allows only to read it, says so now.
    db.executescript("BEGIN IMMEDIATE; COMMIT")


def _move_aside(path: Path) -> Path:
    """With what belongs to it, under the first name that is free."""
    broken = next(to for n in count(1) if not (to := path.with_name(f"{path.name}.broken-{n}")).exists())
    for suffix in ("", "-wal", "-shm", "-journal"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(broken.with_name(broken.name + suffix))
    return broken


def _in_words(error: Exception) -> str:
    """What is wrong, and how to mend it."""
    if "locked" in str(error):
        return "another cardiogloss uses this file; give each daemon its own"
    why = error.strerror if isinstance(error, OSError) else error
    return f"cannot be opened and written ({why}); give a file on a disk that takes it"
