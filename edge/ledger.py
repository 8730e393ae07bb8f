"""The numbered messages of monitors in any order in; each once and in its place out, and what is to be asked for again."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from .contract import AlertMessage, EvidenceMessage, ResentMessage, SiteMessage

Since = Literal["now", "beginning"]
Numbered = AlertMessage | EvidenceMessage

PATIENCE_S = 10.0
"""So long an alert waits for those before it; then it is given without them."""

_ASK_S, _ASK_LONGEST_S = 3.0, 60.0
_TRIES = 5
"""After so many answers without it a number is gone: the broker refuses it, or it is too large for this side."""
_END = 2**53
"""An outbox has nothing after this number: who asks for that learns only its first and last."""
_REMEMBERED = 10_000


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
