"""Evaluation and calibration: what they read, what they list apart, and what they write."""

from __future__ import annotations

import csv
import json
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss
from typer.testing import CliRunner

from kernels.__main__ import app as kernels_app
from kernels.bundle import Bundle
from kernels.engine import open_engine
from kernels.export import bake, head_of, recalibrate
from kernels.findings import ConfigError, Finding
from kernels.signal import LEADS
from tests.conftest import heart
from trainer.calibrate import calibrate
from trainer.command import app
from trainer.datasets import Label, Task, dataset
from trainer.embed import Embedded, Seen, View, cut_windows, embed
from trainer.evaluate import Evaluation, embed_bundle, evaluate, of_source, thresholds_of
from trainer.evaluate_command import parse_lead_sets
from trainer.records import Recording
from trainer.rows import METRICS, Row
from trainer.source import Source
from trainer.table import write_json
from trainer.zero_shot import Answers, answer, answer_findings, ask, finding_labels, finding_probability

FINDINGS = (
    Finding(name="slow", prompts=("sinus bradycardia",), scp=("SBRAD",), snomed="426177001"),
    Finding(name="fast", prompts=("sinus tachycardia",), scp=("STACH",)),
    Finding(name="wide", prompts=("left bundle branch block", "LBBB"), leads=(("V1",), ("V6",))),
)
ALL_FOLDS = tuple(range(1, 11))


@pytest.fixture(scope="module")
def raw(bundle: Bundle) -> Bundle:
    """The shipped encoder with few findings and without any calibration."""
    return recalibrate(bake(bundle, FINDINGS), {}, (1.0, 0.0), {})


@pytest.fixture(scope="module")
def source(ptbxl: Path) -> Source:
    return Source("ptb-xl", ptbxl, ALL_FOLDS)


@pytest.fixture(scope="module")
def fitted(raw: Bundle, source: Source) -> Bundle:
    return calibrate(raw, source)


@pytest.fixture(scope="module")
def whole(fitted: Bundle, source: Source) -> Evaluation:
    return evaluate(fitted, source, [(), ("II",)])


def find(rows: tuple[Row, ...], task: str, metric: str, leads: str = "all") -> Row:
    (row,) = [r for r in rows if (r.task, r.metric, r.leads, r.method) == (task, metric, leads, "zero-shot")]
    return row


def test_embeddings_and_findings_are_what_the_engine_says(fitted: Bundle, source: Source) -> None:
    (embedded,) = embed_bundle(fitted, replace(source, folds=(3,)))
    recordings = list(dataset("ptb-xl").read(source.root, [3]))
    ecg = np.concatenate([cut_windows(r, 100, 1000, hop=500) for r in recordings])
    with open_engine(fitted) as engine:
        result = engine.run(ecg)
    assert np.allclose(embedded.windows(), result.embedding, atol=1e-5)
    assert np.allclose(finding_probability(head_of(fitted), embedded), result.probability, atol=1e-5)


def test_calibration_travels_in_the_bundle_with_its_thresholds(raw: Bundle, fitted: Bundle, source: Source) -> None:
    (embedded,) = embed_bundle(raw, source)
    labels = finding_labels(FINDINGS, embedded.recordings, source.concepts)[:, :2]
    before, after = (log_loss(labels.ravel(), finding_probability(head_of(b), embedded)[:, :2].ravel()) for b in (raw, fitted))
    metrics = fitted.card.metrics
    assert set(fitted.card.calibrated) == {"slow", "fast"}
    assert after < before
    assert metrics["folds"] == "1-10"
    assert set(metrics["thresholds"]["ptb-xl/findings"]) == {"slow", "fast"}
    assert {"SR", "SBRAD", "STACH"} <= set(metrics["thresholds"]["ptb-xl/rhythm"])
    assert {row["metric"] for row in metrics["rows"]} == {"auroc_macro", "f1_macro", "accuracy"}


def test_thresholds_of_the_bundle_are_used_on_other_folds_only(fitted: Bundle, source: Source) -> None:
    elsewhere = recalibrate(fitted, {}, (1.0, 0.0), {**fitted.card.metrics, "folds": "9"})
    held_out = replace(source, folds=(1, 2, 3))
    assert thresholds_of(fitted, held_out, "rhythm") is None
    assert thresholds_of(elsewhere, source, "rhythm") is None
    assert thresholds_of(elsewhere, held_out, "rhythm") == fitted.card.metrics["thresholds"]["ptb-xl/rhythm"]
    assert thresholds_of(elsewhere, held_out, "findings") == {}  # none of these is calibrated
    assert find(evaluate(elsewhere, held_out).rows, "rhythm", "f1_macro").thresholds == "bundle"


def test_baking_swaps_only_the_findings(fitted: Bundle, source: Source) -> None:
    new = Finding(name="slow", prompts=("left bundle branch block", "LBBB"))
    baked = bake(fitted, [new, FINDINGS[1]])
    ecg = np.concatenate([cut_windows(r, 100, 1000, hop=500) for r in dataset("ptb-xl").read(source.root, [1])])
    with open_engine(fitted) as before, open_engine(baked) as after:
        old, now = before.run(ecg), after.run(ecg)
    assert np.array_equal(old.embedding, now.embedding)
    assert np.allclose(old.probability[:, 1], now.probability[:, 1], atol=1e-6)
    assert now.probability.shape == (4, 2)
    assert baked.card.calibrated == ("fast",)
    assert baked.card.sha256 != fitted.card.sha256
    moved = recalibrate(baked, {"fast": (1.0, 0.0)}, (1.0, 0.0), {**baked.card.metrics, "folds": "9"})
    assert set(thresholds_of(moved, replace(source, folds=(1,)), "findings") or ()) == {"fast"}


def test_rows_of_several_lead_sets(whole: Evaluation) -> None:
    assert {(row.leads, row.metric) for row in whole.rows if row.task == "rhythm"} == {(s, m) for s in ("all", "II") for m in METRICS}
    row = find(whole.rows, "rhythm", "auroc_macro")
    assert (row.n, row.dataset) == (40, "ptb-xl")
    assert row.low <= row.value <= row.high
    assert find(whole.rows, "rhythm", "brier", "II").value != find(whole.rows, "rhythm", "brier").value


def test_what_was_made_with_a_past_says_so(whole: Evaluation, tmp_path: Path) -> None:
    told = []
    for evaluation in (whole, replace(whole, past=True)):
        write_json([evaluation], tmp_path / "rows.json")
        told.append((evaluation.title.endswith("40 recordings, with their past"), json.loads((tmp_path / "rows.json").read_text())["past"]))
    assert told == [(False, False), (True, True)]


def test_findings_without_a_label_or_the_leads_are_listed_apart(whole: Evaluation) -> None:
    everything, one = (find(whole.rows, "findings", "auroc_macro", leads) for leads in ("all", "II"))
    assert (everything.unlabelled, everything.unobservable) == (("wide",), ())
    assert (one.unlabelled, one.unobservable) == (("wide",), ("wide",))
    assert set(one.per_class) == {"slow", "fast"}


def test_a_finding_is_shown_by_its_concept_or_by_its_snomed_code() -> None:
    seen = [
        Seen(str(i), str(i), 1, codes, frozenset(LEADS), np.zeros((1, 4), np.float32))
        for i, codes in enumerate([("x",), ("426177001",), ("",), ("STACH",)])
    ]
    assert finding_labels(FINDINGS[:2], seen, {"x": "SBRAD", "y": "STACH"}).tolist() == [[1, 0], [1, 0], [0, 0], [0, 0]]
    answers = answer_findings_of(seen)
    assert answers.classes == ("slow",)
    assert answers.unlabelled == ("fast", "wide")


def answer_findings_of(seen: list[Seen]) -> Answers:
    class Fake:
        class card:
            findings = FINDINGS

    head = type(
        "Head",
        (),
        {"text": np.eye(3, 4), "text_weight": np.eye(4), "text_bias": np.ones(4), "scale": 1, "bias": 0, "slope": 1, "offset": 0},
    )
    return answer_findings(Fake, head, Embedded("all", tuple(seen)), {"x": "SBRAD"})  # type: ignore[arg-type]


def test_a_class_is_asked_as_the_recipe_says(raw: Bundle, source: Source) -> None:
    task = Task("t", (Label("a", frozenset({"SBRAD"}), (("sinus bradycardia",),)),))
    said = Task("t", (Label("a", frozenset({"SBRAD"}), (("The ECG of sinus bradycardia, a type of diagnostic",),)),))
    recipe = {"recipe": {"class_prompt": "The ECG of {text}, a type of diagnostic"}}
    card = raw.card.model_copy(update={"training": recipe})
    asked, wanted = ask([task], replace(raw, card=card))[0], ask([said], replace(raw, card=raw.card.model_copy(update={"training": {}})))[0]
    assert np.allclose(asked.text, wanted.text)


def test_any_way_is_enough_and_windows_are_averaged(raw: Bundle) -> None:
    ways = (("sinus bradycardia",), ("sinus tachycardia",))
    labels = [Label(str(i), frozenset(), asked) for i, asked in enumerate([*((way,) for way in ways), ways])]
    embedding = np.random.default_rng(0).normal(size=(2, 256)).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    head, (question,) = head_of(raw), ask([Task("t", tuple(labels))], raw)
    single = [_answer(question, head, embedding[i : i + 1]) for i in range(2)]
    for one in single:
        assert one[2] == pytest.approx(1 - (1 - one[0]) * (1 - one[1]))
    assert _answer(question, head, embedding) == pytest.approx(np.mean(single, axis=0))


def _answer(question: object, head: object, embedding: np.ndarray) -> np.ndarray:
    seen = Seen("a", "a", 1, (), frozenset(LEADS), embedding)
    return answer(question, head, (0.8, 0.1), Embedded("all", (seen,))).probability[0]  # type: ignore[arg-type]


def test_samples_do_not_accumulate() -> None:
    """When a recording is read, the samples of all before the last are gone."""
    alive: list[weakref.ref[np.ndarray]] = []

    def recordings() -> Iterator[Recording]:
        for i in range(30):
            assert sum(ref() is not None for ref in alive[:-1]) == 0
            samples = np.full((12, 2500), i, np.float32)
            alive.append(weakref.ref(samples))
            yield Recording(str(i), samples, 100.0, "", (), (), str(i), 1, amplitude_known=i % 3 > 0)
            del samples

    every, limbs = embed(recordings(), [View(_mean_of_leads), View(_mean_of_leads, ("I",))], 100.0, 1000)
    assert len(every.recordings) == 20
    assert [r.embedding.shape for r in every.recordings] == [(4, 12)] * 20
    assert limbs.recordings[0].present == {"I"}
    assert all(r.embedding.base is None for r in every.recordings)


def _mean_of_leads(ecg: np.ndarray) -> np.ndarray:
    return ecg.mean(axis=2)


def test_a_recording_without_the_asked_leads_is_not_scored(raw: Bundle, tmp_path: Path) -> None:
    write_cinc2017(tmp_path)
    strips = Source("cinc2017", tmp_path, ALL_FOLDS)
    evaluation = evaluate(raw, strips, [("I",)])
    row = find(evaluation.rows, "rhythm", "auroc_macro", "I")
    assert (row.n, list(row.per_class)) == (12, ["A"])
    assert find(evaluation.rows, "findings", "f1_macro", "I").unlabelled == ("slow", "fast", "wide")
    with pytest.raises(ConfigError, match="with any of the leads V1"):
        evaluate(raw, strips, [("V1",)])


def write_cinc2017(root: Path) -> None:
    """Strips of 6 to 28 seconds of lead I."""
    for i in range(12):
        digits = (heart(60 + 5 * i, 6 + 2 * i, 300, seed=i)[0] * 1000).astype("<i2")
        (root / f"A{i}.mat").write_bytes(b"\0" * 24 + digits.tobytes())
        (root / f"A{i}.hea").write_text(f"A{i} 1 300 {len(digits)}\nA{i}.mat 16+24 1000/mV 16 0 0 0 0 ECG\n")
    (root / "REFERENCE.csv").write_text("".join(f"A{i},{'AN'[i % 2]}\n" for i in range(12)))


@pytest.mark.parametrize(("name", "words"), [("cinc2017", "REFERENCE.csv"), ("mitdb", "no"), ("ptb", "allowed are ptb-xl")])
def test_a_wrong_dataset_or_folder_says_what_it_wants(name: str, words: str, tmp_path: Path, raw: Bundle) -> None:
    with pytest.raises(ConfigError, match=words):
        evaluate(raw, Source(name, tmp_path, (9,)))


def test_a_fold_without_recordings_says_so(raw: Bundle, source: Source) -> None:
    nowhere = replace(source, folds=(77,))
    with pytest.raises(ConfigError, match="fold 77; give other --folds"):
        of_source(embed_bundle(raw, nowhere)[0], nowhere)


def test_the_command_writes_every_file_and_says_what_is_wrong(ptbxl: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    words = ["evaluate", "--root", str(ptbxl), "--folds", "1-7", "--leads", "all", "--leads", "I,II"]
    files = {name: str(tmp_path / name) for name in ("rows.json", "table.md", "scores.csv", "plots")}
    written = ["--json", files["rows.json"], "--markdown", files["table.md"], "--scores", files["scores.csv"], "--plots", files["plots"]]
    done = runner.invoke(app, [*words, *written])
    assert done.exit_code == 0, done.exception
    told = json.loads(Path(files["rows.json"]).read_text(), parse_constant=pytest.fail)
    assert {row["task"] for row in told["rows"]} >= {"superclass", "diagnostic", "form", "rhythm", "findings"}
    assert told["folds"] == list(range(1, 8))
    table = Path(files["table.md"]).read_text()
    assert "on ptb-xl, folds 1-7, 28 recordings" in table.splitlines()[0]
    assert "| rhythm | zero-shot | I,II |" in table
    assert "Not visible, leads I,II: anterior myocardial infarction" in table
    check_scores(Path(files["scores.csv"]))
    pictures = {path.name: path.read_bytes()[:4] for path in (tmp_path / "plots").iterdir()}
    assert pictures == dict.fromkeys(["reliability.png", "auroc_by_class.png", "auroc_by_leads.png"], b"\x89PNG")
    wrong = runner.invoke(app, ["evaluate", "--root", str(ptbxl), "--dataset", "ptb"])
    assert isinstance(wrong.exception, ConfigError)


def check_scores(path: Path) -> None:
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 56
    assert [line["leads"] for line in lines[::28]] == ["all", "I,II"]
    assert lines[28]["normal_ecg"] == ""
    assert 0 < float(lines[0]["normal_ecg"]) < 1


def test_the_probe_command_and_findings_of_ones_own(ptbxl: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[[finding]]\nname = "odd"\nprompts = ["an odd heart"]\n')
    out = tmp_path / "rows.json"
    words = ["evaluate", "--root", str(ptbxl), "--folds", "2,3", "--findings", str(own), "--probe", "--json", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.exception
    rows = json.loads(out.read_text())["rows"]
    probe = "linear probe 100 %"
    assert {r["method"] for r in rows} == {"zero-shot", "linear probe 1 %", "linear probe 10 %", probe, f"{probe}, random encoder"}
    (odd,) = [r for r in rows if r["task"] == "findings" and r["metric"] == "auroc_macro"]
    assert (odd["value"], odd["unlabelled"]) == (None, ["odd"])


def test_show_tells_the_thresholds_of_best_f1(fitted: Bundle, raw: Bundle, tmp_path: Path) -> None:
    runner = CliRunner()
    shown = []
    for bundle in (fitted, raw):
        (tmp_path / "b.onnx").write_bytes(bundle.onnx)
        shown.append(runner.invoke(kernels_app, ["show", str(tmp_path / "b.onnx")]).output)
    best = fitted.card.metrics["thresholds"]["ptb-xl/findings"]["slow"]
    assert "best F1" in shown[0]
    assert f"{best:.2f}" in next(line for line in shown[0].splitlines() if " slow" in line)
    assert "best F1" not in shown[1]


def test_lead_sets_are_told_apart() -> None:
    assert parse_lead_sets(["all", "I,II"]) == [(), ("I", "II")]
    with pytest.raises(ConfigError, match="stands twice"):
        parse_lead_sets(["I", "I"])
    with pytest.raises(ConfigError, match="unknown lead"):
        parse_lead_sets(["W"])
