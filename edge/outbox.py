"""Messages that must arrive in; the same, numbered and on disk until the broker has them and for a while after, out."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import structlog

from .outbox_file import Counts, Entry, OutboxFile, Row

_MOST_HELD = 4000
_MOST_HELD_BYTES = 32 << 20
"""Letters, and bytes of their payloads, kept in memory for a disk that takes none."""
_MOST_STATES = 20_000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Letter:
    """A message that must arrive."""

    topic: str
    message: dict[str, Any]
    """The outbox adds its name as `outbox`, and as `number` 1, 2, 3 and so on, after all else."""
    key: str
    """What was written before under the same key is skipped."""
    state_topic: str | None = None
    """Where the last message of its kind is kept."""
    state: dict[str, Any] | None = None
    """What is kept there, with the same two added; the message where it is None."""

    def seal(self) -> Sealed:
        """For whoever must hold many."""
        return Sealed(self.topic, _json(self.message), self.key, self.state_topic, None if self.state is None else _json(self.state))


@dataclass(frozen=True, slots=True)
class Sealed:
    """A `Letter` as text. A strip of numbers takes far more memory as Python's own."""

    topic: str
    text: str
    key: str
    state_topic: str | None
    state: str | None

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.text) + len(self.state or "")


@dataclass(slots=True)
class _Unsaved:
    """What only memory knows."""

    entries: dict[int, Entry] = field(default_factory=dict)
    size: int = 0
    """Bytes of their payloads."""
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
        self.oldest_s = oldest_s
        """What was acknowledged so long ago goes."""
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
        self._state_topics = set(self._file.states())
        self._unsaved = _Unsaved()
        self.unwritten = 0
        """Letters that the disk did not take at once."""
        self.written_states: dict[str, str] = {}
        """The new payload of each topic, by the last `write`."""
        self.is_unread = False
        """Whether the disk refused the last read, so that nothing was given."""
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

    def write(self, letters: Sequence[Letter | Sealed], time_s: float) -> list[Row]:
        """Number those whose keys are new, and put them on disk in one transaction with all that waits for it. `time_s` ages them."""
        self.written_states = {}
        sealed = (letter if isinstance(letter, Sealed) else letter.seal() for letter in letters)
        rows = [self._enter(letter, time_s) for letter in sealed if not self._knows(letter.key)]
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
        """Those above `after` that are not acknowledged, in order. Nothing where the disk refuses, as what is held comes last."""
        return self._read(self._file.rows_waiting(after), after, limit, self._waiting)

    def since(self, after: int, limit: int) -> list[Row]:
        """Those above `after`, acknowledged or not, in order. Nothing where the disk refuses."""
        return self._read(self._file.rows(after), after, limit)

    def states(self) -> dict[str, str]:
        """The last payload of each topic."""
        self.is_unread = False
        try:
            kept: dict[str, str | None] = {**self._file.states()}
        except OSError as error:
            self._refuse_to_read(error)
            kept = {}
        return {topic: payload for topic, payload in (kept | self._unsaved.states).items() if payload is not None}

    def forget_state(self, topic: str) -> None:
        """As if there had never been one."""
        self._forget_states([topic])

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

    def prune(self, time_s: float) -> list[str]:
        """Take what arrived and is too old; then, while too much is left, the oldest of what arrived, and last the oldest of what waits.

        Of states beyond a number go the oldest, those that are cleared first: the topics.
        """
        try:
            self._forget(self._file.prune(time_s - self.oldest_s, self._most_bytes))
        except OSError as error:
            self._blame(error)
        return self._thin_out() if len(self._state_topics) > _MOST_STATES else []

    def close(self) -> None:
        """Save, and let go of the file."""
        self.save()
        self._file.close()

    def _enter(self, letter: Sealed, time_s: float) -> Row:
        """With the next number, in memory."""
        row = Row(self.last + 1, letter.topic, self._number(letter.text))
        if letter.state_topic is not None:
            state = row.payload if letter.state is None else self._number(letter.state)
            self.written_states[letter.state_topic] = self._unsaved.states[letter.state_topic] = state
            self._state_topics.add(letter.state_topic)
        self._counts = replace(self._counts, last=row.number)
        self._waiting[row.number] = None
        self._hold(Entry(row, letter.key, time_s))
        return row

    def _number(self, text: str) -> str:
        """With the name and the next number, before the last brace."""
        comma = "," if text != "{}" else ""
        return f'{text[:-1]}{comma}"outbox":"{self.name}","number":{self.last + 1}}}'

    def _hold(self, entry: Entry) -> None:
        new = self._unsaved
        new.entries[entry.row.number] = entry
        new.size += len(entry.row.payload)
        while len(new.entries) > _MOST_HELD or (new.size > _MOST_HELD_BYTES and len(new.entries) > 1):
            oldest = new.entries.pop(next(iter(new.entries))).row
            new.size -= len(oldest.payload)
            self._forget([oldest.number])

    def _knows(self, key: str) -> bool:
        if any(key == entry.key for entry in self._unsaved.entries.values()):
            return True
        try:
            return self._file.knows(key)
        except OSError as error:
            self._blame(error)
            return False

    def _read(self, stored: Iterator[Row], after: int, limit: int, only: Container[int] | None = None) -> list[Row]:
        """What is on disk, then what is held."""
        held = (entry.row for number, entry in self._unsaved.entries.items() if number > after)
        self.is_unread = False
        try:
            return list(islice((row for row in chain(stored, held) if only is None or row.number in only), limit))
        except OSError as error:
            self._refuse_to_read(error)
            return []

    def _refuse_to_read(self, error: OSError) -> None:
        self.is_unread = True
        self._blame(error)

    def _thin_out(self) -> list[str]:
        """A tenth at a time, as all must be read for it."""
        states = self.states()
        if self.is_unread:
            return []
        gone = sorted(states, key=lambda topic: _rank(states[topic]))[: len(states) - _MOST_STATES * 9 // 10]
        self._forget_states(gone)
        return gone

    def _forget_states(self, topics: Iterable[str]) -> None:
        self._unsaved.states |= dict.fromkeys(topics)
        self._state_topics -= set(topics)
        self.save()

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


def _rank(state: str) -> tuple[bool, int]:
    """What is cleared comes first, then what is old."""
    message = json.loads(state)
    return message.get("state") != "cleared", message["number"]
