"""The samples and messages of all sources in, from any thread; what those who look at them must be told next out."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile

from ..live import Tap
from ..message import Message
from .ring import Ring

MOST_PASSING = 1000
"""Messages that matter to those only who are there; who is later than that begins anew."""

_Key = tuple[str | None, ...]
_OF_SOURCE = ("source", "scores", "vitals")


class Missed(Exception):
    """So much happened meanwhile that not all of it is kept."""


@dataclass(frozen=True)
class Note:
    """The newest message of its kind."""

    serial: int
    message: Message
    passing: bool
    """Whether it says nothing to those who come later."""

    @cached_property
    def text(self) -> str:
        """Made once for all who are told."""
        return json.dumps(self.message, separators=(",", ":"))


@dataclass
class Ward:
    """What there is to be seen. Whoever scores calls `tap` and `show`, which take microseconds and never raise."""

    _rings: dict[str, Ring] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)
    _notes: dict[_Key, Note] = field(default_factory=dict)
    """In the order of their serials."""
    _passing: deque[tuple[_Key, int]] = field(default_factory=deque)
    _serial: int = 0
    _lost: int = 0
    """The last serial of what is kept no more."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def tap(self, source: str) -> Tap:
        """Takes the samples of a source that begins."""
        with self._lock:
            ring = self._rings[source] = Ring()
            if source not in self._numbers:
                self._numbers[source] = _unused(self._numbers.values())
        return ring.add

    def show(self, message: Message) -> None:
        """An event of a source, as it is published."""
        source = message["source"]
        match message["type"]:
            case "alert":
                self._show_alert(message)
            case "evidence":
                told = {"type": "evidence", "id": message["id"], "source": source}
                self.post(("evidence", message["id"]), told, passing=True)
            case "reply":
                self.post(("reply", source, message["command_id"]), message, passing=True)
            case kind:
                self.post((kind, source), message)

    def post(self, key: _Key, message: Message, passing: bool = False) -> None:
        """In the place of the last of its key."""
        with self._lock:
            self._post(key, message, passing)

    def _show_alert(self, message: Message) -> None:
        """Unless a later word of it is known."""
        key = ("alert", message["id"])
        told = {name: value for name, value in message.items() if name != "evidence"}
        with self._lock:
            before = self._notes.get(key)
            if before is None or before.message["seq"] <= message["seq"]:
                self._post(key, told, passing=message["state"] == "cleared")

    def leave(self, sources: Collection[str], rings: dict[str, Ring]) -> None:
        """All but these `sources` are watched no more. Of the others those go whose ring is still the one in `rings`."""
        with self._lock:
            for source in [one for one, ring in rings.items() if one not in sources and self._rings.get(one) is ring]:
                del self._rings[source], self._numbers[source]
                self._post(("gone", source), {"type": "gone", "source": source}, passing=True)
            for key in [key for key in self._notes if key[0] in _OF_SOURCE and key[1] not in self._rings]:
                del self._notes[key]

    def rings(self) -> dict[str, Ring]:
        """Of each source that is watched."""
        with self._lock:
            return dict(self._rings)

    def ring(self, source: str) -> Ring | None:
        """None for a source that is not watched."""
        with self._lock:
            return self._rings.get(source)

    def number(self, source: str) -> int:
        """Of its frames, until it is gone."""
        with self._lock:
            return self._numbers.get(source, 0)

    def newest(self, key: _Key) -> Message | None:
        """The last message of this key."""
        with self._lock:
            note = self._notes.get(key)
        return note.message if note else None

    def news(self, seen: int | None) -> tuple[int, list[Note]]:
        """The last serial, and what changed after `seen`, in order; for None all that lasts. Raises Missed."""
        with self._lock:
            if seen is None:
                return self._serial, [note for note in self._notes.values() if not note.passing]
            if seen < self._lost:
                raise Missed
            newest_first = takewhile(lambda note: note.serial > seen, reversed(self._notes.values()))
            return self._serial, list(newest_first)[::-1]

    def _post(self, key: _Key, message: Message, passing: bool) -> None:
        self._serial += 1
        self._notes.pop(key, None)
        self._notes[key] = Note(self._serial, message, passing)
        if passing:
            self._passing.append((key, self._serial))
            if len(self._passing) > MOST_PASSING:
                self._forget(*self._passing.popleft())

    def _forget(self, key: _Key, serial: int) -> None:
        note = self._notes.get(key)
        if note and note.serial == serial:
            del self._notes[key]
            self._lost = serial


def _unused(numbers: Collection[int]) -> int:
    return next(number for number in range(len(numbers) + 1) if number not in numbers)
