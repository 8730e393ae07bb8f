"""A float32 bundle and real windows in; the same model with its convolutions in eight bits out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import version_converter
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import QuantType

from .bundle import Bundle, golden_windows
from .engine import check_shape
from .export import seal_model
from .findings import ConfigError
from .signal import Samples

COVERED = 0.9999
"""Share of an activation's values that lie within its eight bits.

The rarest are cut off, since a range that holds them has wider steps for all others. Of the shipped bundle this moves
the probabilities by .002 in the mean, the whole range by .009, and .999 by .004. An artefact of 5 mV in all leads at
once then counts for less than in float32; one in a single lead changes nothing.
"""

OPSET = 19
"""The first whose quantisation the ONNX reference evaluator knows."""

FEWEST_WINDOWS = 32
"""Fewer show too little of what can come."""

_WITHIN = frozenset({"Add", "Conv", "MaxPool", "Pad", "Relu"})
"""What the encoder is made of between its first ReLU and its pooling."""

_MOST_VALUES = 1_000_000
"""Of an activation: enough for a hundred beyond the range that is looked for."""


def quantize(bundle: Bundle, windows: Samples, symmetric: bool = False) -> Bundle:
    """Static quantisation (Jacob et al. 2018) of the convolutions behind the stem, in QDQ form, weights with a scale an output.

    Activations are unsigned, as processors want them (x86 without VNNI may overflow: compare there), or signed and
    `symmetric` with biases in float32, as TensorRT wants them. Front end, stem, pooling and head stay in float32.
    `windows` [n, 12, samples] in mV give the ranges: they should show what the bundle will see, few leads and artefacts
    too. The same windows give the same bytes.
    Raises ConfigError for too few windows and for a bundle that cannot be quantised, BundleError for another shape.
    """
    check_shape(bundle, windows)
    check_enough(windows)
    if bundle.card.precision != "fp32" or bundle.card.stride is not None:
        raise ConfigError("only a float32 bundle that takes windows can be quantised; give the one that this was made from")
    model = version_converter.convert_version(onnx.load_model_from_string(bundle.onnx), OPSET)
    nodes = list(_encoder_nodes(model))
    if not any(node.op_type == "Conv" for node in nodes):
        raise ConfigError("the bundle has no convolutions behind a first ReLU, and nothing else is quantised")
    ranges = _ranges(model, nodes, np.concatenate([golden_windows(bundle.card.samples), windows.astype(np.float32)]))
    facts = {"precision": "int8", "derived_from": bundle.card.sha256}
    return seal_model(_quantized(model, nodes, ranges, symmetric), bundle.card.model_copy(update=facts))


def check_enough(windows: Samples) -> None:
    """Raises ConfigError for fewer than `FEWEST_WINDOWS`."""
    if len(windows) < FEWEST_WINDOWS:
        raise ConfigError(f"{len(windows)} windows are too few to quantise by; give {FEWEST_WINDOWS} or more, better hundreds")


def _encoder_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Those behind the first ReLU, up to the first that is no part of a residual network."""
    inside, beyond = set[str](), set[str]()
    for node in model.graph.node:
        if not beyond.isdisjoint(node.input):
            beyond.update(node.output)
        elif not inside.isdisjoint(node.input):
            kept = node.op_type in _WITHIN
            (inside if kept else beyond).update(node.output)
            if kept:
                yield node
        elif node.op_type == "Relu":
            inside.update(node.output)


def _ranges(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], windows: Samples) -> TensorsData:
    """Of every activation the range that covers all but the rarest of its values."""
    weights = {i.name for i in model.graph.initializer}
    names = sorted({name for node in nodes for name in (*node.input, *node.output) if name not in weights})
    values = _observe(model, names, windows)
    ends = {name: np.quantile(seen, (1 - COVERED, COVERED)) for name, seen in values.items()}
    ranges = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ends.items()}
    return TensorsData(CalibrationMethod.MinMax, ranges)


def _observe(model: onnx.ModelProto, names: Sequence[str], windows: Samples) -> dict[str, Samples]:
    """Values of these activations, evenly taken from every window."""
    told = onnx.ModelProto()
    told.CopyFrom(model)
    told.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(told.SerializeToString(), options, providers=["CPUExecutionProvider"])
    taken: dict[str, list[Samples]] = {name: [] for name in names}
    for window in windows:
        for name, values in zip(names, session.run(names, {"ecg": window[None]}), strict=True):
            taken[name].append(values.ravel()[:: max(values.size * len(windows) // _MOST_VALUES, 1)].copy())
    return {name: np.concatenate(parts) for name, parts in taken.items()}


def _quantized(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], ranges: TensorsData, symmetric: bool) -> onnx.ModelProto:
    activations = QuantType.QInt8 if symmetric else QuantType.QUInt8
    options = {"ActivationSymmetric": True, "QuantizeBias": False} if symmetric else {}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    quantizer = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=activations,
        tensors_range=ranges,
        nodes_to_quantize=[node.name for node in nodes],
        nodes_to_exclude=[],
        op_types_to_quantize=sorted(_WITHIN),
        extra_options=options,
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    quantized: onnx.ModelProto = quantizer.model.model
    del quantized.graph.value_info[:]  # it tells how many findings there are, which baking changes
    return quantized
