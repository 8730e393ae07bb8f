"""Comparing engines and forms of a model: windows and labels from files, what is told, and when it fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from onnx import numpy_helper
from typer.testing import CliRunner

from kernels.__main__ import app as kernels_app
from kernels.bundle import SHIPPED_BUNDLE, Bundle
from kernels.compare import compare, verdict_on
from kernels.compare_command import compare_command
from kernels.engine import open_engine
from kernels.export import bake, seal_model
from kernels.findings import ConfigError
from kernels.labelled import read_windows
from trainer.command import app as trainer_app

from .conftest import heart


@pytest.fixture(scope="module")
def windows() -> np.ndarray:
    return np.stack([heart(50 + 5 * i, 10, 100, seed=i) for i in range(12)])


@pytest.fixture(scope="module")
def rounded(bundle: Bundle) -> Bundle:
    """Weights in two digits: another form of the same model, though a poor one."""
    model = onnx.load_model_from_string(bundle.onnx)
    for initializer in model.graph.initializer:
        weight = numpy_helper.to_array(initializer)
        if weight.ndim == 3:
            initializer.CopyFrom(numpy_helper.from_array(np.round(weight, 2), initializer.name))
    return seal_model(model, bundle.card.model_copy(update={"derived_from": bundle.card.sha256}))


def _command(*words: object) -> tuple[int, str]:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(compare_command)
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_differences_are_those_of_the_engines_answers(bundle: Bundle, rounded: Bundle, windows: np.ndarray) -> None:
    found = compare(rounded, "onnx", windows, "onnx", bundle)
    with open_engine(rounded) as new, open_engine(bundle) as old:
        after, before = new.run(windows), old.run(windows)
    assert found.windows == 15
    assert np.array_equal(found.candidate[3:], after.probability)
    assert np.array_equal(found.reference[3:], before.probability)
    assert found.probability >= np.abs(after.probability - before.probability).max() > 1e-3
    assert found.golden < 1e-6


def test_the_shipped_bundle_is_the_same_in_both_engines() -> None:
    code, told = _command("--json")
    fields = json.loads(told)
    assert code == 0
    assert {"engine", "windows", "probability", "embedding", "golden"} <= fields.keys()
    assert (fields["engine"], fields["with_engine"], fields["windows"], fields["passed"]) == ("onnx", "reference", 3, True)
    assert fields["probability"] < 1e-4


def test_what_differs_more_than_the_tolerance_fails() -> None:
    assert _command("--tolerance", "1e-12")[0] == 1
    with pytest.raises(ConfigError, match=r"--tolerance 0\.0 must be positive"):
        _command("--tolerance", "0")


def test_another_form_is_judged_by_its_labels(bundle: Bundle, rounded: Bundle, windows: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "rounded.onnx").write_bytes(rounded.onnx)
    with open_engine(bundle) as engine:
        score = engine.run(windows).probability[:, 0]
    shown = (score > np.median(score)).astype(np.int8)
    np.savez(
        tmp_path / "gate.npz", ecg=windows, labels=np.stack([1 - shown, shown], axis=1), names=["unknown", bundle.card.findings[0].name]
    )
    given = ("--with-bundle", SHIPPED_BUNDLE, "--with-engine", "onnx", "--windows", tmp_path / "gate.npz", "--json")
    fields = json.loads(_command(tmp_path / "rounded.onnx", *given)[1])
    first, *others = fields["findings"]
    assert first["reference"] == 1.0
    assert fields["auroc_macro"]["reference"] == 1.0
    assert (first["positives"], first["negatives"]) == (6, 6)
    assert all(f["reference"] is None and f["positives"] == 0 for f in others)


def test_the_golden_windows_do_not_judge_where_others_were_given(bundle: Bundle, rounded: Bundle, windows: np.ndarray) -> None:
    found, golden = compare(rounded, "onnx", windows, "onnx", bundle), compare(rounded, "onnx", windows[:0], "onnx", bundle)
    moved = np.abs(found.candidate - found.reference)
    assert [f.worst for f in verdict_on(bundle, found).findings] == moved[3:].max(axis=0).tolist()
    assert [f.worst for f in verdict_on(bundle, golden).findings] == moved[:3].max(axis=0).tolist()


def test_a_stream_bundle_is_compared_without_naming_an_engine() -> None:
    code, told = _command("cardiogloss-stream", "--json")
    fields = json.loads(told)
    assert (code, fields["with_engine"]) == (0, "onnx")
    assert fields["golden"] < 1e-4


def test_a_table_has_a_line_for_every_finding(bundle: Bundle) -> None:
    code, told = _command("--engine", "onnx", "--with-engine", "onnx")
    assert code == 0
    assert all(any(line.startswith(f.name) for line in told.splitlines()) for f in bundle.card.findings)


@pytest.mark.parametrize("app", [kernels_app, trainer_app], ids=["kernels", "trainer"])
def test_no_help_text_holds_what_rich_takes_for_markup(app: typer.Typer) -> None:
    commands = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    texts = [text for command in commands for text in (command.help, *(getattr(p, "help", "") for p in command.params))]
    assert len(texts) > 20
    assert not [text for text in texts if "[" in (text or "")]


def test_models_that_say_other_things_cannot_be_compared(bundle: Bundle, tmp_path: Path) -> None:
    fewer = bake(bundle, bundle.card.findings[:4])
    (tmp_path / "fewer.onnx").write_bytes(fewer.onnx)
    with pytest.raises(ConfigError, match="have different findings"):
        _command("--with-bundle", tmp_path / "fewer.onnx")


def test_labels_follow_their_names_and_what_is_not_named_is_untold(bundle: Bundle, windows: np.ndarray, tmp_path: Path) -> None:
    names = [f.name for f in bundle.card.findings]
    labels = np.random.default_rng(0).integers(-1, 2, (12, 3)).astype(np.int8)
    np.savez(tmp_path / "w.npz", ecg=windows, labels=labels, names=[names[5], "unknown", names[2]], patient=np.arange(12))
    read = read_windows(tmp_path / "w.npz", bundle.card)
    assert read.labels is not None
    assert np.array_equal(read.labels[:, 5], labels[:, 0])
    assert np.array_equal(read.labels[:, 2], labels[:, 2])
    assert (np.delete(read.labels, [2, 5], axis=1) == -1).all()
    assert np.array_equal(read.ecg, windows)
    assert read.patients == {str(i) for i in range(12)}


def test_a_plain_array_has_no_labels(bundle: Bundle, windows: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "w.npy", windows.astype(np.float64))
    read = read_windows(tmp_path / "w.npy", bundle.card)
    assert read.labels is None
    assert read.ecg.dtype == np.float32


def test_a_file_that_holds_no_windows_is_told(bundle: Bundle, windows: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("no numbers")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "short.npy", windows[:, :, :999])
    np.save(tmp_path / "none.npy", windows[:0])
    np.savez_compressed(tmp_path / "cut.npz", ecg=windows)
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bent.npz").write_bytes(whole[:200] + b"\xff" * 500 + whole[700:])
    np.savez(tmp_path / "scalar.npz", ecg=windows, labels=np.zeros((12, 2), np.int8), names="a")
    np.save(tmp_path / "words.npy", np.full((1, 12, 1000), "a"))
    np.savez(tmp_path / "nameless.npz", windows)
    np.savez(tmp_path / "unnamed.npz", ecg=windows, labels=np.zeros((12, 2), np.int8))
    np.savez(tmp_path / "other.npz", ecg=windows, labels=np.full((12, 1), 2), names=["a"])
    answers = {
        "absent.npy": "is no NumPy file",
        "text.npy": "is no NumPy file",
        "empty.npz": "is no NumPy file",
        "short.npy": r"must hold windows of shape \(n, 12, 1000\) in mV, not \(12, 12, 999\)",
        "words.npy": "must hold windows",
        "none.npy": "holds no window",
        "cut.npz": "is no NumPy file",
        "bent.npz": "is no NumPy file",
        "scalar.npz": "must be 1, 0 or -1",
        "nameless.npz": "holds no array `ecg`",
        "unnamed.npz": "must be 1, 0 or -1",
        "other.npz": "must be 1, 0 or -1",
    }
    for name, answer in answers.items():
        with pytest.raises(ConfigError, match=answer):
            read_windows(tmp_path / name, bundle.card)
