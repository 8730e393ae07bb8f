"""The gate: AUROC against scikit-learn and by pairs, what a loss of accuracy may be, and what decides where there are no labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from kernels.gate import FEWEST, MOST_CHANGED, MOST_LOST, MOST_LOST_OF_ONE, Verdict, auroc, judge

scored = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=60)
"""Few different scores, so that many are tied."""


@given(scored)
def test_auroc_is_that_of_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    scores, shown = np.array([s for s, _ in rows], np.float32), np.array([y for _, y in rows])
    if shown.all() or not shown.any():
        assert np.isnan(auroc(scores, shown))
    else:
        assert auroc(scores, shown) == pytest.approx(roc_auc_score(shown, scores), abs=1e-12)


@given(scored)
def test_auroc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[int, bool]]) -> None:
    pairs = [(a > b) + (a == b) / 2 for a, y in rows for b, z in rows if y and not z]
    if pairs:
        found = auroc(np.array([s for s, _ in rows], np.float32), np.array([y for _, y in rows]))
        assert found == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


def _probabilities(n: int = 400, findings: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, findings)) < 0.3).astype(np.int8)
    probability = 1 / (1 + np.exp(-(2.0 * labels - 1 + rng.standard_normal((n, findings)))))
    return labels, probability.astype(np.float32)


NAMES = ("a", "b", "c")


def test_the_same_answers_pass() -> None:
    labels, probability = _probabilities()
    verdict = judge(NAMES, probability, probability.copy(), labels)
    assert verdict.passed
    assert verdict.reference == verdict.candidate == pytest.approx(roc_auc_score(labels, probability, average="macro"), abs=1e-12)


@given(st.integers(0, 40), st.integers(0, 2))
def test_who_loses_more_than_is_allowed_is_refused_and_named(swaps: int, column: int) -> None:
    """Probabilities of a positive and a negative change places, which lowers the AUROC step by step."""
    labels, probability = _probabilities()
    candidate = probability.copy()
    high = np.flatnonzero(labels[:, column] == 1)[:swaps]
    low = np.flatnonzero(labels[:, column] == 0)[: len(high)]
    candidate[high, column], candidate[low, column] = probability[low, column], probability[high, column]
    before, after = (np.array([roc_auc_score(labels[:, j], p[:, j]) for j in range(3)]) for p in (probability, candidate))
    verdict = judge(NAMES, probability, candidate, labels)
    changed = ((probability >= 0.5) != (candidate >= 0.5)).mean(axis=0).max()
    allowed = (before - after).mean() <= MOST_LOST and (before - after).max() <= MOST_LOST_OF_ONE and changed <= MOST_CHANGED
    assert verdict.passed == allowed
    if not allowed:
        assert "macro AUROC" in verdict.reason or NAMES[column] in verdict.reason


@given(st.floats(0.2, 5), st.floats(-3, 3))
def test_with_labels_the_order_counts_and_how_many_windows_change_sides(slope: float, offset: float) -> None:
    """The order is kept here, however far the probabilities move."""
    labels, probability = _probabilities()
    logit = np.log(probability.astype(np.float64) / (1 - probability.astype(np.float64)))
    moved = 1 / (1 + np.exp(-(slope * logit + offset)))
    changed = ((probability >= 0.5) != (moved >= 0.5)).mean(axis=0)
    verdict = judge(NAMES, probability.astype(np.float64), moved, labels)
    assert verdict.passed == (changed.max() <= MOST_CHANGED)
    assert verdict.passed or verdict.reason.startswith(f"{NAMES[int(changed.argmax())]} changes in")
    assert judge(NAMES, probability.astype(np.float64), moved, labels, raise_at=(1.5,) * 3).passed


def test_untold_labels_count_for_nothing() -> None:
    labels, probability = _probabilities()
    candidate = probability.copy()
    candidate[:100] = candidate[:100][::-1]
    labels[:100] = -1
    verdict = judge(NAMES, probability, candidate, labels, raise_at=(1.5,) * 3)
    assert verdict.passed
    assert [f.positives for f in verdict.findings] == (labels == 1).sum(axis=0).tolist()


def test_a_finding_with_too_few_labels_is_judged_by_its_moves() -> None:
    """Among others that are judged by their labels."""
    labels, probability = _probabilities()
    labels[:, 0] = 0
    labels[: FEWEST - 1, 0] = 1
    moved = probability.copy()
    moved[:, 0] = 1 - moved[:, 0]
    verdict = judge(NAMES, probability, moved, labels, raise_at=(1.5,) * 3)
    assert [f.is_judged for f in verdict.findings] == [False, True, True]
    assert np.isnan(verdict.findings[0].reference)
    assert verdict.reason.startswith("a moves by")
    assert judge(NAMES, probability, probability, labels).passed
    assert verdict.reference == pytest.approx(roc_auc_score(labels[:, 1:], probability[:, 1:], average="macro"))


@given(st.integers(0, 30))
def test_without_labels_the_share_of_windows_that_change_sides_decides(changed: int) -> None:
    reference = np.full((500, 2), 0.3, np.float32)
    candidate = reference.copy()
    candidate[:changed, 1] = 0.5
    verdict = judge(("a", "b"), reference, candidate, raise_at=(0.5, 0.4))
    assert verdict.findings[0].changed == 0
    assert verdict.findings[1].changed == changed / 500
    assert verdict.passed == (changed / 500 <= MOST_CHANGED)
    assert verdict.passed or verdict.reason.startswith("b changes in")


def test_without_labels_probabilities_may_not_move_far() -> None:
    reference = np.full((500, 1), 0.3, np.float32)
    assert "moves by 0.0300 in the mean" in judge(("a",), reference, reference + np.float32(0.03)).reason
    once = reference.copy()
    once[7] = 0.9
    assert "moves by 0.600 in one window" in judge(("a",), reference, once, raise_at=(0.95,)).reason


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_no_number_never_passes(labelled: bool, wrong: float) -> None:
    labels, probability = _probabilities()
    candidate = probability.copy()
    candidate[3, 1] = wrong
    verdict: Verdict = judge(NAMES, probability, candidate, labels if labelled else None)
    assert not verdict.passed
    assert verdict.reason == "some probabilities are not numbers"
