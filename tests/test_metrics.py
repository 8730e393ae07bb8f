"""Figures, intervals and thresholds, against scikit-learn and by the laws that they must keep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, roc_auc_score

from trainer.calibrate import fit
from trainer.draw import reliability
from trainer.metrics import accuracy, auroc, brier, draw_patients, expected_calibration_error, f1, mean_with_interval, over_draws
from trainer.records import fold_of
from trainer.rows import METRICS, Row, rows_of
from trainer.thresholds import UNKNOWN, best_f1_threshold, cross_fitted, part_of
from trainer.zero_shot import Answers


def answers_of(probability: np.ndarray, labels: np.ndarray, patients: list[str] | None = None) -> Answers:
    names = tuple(f"c{i}" for i in range(labels.shape[1]))
    return Answers("task", "all", names, probability, labels, patients or [str(i) for i in range(len(labels))])


def rows_by_metric(answers: Answers) -> dict[str, Row]:
    return {row.metric: row for row in rows_of("d", "m", [answers], draw_patients(answers.patients))}


weighted = st.integers(5, 60).flatmap(
    lambda n: st.tuples(
        hnp.arrays(float, n, elements=st.floats(0, 1).map(lambda x: round(x, 2))),
        hnp.arrays(bool, n),
        hnp.arrays(bool, n),
        hnp.arrays(int, n, elements=st.integers(0, 3)),
    )
)


@given(weighted)
def test_every_metric_of_a_draw_equals_sklearn(drawn: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]) -> None:
    p, y, yes, weight = drawn
    weight[0] += 1
    columns, w = (p[:, None], y[:, None], yes[:, None]), weight[None].astype(float)
    assert accuracy(columns[2], columns[1], w) == pytest.approx(accuracy_score(y, yes, sample_weight=weight))
    assert brier(columns[0], columns[1], w) == pytest.approx(brier_score_loss(y, p, sample_weight=weight, pos_label=True))
    area, mean = auroc(columns[0], columns[1], w)[0, 0], f1(columns[2], columns[1], w)[0, 0]
    shown = set(y[weight > 0])
    assert np.isnan(area) if len(shown) == 1 else area == pytest.approx(roc_auc_score(y, p, sample_weight=weight))
    assert np.isnan(mean) if not (weight * (y | yes)).any() else mean == pytest.approx(f1_score(y, yes, sample_weight=weight))


def test_calibration_error_and_reliability_equal_the_curve_of_sklearn() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(5000)
    label = rng.random(5000) < p**2
    frequency, mean = calibration_curve(label, p, n_bins=10)
    weight = np.histogram(p, bins=10, range=(0, 1))[0] / len(p)
    assert expected_calibration_error(p[:, None], label[:, None]) == pytest.approx((abs(frequency - mean) * weight).sum())
    curve = reliability(p, label)
    assert curve.frequency == pytest.approx(frequency)
    assert curve.probability == pytest.approx(mean)


def test_rows_hold_the_means_over_classes() -> None:
    rng = np.random.default_rng(1)
    labels = rng.random((200, 3)) < 0.3
    probability = np.clip(0.3 * labels + 0.7 * rng.random((200, 3)), 0, 1)
    answers = answers_of(probability, labels)
    rows, yes = rows_by_metric(answers), cross_fitted(probability, labels, answers.patients)
    assert rows["f1_macro"].value == pytest.approx(f1_score(labels, yes, average="macro"))
    assert rows["accuracy"].value == pytest.approx((labels == yes).mean())
    assert rows["auroc_macro"].value == pytest.approx(roc_auc_score(labels, probability, average="macro"))
    assert rows["brier"].value == pytest.approx(np.mean([brier_score_loss(y, p) for y, p in zip(labels.T, probability.T, strict=True)]))
    assert {metric: row.thresholds for metric, row in rows.items() if row.thresholds} == dict.fromkeys(
        ["f1_macro", "accuracy"], "cross-fitted"
    )
    assert all(row.low <= row.value <= row.high for row in rows.values())


def test_classes_with_few_positives_are_listed_not_averaged() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((100, 3), bool)
    labels[:20, 0], labels[:4, 1] = True, True
    scores = np.where(labels, 0.9, 0.1) + rng.normal(scale=0.01, size=labels.shape)
    scores[:, 1] = 1 - scores[:, 1]
    rows = rows_by_metric(answers_of(scores, labels))
    assert all(row.too_few == ("c1", "c2") for row in rows.values())
    assert (rows["auroc_macro"].value, rows["f1_macro"].value, rows["accuracy"].value) == (1.0, 1.0, 1.0)
    assert rows["auroc_macro"].per_class == {"c0": 1.0, "c1": 0.0}


def test_a_task_without_a_class_to_average_gives_null() -> None:
    rows = rows_by_metric(answers_of(np.zeros((9, 0)), np.zeros((9, 0), bool)))
    assert set(rows) == set(METRICS)
    assert all(row.as_json()["value"] is None and row.per_class == {} for row in rows.values())


def test_the_interval_draws_patients_not_recordings() -> None:
    """Every recording ten times over says no more than once."""
    rng = np.random.default_rng(0)
    labels = np.arange(40)[:, None] % 2 == 0
    scores = labels + rng.normal(scale=1.0, size=labels.shape)
    patients = [str(i) for i in range(40)]
    once, tenfold = (
        mean_with_interval(
            over_draws(lambda w, k=k: auroc(scores.repeat(k, 0), labels.repeat(k, 0), w), draw_patients(np.repeat(patients, k)))
        )
        for k in (1, 10)
    )
    assert (tenfold.value, tenfold.low, tenfold.high) == pytest.approx((once.value, once.low, once.high))


def test_fewer_draws_suffice_for_many_recordings() -> None:
    assert len(draw_patients([str(i) for i in range(20_000)])) == 501
    assert draw_patients(["a", "b"]).shape == (1001, 2)


@given(hnp.arrays(float, 30, elements=st.floats(0, 1).map(lambda x: round(x, 1))), hnp.arrays(bool, 30))
def test_no_threshold_gives_a_better_f1(p: np.ndarray, y: np.ndarray) -> None:
    threshold = best_f1_threshold(p, y)
    if not y.any():
        assert threshold == UNKNOWN
        return
    best = max(2 * (y & (p >= t)).sum() / (y.sum() + (p >= t).sum()) for t in np.unique(p))
    assert f1_score(y, p >= threshold, zero_division=0) == pytest.approx(best)


@given(st.integers(0, 4), st.integers(0, 9))
def test_a_decision_never_depends_on_its_own_patients_labels(held_out: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    patients = [str(i // 2) for i in range(120)]
    probability, labels = rng.random((120, 2)), rng.random((120, 2)) < 0.4
    own = part_of(patients) == held_out
    flipped = np.where(own[:, None], ~labels, labels)
    before, after = (cross_fitted(probability, y, patients)[own] for y in (labels, flipped))
    assert np.array_equal(before, after)


def test_the_patients_of_one_fold_are_in_every_part() -> None:
    patients = [name for name in map(str, range(2000)) if fold_of(name) == 9]
    assert set(part_of(patients)) == set(range(5))


def test_platt_finds_the_slope_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    raw = rng.normal(size=20_000)
    slope, offset = fit(raw, rng.random(20_000) < 1 / (1 + np.exp(-(2 * raw - 1))), (1.0, 0.0))
    assert (slope, offset) == (pytest.approx(2, abs=0.1), pytest.approx(-1, abs=0.1))
