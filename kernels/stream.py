"""A bundle whose encoder never looks ahead in; the same model as a graph that takes streams as they come, in float32 or int8, out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .bundle import Bundle, BundleError
from .export import OPSET, head_nodes, read_head, seal_model
from .findings import ConfigError
from .network import Block, Layer, Network, read_network
from .quantize import check_enough
from .signal import BASELINE_SAMPLES, GAIN_PER_MV, LEADS, LIMIT, STRIDE, Samples

Ranges = Mapping[str, float]
"""Activation -> its greatest value, which int8 maps to 255."""


def to_stream(bundle: Bundle, ranges: Ranges | None = None) -> Bundle:
    """The bundle as a graph of one step: `ecg` [batch, 12, n] and `state` [batch, d] in, `next_state` beside the usual out.

    With the `ranges` of its activations (`calibrate`) everything after the stem is multiplied in int8.
    Raises ConfigError for a bundle that is not float32 or takes streams already, BundleError for one whose encoder looks ahead.
    """
    if bundle.card.precision != "fp32" or bundle.card.stride is not None:
        raise ConfigError("only a float32 bundle that takes windows can be made a stream; give the one that this was made from")
    if not bundle.card.training.get("recipe", {}).get("causal"):
        raise BundleError("its encoder looks ahead, so that it takes no streams; train one with `causal = true`")
    _, model = _step_of(bundle, ranges)
    facts = {"stride": STRIDE, "precision": "int8" if ranges else "fp32", "derived_from": bundle.card.sha256}
    return seal_model(model, bundle.card.model_copy(update=facts))


def calibrate(bundle: Bundle, windows: Samples) -> dict[str, float]:
    """The greatest value of each activation over windows [n, 12, samples]. Raises ConfigError for too few of them."""
    import onnxruntime

    check_enough(windows)
    graph, model = _step_of(bundle, None)
    model.graph.output.extend(helper.make_tensor_value_info(x, TensorProto.FLOAT, None) for x in graph.activations.values())
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    state = np.zeros((1, session.get_inputs()[1].shape[1]), np.float32)
    whole = bundle.card.samples // STRIDE * STRIDE
    asked = list(graph.activations.values())
    greatest = dict.fromkeys(graph.activations, 0.0)
    for ecg in windows:
        seen = session.run(asked, {"ecg": ecg[None, :, :whole], "state": state})
        greatest = {name: max(before, float(values.max())) for (name, before), values in zip(greatest.items(), seen, strict=True)}
    return greatest


def _step_of(bundle: Bundle, ranges: Ranges | None) -> tuple[_Graph, onnx.ModelProto]:
    window = onnx.load_model_from_string(bundle.onnx)
    graph = _Graph(ranges)
    _write(graph, read_network(window), bundle.card.samples // STRIDE)
    return graph, graph.finish(read_head(window).arrays(), len(bundle.card.findings))


@dataclass(frozen=True, slots=True)
class _Activation:
    """A tensor that is never negative, and in int8 the tensor of its scale."""

    tensor: str
    scale: str | None = None


@dataclass(slots=True)
class _Graph:
    """Nodes as they are written, and the state that each step leaves to the next."""

    ranges: Ranges | None
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    slots: list[tuple[str, str, tuple[int, ...]]] = field(default_factory=list)
    """What a step finds, what it leaves, and the shape of both without the batch."""
    activations: dict[str, str] = field(default_factory=dict)
    """What `calibrate` must know of: by its name, the tensor."""

    def add(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = name or f"{op.lower()}_{len(self.nodes)}"
        domain = "com.microsoft" if op == "MatMulIntegerToFloat" else ""
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, domain=domain, **attributes))
        return name

    def constant(self, values: Any, kind: Any = np.float32) -> str:
        name = f"constant_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype=kind), name))
        return name

    def numbers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def slice(self, x: str, first: int, last: int | None, axis: int) -> str:
        end = np.iinfo(np.int64).max if last is None else last
        return self.add("Slice", x, self.numbers(first), self.numbers(end), self.numbers(axis))

    def convolve(self, x: _Activation, layer: Layer, length: tuple[str, int]) -> str:
        """[batch, stride * n, inputs] -> [batch, n, outputs] in float32, before the activation."""
        inputs = layer.weight.shape[1]
        if layer.past > 0:
            x = replace(x, tensor=self.behind_past(x.tensor, (layer.past, inputs), 1, whole=x.scale is not None))
        rows = self.unfold(x.tensor, layer, length) if layer.past > 0 else self._last_of_pairs(x.tensor, inputs)
        if x.scale is None:
            return self.add("Add", self.add("MatMul", rows, self.constant(layer.rows)), self.constant(layer.bias))
        scale = np.abs(layer.rows).max(axis=0) / 127
        whole = self.constant(np.round(layer.rows / scale), np.int8)
        return self.add("MatMulIntegerToFloat", rows, whole, x.scale, self.constant(scale), "", "", self.constant(layer.bias))

    def unfold(self, x: str, layer: Layer, length: tuple[str, int]) -> str:
        """[batch, past + stride * n, inputs] -> [batch, n, kernel * inputs]"""
        kernel = layer.weight.shape[2]
        table = np.arange(length[1])[:, None] * layer.stride + np.arange(kernel)
        index = self.add("Slice", self.constant(table, np.int64), self.numbers(0), length[0], self.numbers(0))
        taken = self.add("Gather", x, index, axis=1)
        return self.add("Reshape", taken, self.numbers(0, 0, kernel * layer.weight.shape[1]))

    def _last_of_pairs(self, x: str, inputs: int) -> str:
        return self.slice(self.add("Reshape", x, self.numbers(0, -1, 2 * inputs)), inputs, None, 2)

    def activate(self, x: str, name: str) -> _Activation:
        """Without what is negative: in int8 the rounding to 255 steps cuts that off."""
        if self.ranges is None:
            self.activations[name] = self.add("Relu", x)
            return _Activation(self.activations[name])
        scale = self.constant(self.ranges[name] / 255)
        return _Activation(self.add("QuantizeLinear", x, scale, self.constant(0, np.uint8)), scale)

    def in_float(self, x: _Activation) -> str:
        return x.tensor if x.scale is None else self.add("DequantizeLinear", x.tensor, x.scale, self.constant(0, np.uint8))

    def behind_past(self, x: str, shape: tuple[int, ...], axis: int, whole: bool = False) -> str:
        """`x` behind the last positions of the step before, `shape` without the batch; the last of both are left to the next."""
        found = past = f"found_{len(self.slots)}"
        if whole:
            past = self.add("Cast", found, to=TensorProto.UINT8)
        joined = self.add("Concat", past, x, axis=axis)
        left = self.slice(joined, -shape[axis - 1], None, axis)
        self.slots.append((found, self.add("Cast", left, to=TensorProto.FLOAT) if whole else left, shape))
        return joined

    def finish(self, head: Mapping[str, Samples], findings: int) -> onnx.ModelProto:
        """The whole model; `embedding` must have been written."""
        sizes = [int(np.prod(shape)) for _, _, shape in self.slots]
        parts = [f"{found}_flat" for found, _, _ in self.slots]
        body, self.nodes = self.nodes, [helper.make_node("Split", ["state", self.numbers(*sizes)], parts, axis=1)]
        for part, (found, _, shape) in zip(parts, self.slots, strict=True):
            self.add("Reshape", part, self.numbers(-1, *shape), name=found)
        flat = [helper.make_node("Reshape", [left, self.numbers(0, -1)], [f"{left}_left"]) for _, left, _ in self.slots]
        last = helper.make_node("Concat", [f"{left}_left" for _, left, _ in self.slots], ["next_state"], axis=1)
        tensor = helper.make_tensor_value_info
        graph = helper.make_graph(
            [*self.nodes, *body, *flat, last, *head_nodes("embedding")],
            "stream",
            [tensor("ecg", TensorProto.FLOAT, ["batch", len(LEADS), "n"]), tensor("state", TensorProto.FLOAT, ["batch", sum(sizes)])],
            [
                tensor("probability", TensorProto.FLOAT, ["batch", findings]),
                tensor("embedding", TensorProto.FLOAT, ["batch", len(head["text_bias"])]),
                tensor("next_state", TensorProto.FLOAT, ["batch", sum(sizes)]),
            ],
            [*self.initializers, *(numpy_helper.from_array(a, name) for name, a in head.items())],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _write(graph: _Graph, network: Network, positions: int) -> None:
    """Positions before channels, so that the kernel of each position is one row of a matrix product."""
    lengths = _lengths(graph, positions)
    hidden = graph.activate(_halve(graph, _stem(graph, network, lengths), len(network.leads)), "stem")
    halvings = 2
    for number, block in enumerate(network.blocks):
        halvings += block.first.stride == 2
        hidden = _block(graph, block, hidden, lengths[halvings], number)
    _embed(graph, network, graph.in_float(hidden), positions)


def _lengths(graph: _Graph, positions: int) -> dict[int, tuple[str, int]]:
    """Halvings of n -> the tensor of that length, and the greatest that it may be, a window and what the one before left."""
    n = graph.slice(graph.add("Shape", "ecg"), 2, 3, 0)
    return {h: (graph.add("Div", n, graph.numbers(2**h)), (positions + 1) * STRIDE >> h) for h in range(1, 6)}


def _stem(graph: _Graph, network: Network, lengths: Mapping[int, tuple[str, int]]) -> str:
    """Millivolts -> [batch, n / 2, outputs], by the front end and the first convolution, always in float32."""
    absent = graph.add("IsNaN", "ecg")
    present_new = graph.add("Sub", graph.constant(1.0), graph.add("Cast", absent, to=TensorProto.FLOAT))
    filled_new = graph.add("Where", absent, graph.constant(0.0), "ecg")
    past = (len(LEADS), BASELINE_SAMPLES + network.stem.past)
    filled, present = (graph.behind_past(x, past, 2) for x in (filled_new, present_new))
    least = graph.add("Max", _moving_sum(graph, present), graph.constant(1.0))
    baseline = graph.add("Div", _moving_sum(graph, filled), least)
    scaled = graph.add("Mul", graph.add("Sub", graph.slice(filled, BASELINE_SAMPLES, None, 2), baseline), graph.constant(GAIN_PER_MV))
    clipped = graph.add("Clip", scaled, graph.constant(-LIMIT), graph.constant(LIMIT))
    shown = graph.add("Mul", clipped, graph.slice(present, BASELINE_SAMPLES, None, 2))
    rows = graph.unfold(graph.add("Transpose", shown, perm=[0, 2, 1]), network.stem, lengths[1])
    pairs = graph.add("Reshape", graph.add("Transpose", present_new, perm=[0, 2, 1]), graph.numbers(0, -1, 2 * len(LEADS)))
    known = graph.add("Concat", rows, graph.slice(pairs, len(LEADS), None, 2), axis=2)
    weight = np.concatenate([network.stem.rows, network.leads.T])
    product = graph.add("MatMul", known, graph.constant(weight))
    return graph.add("Relu", graph.add("Add", product, graph.constant(network.stem.bias)))


def _moving_sum(graph: _Graph, x: str) -> str:
    running = graph.add("CumSum", x, graph.constant(2, np.int64))
    return graph.add("Sub", graph.slice(running, BASELINE_SAMPLES, None, 2), graph.slice(running, 0, -BASELINE_SAMPLES, 2))


def _halve(graph: _Graph, x: str, channels: int) -> str:
    """The greatest of each second position, the one before it and the one after the last halving."""
    joined = graph.behind_past(x, (1, channels), 1)
    pairs, later = (
        graph.add("Reshape", part, graph.numbers(0, -1, 2 * channels))
        for part in (graph.slice(joined, 0, -1, 1), graph.slice(joined, 1, None, 1))
    )
    first, second = graph.slice(pairs, 0, channels, 2), graph.slice(pairs, channels, None, 2)
    return graph.add("Max", first, second, graph.slice(later, channels, None, 2))


def _block(graph: _Graph, block: Block, x: _Activation, length: tuple[str, int], number: int) -> _Activation:
    inner = graph.activate(graph.convolve(x, block.first, length), f"block {number} inner")
    around = graph.convolve(x, block.shortcut, length) if block.shortcut else graph.in_float(x)
    return graph.activate(graph.add("Add", graph.convolve(inner, block.second, length), around), f"block {number}")


def _embed(graph: _Graph, network: Network, hidden: str, positions: int) -> None:
    """Mean and maximum over the window's positions [batch, n, features], projected to unit norm.

    The poolings go channel by channel; ReduceMean sums a batch of one in another order than a larger one.
    """
    joined = graph.behind_past(hidden, (positions - 1, network.project.shape[1] // 2), 1)
    window = graph.add("Transpose", graph.slice(joined, -positions, None, 1), perm=[0, 2, 1])
    axis = graph.numbers(1)
    pooled = graph.add("Concat", graph.add("GlobalAveragePool", window), graph.add("GlobalMaxPool", window), axis=1)
    features = graph.add("Flatten", pooled, axis=1)
    projected = graph.add("Gemm", features, graph.constant(network.project), graph.constant(network.project_bias), transB=1)
    norm = graph.add("ReduceL2", projected, axis, keepdims=1)
    graph.add("Div", projected, graph.add("Max", norm, graph.constant(1e-12)), name="embedding")
