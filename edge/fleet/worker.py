"""Windows that gateways share out in; their scores at the gateways, and only then the windows acknowledged, out."""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from ..config import Mqtt
from ..transport.mqtt import Broker, Properties, Receipt, Taken
from .answer import Panel
from .topics import GROUP, answer_topic, windows_of
from .window import Answer, pack_answer, unpack_window

MOST_WINDOWS = 64
"""Held at a time; a batch of so many gains nothing by more."""

_FAREWELL_S = 10.0
_POLL_S = 0.25
_QUIET_S = 0.5
"""Nothing is on its way any more where nothing came for so long, once the broker was told to send nothing."""
_TOLD = 100
_SOON = Properties(expiry_s=60)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Came:
    """A message, sound or not."""

    topic: str
    payload: bytes
    receipt: Receipt


@dataclass(slots=True)
class _Held:
    """A message that is not acknowledged yet."""

    receipt: Receipt
    is_done: bool = False


@dataclass(slots=True)
class Counts:
    """What came of the messages."""

    scored: int = 0
    refused: int = 0
    """Windows for a bundle that it has not, or of another length."""
    unsound: int = 0
    """No windows."""
    unsent: int = 0
    """Answers that the broker would not have."""


class ScoreWorker:
    """Takes part in the shared subscription of all workers. One thread runs it.

    The broker deals windows out in turn, and sends no more than may be held. What is lost with a worker its gateway asks again.
    """

    def __init__(self, panel: Panel, mqtt: Mqtt, name: str, site: str = "") -> None:
        """`name` is different from that of any other client of the broker; without a `site` the windows of all sites are scored.

        Raises ConfigError where the files of TLS cannot be used.
        """
        self.counts = Counts()
        self.progress_s = time.monotonic()
        """When it was well, the last time."""
        self._panel = panel
        self._filter = windows_of(mqtt.prefix, site or "+")
        self._events: queue.SimpleQueue[_Came | Taken] = queue.SimpleQueue()
        self._held: deque[_Held] = deque()
        self._answers: dict[int, _Held] = {}
        self._told: set[str] = set()
        self._broker = Broker(
            mqtt.model_copy(update={"version": "5"}),
            name,
            mqtt.password(),
            on_state=_tell_state,
            on_published=lambda mid: self._events.put(Taken(mid)),
            on_refused=lambda mid, why: self._events.put(Taken(mid, why)),
            on_delivery=lambda topic, payload, receipt: self._events.put(_Came(topic, payload, receipt)),
            most_unacknowledged=MOST_WINDOWS,
        )

    @property
    def is_connected(self) -> bool:
        """Whether the broker can be reached."""
        return self._broker.connected

    @property
    def reconnects(self) -> int:
        """How often the connection came back."""
        return self._broker.reconnects

    @property
    def holds(self) -> int:
        """Messages that are not acknowledged."""
        return len(self._held)

    def run(self, is_over: Callable[[], bool], beat: Callable[[], object] = lambda: None) -> None:
        """Until it is over; what is held then is still answered. `beat` is called after each batch, and a few times a second."""
        self._broker.subscribe(self._filter, group=GROUP)
        self._broker.start()
        while not is_over():
            self._step()
            beat()
        self._leave(beat)

    def _leave(self, beat: Callable[[], object]) -> None:
        self._broker.unsubscribe(self._filter, group=GROUP)
        busy_s = time.monotonic()
        until_s = busy_s + _FAREWELL_S
        while self.is_connected and time.monotonic() < min(until_s, busy_s + _QUIET_S):
            if self._step() or self._held:
                busy_s = time.monotonic()
            beat()
        self._broker.stop()

    def _step(self) -> int:
        """What has come, up to a batch, or may come in a moment; how much it was."""
        events = list(self._take())
        for event in events:
            if isinstance(event, Taken):
                self._settle(event)
        self._answer([event for event in events if isinstance(event, _Came)])
        self._acknowledge()
        self.progress_s = time.monotonic()
        return len(events)

    def _take(self) -> Iterator[_Came | Taken]:
        room = MOST_WINDOWS
        try:
            yield self._events.get(timeout=_POLL_S)
            while room := room - 1:
                yield self._events.get_nowait()
        except queue.Empty:
            return

    def _answer(self, came: Sequence[_Came]) -> None:
        """All are held in the order in which they came, as they are acknowledged in it."""
        asked = []
        for message in came:
            held, window, to = _Held(message.receipt), unpack_window(message.payload), answer_topic(message.topic)
            self._held.append(held)
            if window and to:
                asked.append((held, window, to))
            else:
                self.counts.unsound += 1
                held.is_done = True
        answers = self._panel.answer([window for _, window, _ in asked])
        for (held, _, to), answer in zip(asked, answers, strict=True):
            self._send(held, to, answer)

    def _send(self, held: _Held, to: str, answer: Answer) -> None:
        if answer.refused:
            self.counts.refused += 1
            self._tell("window refused", to=to, why=answer.refused)
        else:
            self.counts.scored += 1
        mid = self._broker.publish(to, pack_answer(answer), qos=1, properties=_SOON)
        if mid is None:
            self._settle_held(held, "there is no room to keep it for a broker that is away")
        else:
            self._answers[mid] = held

    def _settle(self, taken: Taken) -> None:
        held = self._answers.pop(taken.mid, None)
        if held:
            self._settle_held(held, taken.refused)

    def _settle_held(self, held: _Held, refused: str) -> None:
        held.is_done = True
        if refused:
            self.counts.unsent += 1
            self._tell("answer not sent", why=refused)

    def _acknowledge(self) -> None:
        while self._held and self._held[0].is_done:
            self._broker.acknowledge(self._held.popleft().receipt)

    def _tell(self, event: str, **words: str) -> None:
        """The same words once."""
        told = " ".join((event, *words.values()))
        if told not in self._told and len(self._told) < _TOLD:
            self._told.add(told)
            log.warning(event, **words)


def _tell_state(connected: bool, why: str) -> None:
    log.log(logging.INFO if connected else logging.WARNING, "broker " + ("connected" if connected else "lost"), why=why)
