"""A bundle and labelled recordings in; the same bundle with calibrated probabilities, thresholds and figures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from kernels.bundle import Bundle
from kernels.export import Calibration, head_of, recalibrate

from .embed import Embedded
from .evaluate import answer_all, embed_bundle, of_source, zero_shot_rows
from .metrics import FEWEST_POSITIVES, Bools, Floats, expected_calibration_error
from .rows import DECIDED
from .source import Source
from .thresholds import fit_thresholds, part_of
from .zero_shot import Answers, Question, ask, finding_labels, logits, task_labels

_PRIOR_STRENGTH = 2.0
"""Pulls slope towards the pooled one where a finding has few positives."""

_TOLD = frozenset({"auroc_macro", *DECIDED})
"""The metrics that go into the card: a calibration is not judged by the recordings it was fitted on."""


@dataclass(frozen=True, slots=True)
class Logits:
    """What an uncalibrated bundle says of labelled recordings."""

    raw: Floats
    """[n, findings]"""
    labels: Bools
    coded: tuple[int, ...]
    """The findings that have SCP codes, and so labels."""
    statements: Floats
    """[n, statements]"""
    stated: Bools

    def of(self, rows: Bools) -> Logits:
        """Those of some of the recordings."""
        return Logits(self.raw[rows], self.labels[rows], self.coded, self.statements[rows], self.stated[rows])


def calibrate(bundle: Bundle, source: Source) -> Bundle:
    """Platt scaling (Platt 1999) of every finding with enough positives, around one fit pooled over all that the data set labels.

    The pooled one is for words that nobody has labels for; so it is fitted on every statement, common and rare.

    The card is told the folds, the figures, the thresholds of best F1 of every task and of the findings, and the
    calibration error found by cross-validation. Raises ConfigError where there are no recordings.
    """
    (embedded,) = (of_source(e, source) for e in embed_bundle(bundle, source))
    told = _logits(bundle, source, embedded, ask(source.tasks, bundle))
    pooled, fitted = _fit_all(told)
    names = {bundle.card.findings[i].name: calibration for i, calibration in fitted.items()}
    calibrated = recalibrate(bundle, names, pooled, {})
    error = _cross_validated_error(told, embedded.patients)
    metrics = {**_measure(calibrated, source, embedded), **({} if np.isnan(error) else {"ece_cross_validated": round(error, 4)})}
    return recalibrate(calibrated, names, pooled, metrics)


def _measure(bundle: Bundle, source: Source, embedded: Embedded) -> dict[str, Any]:
    """Figures and thresholds of a bundle that was calibrated on these recordings: decisions are cross-fitted."""
    answers = answer_all(bundle, head_of(bundle), ask(source.tasks, bundle), source, embedded)
    rows = [row.as_json() for row in zero_shot_rows(bundle, source, answers) if row.metric in _TOLD]
    thresholds = {f"{source.name}/{a.task}": _thresholds(a) for a in answers}
    return {"dataset": source.name, "folds": source.told_folds, "rows": rows, "thresholds": thresholds}


def _thresholds(answers: Answers) -> dict[str, float]:
    """Of every class with a positive."""
    fitted = zip(answers.classes, fit_thresholds(answers.probability, answers.labels), answers.labels.T, strict=True)
    return {name: float(f"{threshold:.4g}") for name, threshold, label in fitted if label.any()}


def _logits(bundle: Bundle, source: Source, embedded: Embedded, questions: Sequence[Question]) -> Logits:
    findings, head = bundle.card.findings, head_of(bundle)
    coded = tuple(i for i, f in enumerate(findings) if f.scp)
    single = [question for question in questions if len(question.text) == len(question.task.labels)]
    return Logits(
        raw=embedded.by_recording(logits(head, embedded.windows(), head.text)),
        labels=finding_labels(findings, embedded.recordings, source.concepts),
        coded=coded,
        statements=embedded.by_recording(np.concatenate([logits(head, embedded.windows(), q.text) for q in single], axis=1)),
        stated=np.concatenate([task_labels(q.task, embedded) for q in single], axis=1),
    )


def _fit_all(told: Logits) -> tuple[Calibration, dict[int, Calibration]]:
    """The pooled calibration, and that of each finding with enough positives."""
    pooled = fit(told.statements.ravel(), told.stated.ravel(), (1.0, 0.0))
    enough = [i for i in told.coded if told.labels[:, i].sum() >= FEWEST_POSITIVES]
    return pooled, {i: fit(told.raw[:, i], told.labels[:, i], pooled) for i in enough}


def _cross_validated_error(told: Logits, patients: Sequence[str]) -> float:
    """Expected calibration error where each patient is scored by a calibration fitted on the others; mean over findings."""
    part = part_of(patients)
    probability = np.zeros_like(told.raw)
    for held_out in np.unique(part):
        rest = part != held_out
        calibration = _every(_fit_all(told.of(rest)), told.raw.shape[1])
        probability[~rest] = expit(told.raw[~rest] * calibration[:, 0] + calibration[:, 1])
    enough = [i for i in told.coded if told.labels[:, i].sum() >= FEWEST_POSITIVES]
    return float(expected_calibration_error(probability[:, enough], told.labels[:, enough]).mean()) if enough else float("nan")


def _every(fitted: tuple[Calibration, Mapping[int, Calibration]], findings: int) -> Floats:
    """Slope and offset of each finding, [findings, 2]."""
    pooled, own = fitted
    return np.array([own.get(i, pooled) for i in range(findings)])


def fit(raw: Floats, labels: Bools, prior: Calibration) -> Calibration:
    """Slope and offset of least log loss, with a normal prior on the logarithm of the slope and a weak one on the offset."""

    def cost(x: Floats) -> float:
        p = np.clip(expit(np.exp(x[0]) * raw + x[1]), 1e-9, 1 - 1e-9)
        loss = -np.where(labels, np.log(p), np.log(1 - p)).sum()
        distance = _PRIOR_STRENGTH * (x[0] - np.log(prior[0])) ** 2 + 0.05 * (x[1] - prior[1]) ** 2
        return float(loss + distance)

    best = minimize(cost, [np.log(prior[0]), prior[1]], method="Nelder-Mead")
    return float(np.exp(best.x[0])), float(best.x[1])
