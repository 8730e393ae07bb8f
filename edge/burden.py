"""The alerts and the probabilities of a recording in; how long, how often and how surely each finding was there out."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.findings import Finding

from .alarm import Kind, Priority
from .evaluate.interval import Interval
from .timeline import Mask, Seconds

LONGEST = 5
"""So many of the longest episodes of each finding are listed."""

_FINEST = 1000
"""Medians are exact to the inverse."""
_TOGETHER = 256


@dataclass(frozen=True, slots=True)
class Spell:
    """One alert, from its onset until it cleared or the recording ended."""

    finding: str
    kind: Kind
    priority: Priority
    raised_s: float
    on: Interval
    ended: bool
    """False where it was still on at the end."""
    peak: float
    why: str | None = None
    """What a technical alert found when it was raised."""


@dataclass(frozen=True, slots=True)
class Burden:
    """How much of the time one finding was there.

    Each window counts for the hop that it ends, so that shares of windows are shares of scored time. Only windows that
    were scored count.
    """

    finding: str
    priority: str
    on_share: float | None
    """The burden: of the windows whose leads can show it, those from the onset of an alert to its clearing.

    None of a finding without alerts.
    """
    above_share: float
    """Of the windows whose leads can show it, those whose probability reached `raise_at`."""
    alerts: int
    median: float
    """Probability, to a thousandth."""
    peak: float
    peak_at_s: float
    longest: tuple[Spell, ...]
    """Its longest alerts, the longest first."""


class Tallies:
    """The probabilities of all windows, counted: of each only its time remains, and which findings its leads could show."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self._findings = findings
        self._names = [finding.name for finding in findings]
        self._raise_at = np.array([finding.raise_at for finding in findings])
        self._counts = np.zeros((len(findings), _FINEST + 1), np.int64)
        self._above = np.zeros(len(findings), np.int64)
        self._peaks, self._peaks_at_s = np.full(len(findings), -1.0), np.zeros(len(findings))
        self._waiting: list[list[float]] = []
        self._waiting_s: list[float] = []
        self._at_s, self._shown = array("d"), array("H")
        self._kinds: dict[frozenset[str], int] = {}

    def feed(self, at_s: float, probability: dict[str, float]) -> None:
        """A window that was scored."""
        self._waiting.append([probability.get(name, np.nan) for name in self._names])
        self._waiting_s.append(at_s)
        self._at_s.append(at_s)
        self._shown.append(self._kinds.setdefault(frozenset(probability), len(self._kinds)))
        if len(self._waiting) == _TOGETHER:
            self._count()

    @property
    def seen(self) -> frozenset[str]:
        """The findings that some window could show."""
        self._count()
        return frozenset(name for name, peak in zip(self._names, self._peaks, strict=True) if peak >= 0)

    def burdens(self, spells: Sequence[Spell]) -> tuple[Burden, ...]:
        """Of every finding that some window could show; the largest first."""
        seen = self.seen
        found = [
            self._burden(row, [spell for spell in spells if spell.finding == finding.name])
            for row, finding in enumerate(self._findings)
            if finding.name in seen
        ]
        return tuple(sorted(found, key=lambda one: (one.on_share or 0.0, one.above_share, one.median), reverse=True))

    def _count(self) -> None:
        if not self._waiting:
            return
        rows, at_s = np.array(self._waiting).T, np.array(self._waiting_s)
        self._waiting, self._waiting_s = [], []
        self._above += (rows >= self._raise_at[:, None]).sum(axis=1)
        for row, values in enumerate(rows):
            there = values[~np.isnan(values)]
            self._counts[row] += np.bincount(np.rint(there * _FINEST).astype(np.int64), minlength=_FINEST + 1)
        highest = np.nan_to_num(rows, nan=-1.0)
        best = highest.argmax(axis=1)
        peaks = np.take_along_axis(highest, best[:, None], axis=1)[:, 0]
        self._peaks_at_s = np.where(peaks > self._peaks, at_s[best], self._peaks_at_s)
        self._peaks = np.maximum(self._peaks, peaks)

    def _shows(self, name: str) -> Seconds:
        """The ends of the windows whose leads could show a finding."""
        kinds: Mask = np.array([name in kind for kind in self._kinds], np.bool_)
        return np.array(self._at_s)[kinds[np.array(self._shown)]]

    def _burden(self, row: int, spells: Sequence[Spell]) -> Burden:
        finding, windows = self._findings[row], int(self._counts[row].sum())
        return Burden(
            finding=finding.name,
            priority=finding.priority,
            on_share=None if finding.priority == "none" else _on(spells, self._shows(finding.name)) / windows,
            above_share=float(self._above[row] / windows),
            alerts=len(spells),
            median=_median(self._counts[row]),
            peak=float(self._peaks[row]),
            peak_at_s=float(self._peaks_at_s[row]),
            longest=tuple(sorted(spells, key=lambda spell: (-spell.on.length_s, spell.on.start_s))[:LONGEST]),
        )


def _on(spells: Sequence[Spell], shown_s: Seconds) -> int:
    """How many windows end from the onset of one to before its end; the alerts of one finding never overlap."""
    limits = np.array([(spell.on.start_s, spell.on.end_s if spell.ended else np.inf) for spell in spells]).reshape(-1, 2)
    return int(np.diff(np.searchsorted(shown_s, limits), axis=1).sum())


def _median(counts: npt.NDArray[np.int64]) -> float:
    """Of values counted by thousandths, the lower of two in the middle."""
    return float(np.searchsorted(counts.cumsum(), (counts.sum() + 1) // 2) / _FINEST)
