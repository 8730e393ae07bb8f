"""float16: the encoder alone is in it, every border is a Cast, and the answers stay near those of the float32 bundle."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper, parser

from edge.decode.chunk import Chunk
from kernels.bundle import Bundle, BundleError, Card, golden_windows
from kernels.engine import open_engine
from kernels.export import Head, assemble, bake, head_of
from kernels.findings import Finding
from kernels.half import to_half
from kernels.signal import LEADS, Samples, resample, to_standard_leads

_ENCODER = """
<ir_version: 10, opset_import: ["" : 18]>
encoder (float[batch, 12, %(samples)d] ecg) => (float[batch, 6] embedding) {
    absent = IsNaN(ecg)
    shape = Shape(ecg)
    zeros = Expand(zero, shape)
    filled = Where(absent, zeros, ecg)
    missing = Cast<to = 1>(absent)
    present = Sub(one, missing)
    padded = Pad(filled, pads)
    running = CumSum(padded, last_axis)
    later = Slice(running, width, end, axes)
    earlier = Slice(running, start, back, axes)
    around = Sub(later, earlier)
    padded_present = Pad(present, pads)
    running_present = CumSum(padded_present, last_axis)
    later_present = Slice(running_present, width, end, axes)
    earlier_present = Slice(running_present, start, back, axes)
    around_present = Sub(later_present, earlier_present)
    count = Clip(around_present, one)
    baseline = Div(around, count)
    flat = Sub(filled, baseline)
    shown = Mul(flat, present)
    hidden = Conv<kernel_shape = [9], strides = [10], pads = [4, 4]>(shown, stem)
    share = ReduceMean<keepdims = 0>(present, last)
    lead = Gemm<transB = 1>(share, lead_weight, lead_offset)
    leads = Unsqueeze(lead, last)
    told = Add(hidden, leads)
    normed = BatchNormalization(told, gain, shift, mean, variance)
    rectified = Clip(normed, zero, six)
    beyond = Pad(rectified, beyond_pads, zero)
    twice = Conv<kernel_shape = [3]>(beyond, second)
    pooled = ReduceMean<keepdims = 0>(twice, last)
    most = ReduceMax<keepdims = 0>(twice, last)
    both = Concat<axis = -1>(pooled, most)
    projected = Gemm<transB = 1>(both, projection, projection_offset)
    length = ReduceL2(projected, last)
    at_least = Clip(length, tiny)
    wanted = Shape(projected)
    stretched = Expand(at_least, wanted)
    embedding = Div(projected, stretched)
}
"""


@cache
def small_bundle(findings: int = 3, seed: int = 0, samples: int = 100, width: int = 21, causal: bool = False) -> Bundle:
    """A network of a few hundred weights in the form of the real ones; `seed` is of the head alone."""
    model = parser.parse_model(_ENCODER % {"samples": samples})
    arrays = _arrays(width, before=width if causal else width // 2 + 1)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    named = tuple(Finding(name=f"finding_{i}", prompts=(f"finding {i} of {seed}",)) for i in range(findings))
    return assemble(model, _head(findings, seed), Card(rate_hz=10, window_s=samples / 10, findings=named, text_encoder="none"))


def _arrays(width: int, before: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    floats = {
        "zero": 0, "one": 1, "six": 6, "tiny": 1e-12, "stem": rng.standard_normal((5, 12, 9)) / 9, "second": rng.standard_normal((5, 5, 3)),
        "gain": np.ones(5), "shift": np.zeros(5), "mean": 0.1 * np.ones(5), "variance": np.ones(5),
        "lead_weight": rng.standard_normal((5, 12)), "lead_offset": rng.standard_normal(5),
        "projection": rng.standard_normal((6, 10)), "projection_offset": rng.standard_normal(6),
    }  # fmt: skip
    whole = {
        "pads": [0, 0, before, 0, 0, width - before], "beyond_pads": [0, 0, 1, 0, 0, 1], "last_axis": -1, "last": [-1], "axes": [2],
        "width": [width], "end": [2**62], "start": [0], "back": [-width],
    }  # fmt: skip
    return {k: np.array(v, np.float32) for k, v in floats.items()} | {k: np.array(v, np.int64) for k, v in whole.items()}


def _head(findings: int, seed: int) -> Head:
    rng = np.random.default_rng(seed)
    shapes = {"text": (findings, 4), "text_weight": (6, 4), "text_bias": (6,), "slope": (findings,), "offset": (findings,)}
    return Head(scale=np.float32(3), bias=np.float32(-0.5), **{k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()})


def some_windows(bundle: Bundle, count: int, seed: int = 0) -> Samples:
    """Noise of 1 mV, in which leads and stretches of time are missing."""
    rng = np.random.default_rng(seed)
    ecg = rng.standard_normal((count, len(LEADS), bundle.card.samples)).astype(np.float32)
    ecg[rng.random((count, len(LEADS))) < 0.4] = np.nan
    ecg[rng.random(count) < 0.3, :, : bundle.card.samples // 4] = np.nan
    return ecg


def real_windows(excerpt: Chunk, every: int = 4000) -> Samples:
    """Some of the excerpt, two leads each, and one of them with a lead less."""
    twelve = to_standard_leads(resample(excerpt.samples_mv, excerpt.rate_hz, 100), excerpt.leads)
    windows = np.stack([twelve[:, at : at + 1000] for at in range(0, 24_000, every)])
    windows[3, LEADS.index("V1")] = np.nan
    return windows


@pytest.fixture(scope="module")
def half(bundle: Bundle) -> Bundle:
    return to_half(bundle)


def _types(bundle: Bundle) -> dict[str, int]:
    model = onnx.load_model_from_string(bundle.onnx)
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    return {v.name: v.type.tensor_type.elem_type for v in values} | {i.name: i.data_type for i in graph.initializer}


def test_every_multiplication_of_the_encoder_is_in_float16_and_none_of_the_head(half: Bundle) -> None:
    types = _types(half)
    nodes = onnx.load_model_from_string(half.onnx).graph.node
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    assert len(convolutions) == 20
    assert {types[name] for node in convolutions for name in [*node.input, *node.output]} == {TensorProto.FLOAT16}
    assert {types[name] for name in Head.__slots__} == {TensorProto.FLOAT}
    assert {types[name] for node in nodes if node.op_type == "CumSum" for name in node.output} == {TensorProto.FLOAT}
    assert types["ecg"] == types["probability"] == types["embedding"] == TensorProto.FLOAT


def test_types_meet_in_casts_alone(half: Bundle) -> None:
    """As a strongly typed network wants it: what a node reads and writes is of one float type, unless it is a Cast."""
    types = _types(half)
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16}
    for node in onnx.load_model_from_string(half.onnx).graph.node:
        met = {types[name] for name in [*node.input, *node.output] if name in types} & floats
        assert len(met) <= 1 or node.op_type == "Cast", node.name


def test_it_is_half_as_large(bundle: Bundle, half: Bundle) -> None:
    assert len(half.onnx) < 0.53 * len(bundle.onnx)


def test_it_scores_real_windows_as_the_float32_bundle_does(bundle: Bundle, half: Bundle, excerpt: Chunk) -> None:
    windows = real_windows(excerpt)
    with open_engine(bundle) as first, open_engine(half) as second:
        wanted, got = first.run(windows), second.run(windows)
    assert np.abs(wanted.probability - got.probability).max() < 2e-3
    assert np.abs(wanted.embedding - got.embedding).max() < 1e-3
    assert not np.array_equal(wanted.embedding, got.embedding)


def test_the_reference_evaluator_reads_it_the_same_way() -> None:
    small = to_half(small_bundle())
    windows = some_windows(small, 20)
    with open_engine(small) as first, open_engine(small, "reference") as second:
        assert np.abs(first.run(windows).probability - second.run(windows).probability).max() < 5e-3


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.booleans())
def test_a_small_network_stays_near_itself_whatever_comes(seed: int, causal: bool) -> None:
    origin = small_bundle(causal=causal)
    windows = some_windows(origin, 4, seed)
    with open_engine(origin) as first, open_engine(to_half(origin)) as second:
        assert np.abs(first.run(windows).probability - second.run(windows).probability).max() < 1e-2


def test_its_card_says_what_it_is_and_where_it_comes_from(bundle: Bundle, half: Bundle) -> None:
    changed = {"precision": "fp16", "derived_from": bundle.card.sha256, "golden": half.card.golden, "sha256": half.card.sha256}
    assert half.card == bundle.card.model_copy(update=changed)
    with open_engine(half) as engine:
        assert np.allclose(engine.run(golden_windows(1000)).probability, half.card.golden, atol=1e-6)


def test_it_can_be_baked_like_any_other(bundle: Bundle, half: Bundle) -> None:
    kept = bundle.card.findings[::-3]
    for name, array in head_of(bake(bundle, kept)).arrays().items():
        assert np.array_equal(array, head_of(bake(half, kept)).arrays()[name])
    assert bake(half, kept).card.golden == to_half(bake(bundle, kept)).card.golden


def test_the_same_bundle_gives_the_same_bytes() -> None:
    assert to_half(small_bundle()) == to_half(small_bundle())


def test_what_is_not_float32_is_refused(half: Bundle) -> None:
    with pytest.raises(BundleError, match="fp16 already"):
        to_half(half)


@pytest.mark.filterwarnings("error")
def test_a_weight_beyond_float16_is_refused_by_name() -> None:
    small = small_bundle()
    model = onnx.load_model_from_string(small.onnx)
    second = next(i for i in model.graph.initializer if i.name == "second")
    second.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(second) * np.float32(1e5), "second"))
    with pytest.raises(BundleError, match=r"second of .*e\+05 does not fit float16; use float32"):
        to_half(Bundle(model.SerializeToString(), small.card))


def test_an_encoder_without_convolution_is_refused() -> None:
    small = small_bundle()
    model = onnx.load_model_from_string(small.onnx)
    for node in model.graph.node:
        node.op_type = node.op_type.replace("Conv", "ConvTranspose")
    with pytest.raises(BundleError, match="no convolution"):
        to_half(Bundle(model.SerializeToString(), small.card))
