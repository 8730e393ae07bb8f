"""A path in; the SQLite file of a `History`, sound and open for this process alone, out."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import astuple, replace
from pathlib import Path

from ..database import Layout, mapped, open_database, select, transaction
from .chronicle import Batch, StripKind, Word
from .trend import Row, higher

_AT_ONCE = 4096
_STRIPS_AT_ONCE, _MINUTES_AT_ONCE = 16, 1000
_WAL_BYTES = 4 << 20
_SPARE_PAGES = 1000
"""Left in the file for what comes next: who gives every free page back at once writes the same places over and over."""

_LAYOUT = Layout(
    key="web.history",
    application=0x65636732,
    version=1,
    schema="""
CREATE TABLE finding (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE minute (
    minute INTEGER NOT NULL, source TEXT NOT NULL, rates INTEGER NOT NULL, sum_bpm REAL NOT NULL, low_bpm REAL NOT NULL,
    high_bpm REAL NOT NULL, good INTEGER NOT NULL, judged INTEGER NOT NULL, highest BLOB NOT NULL, PRIMARY KEY (minute, source)
) WITHOUT ROWID;
CREATE TABLE alert (
    id TEXT PRIMARY KEY, rank INTEGER NOT NULL, seq INTEGER NOT NULL, first_seq INTEGER NOT NULL, source TEXT NOT NULL,
    begun_s REAL NOT NULL, told_s REAL NOT NULL, last TEXT NOT NULL, is_on INTEGER NOT NULL, has_evidence INTEGER NOT NULL
);
CREATE TABLE strip (id TEXT NOT NULL, kind TEXT NOT NULL, time_s REAL NOT NULL, packed BLOB NOT NULL);
CREATE UNIQUE INDEX strip_of ON strip (id, kind);
""",
    pragmas=("auto_vacuum = INCREMENTAL", "synchronous = NORMAL", f"journal_size_limit = {_WAL_BYTES}"),
)


class HistoryFile:
    """The tables. Every method raises OSError for what the disk refuses, and has then changed nothing. One thread at a time.

    WAL, synchronous=NORMAL: what was written outlives the program however it ends; a power cut may take the last seconds, and
    leaves the file sound (sqlite.org/pragma.html, "synchronous").
    """

    def __init__(self, path: Path) -> None:
        """Makes the folder. A history that is no longer sound is moved aside, and a new one begun.

        Raises ConfigError where the file cannot be opened or written, is something else, or is in use, and OSError where its disk
        is full.
        """
        self._db = open_database(path, _LAYOUT)
        self._db.create_function("higher", 2, higher, deterministic=True)

    def findings(self) -> dict[int, str]:
        """Name by number."""
        return dict(select(self._db, "SELECT id, name FROM finding"))

    def words(self) -> Iterator[Word]:
        """Those told last come last."""
        for row in select(self._db, f"SELECT {_WORD} FROM alert ORDER BY rank"):
            word = Word(*row)
            yield replace(word, is_on=bool(word.is_on), has_evidence=bool(word.has_evidence))

    def orphans(self) -> dict[str, float]:
        """Of evidence without an alert the id, and when it came."""
        return dict(select(self._db, "SELECT id, time_s FROM strip WHERE id NOT IN (SELECT id FROM alert)"))

    def strip(self, alert_id: str, kind: StripKind) -> bytes | None:
        """As it was written."""
        found = next(select(self._db, "SELECT packed FROM strip WHERE id = ? AND kind = ?", alert_id, kind), None)
        return found[0] if found else None

    def sources(self, begin: int, end: int, only: str | None) -> set[str]:
        """Of all, or the one that is asked for, those that have minutes from one on, and before another."""
        found = select(self._db, "SELECT DISTINCT source FROM minute WHERE minute >= ? AND minute < ?", begin, end)
        return {source for (source,) in found if only in (None, source)}

    def rows(self, begin: int, end: int, source: str | None) -> Iterator[list[Row]]:
        """The minutes of one source, or of all, a few thousand at a time."""
        only = " AND source = ?" if source is not None else ""
        given = (begin, end, source) if source is not None else (begin, end)
        with mapped(), closing(self._db.execute(f"SELECT * FROM minute WHERE minute >= ? AND minute < ?{only}", given)) as found:
            while rows := found.fetchmany(_AT_ONCE):
                yield rows

    def write(self, batch: Batch) -> None:
        """All of it in one transaction."""
        with transaction(self._db) as db:
            _delete(db, batch.gone)
            db.executemany("REPLACE INTO alert VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", [astuple(word) for word in batch.words.values()])
            db.executemany("REPLACE INTO strip VALUES (?, ?, ?, ?)", [(*key, s.time_s, s.packed) for key, s in batch.strips.items()])
            db.executemany("INSERT OR IGNORE INTO finding VALUES (?, ?)", batch.findings.items())
            db.executemany(_MERGE, [Row.of(key, part) for key, part in batch.minutes.items()])

    def prune(self, before_s: float, most_bytes: int) -> int:
        """Take the minutes that were before; then, while too much is left, the oldest strips, and last the oldest minutes. How many were
        taken for their size.
        """
        with transaction(self._db) as db:
            db.execute("DELETE FROM minute WHERE minute < ?", (before_s // 60,))
            gone = 0
            while self.used_bytes > most_bytes and (some := _thin_out(db)):
                gone += some
        self._give_back()
        return gone

    @property
    def used_bytes(self) -> int:
        """Of the file, without the pages that are free."""
        pages, free, size = (self._pragma(name) for name in ("page_count", "freelist_count", "page_size"))
        return (pages - free) * size

    def close(self) -> None:
        """Never raises: what was written is on disk."""
        with suppress(sqlite3.Error):
            self._db.close()

    def _give_back(self) -> None:
        """Pages to the disk, a few each time, where many are free."""
        free, pages = self._pragma("freelist_count"), self._pragma("page_count")
        if free > max(_SPARE_PAGES, pages // 4):
            with mapped():
                # Not `execute`, which takes one step of a statement without columns, and a page is a step.
                self._db.executescript(f"PRAGMA incremental_vacuum({_SPARE_PAGES})")

    def _pragma(self, name: str) -> int:
        ((value,),) = select(self._db, f"PRAGMA {name}")
        return int(value)


_MERGE = """
INSERT INTO minute VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (minute, source) DO UPDATE SET
    rates = rates + excluded.rates, sum_bpm = sum_bpm + excluded.sum_bpm,
    low_bpm = min(low_bpm, excluded.low_bpm), high_bpm = max(high_bpm, excluded.high_bpm),
    good = good + excluded.good, judged = judged + excluded.judged, highest = higher(highest, excluded.highest)
"""
_WORD = "id, rank, seq, first_seq, source, begun_s, told_s, last, is_on, has_evidence"
_OLDEST_STRIPS = "DELETE FROM strip WHERE rowid IN (SELECT rowid FROM strip ORDER BY rowid LIMIT ?)"
_OLDEST_MINUTES = "DELETE FROM minute WHERE (minute, source) IN (SELECT minute, source FROM minute ORDER BY minute LIMIT ?)"


def _delete(db: sqlite3.Connection, ids: Iterable[str]) -> None:
    for table in ("alert", "strip"):
        db.executemany(f"DELETE FROM {table} WHERE id = ?", [(one,) for one in ids])


def _thin_out(db: sqlite3.Connection) -> int:
    """Some of the oldest; how many."""
    return db.execute(_OLDEST_STRIPS, (_STRIPS_AT_ONCE,)).rowcount or db.execute(_OLDEST_MINUTES, (_MINUTES_AT_ONCE,)).rowcount
