"""What is kept of the minutes of sources in; the same in at most 288 steps, as a page draws it, out."""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MOST_STEPS = 288
_STEPS_S = (60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)
_LONGEST_H = 31 * 24.0
_WORTH_SHOWING = 50
"""Thousandths of a probability."""

Key = tuple[int, str]
"""Minutes since 1970, and the source."""

_Column = npt.NDArray[np.float64]


@dataclass(slots=True)
class Minute:
    """What is kept of a minute of one source, or of a part of it. Parts merge in any order."""

    rates: int = 0
    """Seconds with a heart rate,"""
    sum_bpm: float = 0.0
    """and the sum of them."""
    low_bpm: float = math.inf
    high_bpm: float = -math.inf
    good: int = 0
    """Seconds of a lead that were good,"""
    judged: int = 0
    """of so many."""
    highest: dict[int, int] = field(default_factory=dict)
    """The highest probability in thousandths, by number of the finding."""

    def add_rate(self, bpm: float) -> None:
        """One more second with a heart rate."""
        self.rates += 1
        self.sum_bpm += bpm
        self.low_bpm, self.high_bpm = min(self.low_bpm, bpm), max(self.high_bpm, bpm)

    def merge(self, part: Minute) -> None:
        """Another part of the same minute."""
        self.rates += part.rates
        self.sum_bpm += part.sum_bpm
        self.low_bpm, self.high_bpm = min(self.low_bpm, part.low_bpm), max(self.high_bpm, part.high_bpm)
        self.good += part.good
        self.judged += part.judged
        self.highest = _higher(self.highest, part.highest)


class Row(NamedTuple):
    """A minute as it is written."""

    minute: int
    source: str
    rates: int
    sum_bpm: float
    low_bpm: float
    high_bpm: float
    good: int
    judged: int
    highest: bytes
    """Pairs of little-endian uint16: the number of a finding, thousandths."""

    @classmethod
    def of(cls, key: Key, part: Minute) -> Row:
        """As one row, whether on disk or not."""
        return cls(*key, part.rates, part.sum_bpm, part.low_bpm, part.high_bpm, part.good, part.judged, _packed(part.highest))


def higher(one: bytes, other: bytes) -> bytes:
    """The `highest` of two rows of the same minute, as one."""
    return _packed(_higher(dict(struct.iter_unpack("<2H", one)), dict(struct.iter_unpack("<2H", other))))


def _packed(highest: Mapping[int, int]) -> bytes:
    return struct.pack(f"<{2 * len(highest)}H", *(number for pair in highest.items() for number in pair))


def _higher(one: Mapping[int, int], other: Mapping[int, int]) -> dict[int, int]:
    return {**one, **{finding: max(value, one.get(finding, 0)) for finding, value in other.items()}}


@dataclass(frozen=True, slots=True)
class Span:
    """Steps of whole minutes, in seconds since 1970."""

    begin_s: int
    end_s: int
    step_s: int

    @classmethod
    def of(cls, now_s: float, hours: float) -> Span:
        """The last hours (above 0, 31 days at most); the last step is the one with `now_s` in it."""
        length_s = min(hours, _LONGEST_H) * 3600
        step_s = next(step_s for step_s in _STEPS_S if math.ceil(length_s / step_s) <= MOST_STEPS)
        end_s = (math.floor(now_s / step_s) + 1) * step_s
        return cls(end_s - math.ceil(length_s / step_s) * step_s, end_s, step_s)

    @property
    def steps(self) -> int:
        """How many."""
        return (self.end_s - self.begin_s) // self.step_s

    @property
    def minutes(self) -> tuple[int, int]:
        """The first, and the one after the last."""
        return self.begin_s // 60, self.end_s // 60


class Trend:
    """Rows of these sources within a span, in any order -> one value a step."""

    def __init__(self, span: Span, sources: Iterable[str], findings: Sequence[str]) -> None:
        """`findings` by number."""
        self._span = span
        self._findings = findings
        self._places = {source: place for place, source in enumerate(sorted(sources))}
        self._size = len(self._places) * span.steps
        self._sums: npt.NDArray[np.float64] = np.zeros((4, self._size))
        """Of rates, beats per minute, good and judged seconds."""
        self._low_bpm, self._high_bpm = np.full(self._size, np.inf), np.full(self._size, -np.inf)
        self._highest = np.full(len(findings) * self._size, -1, np.int16)

    def add(self, rows: Sequence[Row]) -> None:
        """One at least."""
        minutes, sources, *figures, packed = zip(*rows, strict=True)
        rates, sum_bpm, low_bpm, high_bpm, good, judged = np.array(figures, np.float64)
        steps = (np.array(minutes) * 60 - self._span.begin_s) // self._span.step_s
        at = np.array([self._places[source] for source in sources]) * self._span.steps + steps
        self._sums += [np.bincount(at, column, self._size) for column in (rates, sum_bpm, good, judged)]
        np.minimum.at(self._low_bpm, at, low_bpm)
        np.maximum.at(self._high_bpm, at, high_bpm)
        pairs = np.frombuffer(b"".join(packed), "<u2").reshape(-1, 2)
        of_row = np.repeat(at, [len(one) // 4 for one in packed])
        np.maximum.at(self._highest, pairs[:, 0].astype(np.intp) * self._size + of_row, pairs[:, 1].astype(np.int16))

    def told(self, alerted: Collection[tuple[str, str]]) -> dict[str, Any]:
        """By source, ready for JSON; `alerted` are sources and findings that are told however improbable they were."""
        return {source: self._told(source, place, alerted) for source, place in self._places.items()}

    def _told(self, source: str, place: int, alerted: Collection[tuple[str, str]]) -> dict[str, Any]:
        part = slice(place * self._span.steps, (place + 1) * self._span.steps)
        rates, sum_bpm, good, judged = self._sums[:, part]
        heart = np.stack([self._low_bpm[part], sum_bpm / np.maximum(rates, 1), self._high_bpm[part]], axis=1)
        highest = self._highest.reshape(len(self._findings), self._size)[:, part]
        findings = {
            name: [None if value < 0 else value / 1000 for value in row.tolist()]
            for name, row in zip(self._findings, highest, strict=True)
            if row.max() >= _WORTH_SHOWING or ((source, name) in alerted and row.max() >= 0)
        }
        return {
            "heart_rate_bpm": _or_none(np.round(heart, 1), rates),
            "good": _or_none(np.round(good / np.maximum(judged, 1), 3), judged),
            "findings": findings,
        }


def _or_none(values: _Column, counts: _Column) -> list[Any]:
    """None where there was nothing."""
    return [value if count else None for value, count in zip(values.tolist(), counts.tolist(), strict=True)]
