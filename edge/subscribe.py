"""The address of a broker in; the alerts of its monitors, each once and in order, out, and commands to the monitors."""

from __future__ import annotations

import contextlib
import json
import math
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeGuard

from pydantic import TypeAdapter, ValidationError

from kernels.findings import ConfigError

from .config import Mqtt
from .contract import (
    AlertMessage,
    AlertState,
    EvidenceMessage,
    ReplyMessage,
    ScoresMessage,
    SiteMessage,
    StatusMessage,
    VitalsMessage,
)
from .cursor import Cursor
from .ledger import Given, Ledger, Since
from .mistakes import fit
from .transport.mqtt import Broker, OnState

Kind = Literal["evidence", "state", "status", "site", "vitals", "scores"]
Told = AlertMessage | EvidenceMessage | AlertState | StatusMessage | SiteMessage | VitalsMessage | ScoresMessage

_QUEUED = 10_000
_LOOK_S = 0.25
_LONGEST_NAME = 200

_MODELS: dict[str, type[Told]] = {
    "state": AlertState,
    "status": StatusMessage,
    "site": SiteMessage,
    "vitals": VitalsMessage,
    "scores": ScoresMessage,
}
_TOPICS = {"state": "{site}/+/alert/+", "status": "{site}/+/status", "vitals": "{site}/+/vitals", "scores": "{site}/+/scores"}
_OBJECT: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a program subscribes to."""

    site: str
    source: str
    since: Since
    cursor: Path | None
    timeout_s: float
    also: frozenset[Kind]

    def filters(self, prefix: str) -> list[str]:
        """Alerts and evidence of all sources: their numbers have no hole only together."""
        always = ["{site}/resent", "{site}/+/reply", "{site}/+/alert", "{site}/+/evidence", "{site}/status"]
        always += ["{site}/shard/+/resent", "{site}/shard/+/status"]
        more = [_TOPICS[kind] for kind in sorted(self.also) if kind in _TOPICS]
        return [f"{prefix}/{topic.format(site=self.site)}" for topic in always + more]

    def wants(self, message: Told) -> bool:
        if isinstance(message, EvidenceMessage) and "evidence" not in self.also:
            return False
        return isinstance(message, SiteMessage) or self.source in ("+", message.source)


class Subscription:
    """Alerts of one broker as they come. One thread iterates; any may send commands and close it.

    `for alert in subscription` gives every `AlertMessage` once. Alerts of a site come in the order in which its monitor decided them, and
    those that were missed while the connection was away are asked for again. An alert waits for one before it that is missing, but no
    longer than ten seconds: then it is given, and the other when it comes. So `seq` may go back, if seldom; `state` is that of the
    message and not always the last.
    """

    def __init__(self, broker: Mqtt, wanted: _Wanted, password: str | None, client_id: str, on_state: OnState) -> None:
        self._wanted = wanted
        self._root = broker.prefix
        self._cursor = Cursor(wanted.cursor)
        self._ledger = Ledger(wanted.since, self._cursor.marks, self._cursor.seen)
        self._inbox: queue.Queue[tuple[str, bytes, bool] | None] = queue.Queue(_QUEUED)
        self._ready: deque[Given | Told] = deque()
        self._pending: Given | None = None
        self._looked_s = -math.inf
        self._must_check = False
        self._is_closed = False
        # A signal may close it while it is being closed.
        self._closing = threading.RLock()
        self._is_connected = threading.Event()
        self._replies: dict[str, queue.SimpleQueue[ReplyMessage]] = {}
        self._on_state = on_state
        self.why = "not connected yet"
        """The last words about the connection."""
        name = client_id or f"cardiogloss-subscriber-{secrets.token_hex(4)}"
        self._broker = Broker(broker, name, password, on_message=self._take, on_state=self._note)
        for topic_filter in wanted.filters(broker.prefix):
            self._broker.subscribe(topic_filter)
        self._broker.start()

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached."""
        return self._broker.connected

    @property
    def missed(self) -> int:
        """Alerts and pieces of evidence that are gone for good: the outbox of the monitor was full before this program came back."""
        return self._ledger.missed

    @property
    def bad(self) -> int:
        """Messages that could not be read."""
        return self._ledger.bad

    def __iter__(self) -> Iterator[AlertMessage]:
        return self

    def __next__(self) -> AlertMessage:
        """Stops after the `timeout_s` of `subscribe` without an alert, and once it is closed."""
        end_s = time.monotonic() + self._wanted.timeout_s
        while (message := self.receive(end_s - time.monotonic())) is not None:
            if isinstance(message, AlertMessage):
                return message
        raise StopIteration

    def receive(self, timeout_s: float = math.inf) -> Told | None:
        """The next message, of alerts and of what `also` named; None where none came in time, or it is closed.

        Asking for the next says that the last was dealt with, so that the cursor moves on. Raises OSError where it cannot be written.
        """
        self._confirm()
        end_s = time.monotonic() + timeout_s
        while not self._is_closed:
            self._settle()
            if self._ready:
                return self._give(self._ready.popleft())
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                break
            self._listen(min(left_s, _LOOK_S))
        return None

    def acknowledge(self, alert: AlertState, by: str, wait_s: float = 5.0) -> ReplyMessage:
        """Tell the monitor that somebody has seen an alert. Raises TimeoutError where no monitor answers."""
        return self.command(alert.site, alert.source, {"command": "acknowledge", "id": alert.id, "by": by}, wait_s)

    def silence(
        self, source: str, for_s: float, finding: str | None = None, *, by: str, site: str | None = None, wait_s: float = 5.0
    ) -> ReplyMessage:
        """Ask for quiet for one finding, or for all of a source; 0 s ends it. Raises TimeoutError where no monitor answers."""
        return self.command(site or self._wanted.site, source, {"command": "silence", "for_s": for_s, "finding": finding, "by": by}, wait_s)

    def command(self, site: str, source: str, command: dict[str, Any], wait_s: float = 5.0) -> ReplyMessage:
        """Any command, and what became of it. Raises TimeoutError, or ConfigError where it does not say which site and source."""
        _check_one("site", site)
        _check_one("source", source)
        end_s = time.monotonic() + wait_s
        if not self._is_connected.wait(wait_s):
            raise TimeoutError(f"the broker cannot be reached: {self.why}")
        command_id = secrets.token_hex(8)
        answer = self._replies[command_id] = queue.SimpleQueue()
        self._broker.publish(f"{self._root}/{site}/{source}/command", json.dumps({**command, "command_id": command_id}), qos=1)
        try:
            return answer.get(timeout=max(end_s - time.monotonic(), 0.0))
        except queue.Empty:
            raise TimeoutError(f"no monitor answered for source {source!r} of site {site!r} in {wait_s:g} s: check both names") from None
        finally:
            del self._replies[command_id]

    def close(self) -> None:
        """Whoever waits for a message gets none. Any thread may close it, and more than one."""
        self._is_closed = True
        with contextlib.suppress(queue.Full):
            self._inbox.put_nowait(None)
        with self._closing:
            self._broker.stop()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _confirm(self) -> None:
        if self._pending:
            self._cursor.confirm(self._pending)
            self._pending = None
        self._cursor.save()

    def _settle(self) -> None:
        """Up to the first that the program wants. The cursor must know of these before it: one that ends with it begins there again."""
        while self._ready and self._is_done_with(item := self._ready[0]):
            self._cursor.confirm(item)
            self._ready.popleft()
        self._cursor.save()

    def _is_done_with(self, item: Given | Told) -> TypeGuard[Given]:
        return isinstance(item, Given) and (item.message is None or not self._wanted.wants(item.message))

    def _give(self, item: Given | Told) -> Told | None:
        if not isinstance(item, Given):
            return item
        self._pending = item
        return item.message

    def _listen(self, wait_s: float) -> None:
        with contextlib.suppress(queue.Empty):
            heard = self._inbox.get(timeout=wait_s)
            self._ready.extend(self._hear(*heard) if heard else ())
        now_s = time.monotonic()
        if self._must_check:
            self._must_check = False
            self._ledger.check()
        if now_s - self._looked_s >= _LOOK_S or self._inbox.empty():
            self._looked_s = now_s
            self._ready.extend(self._ledger.tick(now_s))
            self._ask(now_s)

    def _ask(self, now_s: float) -> None:
        if self.connected:
            for ask in self._ledger.asks(now_s):
                self._broker.publish(f"{self._root}/{ask.site}/resend", json.dumps({"outbox": ask.outbox, "after": ask.after}), qos=1)

    def _hear(self, topic: str, payload: bytes, retained: bool) -> Sequence[Given | Told]:
        site, *rest = topic.removeprefix(f"{self._root}/").split("/")
        match rest:
            case ["status"] | ["shard", _, "status"]:
                return [*self._feed(site, payload, not retained), *self._other("site", payload)]
            case ["resent"] | ["shard", _, "resent"]:
                return self._feed(site, payload, live=False)
            case [_, "alert" | "evidence"]:
                return self._feed(site, payload, live=not retained)
            case [_, "alert", _]:
                return self._other("state", payload)
            case [_, kind]:
                return self._other(kind, payload)
        return []

    def _feed(self, site: str, payload: bytes, live: bool) -> list[Given]:
        try:
            message = _OBJECT.validate_json(payload)
        except ValidationError:
            self._ledger.bad += 1
            return []
        return self._ledger.feed(_monitor(site, message.get("shard")), message, live, time.monotonic())

    def _other(self, kind: str, payload: bytes) -> list[Told]:
        """An empty payload only takes back a retained message."""
        if kind not in self._wanted.also or not payload:
            return []
        try:
            message = _MODELS[kind].model_validate_json(payload)
        except ValidationError:
            self._ledger.bad += 1
            return []
        return [message] if self._wanted.wants(message) else []

    # What follows runs in the network thread of the broker.

    def _take(self, topic: str, payload: bytes, retained: bool) -> None:
        if topic.endswith("/reply"):
            self._take_reply(payload)
            return
        try:
            self._inbox.put_nowait((topic, payload, retained))
        except queue.Full:
            # It will be asked for again.
            self._must_check = True

    def _take_reply(self, payload: bytes) -> None:
        with contextlib.suppress(ValidationError):
            reply = ReplyMessage.model_validate_json(payload)
            waiting = self._replies.get(reply.command_id or "")
            if waiting:
                waiting.put(reply)

    def _note(self, connected: bool, why: str) -> None:
        """A refusal comes while connected: nothing was missed, and to ask again at once would only be refused again."""
        self.why = why
        if connected and not self._is_connected.is_set():
            self._must_check = True
        (self._is_connected.set if connected else self._is_connected.clear)()
        self._on_state(connected, why)


def subscribe(
    host: str | Mqtt = "localhost",
    port: int | None = None,
    *,
    site: str = "+",
    source: str = "+",
    since: Since = "now",
    cursor: Path | str | None = None,
    timeout_s: float = math.inf,
    also: Collection[Kind] = (),
    prefix: str = "cardiogloss",
    user: str = "",
    password: str | None = None,
    tls: bool = False,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    client_id: str = "",
    on_state: OnState = lambda connected, why: None,
) -> Subscription:
    """The alerts of one site or, with +, of all; of one source or of all. Returns at once: a broker that is away is tried for ever.

    `host` may be the [mqtt] table of a config, which then says how to connect, all but `client_id`. With `since` the alerts begin now,
    or with everything that the monitors still keep. With a `cursor`, a file, a program that is started again goes on after the last
    alert that it has dealt with, which it says by asking for the next; one that was lost in between is given again. Iteration ends
    after `timeout_s` without an alert. What `also` names comes from `receive`: evidence; state, the last word about each
    finding, at once on start; status of sources; site; vitals; scores. `on_state` is called in another thread.

    Raises ConfigError where the broker can have no such address, or a file that is named is no good.
    """
    if isinstance(host, Mqtt):
        broker, password = host, password or host.password()
    else:
        told = {"host": host, "port": port, "prefix": prefix, "user": user, "tls": tls, "ca": ca, "certificate": certificate, "key": key}
        broker = fit(Mqtt, told, Path("subscribe"), lambda _: ())
    wanted = _Wanted(_level("site", site), _level("source", source), since, Path(cursor) if cursor else None, timeout_s, frozenset(also))
    return Subscription(broker, wanted, password, client_id, on_state)


def _monitor(site: str, label: object) -> str:
    """The levels of the topics of one monitor: the site's, or those of its shard."""
    return f"{site}/shard/{label}" if label and isinstance(label, str) and _is_one(label) else site


def _level(name: str, text: str) -> str:
    if text != "+" and not _is_one(text):
        raise ConfigError(f"{name} {text[:_LONGEST_NAME]!r} must be one name, or + for all")
    return text


def _check_one(name: str, text: str) -> None:
    if not _is_one(text):
        raise ConfigError(f"{name} {text[:_LONGEST_NAME]!r} must be one name: a command goes to one source of one site")


def _is_one(text: str) -> bool:
    """Whether it can be a level of a topic."""
    return text.isprintable() and 0 < len(text) <= _LONGEST_NAME and not set(text) & set("/#+")
