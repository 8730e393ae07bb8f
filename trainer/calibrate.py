"""A bundle and labelled recordings in; the same bundle with calibrated probabilities out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from scipy.optimize import minimize
from scipy.special import expit, logit

from kernels.bundle import Bundle
from kernels.export import Calibration, read_head, recalibrate

from .evaluate import finding_labels, match, run_bundle
from .metrics import FEWEST_POSITIVES, Bools, Floats
from .records import Recording

_PRIOR_STRENGTH = 2.0
"""Pulls slope towards the pooled one where a finding has few positives."""


def calibrate(bundle: Bundle, recordings: Sequence[Recording], metrics: Mapping[str, Any]) -> Bundle:
    """Platt scaling (Platt 1999) of every finding with enough positives, around one fit pooled over all of them."""
    findings = bundle.card.findings
    head = read_head(onnx.load_model_from_string(bundle.onnx))
    raw = logit(match(head, run_bundle(bundle, recordings).embedding, head.text))
    labels = finding_labels(findings, recordings)
    coded = [i for i, f in enumerate(findings) if f.scp]
    pooled = fit(raw[:, coded].ravel(), labels[:, coded].ravel(), (1.0, 0.0))
    fitted = {findings[i].name: fit(raw[:, i], labels[:, i], pooled) for i in coded if labels[:, i].sum() >= FEWEST_POSITIVES}
    return recalibrate(bundle, fitted, pooled, metrics)


def fit(raw: Floats, labels: Bools, prior: Calibration) -> Calibration:
    """Slope and offset of least log loss, with a normal prior on the logarithm of the slope and a weak one on the offset."""

    def cost(x: Floats) -> float:
        p = np.clip(expit(np.exp(x[0]) * raw + x[1]), 1e-9, 1 - 1e-9)
        loss = -np.where(labels, np.log(p), np.log(1 - p)).sum()
        distance = _PRIOR_STRENGTH * (x[0] - np.log(prior[0])) ** 2 + 0.05 * (x[1] - prior[1]) ** 2
        return float(loss + distance)

    best = minimize(cost, [np.log(prior[0]), prior[1]], method="Nelder-Mead")
    return float(np.exp(best.x[0])), float(best.x[1])
