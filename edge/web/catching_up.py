"""An outbox and the alerts that a daemon goes on with in; a history that knows what was told before it could write it, out."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import TimeoutError as StillWaiting
from functools import partial

import structlog

from ..delivery import Delivery
from ..message import Message
from ..outbox import Outbox
from ..outbox_file import Row
from ..supervisor import Supervisor
from .history import History

_DISK_S = 5.0
_AT_ONCE = 64

log = structlog.get_logger()


class CatchingUp:
    """Goes through the outbox once, in a thread of its own: nobody who is watched waits for it."""

    def __init__(self, history: History, delivery: Delivery, last: int, going_on: Collection[str], supervisor: Supervisor) -> None:
        """Up to the number `last`: what comes later, the history hears by itself."""
        self._is_over = threading.Event()
        self._delivery, self._last = delivery, last
        work = partial(history.catch_up, self._told(), going_on)
        self._thread = threading.Thread(target=supervisor.guard, args=("history", work), name="catch-up", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """What is left is for the next start."""
        self._is_over.set()

    def _told(self) -> Iterator[Message]:
        after = 0
        while after < self._last and not self._is_over.is_set() and (rows := self._rows(after)):
            yield from (json.loads(row.payload) for row in rows if row.number <= self._last)
            after = rows[-1].number

    def _rows(self, after: int) -> list[Row]:
        def _since(outbox: Outbox) -> list[Row]:
            return outbox.since(after, _AT_ONCE)

        try:
            return self._delivery.ask(_since).result(_DISK_S)
        except StillWaiting:
            log.warning("the history was not brought up to date", why="the disk of the outbox does not answer")
            return []
