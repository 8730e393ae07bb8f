"""`Event`s and the states of sources in; messages on their topics out."""

from __future__ import annotations

import json
import os
import re
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from .alarm import Alert
from .live import State
from .message import to_message
from .pipeline import Event, Seen
from .score import Scores

SCHEMA = 1
"""The version of every message that goes out."""

_STDOUT = 1
_MOST_LINES = 10_000
_FAREWELL_S = 5.0

_OUTGOING = re.compile(r"status|[^/]+/(scores|vitals|status|alert|alert/[^/]+)")

Send = Callable[[str, str, int, bool], object]
"""topic, payload, QoS, retained"""


class Publisher:
    """Topics and payloads of one site; `send` carries them."""

    def __init__(self, prefix: str, site: str, send: Send) -> None:
        self._site = site
        self._root = f"{prefix}/{site}"
        self._send = send

    def tell(self, source: str, event: Event, time_s: float) -> None:
        """An event of a source, with its seconds since 1970."""
        payload = _json({"schema": SCHEMA, "site": self._site, "time": round(time_s, 3), **to_message(event)})
        match event:
            case Scores():
                self._send(f"{self._root}/{source}/scores", payload, 0, False)
            case Seen():
                self._send(f"{self._root}/{source}/vitals", payload, 0, False)
            case Alert():
                self._send(f"{self._root}/{source}/alert", payload, 1, False)
                self._send(f"{self._root}/{source}/alert/{event.finding}", payload, 1, True)

    def tell_status(self, source: str, state: State, why: str | None, time_s: float, accounts: dict[str, int]) -> None:
        """The retained state of a source: what a program that comes later must know first."""
        message = {"schema": SCHEMA, "type": "status", "site": self._site, "source": source, "time": round(time_s, 3)}
        self._send(f"{self._root}/{source}/status", _json({**message, "state": state, "why": why, **accounts}), 1, True)

    def tell_site(self, online: bool) -> None:
        """Whether the daemon itself is there."""
        topic, payload = self.will if not online else (f"{self._root}/status", self._site_state("online"))
        self._send(topic, payload, 1, True)

    @property
    def will(self) -> tuple[str, str]:
        """What the broker is to say when the daemon is gone without a word."""
        return f"{self._root}/status", self._site_state("offline")

    def owns(self, topic: str) -> bool:
        """Whether this topic is one of ours going out, so that a wide subscription does not feed us our own words."""
        return _OUTGOING.fullmatch(topic.removeprefix(f"{self._root}/")) is not None and topic.startswith(f"{self._root}/")

    def _site_state(self, state: str) -> str:
        return _json({"schema": SCHEMA, "type": "site", "site": self._site, "state": state})


class StandardOutput:
    """Where messages go without a broker, a line each, written by a thread of its own.

    Who scores waits for a slow reader, as a pipe has it; who tells the state of things does not.
    """

    def __init__(self) -> None:
        self.is_closed = False
        """Whether whoever read it has gone, or it ends."""
        self._to = _STDOUT
        self._lines: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._is_ending = False
        self._thread = threading.Thread(target=self._write, name="output", daemon=True)
        self._thread.start()

    def send(self, topic: str, payload: str, qos: int, retain: bool) -> None:
        """An alert's retained state would only repeat it. After the reader has gone it does nothing."""
        if retain and "/alert/" in topic:
            return
        with self._changed:
            self._changed.wait_for(lambda: len(self._lines) < _MOST_LINES or retain or self.is_closed)
            if not self.is_closed and len(self._lines) < 2 * _MOST_LINES:
                self._lines.append(payload.encode() + b"\n")
            self._changed.notify_all()

    def close(self) -> None:
        """Write what waits; nobody waits for ever for a reader that does not read."""
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
        self._thread.join(_FAREWELL_S)
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()

    def _write(self) -> None:
        while line := self._next():
            try:
                while line:
                    # Not through sys.stdout, whose lock a thread that is blocked in it would keep at the end of the process.
                    line = line[os.write(self._to, line) :]
            except OSError:
                with self._changed:
                    self.is_closed = True
                    self._changed.notify_all()
                return

    def _next(self) -> bytes:
        """Empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._is_ending)
            line = self._lines.popleft() if self._lines else b""
            self._changed.notify_all()
        return line


def _json(message: dict[str, Any]) -> str:
    return json.dumps(message, separators=(",", ":"))
