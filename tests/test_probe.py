"""The linear probe finds what a line can separate, and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernels.findings import ConfigError
from kernels.signal import LEADS
from trainer.datasets import Label, Task
from trainer.embed import Embedded, Seen
from trainer.metrics import auroc
from trainer.probe import BUDGETS, Budget, Split, draw_rows, probe_rows, probe_task, random_encoder, training_folds

ALL_FOLDS = tuple(range(1, 11))


def cloud(seed: int, n: int = 400) -> Embedded:
    """Points of which the first number says `line`, and nothing says `coin`; the last fold is 8, tests are in 9."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    codes = [("line",) * bool(row[0] > 0.5) + ("coin",) * bool(rng.random() < 0.5) for row in x]
    return Embedded("all", tuple(Seen(str(i), str(i), i % 9 + 1, codes[i], frozenset(LEADS), x[i : i + 1]) for i in range(n)))


LINE_AND_COIN = Task("t", tuple(Label(name, frozenset({name}), ((name,),)) for name in ("line", "coin", "absent")))


@pytest.mark.parametrize("budget", [Budget(0.1, 3, True), Budget(1.0, 1, True)])
def test_the_probe_separates_what_is_separable_and_nothing_else(budget: Budget) -> None:
    split = Split.of(cloud(0, 2000), range(1, 9), [9])
    answers = probe_task(LINE_AND_COIN, split, budget)
    line, coin, absent = auroc(answers.probability, answers.labels)[0]
    assert line > 0.97
    assert 0.35 < coin < 0.65
    assert np.isnan(absent)
    assert (answers.probability[:, 2] == 0.5).all()


def test_probe_rows_average_their_draws() -> None:
    split = Split.of(cloud(1), range(1, 9), [9])
    budget = Budget(0.1, 3, True)
    rows = {row.metric: row for row in probe_rows("d", [LINE_AND_COIN], split, [budget])}
    each = [probe_task(LINE_AND_COIN, split, budget, seed) for seed in range(3)]
    wanted = np.mean([auroc(a.probability[:, :2], a.labels[:, :2])[0].mean() for a in each])
    assert rows["auroc_macro"].value == pytest.approx(wanted)
    assert rows["auroc_macro"].method == "linear probe 10 %"
    assert [b.method for b in BUDGETS] == ["linear probe 1 %", "linear probe 10 %", "linear probe 100 %"]


def test_a_share_of_labels_is_a_share_of_patients() -> None:
    patients = [str(i // 4) for i in range(400)]
    rows = draw_rows(patients, 0.1, seed=3)
    assert len(rows) == 40
    assert len({patients[i] for i in rows}) == 10
    assert np.array_equal(rows, draw_rows(patients, 0.1, seed=3))
    assert len(draw_rows(patients, 1.0, seed=3)) == 400


def test_the_probe_never_learns_from_the_folds_it_is_tested_on() -> None:
    assert training_folds("ptb-xl", [9]) == tuple(range(1, 9))
    assert training_folds("csn", [9]) == (*range(1, 9), 10)
    with pytest.raises(ConfigError, match="--probe has no folds left"):
        training_folds("csn", ALL_FOLDS)


def test_a_random_encoder_is_the_same_every_time_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    recipe = {"width": 4, "kernel": 3, "dim": 16}
    ecg = np.random.default_rng(0).normal(size=(2, 12, 1000)).astype(np.float32)
    first, again = (random_encoder(recipe)(ecg) for _ in range(2))
    assert first.shape == (2, 16)
    assert np.array_equal(first, again)
    assert torch.equal(state, torch.get_rng_state())
