"""Windows in mV [batch, 12, samples] in; what score-workers at the broker say of them, to the bit what their engine says, out."""

from __future__ import annotations

import logging
import queue
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import structlog

from kernels.bundle import Bundle, Card
from kernels.engine import Engine, Result, check_shape
from kernels.signal import Samples

from ..config import Mqtt
from ..transport.mqtt import Broker, Properties, Taken
from .patience import Patience
from .round import Round
from .topics import check_gateway, result_topic, window_topic
from .window import Answer, Asked, Ticket, check_windows, pack_window, unpack_answer

LAST_S = 10.0
"""So long a silence is borne at the end."""

_POLL_S = 0.25
_SILENT_S = 3.0
"""A longer silence is told."""
_SOON = Properties(expiry_s=60)
_TOLD = 100
_NOBODY = "no score-worker answers"

log = structlog.get_logger()


@dataclass(slots=True)
class Counts:
    """What became of the windows."""

    asked: int = 0
    scored: int = 0
    again: int = 0
    """Asked once more, as nothing came."""
    repeated: int = 0
    """Scores of what had been scored, dropped."""
    late: int = 0
    """The same, of windows from before the last call."""
    refused: int = 0
    """Answers that say why there is no score."""
    unsound: int = 0
    """Messages that are no answer to this engine."""
    unanswered: int = 0
    """Given up at the end."""


class RemoteEngine(Engine):
    """An engine whose work is done by whoever takes the windows; each is asked until it is answered.

    One thread runs it; any other may call `hand_over` and `leave`, and in the end `close`.
    """

    def __init__(self, bundle: Bundle, mqtt: Mqtt, site: str, gateway: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        """`gateway` names it among those of its site. `meanwhile` is called by the thread in `run`, a few times a second while it waits.

        The connection begins at once. Raises ConfigError for a bundle that takes streams, a gateway that is no level of a topic, and as
        `Broker` does.
        """
        check_windows(bundle)
        check_gateway(gateway)
        # The card is all that a gateway needs; the model itself would stay in its memory.
        self.bundle = Bundle(b"", bundle.card)
        self.counts = Counts()
        self.problem: str | None = None
        """Why nothing is scored, in words."""
        self._objection = ""
        self._told: set[str] = set()
        self._topic = window_topic(mqtt.prefix, site, gateway)
        self._meanwhile = meanwhile
        self._session = uuid.uuid4().bytes
        self._next = self._first = 0
        self._events: queue.SimpleQueue[Answer | Taken] = queue.SimpleQueue()
        self._patience = Patience()
        self._polled_s = 0.0
        self._leave_after_s: float | None = None
        self._successor: Engine | None = None
        self._broker = Broker(
            mqtt,
            # With a part of its own, as after a reload two engines are there for a moment, and a broker keeps one client of a name.
            f"{gateway}-fleet-{self._session.hex()[:8]}",
            mqtt.password(),
            on_message=self._hear,
            on_state=_tell_state,
            on_published=lambda mid: self._events.put(Taken(mid)),
            on_refused=lambda mid, why: self._events.put(Taken(mid, why)),
        )
        self._broker.subscribe(result_topic(mqtt.prefix, site, gateway))
        self._broker.start()

    def run(self, ecg: Samples) -> Result:
        """Score windows [batch, 12, samples], however long that takes; `embedding` is [batch, 0], as workers send none.

        Raises BundleError for any other shape, TimeoutError where it is to leave and nobody answers.
        """
        check_shape(self.bundle, ecg)
        rows = np.empty((len(ecg), len(self.bundle.card.findings)), np.float32)
        self._first = self._next
        round_ = Round(self._patience, time.monotonic())
        for window in ecg:
            self._ask(round_, window.astype(np.float32, copy=False))
        try:
            while not round_.is_over:
                self._wait(round_, rows)
                self._poll(round_)
                if self._successor and not round_.is_over:
                    self._pass_on(self._successor, round_.give_up(), ecg, rows)
        finally:
            self.counts.again += round_.again
            self.counts.unanswered += round_.open
            self._first = self._next
        return Result(rows, np.empty((len(ecg), 0), np.float32))

    def hand_over(self, successor: Engine) -> bool:
        """Have another engine score what is not answered, in `run`: workers may be gone, or have another bundle, for good.

        It must stay open for as long as this one. False where it takes other windows or has other findings: then they are waited for.
        """
        fits = _looks(successor.bundle.card) == _looks(self.bundle.card)
        if fits:
            self._successor = successor
            if self._leave_after_s is not None:
                self.leave(self._leave_after_s)
        else:
            log.warning("windows cannot be handed over", why="the new bundle takes others; those already asked wait for a score-worker")
        return fits

    def leave(self, after_s: float = LAST_S) -> None:
        """From now on a silence of so long ends `run`."""
        self._leave_after_s = after_s
        if isinstance(self._successor, RemoteEngine):
            self._successor.leave(after_s)

    def close(self) -> None:
        """A `run` in another thread ends, too; the engine that it was handed over to stays as it is."""
        self._leave_after_s = 0.0
        self._broker.stop()
        log.info("left the fleet", **asdict(self.counts))

    def _pass_on(self, successor: Engine, numbers: Sequence[int], ecg: Samples, rows: Samples) -> None:
        at = [number - self._first for number in numbers]
        rows[at] = successor.run(ecg[at]).probability
        log.info("windows handed over", windows=len(at))

    def _ask(self, round_: Round, window: Samples) -> None:
        number, self._next = self._next, self._next + 1
        self.counts.asked += 1
        message = pack_window(Asked(Ticket(self._session, number), self.bundle.card.sha256, window))
        round_.add(number, message)
        self._send(round_, [(number, message)])

    def _send(self, round_: Round, copies: Iterable[tuple[int, bytes]]) -> None:
        for number, message in copies:
            round_.sent(number, self._broker.publish(self._topic, message, qos=1, properties=_SOON))

    def _wait(self, round_: Round, rows: Samples) -> None:
        """For one event, or until something is to be done without one."""
        try:
            event = self._events.get(timeout=min(round_.left_s(time.monotonic()), _POLL_S))
        except queue.Empty:
            self._send(round_, round_.due(time.monotonic()))
        else:
            self._note(round_, rows, event)

    def _poll(self, round_: Round) -> None:
        """A few times a second: what cannot wait for the workers."""
        now_s = time.monotonic()
        if now_s - self._polled_s < _POLL_S:
            return
        self._polled_s = now_s
        self._meanwhile()
        silence_s = round_.silence_s(now_s)
        if self._leave_after_s is not None and silence_s >= self._leave_after_s and not round_.is_over:
            raise TimeoutError(f"{self._objection or _NOBODY}; {round_.open} windows are not scored")
        if silence_s >= _SILENT_S:
            self._tell(self._objection or _NOBODY)

    def _note(self, round_: Round, rows: Samples, event: Answer | Taken) -> None:
        if isinstance(event, Taken):
            round_.taken(event.mid)
            self._objection = f"the broker refuses windows: {event.refused}" if event.refused else self._objection
        elif event.probability is None:
            self._object(event)
            self._send(round_, round_.refused(event.ticket.number))
        elif round_.scored(event.ticket.number, time.monotonic()):
            rows[event.ticket.number - self._first] = event.probability
            self.counts.scored += 1
            self._objection = ""
            self._tell(None)
            self._send(round_, round_.revived())
        else:
            self.counts.repeated += 1

    def _object(self, answer: Answer) -> None:
        self.counts.refused += 1
        self._objection = f"score-worker {answer.worker}: {answer.refused}"
        if self._objection not in self._told and len(self._told) < _TOLD:
            self._told.add(self._objection)
            log.warning("window refused", worker=answer.worker, why=answer.refused)

    def _tell(self, problem: str | None) -> None:
        """Once, when it begins, changes or ends."""
        if problem == self.problem:
            return
        self.problem = problem
        if problem:
            log.warning("nothing is scored", why=problem)
        else:
            log.info("score-workers answer again")

    # What follows runs in the broker's thread.

    def _hear(self, topic: str, payload: bytes, retained: bool) -> None:
        answer = unpack_answer(payload)
        if retained or answer is None or answer.ticket.session != self._session or not self._fits(answer):
            self.counts.unsound += 1
        elif answer.ticket.number >= self._next:
            # Kept until it is asked for, it would answer a window that nobody has seen.
            self.counts.unsound += 1
        elif answer.ticket.number < self._first:
            self.counts.late += 1
        else:
            self._events.put(answer)

    def _fits(self, answer: Answer) -> bool:
        """Whether it could be what the engine of this bundle says; NaN could, of samples that are too large for it."""
        if answer.probability is None:
            return True
        is_own = answer.bundle == self.bundle.card.sha256 and len(answer.probability) == len(self.bundle.card.findings)
        return is_own and not ((answer.probability < 0.0) | (answer.probability > 1.0)).any()


def _looks(card: Card) -> tuple[int, tuple[str, ...]]:
    return card.samples, tuple(finding.name for finding in card.findings)


def _tell_state(connected: bool, why: str) -> None:
    log.log(logging.INFO if connected else logging.WARNING, "fleet " + ("connected" if connected else "lost"), why=why)
