"""The trainer on a tiny set in PTB-XL's layout: it learns, resumes to the bit, exports what torch computes, and evaluates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss, roc_auc_score
from transformers import BertConfig, BertModel, BertTokenizer
from typer.testing import CliRunner

from kernels.bundle import Bundle
from kernels.engine import open_engine
from kernels.export import bake, export_run, read_head
from kernels.findings import ConfigError, Finding
from kernels.signal import LEADS
from tests.conftest import EXCERPT, heart
from trainer.batches import Augment, keep_leads, windows
from trainer.calibrate import calibrate, fit
from trainer.command import app, parse_folds
from trainer.evaluate import evaluate, finding_labels, read_recordings, run_bundle
from trainer.loss import jaccard, soft_sigmoid
from trainer.metrics import auroc, expected_calibration_error, macro_auroc
from trainer.records import read_ptb_xl
from trainer.text import captions, collect_concepts, read_prompts
from trainer.train import Recipe, Training, TrainingSet, load_training_set, train

RECIPE = Recipe(epochs=3, batch=8, width=4, kernel=3, dim=16, learning_rate=5e-3)
FINDINGS = (
    Finding(name="slow", prompts=("sinus bradycardia",), scp=("SBRAD",)),
    Finding(name="fast", prompts=("sinus tachycardia",), scp=("STACH",)),
)


@pytest.fixture(scope="module")
def data(ptbxl: Path) -> TrainingSet:
    return load_training_set([ptbxl], RECIPE)


@pytest.fixture(scope="module")
def run(data: TrainingSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    list(train(Training(RECIPE, data, folder)))
    return folder


def test_reads_the_official_layout(ptbxl: Path) -> None:
    recordings = list(read_ptb_xl(ptbxl, [9]))
    assert [r.fold for r in recordings] == [9] * 4
    assert recordings[0].samples_mv.shape == (12, 1000)
    assert recordings[0].machine == ("NSR", "NML")
    assert "NORM" in recordings[0].codes


def test_a_folder_of_another_kind_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ptbxl_database\.csv is missing"):
        list(read_ptb_xl(tmp_path))


def test_captions_say_codes_and_machine_statements(ptbxl: Path) -> None:
    recording = next(iter(read_ptb_xl(ptbxl)))
    coded, spoken, both = captions(recording, read_prompts(), {"NSR": "Normal sinus rhythm", "NML": "*** Normal ECG ***"})
    assert coded == "normal ECG, sinus rhythm"
    assert spoken == "Normal sinus rhythm Normal ECG"
    assert both == f"{coded}. {spoken}"


def test_rare_concepts_and_glue_are_left_out(ptbxl: Path) -> None:
    concepts = collect_concepts(read_ptb_xl(ptbxl), read_prompts(), {"NSR": "Normal sinus rhythm", "LPAREN": "("}, at_least=11)
    assert concepts.names == ("12SL:NSR", "NORM", "SBRAD", "SR", "STACH")


@given(hnp.arrays(bool, st.tuples(st.integers(2, 8), st.integers(1, 6))))
def test_jaccard_equals_the_overlap_of_sets(shown: np.ndarray) -> None:
    sets = [set(np.flatnonzero(row)) for row in shown]
    wanted = [[1.0 if i == j else len(a & b) / max(len(a | b), 1) for j, b in enumerate(sets)] for i, a in enumerate(sets)]
    assert np.allclose(jaccard(torch.tensor(shown, dtype=torch.float32)), wanted)


def test_identical_reports_are_positives_of_each_other() -> None:
    """The pull towards a twin is that towards the recording's own text."""
    logits = torch.zeros(3, 3, requires_grad=True)
    soft_sigmoid(logits, jaccard(torch.tensor([[1.0, 0], [1, 0], [0, 1]]))).backward()
    assert logits.grad is not None
    assert torch.allclose(logits.grad[0], logits.grad[0, [1, 0, 2]])
    assert logits.grad[0, 0] < 0 < logits.grad[0, 2]


def test_augmentation_is_drawn_from_its_generator_and_hides_whole_leads(ptbxl: Path) -> None:
    ecg = windows(list(read_ptb_xl(ptbxl, [1, 2])), 100, 10)
    first, again = (Augment(torch.Generator().manual_seed(5), masked=1.0)(ecg) for _ in range(2))
    assert torch.equal(first.nan_to_num(), again.nan_to_num())
    present = ~first.isnan().all(dim=2)
    assert present.any(dim=1).all()
    both = present[:, 0] & present[:, 1]
    assert torch.equal(present[both][:, 2:6].all(dim=1), both[both])


def test_keep_leads_is_what_a_device_with_these_leads_shows(ptbxl: Path) -> None:
    ecg = windows(list(read_ptb_xl(ptbxl, [1])), 100, 10)
    one, two = keep_leads(ecg, ["II"]), keep_leads(ecg, ["I", "II"])
    assert [lead for lead, x in zip(LEADS, one[0], strict=True) if not x.isnan().any()] == ["II"]
    assert [lead for lead, x in zip(LEADS, two[0], strict=True) if not x.isnan().any()] == list(LEADS[:6])
    assert torch.allclose(two[:, 2], ecg[:, 1] - ecg[:, 0])


def test_a_run_that_was_killed_goes_on_to_the_same_weights(data: TrainingSet, run: Path, tmp_path: Path) -> None:
    stopped = Training(RECIPE, data, tmp_path)
    stopped.run_epoch()
    stopped.save()
    stopped.run_epoch()  # not saved: lost in the kill
    torch.manual_seed(99)
    list(train(Training(RECIPE, data, tmp_path)))
    whole, resumed = (torch.load(folder / "checkpoint.pt", weights_only=True) for folder in (run, tmp_path))
    assert all(torch.equal(whole["ema"][name], resumed["ema"][name]) for name in whole["ema"])


def test_a_run_of_another_recipe_or_a_damaged_one_is_not_taken_up(data: TrainingSet, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="begun with another epochs, learning_rate"):
        Training(replace(RECIPE, epochs=9, learning_rate=1e-3), data, run)
    (tmp_path / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(ConfigError, match="is damaged"):
        Training(RECIPE, data, tmp_path)
    with pytest.raises(ConfigError, match="--batch 64 must lie between 1 and the 3"):
        Training(replace(RECIPE, batch=64), data, tmp_path / "new")


def test_the_loss_falls(data: TrainingSet, tmp_path: Path) -> None:
    losses = [epoch["concept"] for epoch in train(Training(RECIPE, data, tmp_path))]
    assert losses[-1] < losses[0]


def test_the_bundle_computes_what_torch_computes(data: TrainingSet, run: Path, ptbxl: Path) -> None:
    bundle = export_run(run, FINDINGS)
    model = Training(RECIPE, data, run).ema.module.eval()
    ecg = keep_leads(windows(list(read_ptb_xl(ptbxl, [9])), 100, 10), ["I", "II", "V3"])
    with torch.inference_mode():
        embedding = model.encoder(ecg)
        text = model.text(torch.from_numpy(read_head(onnx.load_model_from_string(bundle.onnx)).text))
        probability = model.match_concept(embedding, text).sigmoid()
    with open_engine(bundle) as engine:
        result = engine.run(ecg.numpy())
    assert np.allclose(result.embedding, embedding, atol=1e-5)
    assert np.allclose(result.probability, probability, atol=1e-5)


def test_calibration_travels_in_the_bundle_and_evaluation_prints_its_rows(run: Path, ptbxl: Path) -> None:
    recordings = read_recordings("ptb-xl", ptbxl, range(1, 11))
    raw = export_run(run, FINDINGS)
    fitted = calibrate(raw, recordings, {"rows": []})
    rows = {(row.task, row.metric): row for row in evaluate(fitted, "ptb-xl", ptbxl, recordings)}
    labels = finding_labels(FINDINGS, recordings)
    before, after = (log_loss(labels.ravel(), run_bundle(b, recordings).probability.ravel()) for b in (raw, fitted))
    assert set(fitted.card.calibrated) == {"slow", "fast"}
    assert after < before
    assert rows["rhythm", "auroc_macro"].n == 40
    assert rows["rhythm", "auroc_macro"].low <= rows["rhythm", "auroc_macro"].value <= rows["rhythm", "auroc_macro"].high


def test_baking_swaps_only_the_findings(run: Path, ptbxl: Path) -> None:
    bundle = calibrate(export_run(run, FINDINGS), read_recordings("ptb-xl", ptbxl, range(1, 11)), {})
    new = Finding(name="wide", prompts=("left bundle branch block", "LBBB"))
    baked = bake(bundle, [new, FINDINGS[1]])
    ecg = windows(list(read_ptb_xl(ptbxl, [1])), 100, 10).numpy()
    with open_engine(bundle) as before, open_engine(baked) as after:
        old, now = before.run(ecg), after.run(ecg)
    assert np.array_equal(old.embedding, now.embedding)
    assert np.allclose(old.probability[:, 1], now.probability[:, 1], atol=1e-6)
    assert now.probability.shape == (4, 2)
    assert baked.card.calibrated == ("fast",)
    assert baked.card.sha256 != bundle.card.sha256


def test_a_text_encoder_of_another_width_or_none_is_refused(run: Path, tmp_path: Path) -> None:
    bundle = export_run(run, FINDINGS)
    new = [Finding(name="wide", prompts=("left bundle branch block",))]
    with pytest.raises(ConfigError, match="cannot load text encoder"):
        bake(bundle, new, str(tmp_path))
    config = BertConfig(vocab_size=13, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]))
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="gives 8 numbers a text, the bundle was trained with 384"):
        bake(bundle, new, str(tmp_path))


@given(hnp.arrays(float, 60, elements=st.floats(-3, 3).map(lambda x: round(x, 2))), hnp.arrays(bool, 60))
def test_auroc_equals_sklearn(scores: np.ndarray, labels: np.ndarray) -> None:
    area = auroc(scores[:, None], labels[:, None])[0]
    if labels.all() or not labels.any():
        assert np.isnan(area)
    else:
        assert area == pytest.approx(roc_auc_score(labels, scores))


def test_calibration_error_equals_the_curve_of_sklearn() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(5000)
    label = rng.random(5000) < p**2
    frequency, mean = calibration_curve(label, p, n_bins=10)
    weight = np.histogram(p, bins=10, range=(0, 1))[0] / len(p)
    assert expected_calibration_error(p, label) == pytest.approx((abs(frequency - mean) * weight).sum())


def test_platt_finds_the_slope_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    raw = rng.normal(size=20_000)
    slope, offset = fit(raw, rng.random(20_000) < 1 / (1 + np.exp(-(2 * raw - 1))), (1.0, 0.0))
    assert (slope, offset) == (pytest.approx(2, abs=0.1), pytest.approx(-1, abs=0.1))


def test_classes_with_few_positives_are_not_averaged() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((100, 2), bool)
    labels[:20, 0], labels[:4, 1] = True, True
    scores = np.where(labels, 1.0, 0.0) + rng.normal(scale=0.1, size=labels.shape)
    scores[:, 1] = -scores[:, 1]
    assert macro_auroc(scores, labels, [str(i) for i in range(100)], draws=20).value == 1.0


def test_the_interval_draws_patients_not_recordings() -> None:
    """Every recording ten times over says no more than once."""
    rng = np.random.default_rng(0)
    labels = np.arange(40)[:, None] % 2 == 0
    scores = labels + rng.normal(scale=1.0, size=labels.shape)
    patients = [str(i) for i in range(40)]
    once = macro_auroc(scores, labels, patients, draws=200)
    tenfold = macro_auroc(np.repeat(scores, 10, axis=0), np.repeat(labels, 10, axis=0), list(np.repeat(patients, 10)), draws=200)
    assert tenfold.high - tenfold.low == pytest.approx(once.high - once.low, rel=0.01)


def test_cinc2017_strips_of_any_length_are_scored_by_their_windows(bundle: Bundle, tmp_path: Path) -> None:
    for i in range(12):
        digits = (heart(60 + 5 * i, 6 + 2 * i, 300, seed=i)[0] * 1000).astype("<i2")
        (tmp_path / f"A{i}.mat").write_bytes(b"\0" * 24 + digits.tobytes())
        (tmp_path / f"A{i}.hea").write_text(f"A{i} 1 300 {len(digits)}\nA{i}.mat 16+24 1000/mV 16 0 0 0 0 ECG\n")
    (tmp_path / "REFERENCE.csv").write_text("".join(f"A{i},{'AN'[i % 2]}\n" for i in range(12)))
    recordings = read_recordings("cinc2017", tmp_path, [])
    (row,) = evaluate(bundle, "cinc2017", tmp_path, recordings)
    assert (row.task, row.n, list(row.per_class)) == ("rhythm", 12, ["A"])


def test_mitdb_windows_carry_the_rhythm_that_fills_them(tmp_path: Path) -> None:
    for path in EXCERPT.parent.glob("mitdb201af.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    windows_ = read_recordings("mitdb", tmp_path, [])
    rhythms = [r.codes[0] for r in windows_]
    assert len(windows_) == 27
    assert rhythms[:7] == ["AFIB"] * 7
    assert rhythms[9:17] == ["N"] * 8
    assert rhythms[18:21] == ["AFIB"] * 3
    assert {r.patient for r in windows_} == {"mitdb201af"}


@pytest.mark.parametrize(("name", "words"), [("cinc2017", "REFERENCE.csv"), ("mitdb", "no WFDB record"), ("ptb", "allowed are ptb-xl")])
def test_a_wrong_dataset_or_folder_says_what_it_wants(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        read_recordings(name, tmp_path, [9])


def test_the_commands_train_evaluate_and_say_what_is_wrong(ptbxl: Path, tmp_path: Path, bundle: Bundle) -> None:
    runner = CliRunner()
    words = ["train", "--root", str(ptbxl), "--out", str(tmp_path / "run"), "--epochs", "1", "--batch", "8", "--width", "4"]
    assert runner.invoke(app, words).exit_code == 0
    assert {"encoder.pt2", "head.npz", "training.json", "checkpoint.pt"} <= {p.name for p in (tmp_path / "run").iterdir()}
    out = tmp_path / "rows.json"
    done = runner.invoke(app, ["evaluate", "--root", str(ptbxl), "--folds", "1-3", "--leads", "I,II", "--json", str(out)])
    assert done.exit_code == 0
    rows = json.loads(out.read_text(), parse_constant=pytest.fail)["rows"]
    assert {row["task"] for row in rows} >= {"superclass", "diagnostic", "form", "rhythm"}
    wrong = runner.invoke(app, ["evaluate", "--root", str(ptbxl), "--dataset", "ptb"])
    assert isinstance(wrong.exception, ConfigError)
    for text in ("nine", "8-1", "1-8-9", ""):
        with pytest.raises(ConfigError, match="must read like"):
            parse_folds(text)
    assert parse_folds("1-3,9") == [1, 2, 3, 9]
