"""`Letter`s and what the broker says of them in; each on disk first, then offered to the broker until it is acknowledged, out."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

from .outbox import Letter, Outbox, Sealed
from .outbox_file import Row
from .supervisor import Supervisor
from .transport.mqtt import Properties

T = TypeVar("T")

_INFLIGHT = 16
"""Few, so that what waits waits on disk; fewer where the broker allows less."""
_SPARE = 2
"""Left to other messages of QoS 1."""
_AT_ONCE = 64
_MOST_LETTERS = 10_000
_MOST_BYTES = 64 << 20
"""In memory, behind a disk that hangs."""
_TICK_S = 1.0
_GRACE_S = 5.0
"""A disk that hangs is left to itself."""
_LONGEST_EXPIRY_S = 2**32 - 1
_TELLING = ("schema", "id", "seq", "state", "priority")


class Publish(Protocol):
    """As `Broker.publish`: the mid; None where the message was not taken."""

    def __call__(self, topic: str, payload: str, qos: int, retain: bool, properties: Properties | None) -> int | None: ...


class Delivery:
    """The thread that owns the outbox. Any thread may call; no call waits, but `close`, and that not for ever.

    A letter is on disk before it is announced; where the disk takes none it is announced all the same. Few are in flight at a time,
    in the order of their numbers. The client sends again, first and by itself, what was in flight when the connection was lost;
    nothing else goes out before that has arrived, so the order holds. Then come the retained states, which a broker may have
    forgotten, then what waits, then what a subscriber asked for again, and last, once after each connect, what the broker refused.
    """

    def __init__(self, outbox: Outbox, supervisor: Supervisor, resent_topic: str) -> None:
        """What a subscriber asks for again goes to `resent_topic`."""
        self._outbox = outbox
        self._supervisor = supervisor
        self._resent_topic = resent_topic
        self._expiry_s = int(min(outbox.oldest_s, _LONGEST_EXPIRY_S))
        self._publish: Publish | None = None
        self._said: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._letters: deque[Sealed] = deque()
        self._letters_size = 0
        self._lock = threading.Lock()
        self._overrun = 0
        self._is_connected = False
        self._most_inflight = _INFLIGHT
        self._inflight: dict[int, int | str | None] = {}
        """Number, or topic of a state, by mid; None for what is sent again."""
        self._again: set[int] = set()
        """The mids that the client must send again."""
        self._states: dict[str, str] = {}
        self._rows: deque[Row] = deque()
        self._offered = 0
        self._aside: dict[int | str, None] = {}
        """Numbers, and topics of states, that the broker refused. They hold up nothing that it may take."""
        self._late: dict[int, None] = {}
        self._late_states: dict[str, str] = {}
        """Those of them that are still to be offered in this connection."""
        self._old: deque[Row] = deque()
        self._resending: int | None = None
        """The number after which it goes on; None while nobody asks."""
        self._idle = threading.Event()
        self._is_open = True
        self._end_s: float | None = None
        # A clock that is set while the program runs must not make letters old.
        self._epoch_s = time.time() - time.monotonic()
        self._resent = self._refused = 0
        self._tried_s = 0.0
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)

    def start(self, publish: Publish) -> None:
        """Begin, with the `publish` of the broker that calls `on_published` and the others here. What came before has waited."""
        self._publish = publish
        self._thread.start()

    def put(self, *letters: Letter) -> None:
        """Deliver them. Behind a disk that hangs the oldest are dropped and counted."""
        sealed = [letter.seal() for letter in letters]
        with self._lock:
            was_empty = not self._letters
            self._letters.extend(sealed)
            self._letters_size += sum(letter.size for letter in sealed)
            while len(self._letters) > _MOST_LETTERS or (self._letters_size > _MOST_BYTES and len(self._letters) > 1):
                self._letters_size -= self._letters.popleft().size
                self._overrun += 1
        if was_empty:
            self._said.put(_nothing)

    def ask(self, work: Callable[[Outbox], T]) -> Future[T]:
        """Have something done with the outbox, in its turn. Whoever waits for the answer should not do so for ever: a disk may hang."""
        answer: Future[T] = Future()
        self._said.put(partial(self._answer, work, answer))
        return answer

    def forget_state(self, topic: str) -> None:
        """Take a retained state back."""
        self._said.put(partial(self._forget, topic))

    def resend(self, name: str, after: int) -> None:
        """Publish again what the outbox `name` holds after a number, then say which numbers it has; all, where it is another's name."""
        self._said.put(partial(self._begin_again, after if name == self._outbox.name else 0))

    def on_published(self, mid: int) -> None:
        """The broker has taken it over. A mid of others is ignored, here and below."""
        self._said.put(partial(self._settle, mid, True))

    def on_refused(self, mid: int, why: str) -> None:
        """The broker will not have it: it is offered again after the next connect, once all others are."""
        self._said.put(partial(self._settle, mid, False))

    def on_connected(self, most_inflight: int = _INFLIGHT + _SPARE) -> None:
        """With the messages of QoS 1 that the broker takes at a time. Again without a loss in between it does nothing."""
        self._said.put(partial(self._connected, most_inflight))

    def on_lost(self) -> None:
        """Nothing is offered until it is back."""
        self._said.put(self._lost)

    @property
    def counts(self) -> dict[str, int]:
        """Letters that wait; and those ever dropped, for size, age or a disk that hangs, before they were acknowledged.

        Since the start: letters told that the disk did not take at once, letters sent again, and messages refused.
        """
        return {
            "waiting": self._outbox.waiting_count,
            "dropped": self._outbox.dropped + self._overrun,
            "unwritten": self._outbox.unwritten,
            "resent": self._resent,
            "refused": self._refused,
        }

    @property
    def problem(self) -> str | None:
        """Why nothing gets on disk just now."""
        return self._outbox.problem

    def drain(self, wait_s: float) -> None:
        """Give what waits this time to be acknowledged, where there is a connection."""
        self._idle.clear()
        self._said.put(_nothing)
        self._idle.wait(wait_s)

    def close(self, wait_s: float) -> None:
        """Give what waits this time to be acknowledged, where there is a connection, and let go of the outbox."""
        self._said.put(partial(self._end, time.monotonic() + wait_s))
        if self._publish is None:
            self._outbox.close()
        else:
            self._thread.join(wait_s + _GRACE_S)

    def _run(self) -> None:
        while self._is_open:
            self._supervisor.guard("delivery", self._turn)
        self._supervisor.guard("delivery", self._outbox.close)

    def _turn(self) -> None:
        self._listen()
        self._write()
        while self._is_connected and not self._again and len(self._inflight) < self._most_inflight and self._offer_next():
            pass
        self._save()
        if self._is_idle():
            self._idle.set()
        if self._end_s is not None and (time.monotonic() >= self._end_s or self._is_idle()):
            self._is_open = False

    def _listen(self) -> None:
        """One thing at least, or a tick; then all that is there."""
        with suppress(queue.Empty):
            self._said.get(timeout=_TICK_S if self._end_s is None else 0.05)()
            while True:
                self._said.get_nowait()()

    def _write(self) -> None:
        with self._lock:
            letters, self._letters, self._letters_size = self._letters, deque(), 0
        if not letters:
            return
        now_s = self._epoch_s + time.monotonic()
        self._outbox.write(letters, now_s)
        gone = dict.fromkeys(self._outbox.prune(now_s), "")
        self._change_states(self._outbox.written_states | gone if self._is_connected else gone)

    def _change_states(self, states: dict[str, str]) -> None:
        """An empty payload takes one back."""
        for topic in states:
            self._late_states.pop(topic, None)
        self._states |= states

    def _save(self) -> None:
        """A disk that takes nothing is not tried each time."""
        if self._outbox.problem is None or time.monotonic() - self._tried_s >= _TICK_S:
            self._tried_s = time.monotonic()
            self._outbox.save()

    def _is_idle(self) -> bool:
        """Whether nothing more can be expected."""
        late = self._late or self._late_states
        nothing_left = not (self._inflight or self._states or self._rows or late or self._offered < self._outbox.last)
        return not self._letters and (not self._is_connected or nothing_left)

    def _offer_next(self) -> bool:
        """False where there is nothing, or the client takes nothing."""
        return self._offer_state(self._states) or self._offer_row() or self._offer_again() or self._offer_late()

    def _offer_state(self, states: dict[str, str]) -> bool:
        """The first of them, which is then one less."""
        topic, payload = next(iter(states.items()), ("", ""))
        if not topic or not self._send(topic, payload, topic, retain=True):
            return False
        del states[topic]
        return True

    def _offer_row(self) -> bool:
        self._fetch()
        if not self._rows or not self._send(self._rows[0].topic, self._rows[0].payload, self._rows[0].number):
            return False
        self._offered = self._rows.popleft().number
        return True

    def _fetch(self) -> None:
        while not self._rows and self._offered < self._outbox.last:
            found = self._outbox.waiting(self._offered, _AT_ONCE)
            if self._outbox.is_unread:
                return
            self._rows.extend(row for row in found if row.number not in self._aside)
            if not self._rows:
                self._offered = found[-1].number if found else self._outbox.last

    def _offer_again(self) -> bool:
        if self._resending is None:
            return False
        if not self._old:
            self._old.extend(self._outbox.since(self._resending, _AT_ONCE))
        if not self._old:
            return not self._outbox.is_unread and self._tell_end()
        if self._old[0].number not in self._aside:
            if not self._send(self._resent_topic, self._old[0].payload, None):
                return False
            self._resent += 1
        self._resending = self._old.popleft().number
        return True

    def _offer_late(self) -> bool:
        number = next(iter(self._late), None)
        if number is None:
            return self._offer_state(self._late_states)
        row = next(iter(self._outbox.waiting(number - 1, 1)), None)
        if self._outbox.is_unread:
            return False
        if row is None or row.number != number:
            # Size took it.
            del self._aside[number]
        elif not self._send(row.topic, row.payload, number):
            return False
        del self._late[number]
        return True

    def _tell_end(self) -> bool:
        told = {"type": "resent", "outbox": self._outbox.name, "first": self._outbox.first, "last": self._outbox.last}
        if not self._send(self._resent_topic, json.dumps(told, separators=(",", ":")), None):
            return False
        self._resending = None
        return True

    def _send(self, topic: str, payload: str, what: int | str | None, retain: bool = False) -> bool:
        assert self._publish is not None
        # A state holds until the next; what waits at the broker for a subscriber that is away goes when it goes here.
        mid = self._publish(topic, payload, 1, retain, _properties(payload, None if retain else self._expiry_s))
        if mid is None:
            return False
        self._inflight[mid] = what
        return True

    # What follows is what was said, in its turn.

    def _answer(self, work: Callable[[Outbox], T], answer: Future[T]) -> None:
        self._write()
        answer.set_result(work(self._outbox))

    def _settle(self, mid: int, taken: bool) -> None:
        if mid not in self._inflight:
            return
        what = self._inflight.pop(mid)
        self._again.discard(mid)
        self._refused += not taken
        if what is not None:
            (self._taken if taken else self._set_aside)(what)

    def _taken(self, what: int | str) -> None:
        self._aside.pop(what, None)
        if isinstance(what, int):
            self._late.pop(what, None)
            self._outbox.acknowledge([what])

    def _set_aside(self, what: int | str) -> None:
        """Behind those set aside before it. None of them is offered now: what a broker hangs up on must not take turns for ever."""
        self._aside.pop(what, None)
        self._aside[what] = None
        self._late.clear()
        self._late_states.clear()

    def _connected(self, most_inflight: int) -> None:
        if self._is_connected:
            return
        self._is_connected = True
        self._most_inflight = max(min(_INFLIGHT, most_inflight - _SPARE), 1)
        taken_back = {topic: payload for topic, payload in self._states.items() if not payload}
        states = self._outbox.states() | taken_back
        self._late_states = {topic: states.pop(topic) for topic in self._aside if isinstance(topic, str) and topic in states}
        self._late = {number: None for number in self._aside if isinstance(number, int)}
        self._states = states
        self._rows.clear()
        self._offered = 0

    def _lost(self) -> None:
        self._is_connected = False
        self._again = set(self._inflight)

    def _forget(self, topic: str) -> None:
        self._outbox.forget_state(topic)
        self._change_states({topic: ""})

    def _begin_again(self, after: int) -> None:
        """Whoever asks while it runs has missed what it has sent so far."""
        after = min(max(after, 0), self._outbox.last)
        self._resending = after if self._resending is None else min(after, self._resending)
        self._old.clear()

    def _end(self, end_s: float) -> None:
        self._end_s = end_s


def _nothing() -> None:
    """Only wakes the thread."""


def _properties(payload: str, expiry_s: int | None) -> Properties | None:
    """None where there is nothing to describe: an empty payload takes a retained message back."""
    if not payload:
        return None
    message = json.loads(payload)
    user = tuple((name, str(message[name])) for name in _TELLING if message.get(name) is not None)
    return Properties("application/json", expiry_s, user)
