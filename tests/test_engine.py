"""The engines that this machine has: against the ONNX reference evaluator and each other, alone or in a batch; other shapes refused."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from edge.decode.chunk import Chunk
from kernels import engine_onnx
from kernels.bundle import Bundle, BundleError, golden_windows
from kernels.compare import compare
from kernels.engine import Engine, open_engine
from kernels.findings import ConfigError
from kernels.quantize import quantize
from kernels.signal import resample, to_standard_leads

FAST = ("onnx", "openvino", "torch")
NEEDED = {"openvino": "openvino", "torch": "torch"}


def _windows(excerpt: Chunk, count: int = 2) -> np.ndarray:
    """Real windows of two leads: fibrillation and sinus rhythm."""
    twelve = to_standard_leads(resample(excerpt.samples_mv, 360, 100), excerpt.leads)
    starts = np.linspace(0, 12_000, count).astype(int)
    return np.stack([twelve[:, start : start + 1000] for start in starts])


@pytest.fixture(scope="module")
def small(bundle: Bundle, excerpt: Chunk) -> Bundle:
    return quantize(bundle, _windows(excerpt, 40))


@pytest.fixture(scope="module", params=[(name, precision) for name in FAST for precision in ("fp32", "int8")], ids="-".join)
def engine(request: pytest.FixtureRequest, bundle: Bundle, small: Bundle) -> Iterator[Engine]:
    name, precision = request.param
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    with open_engine(bundle if precision == "fp32" else small, name) as opened:
        yield opened


@pytest.mark.parametrize("name", FAST)
def test_compare_agrees_with_the_reference(bundle: Bundle, excerpt: Chunk, name: str) -> None:
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    assert compare(bundle, name, _windows(excerpt)).worst <= 1e-4


def test_every_engine_reads_the_same_out_of_eight_bits(engine: Engine, small: Bundle, excerpt: Chunk) -> None:
    """Where sums are rounded anew, eight bits fall one step apart here and there; OpenVINO also joins steps."""
    if engine.bundle is not small:
        pytest.skip("float32 is compared above")
    windows = _windows(excerpt, 12)
    with open_engine(small) as other:
        moved = np.abs(engine.run(windows).probability - other.run(windows).probability)
    assert moved.max() < 0.1
    assert moved.mean() < 0.005


def test_a_batch_does_not_change_the_bits_of_its_members(engine: Engine, excerpt: Chunk) -> None:
    windows = np.concatenate([_windows(excerpt, 15), golden_windows(1000)])
    together = engine.run(windows)
    alone = [engine.run(window[None]) for window in windows]
    assert np.array_equal(together.probability, np.concatenate([r.probability for r in alone]))
    assert np.array_equal(together.embedding, np.concatenate([r.embedding for r in alone]))


@pytest.fixture(scope="module")
def forms(bundle: Bundle, small: Bundle) -> Iterator[list[Engine]]:
    with open_engine(bundle) as large, open_engine(small) as little:
        yield [large, little]


@settings(max_examples=15)
@given(st.lists(st.integers(0, 24), max_size=5))
def test_no_cut_of_a_batch_changes_a_bit(forms: list[Engine], excerpt: Chunk, cuts: list[int]) -> None:
    windows = np.concatenate([_windows(excerpt, 18), golden_windows(1000), np.full((3, 12, 1000), 7, np.float32)])
    edges = [0, *sorted(cuts), len(windows)]
    for running in forms:
        parts = [running.run(windows[a:b]).probability for a, b in itertools.pairwise(edges)]
        assert np.array_equal(np.concatenate(parts), running.run(windows).probability)


def test_where_a_batch_does_change_bits_windows_run_one_by_one(bundle: Bundle, excerpt: Chunk, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor whose products of one row are added up in another order."""
    honest = engine_onnx.OnnxEngine._call

    def call(self: engine_onnx.OnnxEngine, ecg: np.ndarray) -> list[np.ndarray]:
        return [rows * np.float32(1 + 1e-6 * (len(ecg) > 1)) for rows in honest(self, ecg)]

    monkeypatch.setattr(engine_onnx.OnnxEngine, "_call", call)
    windows = _windows(excerpt, 3)
    with open_engine(bundle) as running:
        together = running.run(windows).probability
        assert np.array_equal(together, np.concatenate([running.run(window[None]).probability for window in windows]))


def test_embeddings_have_unit_norm_and_probabilities_lie_between_0_and_1(engine: Engine, excerpt: Chunk) -> None:
    result = engine.run(_windows(excerpt))
    assert np.allclose(np.linalg.norm(result.embedding, axis=1), 1, atol=1e-5)
    assert ((result.probability >= 0) & (result.probability <= 1)).all()
    assert result.probability.shape == (2, len(engine.bundle.card.findings))


def test_any_input_gives_finite_numbers(engine: Engine) -> None:
    rng = np.random.default_rng(0)
    strange = [np.zeros((12, 1000)), np.full((12, 1000), 1e6), rng.standard_normal((12, 1000)) * 1e4, np.full((12, 1000), np.nan)]
    assert np.isfinite(engine.run(np.stack(strange).astype(np.float32)).probability).all()


def test_windows_are_left_as_they_were_and_results_outlive_the_next_call(engine: Engine, excerpt: Chunk) -> None:
    windows = _windows(excerpt)
    before = windows.copy()
    windows.flags.writeable = False
    first = engine.run(windows[:1]).probability
    kept = first.copy()
    engine.run(windows[1:])
    assert np.array_equal(windows, before, equal_nan=True)
    assert np.array_equal(first, kept)


def test_windows_in_another_float_type_are_those_in_float32(engine: Engine, excerpt: Chunk) -> None:
    windows = _windows(excerpt)
    assert np.array_equal(engine.run(windows.astype(np.float64)).probability, engine.run(windows).probability)


def test_no_window_no_row(engine: Engine) -> None:
    assert engine.run(np.empty((0, 12, 1000), np.float32)).probability.shape == (0, len(engine.bundle.card.findings))


@pytest.mark.parametrize("shape", [(12, 1000), (1, 12, 999), (1, 11, 1000), (1, 1, 12, 1000)])
def test_other_shapes_are_refused(engine: Engine, shape: tuple[int, ...]) -> None:
    with pytest.raises(BundleError, match="takes windows of shape"):
        engine.run(np.zeros(shape, np.float32))


def test_an_unknown_engine_names_the_known_ones(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="onnx, openvino, reference"):
        open_engine(bundle, "tensorflow")


@pytest.mark.parametrize(("name", "package"), [("openvino", "openvino"), ("torch", "torch"), ("torch", "onnx")])
def test_an_engine_that_is_not_installed_says_so_in_one_sentence(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    for module in [m for m in sys.modules if m.startswith(("kernels.engine_", "kernels.torch_"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"^engine '{name}' needs {package}: pip install 'cardiogloss\[.*--engine onnx$"):
        open_engine(bundle, name)


@pytest.mark.parametrize("name", FAST)
def test_a_context_manager_closes(bundle: Bundle, name: str) -> None:
    if name in NEEDED:
        pytest.importorskip(NEEDED[name])
    with open_engine(bundle, name) as opened:
        opened.run(golden_windows(bundle.card.samples))
    with pytest.raises(AttributeError):
        opened.run(golden_windows(bundle.card.samples))


def _arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def _ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


_X = _arrays((2, 4, 9))[0]
_SCALES = np.float32([0.02, 0.05, 0.1, 0.3])
NODES: dict[str, tuple[str, Sequence[np.ndarray | None], dict[str, Any]]] = {
    "convolution that looks back": ("Conv", [_X, *_arrays((6, 4, 5), (6,))], {"pads": [4, 0]}),
    "convolution in steps": ("Conv", [_X, *_arrays((6, 4, 5), (6,))], {"pads": [2, 2], "strides": [2], "dilations": [1], "group": 1}),
    "convolution by groups, wide": ("Conv", [_X, *_arrays((6, 2, 3))], {"group": 2, "dilations": [2]}),
    "convolution in two axes": ("Conv", [_X[:, :, None], *_arrays((6, 4, 1, 3))], {"pads": [0, 1, 0, 1]}),
    "pad": ("Pad", [_X, _ints(0, 0, 3, 0, 0, 1), np.float32(2)], {}),
    "pad of an axis": ("Pad", [_X, _ints(3, 1), None, _ints(-1)], {}),
    "slice": ("Slice", [_X, _ints(1, -6), _ints(99, -1), _ints(1, 2), _ints(2, 3)], {}),
    "slice of the first axes": ("Slice", [_X, _ints(1, 1), _ints(2, 3)], {}),
    "split": ("Split", [_X, _ints(2, 3, 4)], {"axis": 2}),
    "gather one": ("Gather", [_X, np.int64(2)], {"axis": 1}),
    "gather some": ("Gather", [_X, _ints(0, 3)], {"axis": 1}),
    "reshape": ("Reshape", [_X, _ints(0, -1)], {}),
    "transpose": ("Transpose", [_X], {"perm": [0, 2, 1]}),
    "unsqueeze": ("Unsqueeze", [_X, _ints(0, -1)], {}),
    "squeeze": ("Squeeze", [_X[:1], _ints(0)], {}),
    "expand": ("Expand", [_X[:, :1], _ints(2, 4, 1)], {}),
    "concat": ("Concat", [_X, _X[:, :1]], {"axis": 1}),
    "greatest of windows that begin before": ("MaxPool", [_X], {"kernel_shape": [3], "pads": [1, 0], "strides": [2]}),
    "greatest of windows": ("MaxPool", [_X], {"kernel_shape": [3], "pads": [1, 1], "strides": [2]}),
    "norm": ("BatchNormalization", [_X, *_arrays((4,), (4,), (4,)), np.abs(*_arrays((4,)))], {"epsilon": 1e-3}),
    "product and sum": ("Gemm", _arrays((5, 3), (7, 5), (7,)), {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    "mean of an axis": ("ReduceMean", [_X, _ints(-1)], {"keepdims": 0}),
    "mean of all": ("ReduceMean", [_X], {}),
    "greatest of an axis": ("ReduceMax", [_X, _ints(-1)], {"keepdims": 0}),
    "length": ("ReduceL2", [_X, _ints(-1)], {"keepdims": 1}),
    "unit length": ("LpNormalization", [_X], {"axis": 1, "p": 2}),
    "running sum": ("CumSum", [_X, np.int64(2)], {}),
    "clip from below": ("Clip", [_X, np.float32(0.2)], {}),
    "clip from above": ("Clip", [_X, None, np.float32(0.2)], {}),
    "greatest of three": ("Max", [_X, _X[:, :1], np.float32(0.2)], {}),
    "greatest of one": ("Max", [_X], {}),
    "least of three": ("Min", [_X, _X[:, :1], np.float32(0.2)], {}),
    "to steps": ("QuantizeLinear", [_X, np.float32(0.02), np.uint8(120)], {}),
    "to steps of their own": ("QuantizeLinear", [_X, _SCALES, np.zeros(4, np.int8)], {"axis": 1}),
    "from steps of their own": ("DequantizeLinear", [np.arange(72, dtype=np.uint8).reshape(2, 4, 9), _SCALES, np.uint8([0, 9, 5, 1])], {}),
    "from steps, even": ("DequantizeLinear", [np.arange(-9, 9, dtype=np.int32), np.float32(0.1)], {}),
}  # fmt: skip


@pytest.mark.parametrize("case", NODES)
def test_every_operator_in_torch_is_that_of_the_onnx_standard(case: str) -> None:
    torch = pytest.importorskip("torch")
    from kernels.engine_torch import _bind, _constant

    op, inputs, attributes = NODES[case]
    names = ["" if array is None else f"x{i}" for i, array in enumerate(inputs)]
    outputs = [f"y{i}" for i in range(3 if op == "Split" else 1)]
    node = helper.make_node(op, names, outputs, **attributes)
    given_arrays = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    expected = ReferenceEvaluator(_model(node, given_arrays)).run(None, given_arrays)
    values: dict[str, Any] = {"": None} | {name: _constant(np.asarray(array), torch.device("cpu")) for name, array in given_arrays.items()}
    _bind(node, torch.device("cpu")).execute(values)
    for name, wanted in zip(outputs, expected, strict=True):
        assert values[name].shape == wanted.shape
        np.testing.assert_allclose(values[name].numpy(), wanted, rtol=2e-5, atol=2e-6)


def _model(node: onnx.NodeProto, arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.asarray(a).dtype), np.shape(a)) for n, a in arrays.items()
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in node.output]
    graph = helper.make_graph([node], "one", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def test_what_torch_is_not_taught_is_told() -> None:
    torch = pytest.importorskip("torch")
    from kernels.torch_operators import OPERATORS

    with pytest.raises(BundleError, match="pads with constants only"):
        OPERATORS["Pad"](torch.zeros(1, 1, 4), (0, 0, 1, 0, 0, 1), mode=b"edge")
    with pytest.raises(BundleError, match="does not know the type 8 to cast to"):
        OPERATORS["Cast"](torch.zeros(4), to=TensorProto.STRING)
    with pytest.raises(BundleError, match="only the plain CumSum"):
        OPERATORS["CumSum"](torch.zeros(4), 0, reverse=1)


def test_an_operator_that_torch_does_not_know_is_named() -> None:
    torch = pytest.importorskip("torch")
    from kernels.engine_torch import _bind

    with pytest.raises(BundleError, match="does not know the operator Einsum; take --engine onnx"):
        _bind(helper.make_node("Einsum", ["a"], ["b"]), torch.device("cpu"))


def test_the_compiler_is_given_the_whole_graph(bundle: Bundle, excerpt: Chunk, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing left over for Python: what generates machine code takes a minute, and is left out here."""
    torch = pytest.importorskip("torch")
    module = importlib.import_module("kernels.engine_torch")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))
    with module.TorchEngine(bundle, compiled=True) as compiled, open_engine(bundle) as other:
        windows = _windows(excerpt)
        assert np.abs(compiled.run(windows).probability - other.run(windows).probability).max() < 1e-4


def test_torch_may_take_a_batch_as_a_whole(bundle: Bundle, excerpt: Chunk) -> None:
    """The bits then depend on the company, the answers do not."""
    pytest.importorskip("torch")
    module = importlib.import_module("kernels.engine_torch")
    windows = np.concatenate([_windows(excerpt, 5), golden_windows(1000)])
    with module.TorchEngine(bundle, together=True) as whole, open_engine(bundle) as other:
        assert np.abs(whole.run(windows).probability - other.run(windows).probability).max() < 1e-5
        assert whole.run(windows[:0]).probability.shape == (0, len(bundle.card.findings))


def test_torch_keeps_nothing_that_no_later_step_reads(bundle: Bundle) -> None:
    """At the end only the answers are there, beside the weights."""
    torch = pytest.importorskip("torch")
    with open_engine(bundle, "torch") as running:
        values = {**running._constants, "ecg": torch.zeros(1, 12, 1000)}  # type: ignore[attr-defined]
        for step in running._steps:  # type: ignore[attr-defined]
            step.execute(values)
        assert set(values) - set(running._constants) == {"probability", "embedding"}  # type: ignore[attr-defined]


def test_torch_gives_the_threads_of_the_process_back(bundle: Bundle) -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    with open_engine(bundle, "torch", threads=before + 1) as running:
        running.run(golden_windows(1000))
    assert torch.get_num_threads() == before


def test_a_device_that_is_not_there_is_told() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is one")
    module = importlib.import_module("kernels.engine_torch")
    from kernels.bundle import SHIPPED_BUNDLE

    with pytest.raises(ConfigError, match="no CUDA device"):
        module.TorchEngine(Bundle.read(SHIPPED_BUNDLE), device="cuda")
