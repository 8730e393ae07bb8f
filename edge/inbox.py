"""`Arrival`s from the threads that listen in; the same in order out to the one that scores, never more than a bound."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from .clock import Arrival

MOST_BYTES = 1 << 21
"""Half a minute of twelve leads even as JSON: whoever is later than that is better served by what comes now."""

OVERHEAD_BYTES = 256

LITTLE_BYTES = 1 << 16
"""Enough to keep the program busy, and scored in a few seconds."""


class Inbox:
    """The queue of one source. When it is full the oldest bytes go, counted, and what follows them says that something is missing."""

    def __init__(self, wake: Callable[[], object], most_bytes: int = MOST_BYTES) -> None:
        self.dropped_bytes = 0
        self.held_bytes = 0
        self._wake = wake
        self._most_bytes = most_bytes
        self._waiting: deque[Arrival] = deque()
        self._room = threading.Condition()

    def has_room(self, wait_s: float) -> bool:
        """Whether little waits, now or within `wait_s`. Whoever loses nothing by it, such as a file, asks before it puts."""
        with self._room:
            return self._room.wait_for(lambda: self.held_bytes < LITTLE_BYTES, wait_s)

    def put(self, arrival: Arrival) -> None:
        """Add at the end, at the cost of what waits longest."""
        with self._room:
            self._waiting.append(arrival)
            self.held_bytes += _size(arrival)
            self._make_room()
        self._wake()

    def take(self) -> list[Arrival]:
        """Everything that waits."""
        with self._room:
            taken, self._waiting = list(self._waiting), deque()
            self.held_bytes = 0
            self._room.notify_all()
        return taken

    @property
    def oldest_s(self) -> float | None:
        """When what waits longest came; None where nothing waits."""
        with self._room:
            return self._waiting[0].at_s if self._waiting else None

    def _make_room(self) -> None:
        while self.held_bytes > self._most_bytes and len(self._waiting) > 1:
            oldest = self._waiting.popleft()
            self.dropped_bytes += len(oldest.data)
            self.held_bytes -= _size(oldest)
            self._waiting[0] = replace(self._waiting[0], opened=True)


def _size(arrival: Arrival) -> int:
    """With what it takes to remember it, so that a flood of empty messages has a bound too."""
    return len(arrival.data) + OVERHEAD_BYTES
