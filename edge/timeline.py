"""Windows, alerts and stretches of time, as they come, in; which rhythm led when, and what could not be assessed, out."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.findings import Finding

from .decode.chunk import Chunk
from .evaluate.interval import Interval, Intervals, union

Seconds = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_Codes = npt.NDArray[np.int8]

NOT_ASSESSABLE = "not assessable"

RHYTHM_CODES = frozenset({"SR", "AFIB", "STACH", "SARRH", "SBRAD", "PACE", "SVARR", "BIGU", "AFLT", "SVTAC", "PSVT", "TRIGU"})
"""The SCP-ECG statements that PTB-XL counts as rhythms (Wagner et al. 2020): a finding with one of them names a rhythm."""

_UNCLEAR, _BLIND = -1, -2
_GAP = 1.5
"""In hops: windows farther apart have a gap between them."""
_PRIORITIES = ("none", "low", "medium", "high")


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch with one rhythm. Like an alert's times, its limits are the ends of the windows that showed it."""

    start_s: float
    end_s: float
    rhythm: str | None
    """A finding, `NOT_ASSESSABLE`, or None where none stands out."""


class Stretches:
    """Stretches of time; those that touch the last are kept as one, so that a long one takes no more room than a short one."""

    def __init__(self) -> None:
        self._starts_s, self._ends_s = array("d"), array("d")

    def add(self, start_s: float, end_s: float) -> None:
        """One more, in any order."""
        if self._ends_s and start_s <= self._ends_s[-1] and end_s >= self._starts_s[-1]:
            self._starts_s[-1], self._ends_s[-1] = min(start_s, self._starts_s[-1]), max(end_s, self._ends_s[-1])
        else:
            self._starts_s.append(start_s)
            self._ends_s.append(end_s)

    def overlap(self, start_s: float, end_s: float) -> bool:
        """Whether one of them shares more than a moment with this."""
        return bool(np.any((np.array(self._starts_s) < end_s) & (np.array(self._ends_s) > start_s)))

    def union(self) -> Intervals:
        """In order and apart."""
        return union(map(Interval, self._starts_s, self._ends_s))


def follows_gap(chunk: Chunk, end_s: float) -> bool:
    """Whether samples are missing between `end_s`, where the last chunk ended, and this one."""
    return chunk.start / chunk.rate_hz - end_s > 0.5 / chunk.rate_hz


def overlapped(starts_s: Seconds, ends_s: Seconds, by: Intervals) -> Mask:
    """Which of the stretches [n] share more than a moment with these, which are in order and apart."""
    begun = np.searchsorted([one.start_s for one in by], ends_s, side="left")
    over = np.searchsorted([one.end_s for one in by], starts_s, side="right")
    return np.asarray(begun > over, np.bool_)


class Rhythm:
    """The probabilities of each window -> which rhythm leads.

    An alert of a rhythm leads while it is on, one of higher priority before another. Where none is on, a rhythm without alerts
    (priority none, as sinus rhythm) leads from a probability of `raise_at` on until it falls below `clear_at`.
    """

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = [finding for finding in findings if RHYTHM_CODES.intersection(finding.scp)]
        self._quiet = [(code, finding) for code, finding in enumerate(self.findings) if finding.priority == "none"]
        self._leading = _UNCLEAR
        self._at_s, self._codes = array("d"), array("b")

    def feed(self, at_s: float, probability: dict[str, float]) -> None:
        """A window that ends at `at_s`; without probabilities where it abstained."""
        self._leading = self._lead(probability) if probability else _BLIND
        self._at_s.append(at_s)
        self._codes.append(self._leading)

    def _lead(self, probability: dict[str, float]) -> int:
        stays = [
            (probability.get(finding.name, 0.0), code)
            for code, finding in self._quiet
            if probability.get(finding.name, 0.0) >= (finding.clear_at if code == self._leading else finding.raise_at)
        ]
        return max(stays)[1] if stays else _UNCLEAR

    def segments(self, alerts: Iterable[tuple[str, Interval]], window_s: float) -> tuple[Segment, ...]:
        """With the alerts, each a finding and where it was on, in order of their beginning."""
        at_s, codes = np.array(self._at_s), np.array(self._codes, np.int8)
        if not len(at_s):
            return ()
        self._overlay(at_s, codes, alerts)
        apart_s = np.diff(at_s)
        hop_s = float(apart_s.min()) if len(apart_s) else window_s
        return tuple(self._run(at_s, codes, hop_s, window_s))

    def _overlay(self, at_s: Seconds, codes: _Codes, alerts: Iterable[tuple[str, Interval]]) -> None:
        named = {finding.name: (_PRIORITIES.index(finding.priority), code) for code, finding in enumerate(self.findings)}
        for name, on in sorted((alert for alert in alerts if alert[0] in named), key=lambda alert: named[alert[0]][0]):
            part = codes[slice(*np.searchsorted(at_s, (on.start_s, on.end_s)).tolist())]
            part[part != _BLIND] = named[name][1]

    def _run(self, at_s: Seconds, codes: _Codes, hop_s: float, window_s: float) -> Iterator[Segment]:
        """Windows of one rhythm without a gap between them as one; after a gap the first window counts as a whole."""
        gaps = np.diff(at_s) > _GAP * hop_s
        first = np.flatnonzero(np.concatenate([[True], (codes[1:] != codes[:-1]) | gaps]))
        last = np.append(first[1:] - 1, len(at_s) - 1)
        for begin, end in zip(first.tolist(), last.tolist(), strict=True):
            after_gap = begin == 0 or gaps[begin - 1]
            since_s = max(at_s[begin] - window_s, at_s[begin - 1] if begin else 0.0) if after_gap else at_s[begin - 1]
            yield Segment(float(since_s), float(at_s[end]), self._name(int(codes[begin])))

    def _name(self, code: int) -> str | None:
        if code == _BLIND:
            return NOT_ASSESSABLE
        return None if code == _UNCLEAR else self.findings[code].name
