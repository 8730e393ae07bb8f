"""A bundle and labelled recordings in; the same bundle with calibrated probabilities out."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from kernels.bundle import Bundle
from kernels.export import Calibration, head_of, recalibrate

from .evaluate import finding_labels, match, run_bundle
from .metrics import FEWEST_POSITIVES, Bools, Floats, expected_calibration_error
from .records import Recording

_PRIOR_STRENGTH = 2.0
"""Pulls slope towards the pooled one where a finding has few positives."""


@dataclass(frozen=True, slots=True)
class Logits:
    """What an uncalibrated bundle says of labelled recordings."""

    raw: Floats
    """[n, findings]"""
    labels: Bools
    coded: tuple[int, ...]
    """The findings that have SCP codes, and so labels."""


def calibrate(bundle: Bundle, recordings: Sequence[Recording], metrics: Mapping[str, Any]) -> Bundle:
    """Platt scaling (Platt 1999) of every finding with enough positives, around one fit pooled over all of them.

    `metrics` goes into the card, together with the calibration error found by cross-validation.
    """
    told = _logits(bundle, recordings)
    pooled, fitted = _fit_all(told)
    names = {bundle.card.findings[i].name: calibration for i, calibration in fitted.items()}
    error = _cross_validated_error(told, [r.patient for r in recordings])
    return recalibrate(bundle, names, pooled, {**metrics, "ece_cross_validated": round(error, 4)})


def _logits(bundle: Bundle, recordings: Sequence[Recording]) -> Logits:
    findings = bundle.card.findings
    head = head_of(bundle)
    scored = run_bundle(bundle, recordings)
    raw = scored.by_recording(logit(match(head, scored.embedding, head.text)))
    coded = tuple(i for i, f in enumerate(findings) if f.scp)
    return Logits(raw, finding_labels(findings, recordings), coded)


def _fit_all(told: Logits) -> tuple[Calibration, dict[int, Calibration]]:
    """The pooled calibration, and that of each finding with enough positives."""
    coded = list(told.coded)
    pooled = fit(told.raw[:, coded].ravel(), told.labels[:, coded].ravel(), (1.0, 0.0))
    enough = [i for i in coded if told.labels[:, i].sum() >= FEWEST_POSITIVES]
    return pooled, {i: fit(told.raw[:, i], told.labels[:, i], pooled) for i in enough}


def _cross_validated_error(told: Logits, patients: Sequence[str], parts: int = 5) -> float:
    """Expected calibration error where each patient is scored by a calibration fitted on the others; mean over findings."""
    part = np.array([zlib.crc32(patient.encode()) % parts for patient in patients])
    probability = np.zeros_like(told.raw)
    for held_out in np.unique(part):
        rest = part != held_out
        pooled, fitted = _fit_all(Logits(told.raw[rest], told.labels[rest], told.coded))
        calibration = np.array([fitted.get(i, pooled) for i in range(told.raw.shape[1])])
        probability[~rest] = expit(told.raw[~rest] * calibration[:, 0] + calibration[:, 1])
    return float(np.mean([expected_calibration_error(probability[:, i], told.labels[:, i]) for i in told.coded]))


def fit(raw: Floats, labels: Bools, prior: Calibration) -> Calibration:
    """Slope and offset of least log loss, with a normal prior on the logarithm of the slope and a weak one on the offset."""

    def cost(x: Floats) -> float:
        p = np.clip(expit(np.exp(x[0]) * raw + x[1]), 1e-9, 1 - 1e-9)
        loss = -np.where(labels, np.log(p), np.log(1 - p)).sum()
        distance = _PRIOR_STRENGTH * (x[0] - np.log(prior[0])) ** 2 + 0.05 * (x[1] - prior[1]) ** 2
        return float(loss + distance)

    best = minimize(cost, [np.log(prior[0]), prior[1]], method="Nelder-Mead")
    return float(np.exp(best.x[0])), float(best.x[1])
