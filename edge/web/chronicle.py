"""Messages as they are published in; the last word about each alert, and all that is not on disk yet, out."""

from __future__ import annotations

import json
import zlib
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ..message import Message
from .trend import Key, Minute, Row, Span

MOST_ALERTS = 20_000
"""Their last words are in memory, a kilobyte each."""
MOST_STRIP_BYTES = 32 << 20
MOST_MINUTES = 50_000
"""Kept for a disk that takes nothing, as the strips are."""

_ANEW = "the monitor was started anew"
_NO_EVIDENCE: Message = {"decided": [], "strip": None}

StripKind = Literal["raised", "evidence"]


@dataclass(frozen=True, slots=True)
class Word:
    """The last word about an alert."""

    id: str
    rank: int
    """Higher than that of all that were told before, whatever the clock said."""
    seq: int
    first_seq: int
    """The lowest that was told."""
    source: str
    begun_s: float
    """The earliest that is known of it, in seconds since 1970;"""
    told_s: float
    """and when the last word came."""
    last: str
    """The message as JSON, without its strip."""
    is_on: bool
    has_evidence: bool
    """Whether the seconds after it came."""

    def is_within(self, span: Span) -> bool:
        """Whether it was on at any time. Where it is, it is on now, even if the clock was put back since it began."""
        return self.is_on or (self.begun_s < span.end_s and self.told_s >= span.begin_s)


@dataclass(frozen=True, slots=True)
class StripRow:
    """A message with its strip."""

    time_s: float
    packed: bytes


@dataclass(slots=True)
class Batch:
    """What is to be written."""

    gone: set[str] = field(default_factory=set)
    """Alerts that are kept no more, with their strips; all else comes after."""
    words: dict[str, Word] = field(default_factory=dict)
    strips: dict[tuple[str, StripKind], StripRow] = field(default_factory=dict)
    findings: dict[int, str] = field(default_factory=dict)
    minutes: dict[Key, Minute] = field(default_factory=dict)
    """Parts: what is on disk of the same minute stays in it."""

    def __bool__(self) -> bool:
        return bool(self.gone or self.words or self.strips or self.findings or self.minutes)

    def __len__(self) -> int:
        return len(self.words) + len(self.strips) + len(self.minutes)


class Chronicle:
    """Messages, often or in any order -> what is known. No I/O, clock or thread.

    An alert is known by its `id`, what is told of it by `seq`: the highest is its last word, the lowest comes with the strip that is
    kept. Which alert was told last is a matter of the order in which they come, as a clock may step backwards.
    """

    def __init__(self, words: Iterable[Word], findings: Mapping[int, str], orphans: Mapping[str, float]) -> None:
        """With what is on disk: the words, those that were told last at the end; names of findings by number; and of evidence without
        an alert the id, and when it came.
        """
        self._words: OrderedDict[str, Word] = OrderedDict((word.id, word) for word in words)
        self._numbers = {name: number for number, name in sorted(findings.items())}
        self._rank = max((word.rank for word in self._words.values()), default=0)
        self._inherited = {word.id for word in self._words.values() if word.is_on}
        """What was on when the last daemon ended, until something is told of it."""
        self._orphans = dict(orphans)
        self._new = Batch()
        self._strip_bytes = 0
        self.lost = 0
        """Strips and minutes that no disk took in time."""

    def take(self, message: Message) -> None:
        """A message of type scores, vitals, alert or evidence, as it is published."""
        match message["type"]:
            case "scores":
                self._take_scores(message)
            case "vitals":
                self._take_vitals(message)
            case "alert":
                self._inherited.discard(message["id"])
                self._take_alert(message)
            case "evidence":
                self._take_evidence(message)

    def recall(self, message: Message) -> None:
        """An alert, with its evidence or without, or the evidence after one, that was published before this daemon began."""
        is_new = message["id"] not in self._words
        (self._take_alert if message["type"] == "alert" else self._take_evidence)(message)
        if is_new and message["type"] == "alert":
            self._inherited.add(message["id"])

    def start_anew(self, going_on: Collection[str], time_s: float) -> None:
        """Clear what was on when the last daemon ended, but for these alerts."""
        for word in [self._words[one] for one in self._inherited if one not in going_on]:
            if word.is_on:
                change = {"seq": word.seq + 1, "state": "cleared", "why": _ANEW, "time": round(time_s, 3)}
                self._take_alert(json.loads(word.last) | change | {"evidence": _NO_EVIDENCE})
        self._inherited.clear()

    def knows(self, key: str) -> bool:
        """Whether the message `id/seq` or `id/evidence` came."""
        alert_id, _, which = key.rpartition("/")
        word = self._words.get(alert_id)
        if word is None:
            return False
        return word.has_evidence if which == "evidence" else word.first_seq <= int(which) <= word.seq

    def __getitem__(self, alert_id: str) -> Word:
        return self._words[alert_id]

    def __len__(self) -> int:
        return len(self._words)

    def newest_first(self) -> Iterator[Word]:
        """Those told last come first."""
        return reversed(self._words.values())

    @property
    def findings(self) -> list[str]:
        """By number."""
        return list(self._numbers)

    @property
    def unsaved(self) -> int:
        """How much is on no disk yet."""
        return len(self._new)

    def unsaved_strip(self, alert_id: str, kind: StripKind) -> bytes | None:
        """None where there is none, or it is on disk."""
        strip = self._new.strips.get((alert_id, kind))
        return strip.packed if strip else None

    def unsaved_rows(self, span: Span, source: str | None) -> list[Row]:
        """What is on disk of the same minutes is not in them."""
        first, end = span.minutes
        wanted = (key for key in self._new.minutes if first <= key[0] < end and source in (None, key[1]))
        return [Row.of(key, self._new.minutes[key]) for key in wanted]

    def prune(self, before_s: float) -> None:
        """Forget alerts whose last word came before, but for those that are on, and while there are too many the oldest; with them the
        strips, and those as old that belong to no alert.
        """
        words = sorted(self._words.values(), key=lambda word: (word.is_on, word.rank))
        surplus = len(words) - MOST_ALERTS
        for number, word in enumerate(words):
            if number < surplus or (not word.is_on and word.told_s < before_s):
                self._forget(word.id)
        for alert_id in [one for one, time_s in self._orphans.items() if time_s < before_s]:
            del self._orphans[alert_id]
            self._forget_strips(alert_id)

    def hand_out(self, with_minutes: bool) -> Batch:
        """What is to be written now; either `settle` or `take_back` must follow."""
        new = self._new
        batch = Batch(new.gone, dict(new.words), dict(new.strips), dict(new.findings))
        new.gone = set()
        if with_minutes:
            batch.minutes, new.minutes = new.minutes, {}
        return batch

    def settle(self, batch: Batch) -> None:
        """It is on disk."""
        new = self._new
        for number in batch.findings:
            del new.findings[number]
        for alert_id in [one for one, word in batch.words.items() if new.words.get(one) is word]:
            del new.words[alert_id]
        for key in [key for key, strip in batch.strips.items() if new.strips.get(key) is strip]:
            self._drop_strip(key)

    def take_back(self, batch: Batch) -> None:
        """It is not."""
        self._new.gone |= batch.gone
        for key, part in batch.minutes.items():
            self._minute(key).merge(part)
        self._bound()

    def _take_alert(self, message: Message) -> None:
        alert_id, seq = message["id"], message["seq"]
        before = self._words.get(alert_id)
        if before is None or seq < before.first_seq:
            self._keep_strip((alert_id, "raised"), message)
        if before is None or seq > before.seq:
            self._rank += 1
            self._put(self._newer(message, before))
            self._words.move_to_end(alert_id)
        elif seq < before.first_seq:
            begun_s = min(before.begun_s, message["onset_time"], message["time"])
            self._put(replace(before, first_seq=seq, begun_s=begun_s))

    def _newer(self, message: Message, before: Word | None) -> Word:
        begun_s = min(message["onset_time"], message["time"])
        return Word(
            id=message["id"],
            rank=self._rank,
            seq=message["seq"],
            first_seq=before.first_seq if before else message["seq"],
            source=message["source"],
            is_on=message["state"] != "cleared",
            has_evidence=before.has_evidence if before else self._orphans.pop(message["id"], None) is not None,
            begun_s=min(before.begun_s, begun_s) if before else begun_s,
            told_s=message["time"],
            last=_json(message | {"evidence": message.get("evidence", _NO_EVIDENCE) | {"strip": None}}),
        )

    def _take_evidence(self, message: Message) -> None:
        alert_id = message["id"]
        word = self._words.get(alert_id)
        if alert_id in self._orphans or (word and word.has_evidence):
            return
        self._keep_strip((alert_id, "evidence"), message)
        if word:
            self._put(replace(word, has_evidence=True))
        else:
            self._orphans[alert_id] = message["time"]

    def _take_vitals(self, message: Message) -> None:
        minute = self._minute(_key(message))
        if message["heart_rate_bpm"] is not None:
            minute.add_rate(message["heart_rate_bpm"])
        states = message["quality"].values()
        minute.judged += len(states)
        minute.good += sum(state == "good" for state in states)

    def _take_scores(self, message: Message) -> None:
        highest = self._minute(_key(message)).highest
        for name, probability in message["probability"].items():
            number, thousandths = self._number(name), round(1000 * probability)
            if thousandths > highest.get(number, -1):
                highest[number] = thousandths

    def _number(self, name: str) -> int:
        """Of a finding, the next one for a new name."""
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = len(self._numbers)
            self._new.findings[number] = name
        return number

    def _minute(self, key: Key) -> Minute:
        minute = self._new.minutes.get(key)
        if minute is None:
            minute = self._new.minutes[key] = Minute()
            self._bound()
        return minute

    def _bound(self) -> None:
        while len(self._new.minutes) > MOST_MINUTES:
            del self._new.minutes[next(iter(self._new.minutes))]
            self.lost += 1

    def _put(self, word: Word) -> None:
        self._words[word.id] = self._new.words[word.id] = word

    def _keep_strip(self, key: tuple[str, StripKind], message: Message) -> None:
        if key in self._new.strips:
            self._drop_strip(key)
        strip = self._new.strips[key] = StripRow(message["time"], pack(message))
        self._strip_bytes += len(strip.packed)
        while self._strip_bytes > MOST_STRIP_BYTES and len(self._new.strips) > 1:
            self._drop_strip(next(iter(self._new.strips)))
            self.lost += 1

    def _drop_strip(self, key: tuple[str, StripKind]) -> None:
        self._strip_bytes -= len(self._new.strips.pop(key).packed)

    def _forget(self, alert_id: str) -> None:
        del self._words[alert_id]
        self._inherited.discard(alert_id)
        self._new.words.pop(alert_id, None)
        self._forget_strips(alert_id)

    def _forget_strips(self, alert_id: str) -> None:
        for key in [key for key in self._new.strips if key[0] == alert_id]:
            self._drop_strip(key)
        self._new.gone.add(alert_id)


def pack(message: Message) -> bytes:
    """As few bytes as take no longer than they are worth: a third of the JSON."""
    return zlib.compress(_json(message).encode(), 6)


def unpack(packed: bytes) -> Message:
    """The message as it was."""
    read: Message = json.loads(zlib.decompress(packed))
    return read


def _json(message: Message) -> str:
    return json.dumps(message, separators=(",", ":"))


def _key(message: Message) -> Key:
    return int(message["time"] // 60), message["source"]
