"""`Event`s and the states of sources in; messages on their topics out."""

from __future__ import annotations

import json
import os
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from .alarm import Alert
from .command import Reply
from .contract import AlertState
from .live import Dated, State
from .message import SCHEMA, Message, to_message
from .outbox import Letter
from .pipeline import FollowUp, Seen
from .score import Scores
from .shard import Shard

_STDOUT = 1
_MOST_LINES = 10_000
_FAREWELL_S = 5.0

_OUTGOING = re.compile(
    r"(shard/[^/]+/)?(status|resend|resent)|fleet/.*|[^/]+/(scores|vitals|status|command|reply|evidence|alert|alert/[^/]+)"
)
_COMMAND = re.compile(r"([^/]+)/command")

Send = Callable[[str, str, int, bool], object]
"""topic, payload, QoS, retained"""
Post = Callable[[Letter], object]


class Publisher:
    """Topics and payloads of one site; `send` carries them."""

    def __init__(self, prefix: str, site: str, send: Send, share: Shard = Shard()) -> None:
        self.post: Post = self._send_letter
        """Carries what must arrive."""
        self.show: Callable[[Message], object] = lambda message: None
        """Sees every event, as it is told."""
        self.share = share
        """Which of the sources are told of here, where several monitors share the site."""
        self._root = f"{prefix}/{site}"
        self._own = f"{self._root}/shard/{share.label}" if share.label else self._root
        self._by: Message = {"schema": SCHEMA, "site": site, "shard": share.label}
        self._send = send

    def tell(self, source: str, dated: Dated) -> None:
        """An event of a source."""
        event, root = dated.event, f"{self._root}/{source}"
        match event:
            case Scores():
                self._tell_now(f"{root}/scores", self._message(dated.time_s, to_message(event)), 0)
            case Seen():
                self._tell_now(f"{root}/vitals", self._message(dated.time_s, to_message(event)), 0)
            case Reply():
                self._tell_now(f"{root}/reply", self._message(dated.time_s, {"type": "reply", **asdict(event)}), 1)
            case FollowUp():
                message = self._message(dated.time_s, to_message(event))
                self.post(Letter(f"{root}/evidence", message, f"{event.alert.id}/evidence"))
                self.show(message)
            case Alert():
                message = self._message(dated.time_s, to_message(event), onset_time=round(dated.onset_time_s, 3))
                self._tell_alert(message)

    def clear(self, last: AlertState, why: str, time_s: float) -> None:
        """An alert of a source that is watched no more."""
        told = last.model_dump(by_alias=True) | self._by | {"seq": last.seq + 1, "state": "cleared", "why": why, "time": round(time_s, 3)}
        self._tell_alert(told | {"evidence": {"decided": [], "strip": None}})

    def _tell_now(self, topic: str, message: Message, qos: int) -> None:
        self._send(topic, _json(message), qos, False)
        self.show(message)

    def _tell_alert(self, message: Message) -> None:
        topic = f"{self._root}/{message['source']}/alert"
        state = {key: value for key, value in message.items() if key != "evidence"}
        self.post(Letter(topic, message, f"{message['id']}/{message['seq']}", f"{topic}/{message['finding']}", state))
        self.show(message)

    def _send_letter(self, letter: Letter) -> None:
        """Where nothing keeps it: without a broker."""
        self._send(letter.topic, _json(letter.message), 1, False)

    def _message(self, time_s: float, told: Message, **more: Any) -> Message:
        return {**self._by, "time": round(time_s, 3), **more, **told}

    def tell_status(self, source: str, state: State, why: str | None, time_s: float, accounts: dict[str, int]) -> None:
        """The retained state of a source: what a program that comes later must know first."""
        message = self._message(time_s, {"type": "status", "source": source, "state": state, "why": why, **accounts})
        self._send(f"{self._root}/{source}/status", _json(message), 1, True)

    def forget_status(self, source: str) -> None:
        """Take back what is retained of a source that is watched no more."""
        self._send(f"{self._root}/{source}/status", "", 1, True)

    def tell_online(self, outbox: str = "", last: int = 0) -> None:
        """The daemon is there, and so far its outbox has come."""
        self._send(f"{self._own}/status", self._site_state("online", outbox=outbox, last=last), 1, True)

    def tell_offline(self) -> None:
        """The daemon is there no more: the same that its will says."""
        self._send(*self.will, 1, True)

    @property
    def will(self) -> tuple[str, str]:
        """What the broker is to say when the daemon is gone without a word."""
        return f"{self._own}/status", self._site_state("offline")

    def owns(self, topic: str) -> bool:
        """Whether this topic is one of ours going out, so that a wide subscription does not feed us our own words."""
        return self._matched(_OUTGOING, topic) is not None

    @property
    def asked(self) -> tuple[str, str]:
        """Filters of what others ask of the daemon."""
        return f"{self._root}/+/command", self.resend

    @property
    def resend(self) -> str:
        """Where the outbox is asked to send again."""
        return f"{self._own}/resend"

    @property
    def resent(self) -> str:
        """Where it does."""
        return f"{self._own}/resent"

    def commanded(self, topic: str) -> str | None:
        """The source that a command under this topic is for; None where it is no such topic."""
        found = self._matched(_COMMAND, topic)
        return found[1] if found else None

    def _matched(self, below: re.Pattern[str], topic: str) -> re.Match[str] | None:
        """What a pattern finds in the levels below those of the site."""
        return below.fullmatch(topic, len(self._root) + 1) if topic.startswith(f"{self._root}/") else None

    def _site_state(self, state: str, **more: Any) -> str:
        return _json({**self._by, "type": "site", "state": state, **more})


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
        """After the reader has gone it does nothing."""
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
