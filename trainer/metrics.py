"""Scores, decisions and labels in; figures of each class, and their intervals over draws of patients, out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.uint8]

Statistic = Callable[[Floats], Floats]
"""How often each recording counts [draws, n] -> a figure of each class [draws, classes]."""

FEWEST_POSITIVES = 5
"""A class with fewer is listed, not averaged: its AUROC says more of the draw than of the model."""

MOST_DRAWS, FEWEST_DRAWS = 1000, 200
_DRAWN_RECORDINGS = 10_000_000
"""Draws times recordings: beyond 10,000 recordings there are fewer draws, whose interval is steady by then."""

_BLOCK = 2_000_000
"""Draws times recordings that are worked on at once."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % bootstrap interval over patients."""

    value: float
    low: float
    high: float


def auroc(scores: Floats, labels: Bools, weights: Floats | None = None) -> Floats:
    """Of each column (Mann-Whitney), [n, classes] twice -> [draws, classes]; NaN where a class has no positive or no negative."""
    weights = np.ones((1, len(scores))) if weights is None else weights
    return np.stack([_auroc(s, y, weights) for s, y in zip(scores.T, labels.T, strict=True)], axis=1)


def _auroc(score: Floats, label: Bools, weights: Floats) -> Floats:
    """[draws]: the weight of negatives below each positive, half of those beside it, over all pairs."""
    order = np.argsort(score, kind="stable")
    negative = weights[:, order] * ~label[order]
    below = np.concatenate([np.zeros((len(weights), 1)), negative.cumsum(axis=1)], axis=1)
    first, last = (np.searchsorted(score[order], score[label], side) for side in ("left", "right"))
    positive = weights[:, label]
    with np.errstate(invalid="ignore", divide="ignore"):
        area: Floats = ((below[:, first] + below[:, last]) / 2 * positive).sum(axis=1) / (positive.sum(axis=1) * below[:, -1])
    return area


def f1(decided: Bools, labels: Bools, weights: Floats) -> Floats:
    """The harmonic mean of precision and sensitivity, [draws, classes]; NaN where nothing was shown and nothing was decided."""
    hits = weights @ (decided & labels).astype(np.float64)
    told = weights @ (decided.astype(np.float64) + labels)
    with np.errstate(invalid="ignore"):
        return 2 * hits / told


def accuracy(decided: Bools, labels: Bools, weights: Floats) -> Floats:
    """The share of right yes and no, [draws, classes]."""
    return (weights @ (decided == labels).astype(np.float64)) / weights.sum(axis=1, keepdims=True)


def brier(probability: Floats, labels: Bools, weights: Floats) -> Floats:
    """The mean squared error of the probability (Brier 1950), [draws, classes]."""
    return (weights @ (probability - labels) ** 2) / weights.sum(axis=1, keepdims=True)


def expected_calibration_error(probability: Floats, labels: Bools, weights: Floats | None = None, bins: int = 10) -> Floats:
    """The mean gap between probability and frequency over equally wide bins, weighted by their size (Guo et al. 2017).

    [n, classes] twice -> [draws, classes].
    """
    weights = np.ones((1, len(probability))) if weights is None else weights
    which = np.clip((probability * bins).astype(int), 0, bins - 1)
    gaps = sum(abs(weights @ np.where(which == b, probability - labels, 0.0)) for b in range(bins))
    return gaps / weights.sum(axis=1, keepdims=True)


def draw_patients(patients: Sequence[str], seed: int = 0) -> Counts:
    """How often each recording counts [1 + draws, n]: once in the first row, then as often as its patient was drawn.

    As many patients are drawn as there are, with replacement; between `FEWEST_DRAWS` and `MOST_DRAWS` times.
    """
    _, owner = np.unique(np.array(patients), return_inverse=True)
    count = int(owner.max()) + 1
    draws = min(MOST_DRAWS, max(FEWEST_DRAWS, _DRAWN_RECORDINGS // len(patients)))
    rng = np.random.default_rng(seed)
    drawn = (np.bincount(rng.integers(count, size=count), minlength=count)[owner] for _ in range(draws))
    return np.stack([np.ones(len(patients), np.uint8), *(d.astype(np.uint8) for d in drawn)])


def over_draws(statistic: Statistic, counts: Counts) -> Floats:
    """The statistic of every row of counts [1 + draws, n] -> [1 + draws, classes], a block of rows at a time."""
    return np.concatenate([statistic(block.astype(np.float64)) for block in _blocks(counts)])


def _blocks(counts: Counts) -> Iterator[Counts]:
    rows = max(_BLOCK // counts.shape[1], 1)
    for start in range(0, len(counts), rows):
        yield counts[start : start + rows]


def mean_with_interval(figures: Floats) -> Interval:
    """The mean over classes of figures [1 + draws, classes]: of the first row, and the middle 95 % of the others."""
    known = ~np.isnan(figures)
    with np.errstate(invalid="ignore"):
        means = np.where(known, figures, 0).sum(axis=1) / known.sum(axis=1)
    drawn = means[1:][~np.isnan(means[1:])]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
    return Interval(float(means[0]), float(low), float(high))


def centred(interval: Interval) -> Interval:
    """The interval moved to where its figure is in the middle.

    A draw repeats recordings, which alone raises a calibration error.
    """
    shift = interval.value - (interval.low + interval.high) / 2
    return Interval(interval.value, max(interval.low + shift, 0.0), interval.high + shift)
