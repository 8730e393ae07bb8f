"""Embeddings and labels in; what a linear classifier on them reaches with few and with all labels, beside a random encoder, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # of scikit-learn

from kernels.findings import ConfigError

from .datasets import Task, dataset
from .embed import Embedded, Encode, encode_in_torch
from .metrics import Bools, Counts, Floats, auroc, draw_patients
from .model import encoder_of
from .rows import Row, enough, rows_of
from .zero_shot import Answers, task_labels

Numbers = npt.NDArray[np.intp]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Inverse regularisation strengths (`C` of scikit-learn) to choose from."""

FEW_STRENGTH = 1e-3
"""Where labels are too few to choose by."""

GUESS = 0.5
"""The probability of a class that the training subset does not show, or shows throughout."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many of the labels may be used."""

    share: float
    repeats: int
    choose: bool
    """Whether the regularisation is chosen on the last training fold."""

    @property
    def method(self) -> str:
        """`linear probe 10 %`"""
        return f"linear probe {self.share:.0%}".replace("%", " %")


BUDGETS = (Budget(0.01, 3, False), Budget(0.1, 3, True), Budget(1.0, 1, True))


def training_folds(name: str, evaluated: Sequence[int]) -> tuple[int, ...]:
    """All folds but those evaluated; of PTB-XL folds 1 to 8 at most, as its authors ask.

    Raises ConfigError where fewer than two are left: one chooses the regularisation.
    """
    usual = range(1, 9) if name == "ptb-xl" else range(1, 11)
    folds = tuple(fold for fold in usual if fold not in evaluated)
    if len(folds) < 2:
        raise ConfigError("--probe has no folds left to learn from; give --folds 9,10")
    return folds


def probed_folds(name: str) -> tuple[int, ...]:
    """The folds that are evaluated by default where a probe is to be trained on others."""
    usual = dataset(name).folds
    return usual if len(usual) < 9 else (9, 10)


@dataclass(frozen=True, slots=True)
class Split:
    """The recordings to learn from and those to be tested on, as the same view shows them."""

    train: Embedded
    test: Embedded

    @classmethod
    def of(cls, embedded: Embedded, train: Sequence[int], test: Sequence[int]) -> Split:
        """By folds. Raises ConfigError where one side has no recording."""
        split = cls(embedded.of_folds(train), embedded.of_folds(test))
        if not (split.train.recordings and split.test.recordings):
            raise ConfigError("--probe needs recordings to learn from and others to be tested on; give other --folds")
        return split


def random_encoder(recipe: Mapping[str, Any], seed: int = 0) -> Encode:
    """An encoder of the recipe's shape that never learnt anything."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return encode_in_torch(encoder_of(recipe).eval())


def probe_rows(name: str, tasks: Sequence[Task], split: Split, budgets: Sequence[Budget] = BUDGETS, suffix: str = "") -> list[Row]:
    """Every task of a dataset by each budget, tested on the same recordings; draws of the subset are averaged."""
    counts = draw_patients(split.test.patients)
    return [row for task in tasks for budget in budgets for row in _rows(name, task, split, budget, suffix, counts)]


def _rows(name: str, task: Task, split: Split, budget: Budget, suffix: str, counts: Counts) -> list[Row]:
    repeats = [probe_task(task, split, budget, seed) for seed in range(budget.repeats)]
    return rows_of(name, budget.method + suffix, repeats, counts)


def probe_task(task: Task, split: Split, budget: Budget, seed: int = 0) -> Answers:
    """Fit on the share of the patients that the seed draws, and answer for the test recordings."""
    labels = task_labels(task, split.train)
    x, tested = _mean_embedding(split.train), _mean_embedding(split.test)
    rows = draw_rows(split.train.patients, budget.share, seed)
    folds = np.array([r.fold for r in split.train.recordings])
    strength = choose_strength(x, labels, rows, folds) if budget.choose else FEW_STRENGTH
    probability = fit_and_score(x[rows], labels[rows], tested, strength)
    names = tuple(label.name for label in task.labels)
    return Answers(task.name, split.test.leads, names, probability, task_labels(task, split.test), split.test.patients)


def _mean_embedding(embedded: Embedded) -> Floats:
    return embedded.by_recording(embedded.windows())


def draw_rows(patients: Sequence[str], share: float, seed: int) -> Numbers:
    """The recordings of this share of the patients, at least of one."""
    distinct, owner = np.unique(np.array(patients), return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(distinct))
    rows: Numbers = np.flatnonzero(np.isin(owner, order[: max(round(share * len(distinct)), 1)]))
    return rows


def choose_strength(x: Floats, labels: Bools, rows: Numbers, folds: Numbers) -> float:
    """Of `STRENGTHS` that of best macro AUROC on those of the rows that lie in the last fold, fitted on the others."""
    last, before = rows[folds[rows] == folds.max()], rows[folds[rows] != folds.max()]
    columns = enough(labels[last])
    if not (len(before) and len(last) and columns.any()):
        return FEW_STRENGTH
    labels = labels[:, columns]
    areas = [auroc(fit_and_score(x[before], labels[before], x[last], c), labels[last]).mean() for c in STRENGTHS]
    return STRENGTHS[int(np.argmax(areas))]


def fit_and_score(x: Floats, labels: Bools, tested: Floats, strength: float) -> Floats:
    """One logistic regression a class on standardised features [n, d]; probabilities [tested, classes]."""
    centre, spread = x.mean(axis=0), x.std(axis=0)
    spread[spread == 0] = 1.0
    x, tested = (x - centre) / spread, (tested - centre) / spread
    with threadpool_limits(1):  # the matrices are small: threads would wait for each other ten times as long as they work
        return np.stack([_score_class(x, label, tested, strength) for label in labels.T], axis=1)


def _score_class(x: Floats, label: Bools, tested: Floats, strength: float) -> Floats:
    if label.all() or not label.any():
        return np.full(len(tested), GUESS)
    model = LogisticRegression(C=strength, max_iter=1000).fit(x, label)
    probability: Floats = model.predict_proba(tested)[:, 1]
    return probability
