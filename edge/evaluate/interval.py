"""Stretches of time in; their unions, overlaps and differences out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """From `start_s` to before `end_s`, in stream time."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s

    def overlaps(self, other: Interval) -> bool:
        """Whether they share more than a moment."""
        return self.start_s < other.end_s and other.start_s < self.end_s

    def overlaps_any(self, others: Iterable[Interval]) -> bool:
        return any(self.overlaps(other) for other in others)


Intervals = tuple[Interval, ...]


def union(intervals: Iterable[Interval]) -> Intervals:
    """The same time as intervals that are in order and apart; those that touch become one."""
    joined: list[Interval] = []
    for one in sorted(intervals):
        if joined and one.start_s <= joined[-1].end_s:
            joined[-1] = Interval(joined[-1].start_s, max(joined[-1].end_s, one.end_s))
        elif one.length_s > 0:
            joined.append(one)
    return tuple(joined)


def within(intervals: Iterable[Interval], frame: Interval) -> Intervals:
    """The parts that lie inside the frame, each by itself."""
    cut = (Interval(max(one.start_s, frame.start_s), min(one.end_s, frame.end_s)) for one in intervals)
    return tuple(one for one in cut if one.length_s > 0)


def without(intervals: Iterable[Interval], holes: Iterable[Interval]) -> Intervals:
    """What remains of the union once the holes are taken out."""
    left = list(union(intervals))
    for hole in union(holes):
        left = [part for one in left for part in _split(one, hole)]
    return tuple(left)


def total_s(intervals: Iterable[Interval]) -> float:
    """The length of the union."""
    return sum(one.length_s for one in union(intervals))


def shared_s(these: Iterable[Interval], those: Sequence[Interval]) -> float:
    """The length of what lies in both unions."""
    apart = union(those)
    return sum(part.length_s for one in union(these) for part in within(apart, one))


def _split(one: Interval, hole: Interval) -> Intervals:
    if not one.overlaps(hole):
        return (one,)
    ends = Interval(one.start_s, hole.start_s), Interval(hole.end_s, one.end_s)
    return tuple(end for end in ends if end.length_s > 0)
