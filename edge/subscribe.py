"""The address of a broker in; the alerts of its monitors, each once and in order, out, and commands to the monitors."""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from kernels.findings import ConfigError

from .config import Mqtt
from .message import (
    AlertMessage,
    AlertState,
    EvidenceMessage,
    ReplyMessage,
    ResentMessage,
    ScoresMessage,
    SiteMessage,
    StatusMessage,
    VitalsMessage,
)
from .mistakes import fit
from .transport.mqtt import Broker, OnState

Since = Literal["now", "beginning"]
Kind = Literal["evidence", "state", "status", "site", "vitals", "scores"]
Numbered = AlertMessage | EvidenceMessage
Told = AlertMessage | EvidenceMessage | AlertState | StatusMessage | SiteMessage | VitalsMessage | ScoresMessage

PATIENCE_S = 10.0
"""So long an alert waits for those before it; then it is given without them."""

_ASK_S, _ASK_LONGEST_S = 3.0, 60.0
_TRIES = 5
"""After so many answers without it a number is gone: the broker refuses it, or it is too large for this side."""
_END = 2**53
"""An outbox has nothing after this number: who asks for that learns only its first and last."""
_REMEMBERED = 10_000
_REMEMBERED_ON_DISK = 100
_QUEUED = 10_000
_LOOK_S = 0.25

_MODELS: dict[str, type[Told]] = {
    "state": AlertState,
    "status": StatusMessage,
    "site": SiteMessage,
    "vitals": VitalsMessage,
    "scores": ScoresMessage,
}
_TOPICS = {"state": "{site}/+/alert/+", "status": "{site}/+/status", "vitals": "{site}/+/vitals", "scores": "{site}/+/scores"}
_OBJECT: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


class _Place(BaseModel):
    outbox: str = ""
    number: int = Field(default=0, ge=0)


@dataclass(frozen=True, slots=True)
class Ask:
    """That the monitor of a site publishes again what its outbox holds after a number."""

    site: str
    outbox: str
    after: int


@dataclass(frozen=True, slots=True)
class Given:
    """A number of an outbox that is done with."""

    site: str
    outbox: str
    number: int
    """0 where the message has none."""
    message: Numbered | None = None
    """None where it was given before, or cannot be read."""
    with_all_before: bool = False
    """Whether all before it are done with, too, though they never came."""


@dataclass(slots=True)
class Mark:
    """Which numbers of an outbox are done with: all up to `after`, and some beyond."""

    after: int = 0
    beyond: set[int] = field(default_factory=set)

    def __contains__(self, number: int) -> bool:
        return number <= self.after or number in self.beyond

    def add(self, number: int) -> None:
        """This one."""
        if number > self.after:
            self.beyond.add(number)
        self._join()

    def skip(self, to: int) -> None:
        """All up to this one."""
        self.after = max(self.after, to)
        self.beyond = {number for number in self.beyond if number > self.after}
        self._join()

    def _join(self) -> None:
        while self.after + 1 in self.beyond:
            self.after += 1
            self.beyond.remove(self.after)


class _Outbox:
    """What is known of the outbox of one site."""

    def __init__(self, site: str, name: str, mark: Mark | None) -> None:
        self.site, self.name = site, name
        self.mark = mark or Mark()
        self.is_begun = mark is not None
        """False until it is known which number comes first for who wants none of the past."""
        self.last = self.mark.after
        """The highest number that there is."""
        self.waiting: dict[int, tuple[float, Numbered | None]] = {}
        """Behind a hole: when it came, and what."""
        self.is_checked = False
        self._is_asked = False
        self._answers = 0
        self._next_ask_s = -math.inf
        self._every_s = _ASK_S

    @property
    def has_hole(self) -> bool:
        return self.is_begun and self.mark.after < self.last

    def check(self) -> None:
        """Something may have come that was not heard."""
        self.is_checked, self._is_asked, self._answers = False, False, 0
        self._next_ask_s, self._every_s = -math.inf, _ASK_S

    def ask(self, now_s: float) -> Ask | None:
        """Where something is missing, or may be; again after a while."""
        if (self.is_checked and not self.has_hole) or now_s < self._next_ask_s:
            return None
        self._is_asked, self._next_ask_s = True, now_s + self._every_s
        self._every_s = min(2 * self._every_s, _ASK_LONGEST_S)
        return Ask(self.site, self.name, self.mark.after if self.is_begun else _END)

    def advance(self, now_s: float) -> None:
        """Something was settled: while an answer comes there is no need to ask again."""
        self._answers, self._every_s = 0, _ASK_S
        if self._next_ask_s > -math.inf:
            self._next_ask_s = now_s + _ASK_S

    def answer(self, last: int) -> bool:
        """The monitor has published all that somebody asked for. Whether what is missing still will never come."""
        self.last = max([last, self.mark.after, *self.mark.beyond, *self.waiting])
        # It may have been another subscriber who asked, for less: at most one answer counts for each time that we asked.
        self._answers += self._is_asked
        self.is_checked, self._is_asked = True, False
        if not self.has_hole:
            self._answers, self._next_ask_s = 0, -math.inf
        return self._answers >= _TRIES

    def overdue(self, now_s: float) -> list[int]:
        """What has waited for long enough, with what waits before it."""
        late = [number for number, (came_s, _) in self.waiting.items() if now_s - came_s >= PATIENCE_S]
        surplus = sorted(self.waiting)[: max(len(self.waiting) - _REMEMBERED, 0)]
        latest = max([0, *late, *surplus])
        return sorted(number for number in self.waiting if number <= latest)


class Ledger:
    """Messages of outboxes in any order, often or lost -> each once, in the order of their numbers, and what to ask for again.

    A message waits for those before it, ten seconds at most; one that comes later than that is given when it comes. A live message
    whose number was given to another before (a monitor that died on a full disk forgets what it counted) is given at once. What the
    outbox itself has forgotten counts as missed. No I/O, clock or thread; `now_s` never goes back.
    """

    def __init__(self, since: Since = "now", known: dict[str, tuple[str, Mark]] | None = None, seen: Collection[str] = ()) -> None:
        """`known` are the outbox and how far it was read, by site; `seen` are keys of messages that are not to be given again."""
        self._since = since
        self._outboxes = {site: _Outbox(site, name, Mark(m.after, set(m.beyond))) for site, (name, m) in (known or {}).items()}
        self._seen: OrderedDict[str, None] = OrderedDict.fromkeys(seen)
        self._settled: list[Given] = []
        self.missed = 0
        """Messages that are gone for good."""
        self.bad = 0
        """Messages that could not be read."""

    def feed(self, site: str, message: dict[str, Any], live: bool, now_s: float) -> list[Given]:
        """An object of type alert, evidence, resent or site; `live` is false for one that was resent or retained."""
        match message.get("type"):
            case "alert" | "evidence":
                self._take(site, message, live, now_s)
            case "resent":
                self._answer(site, message, now_s)
            case "site":
                self._meet(site, message, live)
            case _:
                self.bad += 1
        return self._flush()

    def tick(self, now_s: float) -> list[Given]:
        """What has waited for long enough."""
        for outbox in self._outboxes.values():
            for number in outbox.overdue(now_s):
                self._give(outbox, number)
            self._bound(outbox)
        return self._flush()

    def check(self) -> None:
        """The connection was lost, and is back: anything may have come meanwhile."""
        for outbox in self._outboxes.values():
            outbox.check()

    def asks(self, now_s: float) -> Iterator[Ask]:
        """What to ask for now."""
        return filter(None, [outbox.ask(now_s) for outbox in self._outboxes.values()])

    def _take(self, site: str, message: dict[str, Any], live: bool, now_s: float) -> None:
        read, place = self._read(message), _place(message)
        if not place.outbox or not place.number:
            self._give_at_once(site, read)
            return
        outbox, number = self._outbox(site, place.outbox), place.number
        if not outbox.is_begun and live:
            self._begin(outbox, number - 1)
        if not outbox.is_begun or number in outbox.waiting:
            return
        if number in outbox.mark:
            self._give_at_once(site, read if live else None)
            return
        outbox.waiting[number] = now_s, read
        outbox.last = max(outbox.last, number)
        self._drain(outbox, now_s)

    def _answer(self, site: str, message: dict[str, Any], now_s: float) -> None:
        try:
            resent = ResentMessage.model_validate(message)
        except ValidationError:
            self.bad += 1
            return
        outbox = self._outbox(site, resent.outbox)
        if not outbox.is_begun:
            self._begin(outbox, resent.last)
        self._skip(outbox, min(resent.first - 1, resent.last))
        self._drain(outbox, now_s)
        if outbox.answer(resent.last):
            self._skip(outbox, min([outbox.last + 1, *outbox.mark.beyond, *outbox.waiting]) - 1)
            self._drain(outbox, now_s)

    def _meet(self, site: str, message: dict[str, Any], live: bool) -> None:
        try:
            told = SiteMessage.model_validate(message)
        except ValidationError:
            self.bad += 1
            return
        if told.outbox:
            outbox = self._outbox(site, told.outbox)
            # Its `last` may be as old as its connection, so what there is now must be asked for all the same.
            if live and told.state == "online":
                outbox.check()

    def _outbox(self, site: str, name: str) -> _Outbox:
        """Another one than before replaces it: nothing of that will come any more, and all of this one is new."""
        before = self._outboxes.get(site)
        if before and before.name == name:
            return before
        is_new = before is not None or self._since == "beginning"
        if before:
            self._skip(before, before.last)
        self._outboxes[site] = _Outbox(site, name, Mark() if is_new else None)
        return self._outboxes[site]

    def _begin(self, outbox: _Outbox, after: int) -> None:
        outbox.is_begun = True
        outbox.mark.skip(after)
        outbox.last = max(outbox.last, after)
        self._settled.append(Given(outbox.site, outbox.name, after, with_all_before=True))

    def _drain(self, outbox: _Outbox, now_s: float) -> None:
        before = outbox.mark.after
        while outbox.mark.after + 1 in outbox.waiting:
            self._give(outbox, outbox.mark.after + 1)
        if outbox.mark.after > before:
            outbox.advance(now_s)

    def _skip(self, outbox: _Outbox, to: int) -> None:
        """What is not there up to this number never comes; what was lost before anything was read is not missed."""
        if to <= outbox.mark.after:
            return
        for number in sorted(number for number in outbox.waiting if number <= to):
            self._give(outbox, number)
        if outbox.mark.after:
            self.missed += max(to - outbox.mark.after, 0) - sum(number <= to for number in outbox.mark.beyond)
        outbox.mark.skip(to)
        self._settled.append(Given(outbox.site, outbox.name, to, with_all_before=True))

    def _bound(self, outbox: _Outbox) -> None:
        """However long a hole stays open, nothing grows."""
        if len(outbox.mark.beyond) > _REMEMBERED:
            self._skip(outbox, min(outbox.mark.beyond))

    def _give(self, outbox: _Outbox, number: int) -> None:
        _, message = outbox.waiting.pop(number)
        outbox.mark.add(number)
        self._settled.append(Given(outbox.site, outbox.name, number, message if message and self._is_new(message) else None))

    def _give_at_once(self, site: str, message: Numbered | None) -> None:
        if message and self._is_new(message):
            self._settled.append(Given(site, "", 0, message))

    def _is_new(self, message: Numbered) -> bool:
        if key_of(message) in self._seen:
            return False
        self._seen[key_of(message)] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return True

    def _read(self, message: dict[str, Any]) -> Numbered | None:
        """A newer message as far as it fits."""
        try:
            return (AlertMessage if message["type"] == "alert" else EvidenceMessage).model_validate(message)
        except ValidationError:
            self.bad += 1
            return None

    def _flush(self) -> list[Given]:
        settled, self._settled = self._settled, []
        return settled


def key_of(message: Numbered) -> str:
    """Names a message, wherever it was kept and numbered."""
    return f"{message.id}/{message.seq if isinstance(message, AlertMessage) else 'evidence'}"


def _place(message: dict[str, Any]) -> _Place:
    try:
        return _Place.model_validate(message)
    except ValidationError:
        return _Place()


class Cursor:
    """How far alerts were given to this program, in a file that outlives it."""

    def __init__(self, path: Path | None) -> None:
        """Raises ConfigError for a file that is none of ours, OSError for one that cannot be read."""
        self._path = path
        self.marks: dict[str, tuple[str, Mark]] = {}
        self.seen: deque[str] = deque(maxlen=_REMEMBERED_ON_DISK)
        if path and path.exists():
            self._load(_read_cursor(path))

    def confirm(self, given: Given) -> None:
        """The program has dealt with it, and asked for the next."""
        if given.outbox:
            name, mark = self.marks.get(given.site, ("", Mark()))
            self.marks[given.site] = given.outbox, mark if name == given.outbox else Mark()
            (self.marks[given.site][1].skip if given.with_all_before else self.marks[given.site][1].add)(given.number)
        if given.message:
            self.seen.append(key_of(given.message))

    def save(self) -> None:
        """The old or the new file, whatever happens meanwhile. Raises OSError."""
        if self._path is None:
            return
        outboxes = {site: {"outbox": name, "after": mark.after, "beyond": sorted(mark.beyond)} for site, (name, mark) in self.marks.items()}
        new = self._path.with_name(self._path.name + ".new")
        with new.open("w", encoding="utf-8") as file:
            json.dump({"cursor": 1, "sites": outboxes, "seen": list(self.seen)}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)

    def _load(self, read: _CursorFile) -> None:
        self.marks = {site: (place.outbox, Mark(place.after, set(place.beyond))) for site, place in read.sites.items()}
        self.seen.extend(read.seen)


class _CursorPlace(BaseModel):
    outbox: str
    after: int
    beyond: list[int]


class _CursorFile(BaseModel):
    cursor: Literal[1]
    sites: dict[str, _CursorPlace]
    seen: list[str]


def _read_cursor(path: Path) -> _CursorFile:
    try:
        return _CursorFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigError(f"{path} is not the cursor of a subscription; name another file, or remove it to begin anew") from error


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
            while self._ready:
                message = self._next()
                if message is not None:
                    return message
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
        """Any command, and what became of it. Raises TimeoutError, or ValueError where the site is not one."""
        if site == "+":
            raise ValueError("name the site of the source: this subscription listens to all")
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
        """Whoever waits for a message gets none."""
        self._is_closed = True
        with contextlib.suppress(queue.Full):
            self._inbox.put_nowait(None)
        self._broker.stop()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _confirm(self) -> None:
        if self._pending:
            self._cursor.confirm(self._pending)
            self._cursor.save()
            self._pending = None

    def _next(self) -> Told | None:
        """None for what is done with at once."""
        item = self._ready.popleft()
        if not isinstance(item, Given):
            return item
        if item.message is None or not self._wanted.wants(item.message):
            self._cursor.confirm(item)
            return None
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
            case ["status"]:
                return [*self._feed(site, payload, not retained), *self._other("site", payload)]
            case ["resent"]:
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
        return self._ledger.feed(site, message, live, time.monotonic())

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
        self.why = why
        self._must_check |= connected
        (self._is_connected.set if connected else self._is_connected.clear)()
        self._on_state(connected, why)


def subscribe(
    host: str | Mqtt = "localhost",
    port: int | None = None,
    *,
    site: str = "+",
    source: str = "+",
    since: Since = "now",
    cursor: Path | None = None,
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
    wanted = _Wanted(_level("site", site), _level("source", source), since, cursor, timeout_s, frozenset(also))
    return Subscription(broker, wanted, password, client_id, on_state)


def _level(name: str, text: str) -> str:
    if not text or set(text) & set("/#\0") or ("+" in text and text != "+"):
        raise ConfigError(f"{name} {text!r} must be one name, or + for all")
    return text
