"""A path in; the SQLite file of an `Outbox`, sound and open for this process alone, out."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .database import Layout, open_database, select, transaction

_AT_ONCE = 8
_BESIDE = 64
"""Bytes of a row beside its text, roughly."""
_SIZE = f"length(payload) + length(topic) + 2 * length(key) + {_BESIDE}"
"""As `_size_of`: a key is in an index, too."""

_LAYOUT = Layout(
    key="outbox.file",
    application=0x65636731,
    version=1,
    schema="""
CREATE TABLE outbox (name TEXT NOT NULL, last INTEGER NOT NULL, gone INTEGER NOT NULL, dropped INTEGER NOT NULL);
CREATE TABLE letter (
    number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, written_s REAL NOT NULL, acknowledged INTEGER NOT NULL,
    topic TEXT NOT NULL, payload TEXT NOT NULL
);
CREATE INDEX letter_order ON letter (acknowledged DESC, number);
CREATE INDEX letter_age ON letter (written_s);
CREATE TABLE state (topic TEXT PRIMARY KEY, payload TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE stream (source TEXT PRIMARY KEY, identity TEXT NOT NULL, name TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO outbox VALUES (lower(hex(randomblob(4))), 0, 0, 0);
""",
    pragmas=("synchronous = FULL",),
    replaces_rubbish=True,
)


@dataclass(frozen=True, slots=True)
class Row:
    """A letter as it goes out, the same bytes each time."""

    number: int
    topic: str
    payload: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A row as it is written."""

    row: Row
    key: str
    written_s: float


@dataclass(frozen=True, slots=True)
class Counts:
    """What must outlive the program beside the rows."""

    last: int
    """The highest number given."""
    gone: int
    """The highest number whose row is no longer here."""
    dropped: int
    """Rows that went before they were acknowledged."""


class OutboxFile:
    """The tables. Every method raises OSError for what the disk refuses, and has then changed nothing."""

    def __init__(self, path: Path) -> None:
        """Makes the folder. A file that is no sound database is moved aside, and a new one begun.

        Raises ConfigError where the file cannot be opened or written, belongs to another program, or is in use, and OSError
        where its disk is full.
        """
        self._db = open_database(path, _LAYOUT)
        self._beside = path.with_name(path.name + "-last")
        ((self._bytes,),) = select(self._db, f"SELECT coalesce(sum({_SIZE}), 0) FROM letter")
        self.name: str = next(select(self._db, "SELECT name FROM outbox"))[0]
        """Made once, with the file."""

    def counts(self) -> Counts:
        """As they were written last."""
        ((last, gone, dropped),) = select(self._db, "SELECT last, gone, dropped FROM outbox")
        return Counts(last, gone, dropped)

    def newest(self) -> int:
        """The highest number that has a row; 0 where there is none."""
        ((newest,),) = select(self._db, "SELECT coalesce(max(number), 0) FROM letter")
        return int(newest)

    def numbers_waiting(self) -> list[int]:
        """Of the rows that are not acknowledged, in order."""
        return [number for (number,) in select(self._db, "SELECT number FROM letter WHERE acknowledged = 0 ORDER BY number")]

    def rows(self, after: int) -> Iterator[Row]:
        """Those above `after`, in order."""
        return (Row(*row) for row in select(self._db, "SELECT number, topic, payload FROM letter WHERE number > ? ORDER BY number", after))

    def rows_waiting(self, after: int) -> Iterator[Row]:
        """Those of them that are not acknowledged."""
        query = "SELECT number, topic, payload FROM letter WHERE acknowledged = 0 AND number > ? ORDER BY number"
        return (Row(*row) for row in select(self._db, query, after))

    def knows(self, key: str) -> bool:
        """Whether there is a row under this key."""
        return any(select(self._db, "SELECT 1 FROM letter WHERE key = ?", key))

    def states(self) -> dict[str, str]:
        """Payload by topic."""
        return dict(select(self._db, "SELECT topic, payload FROM state"))

    def streams(self) -> dict[str, tuple[str, str]]:
        """Identity and name by source."""
        return {source: (identity, name) for source, identity, name in select(self._db, "SELECT source, identity, name FROM stream")}

    def write(
        self,
        entries: Iterable[Entry],
        acknowledged: Iterable[int],
        states: Mapping[str, str | None],
        streams: Mapping[str, tuple[str, str]] | None,
        counts: Counts,
    ) -> None:
        """All of it in one transaction. A state of None is deleted; streams of None stay as they are."""
        with transaction(self._db) as db:
            added = sum(_size_of(entry) for entry in entries if _insert(db, entry))
            db.executemany("UPDATE letter SET acknowledged = 1 WHERE number = ?", [(number,) for number in acknowledged])
            db.executemany("REPLACE INTO state VALUES (?, ?)", [(topic, last) for topic, last in states.items() if last is not None])
            db.executemany("DELETE FROM state WHERE topic = ?", [(topic,) for topic, last in states.items() if last is None])
            if streams is not None:
                db.execute("DELETE FROM stream")
                db.executemany("INSERT INTO stream VALUES (?, ?, ?)", [(source, *rest) for source, rest in streams.items()])
            db.execute("UPDATE outbox SET last = ?, gone = ?, dropped = ?", (counts.last, counts.gone, counts.dropped))
        self._bytes += added

    def note_last(self, last: int) -> None:
        """The highest number given, for when the disk is full: in place, in a small file beside, which needs no room."""
        file = os.open(self._beside, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(file, f"{self.name} {last:020}\n".encode(), 0)
            os.fsync(file)
        finally:
            os.close(file)

    def noted_last(self) -> int:
        """As it was noted; 0 where it was not."""
        try:
            name, last = self._beside.read_text(encoding="ascii").split()
            return int(last) if name == self.name else 0
        except (FileNotFoundError, ValueError):
            return 0

    def prune(self, written_s: float, most_bytes: int) -> list[int]:
        """The numbers that went: what is acknowledged and was written before, then the oldest while the letters are too large, those
        that are acknowledged first and the newest never.

        Age takes nothing else: a clock that was set between two runs makes all that waits look old.
        """
        with transaction(self._db) as db:
            gone = _delete(db, "WHERE acknowledged = 1 AND written_s < ?", written_s)
            while self._bytes - _total(gone) > most_bytes and (some := _delete(db, _OLDEST, _AT_ONCE)):
                gone += some
            if gone:
                highest, waited = max(one.number for one in gone), sum(not one.acknowledged for one in gone)
                db.execute("UPDATE outbox SET gone = max(gone, ?), dropped = dropped + ?", (highest, waited))
        self._bytes -= _total(gone)
        return [one.number for one in gone]

    def close(self) -> None:
        """Never raises: what was written is on disk."""
        with suppress(sqlite3.Error):
            self._db.close()


_OLDEST = "WHERE number < (SELECT max(number) FROM letter) ORDER BY acknowledged DESC, number LIMIT ?"


def _size_of(entry: Entry) -> int:
    return len(entry.row.payload) + len(entry.row.topic) + 2 * len(entry.key) + _BESIDE


def _insert(db: sqlite3.Connection, entry: Entry) -> bool:
    """Whether its key was new."""
    row = entry.row.number, entry.key, entry.written_s, entry.row.topic, entry.row.payload
    return db.execute("INSERT OR IGNORE INTO letter VALUES (?, ?, ?, 0, ?, ?)", row).rowcount == 1


class _Gone(NamedTuple):
    number: int
    acknowledged: int
    size: int


def _delete(db: sqlite3.Connection, which: str, given: float) -> list[_Gone]:
    gone = [_Gone(*row) for row in db.execute(f"SELECT number, acknowledged, {_SIZE} FROM letter {which}", (given,))]
    db.executemany("DELETE FROM letter WHERE number = ?", [(one.number,) for one in gone])
    return gone


def _total(gone: Iterable[_Gone]) -> int:
    return sum(one.size for one in gone)
