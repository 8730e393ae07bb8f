"""A `Transport` in; its bytes as `Arrival`s in an inbox out, opened anew for ever, by a thread of its own."""

from __future__ import annotations

import threading
import time

import structlog

from .clock import Arrival
from .inbox import Inbox
from .supervisor import Supervisor
from .transport.backoff import Backoff
from .transport.stream import EndOfStream, Transport

_LISTEN_S = 0.1

log = structlog.get_logger()


class Reader:
    """Listens to one line until it is stopped. Whatever happens to the line, it is tried again, less and less often."""

    def __init__(self, source: str, transport: Transport, inbox: Inbox, supervisor: Supervisor) -> None:
        self.problem: str | None = None
        """Why the line is not open, in words."""
        self.failed = False
        """Whether the last attempt to open or read it failed."""
        self.opened_s = 0.0
        """When it was last opened, on the clock of the arrivals."""
        self.ended = False
        """Whether there will never be more, as at the end of a file."""
        self.opened = 0
        """How often the line was opened."""
        self.is_waiting = False
        """Whether there is more, and it waits, as a file does, until what came has been scored."""
        self._source = source
        self._transport = transport
        self._inbox = inbox
        self._supervisor = supervisor
        self._backoff = Backoff(seed=source)
        self._stop = threading.Event()
        self._reopen = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"read {source}", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def reopen(self, why: str) -> None:
        """Close the line and open it again: it says nothing, or nothing that can be read. What waits for us, as a file does, goes on."""
        self.problem = why
        if not self._transport.can_wait:
            self._reopen.set()

    def stop(self) -> None:
        """Ask it to listen no more."""
        self._stop.set()

    def join(self, wait_s: float = 2.0) -> None:
        """Wait until it does."""
        self._thread.join(wait_s)

    def _run(self) -> None:
        while not self._stop.is_set() and not self.ended:
            if not self._supervisor.guard(self._source, self._try_line):
                self._tell("a fault of cardiogloss; see its log")
            self._stop.wait(0 if self.ended else self._backoff.next_s())

    def _try_line(self) -> bool:
        try:
            self._transport.open()
            self._listen()
        except EndOfStream:
            self.ended = True
        except OSError as error:
            self._tell(str(error))
        finally:
            self._transport.close()
        return True

    def _tell(self, problem: str) -> None:
        """Once for each new problem, so that a missing port does not fill the disk with its story."""
        if problem != self.problem:
            log.warning("line lost", source=self._source, why=problem)
        self.problem, self.failed = problem, True

    def _listen(self) -> None:
        self.failed, self.opened_s = False, time.monotonic()
        self.opened += 1
        self._reopen.clear()
        opened, silent_s = True, 0.0
        while not self._stop.is_set() and not self._reopen.is_set():
            self.is_waiting = self._transport.can_wait and not self._inbox.has_room(_LISTEN_S)
            if self.is_waiting:
                continue
            begun_s = time.monotonic()
            data = self._transport.read(_LISTEN_S)
            now_s = time.monotonic()
            if not data:
                silent_s += min(now_s - begun_s, _LISTEN_S)
                continue
            if opened:
                log.info("line open", source=self._source, transport=self._transport.name)
                self._backoff.reset()
            self.problem = None
            self._inbox.put(Arrival(data, now_s, time.time(), silent_s, opened))
            opened, silent_s = False, 0.0
