"""Scores and labels in; AUROC with bootstrap intervals, and calibration, out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]

FEWEST_POSITIVES = 5
"""A class with fewer is listed, not averaged: its AUROC says more of the draw than of the model."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % bootstrap interval over patients."""

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


def macro_auroc(scores: Floats, labels: Bools, patients: Sequence[str], draws: int = 1000, seed: int = 0) -> Interval:
    """The mean over classes with at least `FEWEST_POSITIVES` positives; the interval draws patients, not recordings."""
    enough = labels.sum(axis=0) >= FEWEST_POSITIVES
    scores, labels = scores[:, enough], labels[:, enough]
    if not enough.any():
        return Interval(float("nan"), float("nan"), float("nan"))
    return bootstrap(lambda rows: _mean_auroc(scores[rows], labels[rows]), patients, draws, seed)


def mean_calibration_error(probability: Floats, labels: Bools, patients: Sequence[str], draws: int = 200, seed: int = 0) -> Interval:
    """The expected calibration error of each column, averaged.

    A draw repeats recordings, which alone raises the error: its interval is moved to where the figure is in the middle.
    """
    columns = range(labels.shape[1])

    def mean(rows: Rows) -> float:
        return float(np.mean([expected_calibration_error(probability[rows, i], labels[rows, i]) for i in columns]))

    drawn = bootstrap(mean, patients, draws, seed)
    shift = drawn.value - (drawn.low + drawn.high) / 2
    return Interval(drawn.value, max(drawn.low + shift, 0.0), drawn.high + shift)


def bootstrap(statistic: Callable[[Rows], float], patients: Sequence[str], draws: int, seed: int) -> Interval:
    """The statistic of all rows, and the middle 95 % of it over draws of patients."""
    drawn = [value for rows in _draws(patients, draws, seed) if not np.isnan(value := statistic(rows))]
    low, high = np.percentile(drawn, [2.5, 97.5]) if drawn else (np.nan, np.nan)
    return Interval(statistic(np.arange(len(patients))), float(low), float(high))


def _mean_auroc(scores: Floats, labels: Bools) -> float:
    area = auroc(scores, labels)
    return float(np.nanmean(area)) if not np.isnan(area).all() else float("nan")


def _draws(patients: Sequence[str], draws: int, seed: int) -> Iterator[Rows]:
    """Rows of as many patients as there are, drawn with replacement."""
    _, owner = np.unique(np.array(patients), return_inverse=True)
    rows = np.split(np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner))[:-1])
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield np.concatenate([rows[i] for i in rng.integers(len(rows), size=len(rows))])


def expected_calibration_error(probability: Floats, label: Bools, bins: int = 10) -> float:
    """The mean gap between probability and frequency over equally wide bins, weighted by their size (Guo et al. 2017)."""
    which = np.clip((probability * bins).astype(int), 0, bins - 1)
    gaps = [abs(probability[which == b].sum() - label[which == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(label))
