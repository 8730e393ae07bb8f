"""The probabilities of a model and of a faster form of it in, with labels where there are any; whether it may take its place out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .signal import Samples

Labels = npt.NDArray[np.int8]
"""[n, findings]: 1 shown, 0 not shown, -1 untold."""

UNTOLD = -1

FEWEST = 5
"""A finding with fewer positives or fewer negatives has no AUROC: it says more of the draw than of the model."""

MOST_LOST = 0.005
"""Of the macro AUROC."""
MOST_LOST_OF_ONE = 0.01
"""Of the AUROC of any finding."""

MOST_CHANGED = 0.02
"""Share of windows, of any finding, that reach `raise_at` before and not after, or the other way round.

An alert asks for a majority of several windows, so a few that change change no alert. Of the shipped bundle in int8
at most 0.01 change where the AUROC stays, and 0.035 or more where it is lost.
"""
MOST_MOVED = 0.02
"""Mean absolute difference of the probability of any finding: a fifth of a bin of the calibration error."""
MOST_MOVED_ONCE = 0.5
"""Of any window: more is another opinion."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One finding under both."""

    name: str
    worst: float
    """Largest absolute difference of the probability."""
    mean: float
    changed: float
    """Share of windows that reach `raise_at` under one and not under the other."""
    positives: int
    negatives: int
    reference: float
    """AUROC; NaN where there are too few labels."""
    candidate: float

    @property
    def lost(self) -> float:
        """Of the AUROC; below zero where it gained."""
        return self.reference - self.candidate

    @property
    def is_judged(self) -> bool:
        """Whether the labels suffice."""
        return min(self.positives, self.negatives) >= FEWEST


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found, and whether the candidate may take the place of the reference."""

    findings: tuple[Compared, ...]
    passed: bool
    reason: str

    @property
    def reference(self) -> float:
        """Macro AUROC over the findings that are judged; NaN where none is."""
        return _mean([f.reference for f in self.findings if f.is_judged])

    @property
    def candidate(self) -> float:
        """The same of the candidate."""
        return _mean([f.candidate for f in self.findings if f.is_judged])


def judge(
    names: Sequence[str], reference: Samples, candidate: Samples, labels: Labels | None = None, raise_at: Sequence[float] | None = None
) -> Verdict:
    """Probabilities [n, findings] of both: no finding may reach `raise_at` in too many other windows than before.

    Findings whose labels [n, findings] suffice are also judged by their AUROC, the others by how far they moved.
    `raise_at` [findings] is the probability from which a window counts, one half without.
    """
    labels = np.full(reference.shape, UNTOLD, np.int8) if labels is None else labels
    limits = [0.5] * len(names) if raise_at is None else raise_at
    columns = zip(names, reference.T, candidate.T, labels.T, limits, strict=True)
    findings = tuple(_compare(*column) for column in columns)
    refusal = _refusal(findings, bool(np.isfinite(reference).all() and np.isfinite(candidate).all()))
    return Verdict(findings, not refusal, refusal or _praise(findings))


def auroc(scores: Samples, shown: npt.NDArray[np.bool_]) -> float:
    """Of scores [n], by the sum of ranks of the positives (Mann and Whitney 1947), ties at their mean; NaN without both classes."""
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[which]
    positives, negatives = int(shown.sum()), int((~shown).sum())
    if not positives or not negatives:
        return float("nan")
    return float((ranks[shown].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _compare(name: str, reference: Samples, candidate: Samples, label: Labels, raise_at: float) -> Compared:
    moved = np.abs(reference - candidate)
    changed = (reference >= raise_at) != (candidate >= raise_at)
    told = label != UNTOLD
    shown = label[told] == 1
    positives, negatives = int(shown.sum()), int((~shown).sum())
    areas = [auroc(scores[told], shown) if min(positives, negatives) >= FEWEST else float("nan") for scores in (reference, candidate)]
    return Compared(name, float(moved.max()), float(moved.mean()), float(changed.mean()), positives, negatives, *areas)


def _refusal(findings: Sequence[Compared], finite: bool) -> str:
    """In words, empty where there is none."""
    if not finite:
        return "some probabilities are not numbers"
    judged, others = _by_labels(findings)
    return _refusal_by_labels(judged) or _refusal_by_moves(findings, _CHANGE) or _refusal_by_moves(others, _MOVE)


def _by_labels(findings: Sequence[Compared]) -> tuple[list[Compared], list[Compared]]:
    """Those that are judged by their labels, and the others."""
    return [f for f in findings if f.is_judged], [f for f in findings if not f.is_judged]


def _refusal_by_labels(judged: Sequence[Compared]) -> str:
    if not judged:
        return ""
    lost, worst = _mean([f.lost for f in judged]), max(judged, key=lambda f: f.lost)
    if lost > MOST_LOST:
        return f"macro AUROC loses {lost:.4f} over {len(judged)} findings; at most {MOST_LOST} is allowed"
    if worst.lost > MOST_LOST_OF_ONE:
        return f"{worst.name} loses {worst.lost:.4f} of its AUROC; at most {MOST_LOST_OF_ONE} is allowed"
    return ""


_Limits = tuple[tuple[str, str, float, str], ...]
"""In words, the quantity, its limit, and how that is written."""

_CHANGE: _Limits = (("changes in {:.2%} of windows whether it counts towards an alert", "changed", MOST_CHANGED, "{:.0%}"),)
_MOVE: _Limits = (
    ("moves by {:.4f} in the mean", "mean", MOST_MOVED, "{}"),
    ("moves by {:.3f} in one window", "worst", MOST_MOVED_ONCE, "{}"),
)


def _refusal_by_moves(findings: Sequence[Compared], limits: _Limits) -> str:
    for told, quantity, limit, form in limits:
        worst = max(findings, key=lambda f: getattr(f, quantity), default=None)
        if worst and getattr(worst, quantity) > limit:
            return f"{worst.name} {told.format(getattr(worst, quantity))}; at most {form.format(limit)} is allowed"
    return ""


def _praise(findings: Sequence[Compared]) -> str:
    judged, others = _by_labels(findings)
    told = "without labels"
    if judged:
        lost, worst = _mean([f.lost for f in judged]), max(judged, key=lambda f: f.lost)
        told = f"macro AUROC changes by {-lost:+.4f} over {len(judged)} findings, of {worst.name} by {-worst.lost:+.4f}"
    told += f"; no finding changes in more than {max(f.changed for f in findings):.2%} of windows whether it counts"
    if others:
        told += f", none of {len(others)} without labels moves by more than {max(f.worst for f in others):.2g}"
    return told


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
