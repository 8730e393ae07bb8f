"""Probabilities and labels in; the thresholds of best F1, and decisions by thresholds that never saw whom they decide on, out."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .metrics import Bools, Floats
from .records import FOLDS

PARTS = 5
UNKNOWN = 0.5
"""The threshold of a class without positives to fit one on."""


def fit_thresholds(probability: Floats, labels: Bools) -> Floats:
    """Of each class, [n, classes] twice -> [classes]: from where on a yes gives the best F1."""
    return np.array([best_f1_threshold(p, y) for p, y in zip(probability.T, labels.T, strict=True)])


def best_f1_threshold(probability: Floats, label: Bools) -> float:
    """Half way between the lowest probability that is a yes and the next below; of equals the highest; `UNKNOWN` without a positive."""
    if not label.any():
        return UNKNOWN
    order = np.argsort(-probability, kind="stable")
    p, hits = probability[order], label[order].cumsum()
    below, whole = np.append(p[1:], 0.0), np.append(p[1:] < p[:-1], True)
    f1 = 2 * hits / (np.arange(1, len(p) + 1) + label.sum())
    best = int(np.argmax(np.where(whole, f1, -1.0)))
    return float((p[best] + below[best]) / 2)


def part_of(patients: Sequence[str], parts: int = PARTS) -> npt.NDArray[np.intp]:
    """The part of each recording, [n] of 0 to parts - 1: a patient is in one part only, the same on every machine."""
    # `fold_of` takes the remainder by FOLDS: a fold must not end up in one part
    return np.array([zlib.crc32(patient.encode()) // FOLDS % parts for patient in patients], np.intp)


def cross_fitted(probability: Floats, labels: Bools, patients: Sequence[str]) -> Bools:
    """Decisions [n, classes] on each part of the patients, by the thresholds of best F1 on the other parts."""
    part = part_of(patients)
    decided = np.zeros_like(labels)
    for held_out in np.unique(part):
        rest = part != held_out
        decided[~rest] = probability[~rest] >= fit_thresholds(probability[rest], labels[rest])
    return decided
