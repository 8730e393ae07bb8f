"""Every message that a daemon publishes in; what the last days were like, from memory and a SQLite file that outlives the daemon, out."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

import structlog

from ..message import Message
from ..supervisor import Supervisor
from .chronicle import Batch, Chronicle, StripKind, unpack
from .history_file import HistoryFile
from .trend import Span, Trend

T = TypeVar("T")

MOST_LISTED = 2000
_MOST_BYTES = 512 << 20
_TICK_S = 1.0
_SAVE_S = 15.0
"""Minutes are written so often, as flash wears out; alerts at once."""
_PRUNE_S = 60.0
_ANSWER_S = 2.0
"""So long a page waits for the disk."""
_HANGS_S = 5.0
_AT_ONCE = 64

# What waits for a disk that hangs, while nobody looks.
_MOST_SECONDS = 20_000
_MOST_TOLD = 5000
_MOST_VALUES = 2_000_000
"""Of the strips among them, some forty bytes each."""

log = structlog.get_logger()


class History:
    """The alerts and the minutes of all sources. Any thread may use it.

    `add` takes microseconds. A thread of its own writes: alerts at once, so that they outlive the program however it ends, minutes a
    few times each minute. What the disk refuses stays in memory, within limits, and is written when there is room. Once it is open
    nothing raises OSError: what the disk does not give is missing, and `problem` says why.
    """

    def __init__(
        self,
        file: Path,
        keep_s: float,
        supervisor: Supervisor,
        journaled: bool,
        most_bytes: int = _MOST_BYTES,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """What is older than `keep_s` goes; then, while the file is larger than `most_bytes`, the oldest strips, and last the oldest
        minutes. Where nobody goes on with what was on when the last daemon ended (not `journaled`), it is cleared.

        Raises ConfigError where the file cannot be opened or written, is no history, or is in use, and OSError where its disk is full.
        """
        self._path, self._keep_s, self._most_bytes, self._now_s = file, keep_s, most_bytes, now_s
        self._supervisor = supervisor
        self._file = HistoryFile(file)
        self._disk = threading.Lock()
        """Held by whoever uses the file; taken before `_lock`, never after."""
        self._lock = threading.Lock()
        """Over the chronicle; held for milliseconds."""
        self._chronicle = Chronicle(self._file.words(), self._file.findings(), self._file.orphans())
        self._seconds: deque[Message] = deque()
        self._told: deque[tuple[Message, int]] = deque()
        """Alerts and evidence, each with the number of values in its strip."""
        self._told_values = self._refused = 0
        self._queueing = threading.Lock()
        """Over these counts."""
        self._error: str | None = None
        self._busy_since_s: float | None = None
        self._saved_s = self._pruned_s = -math.inf
        self._wake = threading.Event()
        self._wake.set()
        self._is_ending = False
        if not journaled:
            self._chronicle.start_anew((), now_s())
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._thread.start()

    def add(self, message: Message) -> None:
        """A message as it is published, which nobody changes any more. Of a reply nothing is kept."""
        kind = message["type"]
        if kind == "alert" or kind == "evidence":
            self._queue(message)
            self._wake.set()
        elif kind != "reply":
            if len(self._seconds) < _MOST_SECONDS:
                self._seconds.append(message)
            else:
                self._refuse()

    def newest_first(self) -> list[Message]:
        """The last word about each of the 2000 alerts that were told last, without strips."""
        self._absorb()
        with self._lock:
            words = list(islice(self._chronicle.newest_first(), MOST_LISTED))
        return [json.loads(word.last) for word in words]

    def on(self) -> list[Message]:
        """The last word about each alert that is on, newest first, without strips."""
        self._absorb()
        with self._lock:
            words = [word for word in self._chronicle.newest_first() if word.is_on]
        return [json.loads(word.last) for word in words]

    def page(self, alert_id: str) -> Message:
        """`alert`, the last word; `raised`, the first, with the seconds before; `evidence`, with those after, or null. Raises KeyError.

        Where the disk gives no strip, or size took it, it is as if no sample had come.
        """
        self._absorb()
        with self._lock:
            word = self._chronicle[alert_id]
        last: Message = json.loads(word.last)
        evidence = self._strip(alert_id, "evidence") if word.has_evidence else None
        return {"alert": last, "raised": self._strip(alert_id, "raised") or last, "evidence": evidence}

    def day(self, now_s: float, hours: float, source: str | None = None) -> Message:
        """The last hours (31 days at most) of one source, or of all, in at most 288 steps of whole minutes, the last with now in it.

        `from` and `to` in seconds since 1970; `step_s`; `sources`; `alerts`. By source there is one value a step, or null:
        `heart_rate_bpm`, [lowest, mean, highest]; `good`, the share of the seconds of its leads that were good; `findings`, by name,
        the highest probability, of those that reached 0.05 or were alerted. `alerts` are the last words, without evidence, about
        those that were on at any time, 2000 at most, newest first.
        """
        self._absorb()
        span = Span.of(now_s, hours)
        with self._lock:
            words = (word for word in self._chronicle.newest_first() if source in (None, word.source) and word.is_within(span))
            told = [word.last for word in islice(words, MOST_LISTED)]
        alerts = [_without_evidence(json.loads(last)) for last in told]
        alerted = {(alert["source"], alert["finding"]) for alert in alerts}
        sources = self._trend(span, source).told(alerted)
        return {"from": span.begin_s, "to": span.end_s, "step_s": span.step_s, "sources": sources, "alerts": alerts}

    def knows(self, key: str) -> bool:
        """Whether the message came that an outbox keeps under this key, `id/seq` or `id/evidence`."""
        self._absorb()
        with self._lock:
            return self._chronicle.knows(key)

    def catch_up(self, messages: Iterable[Message], going_on: Collection[str] | None = None) -> None:
        """Once, at the start: alerts, with evidence or without, and evidence that others kept. What is known changes nothing.

        `going_on` names the alerts that the daemon goes on with: others that were on when the last one ended are then cleared.
        Returns when all of it is on disk, or the disk has refused it.
        """
        self._absorb()
        for number, message in enumerate(messages, 1):
            with self._lock:
                self._supervisor.guard("history", partial(self._chronicle.recall, message))
            if number % _AT_ONCE == 0:
                self._save(with_minutes=False)
        if going_on is not None:
            with self._lock:
                self._chronicle.start_anew(going_on, self._now_s())
        self._save(with_minutes=False)

    @property
    def counts(self) -> dict[str, int]:
        """Alerts that are kept; messages and minutes that are on no disk yet; and those that, since the start, no disk ever took."""
        with self._lock:
            kept, waiting, lost = len(self._chronicle), self._chronicle.unsaved, self._chronicle.lost
        return {"alerts": kept, "waiting": waiting + len(self._told), "unwritten": lost + self._refused}

    @property
    def problem(self) -> str | None:
        """Why nothing gets on disk just now."""
        since_s = self._busy_since_s
        if since_s is not None and time.monotonic() - since_s > _HANGS_S:
            return f"{self._path}: its disk does not answer"
        return self._error

    def close(self, wait_s: float = 5.0) -> None:
        """Write what waits, and let go of the file. After this time a disk that hangs is left to itself."""
        self._is_ending = True
        self._wake.set()
        self._thread.join(wait_s)

    def _queue(self, message: Message) -> None:
        """Where too much waits, only the word, and then not even that."""
        values = _values(message)
        with self._queueing:
            if self._told_values + values > _MOST_VALUES:
                self._refused += 1
                message, values = _without_strip(message), 0
            if len(self._told) < _MOST_TOLD and message:
                self._told_values += values
                self._told.append((message, values))
            elif message:
                self._refused += 1

    def _refuse(self) -> None:
        with self._queueing:
            self._refused += 1

    def _absorb(self) -> None:
        """Take in what was added. Whoever asks does so first: they see it even while the disk hangs."""
        with self._lock:
            while self._told:
                message, values = self._told.popleft()
                with self._queueing:
                    self._told_values -= values
                self._supervisor.guard("history", partial(self._chronicle.take, message))
            while self._seconds:
                self._supervisor.guard("history", partial(self._chronicle.take, self._seconds.popleft()))

    def _strip(self, alert_id: str, kind: StripKind) -> Message | None:
        with self._lock:
            packed = self._chronicle.unsaved_strip(alert_id, kind)
        packed = packed or self._ask(lambda file: file.strip(alert_id, kind))
        return unpack(packed) if packed else None

    def _trend(self, span: Span, source: str | None) -> Trend:
        return self._ask(lambda file: self._read(span, source, file)) or self._read(span, source, None)

    def _read(self, span: Span, source: str | None, file: HistoryFile | None) -> Trend:
        with self._lock:
            unsaved, findings = self._chronicle.unsaved_rows(span, source), self._chronicle.findings
        sources = {row.source for row in unsaved}
        trend = Trend(span, sources | file.sources(*span.minutes, source) if file else sources, findings)
        if unsaved:
            trend.add(unsaved)
        for rows in file.rows(*span.minutes, source) if file else ():
            trend.add(rows)
        return trend

    def _ask(self, work: Callable[[HistoryFile], T | None]) -> T | None:
        """None, too, where the disk refuses, or does not answer in time."""
        if not self._disk.acquire(timeout=_ANSWER_S):
            return None
        try:
            return work(self._file)
        except OSError as error:
            self._blame(error)
            return None
        finally:
            self._disk.release()

    def _run(self) -> None:
        while not self._is_ending:
            self._wake.wait(_TICK_S)
            self._wake.clear()
            self._supervisor.guard("history", self._turn)
        self._supervisor.guard("history", self._turn)
        with self._disk:
            self._file.close()

    def _turn(self) -> None:
        self._absorb()
        now_s = self._busy_since_s = time.monotonic()
        if now_s - self._pruned_s >= _PRUNE_S:
            self._pruned_s = now_s
            self._prune()
        is_due = self._is_ending or now_s - self._saved_s >= _SAVE_S
        self._saved_s = now_s if is_due else self._saved_s
        self._save(is_due)
        self._busy_since_s = None

    def _prune(self) -> None:
        before_s = self._now_s() - self._keep_s
        with self._lock:
            self._chronicle.prune(before_s)
        self._ask(lambda file: file.prune(before_s, self._most_bytes))

    def _save(self, with_minutes: bool) -> None:
        with self._disk:
            with self._lock:
                batch = self._chronicle.hand_out(with_minutes)
            if batch or self._error:
                self._put_away(batch)

    def _put_away(self, batch: Batch) -> None:
        try:
            self._file.write(batch)
        except OSError as error:
            self._blame(error)
            with self._lock:
                self._chronicle.take_back(batch)
            return
        with self._lock:
            self._chronicle.settle(batch)
        if self._error:
            log.info("history written again", file=str(self._path))
        self._error = None

    def _blame(self, error: OSError) -> None:
        if self._error is None:
            log.error("history not written", file=str(self._path), why=str(error))
        self._error = f"{self._path}: {error}"


def _values(message: Message) -> int:
    strip = message["strip"] if message["type"] == "evidence" else message["evidence"]["strip"]
    return sum(map(len, strip["uv"])) if strip else 0


def _without_strip(message: Message) -> Message:
    """Of evidence nothing is left."""
    return message | {"evidence": message["evidence"] | {"strip": None}} if message["type"] == "alert" else {}


def _without_evidence(message: Message) -> Message:
    del message["evidence"]
    return message
