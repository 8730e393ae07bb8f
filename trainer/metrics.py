"""Scores and labels in; AUROC with bootstrap intervals, and calibration, out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

FEWEST_POSITIVES = 5
"""A class with fewer is listed, not averaged: its AUROC says more of the draw than of the model."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % bootstrap interval over recordings."""

    value: float
    low: float
    high: float


def auroc(scores: Floats, labels: Bools) -> Floats:
    """Of each column, [n, classes] twice -> [classes] (Mann-Whitney); NaN where a class has no positive or no negative."""
    positives = labels.sum(axis=0)
    negatives = len(labels) - positives
    rank_sum = (rankdata(scores, axis=0) * labels).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        area: Floats = (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)
    return area


def macro_auroc(scores: Floats, labels: Bools, draws: int = 1000, seed: int = 0) -> Interval:
    """The mean over classes with at least `FEWEST_POSITIVES` positives."""
    enough = labels.sum(axis=0) >= FEWEST_POSITIVES
    scores, labels = scores[:, enough], labels[:, enough]
    rng = np.random.default_rng(seed)
    picks = (rng.integers(len(labels), size=len(labels)) for _ in range(draws))
    drawn = [np.nanmean(auroc(scores[pick], labels[pick])) for pick in picks]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(auroc(scores, labels).mean()), float(low), float(high))


def expected_calibration_error(probability: Floats, label: Bools, bins: int = 10) -> float:
    """The mean gap between probability and frequency over equally wide bins, weighted by their size (Guo et al. 2017)."""
    which = np.clip((probability * bins).astype(int), 0, bins - 1)
    gaps = [abs(probability[which == b].sum() - label[which == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(label))
