"""Answers beside their labels in; the rows of the table, with intervals over patients, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from .metrics import (
    FEWEST_POSITIVES,
    Bools,
    Counts,
    Floats,
    Interval,
    Statistic,
    accuracy,
    auroc,
    brier,
    centred,
    expected_calibration_error,
    f1,
    mean_with_interval,
    over_draws,
)
from .thresholds import UNKNOWN, cross_fitted
from .zero_shot import Answers

METRICS = ("auroc_macro", "f1_macro", "accuracy", "ece", "brier")
DECIDED = frozenset({"f1_macro", "accuracy"})
"""The metrics of decisions, which need thresholds."""

_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of the table."""

    dataset: str
    task: str
    method: str
    leads: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    """Recordings."""
    per_class: dict[str, float]
    calibration: str = ""
    """Of ECE and Brier: `bundle`, or `fitted here` where the bundle was calibrated on these very folds."""
    thresholds: str = ""
    """Where those of decisions come from: `bundle`, `cross-fitted`, or empty for a metric that needs none."""
    too_few: tuple[str, ...] = ()
    """Classes with fewer than `FEWEST_POSITIVES` positives, or without a negative: not in `value`."""
    unlabelled: tuple[str, ...] = ()
    """Findings of which the dataset says nothing."""
    unobservable: tuple[str, ...] = ()
    """Findings that these leads cannot show."""

    def as_json(self) -> dict[str, object]:
        """For the file that `--json` writes; null where too few recordings give no figure."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Decisions:
    """Yes or no of every class, and where the thresholds come from."""

    yes: Bools
    thresholds: str


def decide(answers: Answers, fitted: Mapping[str, float] | None) -> Decisions:
    """By these thresholds of the classes, or by cross-fitted ones where there are none."""
    if fitted is None:
        return Decisions(cross_fitted(answers.probability, answers.labels, answers.patients), "cross-fitted")
    return Decisions(answers.probability >= np.array([fitted.get(name, UNKNOWN) for name in answers.classes]), "bundle")


def rows_of(dataset: str, method: str, repeats: Sequence[Answers], counts: Counts, fitted: Mapping[str, float] | None = None) -> list[Row]:
    """Every metric of a task. The figures of repeats, which answer the same of the same recordings, are averaged.

    `counts` is what `draw_patients` gives for these recordings, `fitted` the thresholds of the classes, cross-fitted without.
    """
    decisions = [decide(answers, fitted) for answers in repeats]
    judged = [_Judged(answers, decision.yes) for answers, decision in zip(repeats, decisions, strict=True)]
    return [_row(dataset, method, metric, judged, counts, decisions[0].thresholds if metric in DECIDED else "") for metric in METRICS]


@dataclass(frozen=True, slots=True)
class _Judged:
    """Answers, and the decisions that follow from them."""

    answers: Answers
    yes: Bools

    def figures(self, metric: str, columns: Bools, counts: Counts) -> Floats:
        """A metric of these classes in every draw, [1 + draws, classes]."""
        answers = self.answers
        probability, labels, yes = answers.probability[:, columns], answers.labels[:, columns], self.yes[:, columns]
        statistics: dict[str, Statistic] = {
            "auroc_macro": partial(auroc, probability, labels),
            "f1_macro": partial(f1, yes, labels),
            "accuracy": partial(accuracy, yes, labels),
            "ece": partial(expected_calibration_error, probability, labels),
            "brier": partial(brier, probability, labels),
        }
        return over_draws(statistics[metric], counts)


def _row(dataset: str, method: str, metric: str, judged: Sequence[_Judged], counts: Counts, thresholds: str) -> Row:
    told = judged[0].answers
    scored = enough(told.labels)
    return Row(
        dataset, told.task, method, told.leads, metric, **asdict(_interval(metric, judged, scored, counts)), n=len(told.labels),
        per_class=_per_class(metric, judged), thresholds=thresholds, too_few=_names(told, ~scored),
        unlabelled=told.unlabelled, unobservable=told.unobservable,
    )  # fmt: skip


def enough(labels: Bools) -> Bools:
    """The classes that are averaged, [classes]."""
    positives = labels.sum(axis=0)
    return (positives >= FEWEST_POSITIVES) & (positives < len(labels))


def _interval(metric: str, judged: Sequence[_Judged], scored: Bools, counts: Counts) -> Interval:
    if not scored.any():
        return Interval(float("nan"), float("nan"), float("nan"))
    interval = mean_with_interval(_mean([j.figures(metric, scored, counts) for j in judged]))
    return centred(interval) if metric == "ece" else interval


def _per_class(metric: str, judged: Sequence[_Judged]) -> dict[str, float]:
    """Of every class that has a positive and a negative, though they be few."""
    positives = judged[0].answers.labels.sum(axis=0)
    told = (positives > 0) & (positives < len(judged[0].answers.labels))
    if not told.any():
        return {}
    once = np.ones((1, len(judged[0].answers.labels)), np.uint8)
    (figures,) = _mean([j.figures(metric, told, once) for j in judged])
    return {name: round(float(f), _DIGITS) for name, f in zip(_names(judged[0].answers, told), figures, strict=True)}


def _mean(figures: Sequence[Floats]) -> Floats:
    mean: Floats = np.mean(figures, axis=0)
    return mean


def _names(answers: Answers, which: Bools) -> tuple[str, ...]:
    return tuple(name for name, w in zip(answers.classes, which, strict=True) if w)
