"""Eight bits: where they belong, the same bytes for the same windows, refused where they cost accuracy, and what they cost on PTB-XL."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from onnx import numpy_helper
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from edge.decode.chunk import Chunk
from kernels.bundle import Bundle, BundleError, golden_windows
from kernels.engine import open_engine
from kernels.export import bake, seal_model
from kernels.findings import ConfigError
from kernels.quantize import FEWEST_WINDOWS, quantize
from kernels.quantize_command import quantize_command
from kernels.signal import resample, to_standard_leads
from trainer.source import Source
from trainer.windows_command import labelled_windows

from .conftest import ARCHIVE


@pytest.fixture(scope="module")
def windows(excerpt: Chunk) -> np.ndarray:
    """Sixty real windows of two leads, of which twenty show one, and some an artefact."""
    twelve = to_standard_leads(resample(excerpt.samples_mv, 360, 100), excerpt.leads)
    cut = np.stack([twelve[:, start : start + 1000] for start in range(0, 24_000, 400)])
    cut[::3, 1:] = np.nan
    cut[5, :, 100:110] = 30
    return cut


@pytest.fixture(scope="module", params=[False, True], ids=["unsigned", "symmetric"])
def pair(request: pytest.FixtureRequest, bundle: Bundle, windows: np.ndarray) -> tuple[bool, Bundle]:
    return request.param, quantize(bundle, windows, symmetric=request.param)


def test_the_card_says_what_it_is_and_what_it_was_made_from(bundle: Bundle, pair: tuple[bool, Bundle]) -> None:
    card = pair[1].card
    assert (card.precision, card.derived_from) == ("int8", bundle.card.sha256)
    assert card.findings == bundle.card.findings
    assert len(pair[1].onnx) < 0.4 * len(bundle.onnx)


def test_the_golden_windows_are_its_own(pair: tuple[bool, Bundle]) -> None:
    with open_engine(pair[1]) as engine:
        told = engine.run(golden_windows(1000)).probability
    assert np.abs(told - np.array(pair[1].card.golden)).max() < 1e-6


def test_the_same_windows_give_the_same_bytes(bundle: Bundle, windows: np.ndarray, pair: tuple[bool, Bundle]) -> None:
    assert quantize(bundle, windows, symmetric=pair[0]).onnx == pair[1].onnx


def test_every_convolution_but_the_stem_is_in_eight_bits_and_nothing_before_or_after_is(pair: tuple[bool, Bundle]) -> None:
    model = onnx.load_model_from_string(pair[1].onnx)
    made_by = {name: node for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    stored = {i.name: i for i in model.graph.initializer}
    assert len(convolutions) == 20
    for node in convolutions[1:]:
        weights, activations = made_by[node.input[1]], made_by[node.input[0]]
        assert weights.op_type == activations.op_type == "DequantizeLinear"
        assert stored[weights.input[0]].data_type == onnx.TensorProto.INT8
        assert list(stored[weights.input[1]].dims) == [stored[weights.input[0]].dims[0]]
    ops = [node.op_type for node in model.graph.node]
    assert "QuantizeLinear" not in ops[: ops.index("Conv") + 1] + ops[ops.index("ReduceMax") :]


def test_zero_is_zero_in_the_symmetric_form_and_biases_stay_whole(pair: tuple[bool, Bundle]) -> None:
    """What TensorRT's parser takes: signed, no zero point but zero, no bias of 32 bits."""
    symmetric, small = pair
    model = onnx.load_model_from_string(small.onnx)
    stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    zeros = [stored[node.input[2]] for node in model.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    assert zeros
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros) == symmetric
    assert any(array.dtype == np.int32 for array in stored.values()) != symmetric


def test_it_says_nearly_what_the_original_says(bundle: Bundle, windows: np.ndarray, pair: tuple[bool, Bundle]) -> None:
    with open_engine(bundle) as large, open_engine(pair[1]) as small:
        moved = np.abs(large.run(windows).probability - small.run(windows).probability)
    assert moved.mean() < 0.02


def test_other_findings_are_baked_into_eight_bits(bundle: Bundle, windows: np.ndarray, pair: tuple[bool, Bundle]) -> None:
    few = bundle.card.findings[3:7]
    with open_engine(bake(pair[1], few)) as baked, open_engine(pair[1]) as every:
        assert np.allclose(baked.run(windows).probability, every.run(windows).probability[:, 3:7], atol=1e-6)


def test_other_findings_are_baked_where_the_graph_tells_shapes(bundle: Bundle) -> None:
    """As that of a bundle which was quantised before its shapes were left out."""
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(bundle.onnx))
    assert model.graph.value_info
    few = bake(seal_model(model, bundle.card), bundle.card.findings[:4])
    assert len(few.card.golden[0]) == 4


def test_what_cannot_be_quantised_is_told(bundle: Bundle, windows: np.ndarray, pair: tuple[bool, Bundle]) -> None:
    with pytest.raises(ConfigError, match=f"{FEWEST_WINDOWS - 1} windows are too few"):
        quantize(bundle, windows[: FEWEST_WINDOWS - 1])
    with pytest.raises(ConfigError, match="only a float32 bundle"):
        quantize(pair[1], windows)
    with pytest.raises(BundleError, match="takes windows of shape"):
        quantize(bundle, windows[:, :, :999])


def _command(*words: object) -> tuple[int, str]:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(quantize_command)
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_a_model_that_lost_its_accuracy_is_not_written(windows: np.ndarray, tmp_path: Path) -> None:
    """Ranges from a tenth of the amplitude cut off nearly all of every beat."""
    np.savez(tmp_path / "faint.npz", ecg=windows / 10)
    np.savez(tmp_path / "gate.npz", ecg=windows)
    code, told = _command("--windows", tmp_path / "faint.npz", "--gate", tmp_path / "gate.npz", "--out", tmp_path / "small.onnx")
    assert code == 1
    assert "refused" in told
    assert not (tmp_path / "small.onnx").exists()


def test_patients_that_gave_the_ranges_may_not_judge(windows: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ecg=windows, patient=np.array(["7"] * 60))
    with pytest.raises(ConfigError, match="1 patients stand both"):
        _command("--windows", tmp_path / "a.npz", "--gate", tmp_path / "a.npz", "--out", tmp_path / "small.onnx")


def test_a_model_that_kept_its_accuracy_is_written(bundle: Bundle, windows: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    np.savez(tmp_path / "all.npz", ecg=windows)
    code, told = _command("--windows", tmp_path / "all.npz", "--gate", tmp_path / "all.npz", "--out", out, "--json")
    (verdict,) = json.loads(next(line for line in told.splitlines() if line.startswith("[")))
    assert (code, verdict["passed"]) == (0, True)
    assert Bundle.read(out).card.derived_from == bundle.card.sha256


@pytest.mark.skipif(not (ARCHIVE / "ptb-xl").is_dir(), reason="needs PTB-XL")
def test_on_other_patients_no_finding_loses_its_accuracy(bundle: Bundle) -> None:
    """Ranges from fold 8, accuracy on fold 9, on twelve leads and on one, by scikit-learn."""
    sets: tuple[tuple[str, ...], ...] = ((), ("II",))
    seen, gate = (
        labelled_windows(bundle, Source("ptb-xl", ARCHIVE / "ptb-xl", (fold,)), sets, most) for fold, most in ((8, 50), (9, None))
    )
    with open_engine(bundle) as large, open_engine(quantize(bundle, seen["ecg"])) as small:
        before, after = (engine.run(gate["ecg"]).probability for engine in (large, small))
    lost = _lost(before, after, gate["labels"])
    assert len(lost) > 12
    assert max(lost) < 0.01
    assert np.mean(lost) < 0.005


def _lost(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> list[float]:
    lost = []
    for label, old, new in zip(labels.T, before.T, after.T, strict=True):
        told = label >= 0
        if min((label == 1).sum(), (label == 0).sum()) >= 5:
            lost.append(roc_auc_score(label[told], old[told]) - roc_auc_score(label[told], new[told]))
    return lost
