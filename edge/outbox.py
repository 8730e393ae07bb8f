"""Messages that must arrive in; the same, numbered and on disk until the broker has them and for a while after, out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import structlog

from .outbox_file import Counts, Entry, OutboxFile, Row

_MOST_HELD = 4000
"""Letters kept in memory for a disk that takes none."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that must arrive."""

    topic: str
    message: dict[str, Any]
    """The outbox adds its name as `outbox`, and as `number` 1, 2, 3 and so on."""
    key: str
    """What was written before under the same key is skipped."""
    state_topic: str | None = None
    """Where the last message of its kind is kept."""
    state: dict[str, Any] | None = None
    """What is kept there, with the same two added; the message where it is None."""


@dataclass(slots=True)
class _Unsaved:
    """What only memory knows."""

    entries: dict[int, Entry] = field(default_factory=dict)
    acknowledged: list[int] = field(default_factory=list)
    states: dict[str, str | None] = field(default_factory=dict)
    streams: dict[str, tuple[str, str]] | None = None
    """All of them, once they have changed."""

    def __bool__(self) -> bool:
        return bool(self.entries or self.acknowledged or self.states) or self.streams is not None


class Outbox:
    """Letters in the order of their numbers, in a SQLite file (WAL, synchronous=FULL). One thread at a time uses it.

    Once it is open nothing raises. What the disk does not take is held in memory, in order, and written as soon as there
    is room. Other threads may read the attributes and properties.
    """

    def __init__(self, path: Path, most_bytes: int, oldest_s: float) -> None:
        """Makes the folder. A file that is no sound database is moved aside, and a new one begun.

        Raises ConfigError where the file cannot be opened or written, belongs to another program, or is in use, and OSError
        where it can then not be read.
        """
        self._path = path
        self._most_bytes = most_bytes
        self._oldest_s = oldest_s
        self._file = OutboxFile(path)
        self.name = self._file.name
        """Made once, with the file."""
        self._counts = self._file.counts()
        last = max(self.last, self._file.noted_last())
        if self._file.newest() < last:
            # What was told while the disk was full, and lost with the program.
            self._counts = replace(self._counts, last=last, gone=last)
        self._waiting = dict.fromkeys(self._file.numbers_waiting())
        self._streams = self._file.streams()
        self._unsaved = _Unsaved()
        self.unwritten = 0
        """Letters that the disk did not take at once."""
        self.problem: str | None = None
        """Why the disk takes nothing just now."""
        self._note_last()

    @property
    def last(self) -> int:
        """The highest number; 0 where there is none."""
        return self._counts.last

    @property
    def first(self) -> int:
        """Every letter from this number to `last` is known."""
        return self._counts.gone + 1

    @property
    def dropped(self) -> int:
        """Letters that size or age took before they were acknowledged, since the file was made."""
        return self._counts.dropped

    @property
    def waiting_count(self) -> int:
        """Letters that are not acknowledged."""
        return len(self._waiting)

    def write(self, letters: Sequence[Letter], time_s: float) -> list[Row]:
        """Number those whose keys are new, and put them on disk in one transaction with all that waits for it. `time_s` ages them."""
        rows = [self._enter(letter, time_s) for letter in letters if not self._knows(letter.key)]
        if not self.save():
            self.unwritten += len(rows)
        return rows

    def acknowledge(self, numbers: Iterable[int]) -> None:
        """They arrived. The next `write` or `save` notes it on disk; they stay for `since` until size or age takes them."""
        for number in numbers:
            if number in self._waiting:
                del self._waiting[number]
                self._unsaved.acknowledged.append(number)

    def save(self) -> bool:
        """Put on disk what only memory knows; whether that went well."""
        new = self._unsaved
        if not new and self.problem is None:
            return True
        try:
            self._file.write(new.entries.values(), new.acknowledged, new.states, new.streams, self._counts)
        except OSError as error:
            self._blame(error)
            self._note_last()
            return False
        if self.problem is not None:
            log.info("outbox written again", file=str(self._path))
        self._unsaved, self.problem = _Unsaved(), None
        return True

    def waiting(self, after: int, limit: int) -> list[Row]:
        """Those above `after` that are not acknowledged, in order."""
        rows = chain(self._read(self._file.rows_waiting(after)), self._held(after))
        return list(islice((row for row in rows if row.number in self._waiting), limit))

    def since(self, after: int, limit: int) -> list[Row]:
        """Those above `after`, acknowledged or not, in order."""
        return list(islice(chain(self._read(self._file.rows(after)), self._held(after)), limit))

    def states(self) -> dict[str, str]:
        """The last payload of each topic."""
        try:
            kept: dict[str, str | None] = {**self._file.states()}
        except OSError as error:
            self._blame(error)
            kept = {}
        return {topic: payload for topic, payload in (kept | self._unsaved.states).items() if payload is not None}

    def forget_state(self, topic: str) -> None:
        """As if there had never been one."""
        self._unsaved.states[topic] = None
        self.save()

    def streams(self) -> list[tuple[str, str, str]]:
        """Source, identity and name of each that has begun and not ended."""
        return [(source, *rest) for source, rest in self._streams.items()]

    def begin_stream(self, source: str, identity: str, name: str) -> str:
        """The name under which this source read the same thing when the program was lost; else `name`, from now on."""
        before = self._streams.get(source)
        if before is None or before[0] != identity:
            self._change_streams(self._streams | {source: (identity, name)})
        return self._streams[source][1]

    def end_stream(self, source: str) -> None:
        """What it reads next is another one."""
        if source in self._streams:
            self._change_streams({one: rest for one, rest in self._streams.items() if one != source})

    def prune(self, time_s: float) -> None:
        """Take what is too old; then, while too much is left, the oldest of what is acknowledged, and last the oldest of what waits."""
        try:
            self._forget(self._file.prune(time_s - self._oldest_s, self._most_bytes))
        except OSError as error:
            self._blame(error)

    def close(self) -> None:
        """Save, and let go of the file."""
        self.save()
        self._file.close()

    def _enter(self, letter: Letter, time_s: float) -> Row:
        """With the next number, in memory."""
        added = {"outbox": self.name, "number": self.last + 1}
        row = Row(self.last + 1, letter.topic, _json(letter.message | added))
        if letter.state_topic is not None:
            self._unsaved.states[letter.state_topic] = _json((letter.message if letter.state is None else letter.state) | added)
        self._counts = replace(self._counts, last=row.number)
        self._waiting[row.number] = None
        held = self._unsaved.entries
        held[row.number] = Entry(row, letter.key, time_s)
        if len(held) > _MOST_HELD:
            self._forget([held.pop(next(iter(held))).row.number])
        return row

    def _knows(self, key: str) -> bool:
        if any(key == entry.key for entry in self._unsaved.entries.values()):
            return True
        try:
            return self._file.knows(key)
        except OSError as error:
            self._blame(error)
            return False

    def _held(self, after: int) -> Iterator[Row]:
        return (entry.row for number, entry in self._unsaved.entries.items() if number > after)

    def _read(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Without those that the disk does not give."""
        try:
            yield from rows
        except OSError as error:
            self._blame(error)

    def _change_streams(self, streams: dict[str, tuple[str, str]]) -> None:
        self._streams = self._unsaved.streams = streams
        self.save()

    def _forget(self, numbers: Sequence[int]) -> None:
        """Rows that are no longer kept."""
        waited = [number for number in numbers if number in self._waiting]
        for number in waited:
            del self._waiting[number]
        self._counts = Counts(self.last, max([self._counts.gone, *numbers]), self.dropped + len(waited))

    def _note_last(self) -> None:
        """A number that went out must not be given again after a restart."""
        try:
            self._file.note_last(self.last)
        except OSError as error:
            self._blame(error)

    def _blame(self, error: OSError) -> None:
        if self.problem is None:
            log.error("outbox not written", file=str(self._path), why=str(error))
        self.problem = f"{self._path}: {error}"


def _json(message: dict[str, Any]) -> str:
    return json.dumps(message, separators=(",", ":"))
