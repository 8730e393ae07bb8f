"""A bundle in; the graph that TensorRT is given and the plan that it builds from it out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from .bundle import Bundle, BundleError
from .engine_cache import replace_file, told_not_raised
from .export import Head, head_of
from .findings import ConfigError
from .signal import LEADS, Samples

BATCHES = (1, 8, 64, 256)
"""Each has an optimisation profile, tuned for it, that also takes what is smaller down to the one before."""

MOST_FINDINGS = 256

RECIPE = 2
"""Another number for every change of what `build_plan` asks of the builder: plans of another recipe are built anew."""

HEAD_INPUTS = ("head_weight", "head_offset")

GATES = {"fp32": 1e-4, "fp16": 5e-3, "int8": 5e-2}
"""By precision, how far a probability may lie from the one that the bundle says, which ONNX Runtime computed."""

_HEAD_OUTPUTS = ("text_projected", "text_unit", "cosine", "scaled", "logit", "sloped", "calibrated_logit", "probability")
_EIGHT_BITS = ("QuantizeLinear", "DequantizeLinear")
_BROADCAST = ("Add", "Div", "Max", "Min", "Mul", "Sub", "Where")

Arrays = Mapping[str, npt.NDArray[Any]]


def tensorrt_module() -> ModuleType:
    """`tensorrt` where it is installed, else `tensorrt_rtx`. Raises ConfigError where neither is."""
    for name in ("tensorrt", "tensorrt_rtx"):
        try:
            return import_module(name)
        except ImportError:
            continue
    raise ConfigError(
        "TensorRT is not installed: on a Jetson apt install python3-libnvinfer (JetPack), "
        "on an RTX card pip install tensorrt-rtx, elsewhere use the engine onnx"
    )


def recipe() -> str:
    """What a plan is built for beside the graph and the machine."""
    return f"{RECIPE}: batches {', '.join(map(str, BATCHES))}, up to {MOST_FINDINGS} findings"


def head_arrays(bundle: Bundle) -> dict[str, Samples]:
    """What a plan takes beside the windows: `head_weight` [findings, d] and `head_offset` [findings].

    probability = sigmoid(embedding @ head_weight.T + head_offset): the unit texts, the scale and bias of the
    matcher and the calibration, multiplied out. They are inputs and no weights of the plan, so that a bundle
    with other findings needs no other plan.
    """
    head = head_of(bundle)
    text = head.text.astype(np.float64) @ head.text_weight.astype(np.float64).T + head.text_bias
    unit = text / np.linalg.norm(text, axis=1, keepdims=True)
    weight = (head.slope * head.scale)[:, None] * unit
    offset = head.slope * head.bias + head.offset
    return {"head_weight": weight.astype(np.float32), "head_offset": offset.astype(np.float32)}


def graph_for_tensorrt(bundle: Bundle) -> bytes:
    """The very nodes that TensorRT gets, as an ONNX model that any engine runs: same inputs, same outputs.

    What older parsers unroll or refuse is written otherwise (a running sum as a pooling, a broadcast without
    its Expand), the head is reduced to its inputs, which have the bundle's own as default. Raises BundleError for a
    bundle that takes streams, has no head, or is quantised as processors want it.
    """
    if bundle.card.stride is not None:
        raise BundleError("TensorRT runs windows and this bundle takes streams; give the one that it was made from")
    model = onnx.load_model_from_string(bundle.onnx)
    _check_eight_bits(model.graph)
    del model.graph.value_info[:]  # shapes that exporters wrote, of the findings too: a baked bundle has others
    _give_head_as_input(model.graph, head_arrays(bundle))
    _pool_running_sums(model.graph)
    _leave_out_expands(model)
    _drop_unread(model.graph)
    del model.metadata_props[:]
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def without_head(graph: bytes) -> bytes:
    """That graph without the default of its head: what is parsed, and the same for every set of findings."""
    model = onnx.load_model_from_string(graph)
    _keep(model.graph.initializer, lambda i: i.name not in HEAD_INPUTS)
    output = next(o for o in model.graph.output if o.name == "probability")
    output.type.tensor_type.shape.dim[1].dim_param = "findings"
    return model.SerializeToString(deterministic=True)


def build_plan(bundle: Bundle, timings: Path | None = None) -> bytes:
    """A strongly typed engine plan for this machine's GPU, with a profile for each of `BATCHES`.

    `timings` is where TensorRT keeps what it measured, so that the next build is short; TensorRT-RTX has no use
    for it. Raises BundleError with all that TensorRT says against the bundle, ConfigError where it is absent.
    """
    trt = tensorrt_module()
    said: list[str] = []
    builder = trt.Builder(listener(trt, said))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, without_head(graph_for_tensorrt(bundle)), said)
    config = builder.create_builder_config()
    _set_flags(trt, config)
    for profile in _profiles(builder, bundle):
        config.add_optimization_profile(profile)
    timed = timings if trt.__name__ == "tensorrt" else None
    _recall_timings(config, timed)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BundleError(f"{trt.__name__} {trt.__version__} cannot build this bundle: {'; '.join(said) or 'it does not say why'}")
    _keep_timings(config, timed)
    return bytes(plan)


def _set_flags(trt: ModuleType, config: Any) -> None:
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 means float32: TF32 keeps ten bits
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # TensorRT-RTX: without it a run may allocate, and is not captured


def listener(trt: ModuleType, said: list[str]) -> Any:
    """A TensorRT logger that collects errors in `said`."""

    def log(_: object, severity: Any, text: str) -> None:
        if int(severity) <= int(trt.ILogger.Severity.ERROR):
            said.append(text)

    return type("Listener", (trt.ILogger,), {"log": log})()


def _parse(trt: ModuleType, network: Any, graph: bytes, said: list[str]) -> None:
    parser = trt.OnnxParser(network, listener(trt, said))
    if not parser.parse(graph):
        errors = [str(parser.get_error(at)) for at in range(parser.num_errors)] or said
        raise BundleError(f"the parser of {trt.__name__} {trt.__version__} refuses the bundle: {'; '.join(errors)}")


def _profiles(builder: Any, bundle: Bundle) -> Iterator[Any]:
    width = len(head_of(bundle).text_weight)
    for smallest, batch in zip((1, *(size + 1 for size in BATCHES)), BATCHES, strict=False):
        window = (len(LEADS), bundle.card.samples)
        profile = builder.create_optimization_profile()
        profile.set_shape("ecg", (smallest, *window), (batch, *window), (batch, *window))
        profile.set_shape("head_weight", (1, width), (32, width), (MOST_FINDINGS, width))
        profile.set_shape("head_offset", (1,), (32,), (MOST_FINDINGS,))
        yield profile


def _recall_timings(config: Any, path: Path | None) -> None:
    """A file of another TensorRT or GPU is begun anew, and one that cannot be read."""
    if path is None:
        return
    known = b""
    with told_not_raised("timings_unreadable", path):
        known = path.read_bytes() if path.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(known), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _keep_timings(config: Any, path: Path | None) -> None:
    if path is not None:
        with told_not_raised("timings_not_kept", path):
            replace_file(path, bytes(config.get_timing_cache().serialize()))


def _check_eight_bits(graph: onnx.GraphProto) -> None:
    arrays = _arrays(graph)
    zeros = [arrays[name] for node in graph.node if node.op_type in _EIGHT_BITS for name in node.input[2:] if name in arrays]
    if any(zero.dtype != np.int8 or zero.any() for zero in zeros):
        raise BundleError(
            "this int8 bundle was made for processors, and TensorRT wants another form: "
            "make one with `cardiogloss-kernels quantize --symmetric`, or use the engine onnx"
        )


def _give_head_as_input(graph: onnx.GraphProto, arrays: Mapping[str, Samples]) -> None:
    _keep(graph.node, lambda node: node.output[0] not in _HEAD_OUTPUTS)
    _keep(graph.initializer, lambda i: i.name not in Head.__slots__)
    weight, offset = arrays.values()
    for name, array, shape in zip(HEAD_INPUTS, (weight, offset), (["findings", weight.shape[1]], ["findings"]), strict=True):
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        graph.initializer.append(numpy_helper.from_array(array, name))
    graph.node.extend(
        [
            helper.make_node("Gemm", ["embedding", *HEAD_INPUTS], ["calibrated_logit"], "head", transB=1),
            helper.make_node("Sigmoid", ["calibrated_logit"], ["probability"], "sigmoid"),
        ]
    )


def _pool_running_sums(graph: onnx.GraphProto) -> None:
    """Parsers before TensorRT 10.4 unroll a CumSum into a loop of as many steps as there are samples."""
    made_by = {name: node for node in graph.node for name in node.output}
    arrays = _arrays(graph)
    nodes = [new for node in graph.node for new in (_as_pooling(graph, node, made_by, arrays) or [node])]
    del graph.node[:]
    graph.node.extend(nodes)


def _as_pooling(
    graph: onnx.GraphProto, node: onnx.NodeProto, made_by: Mapping[str, onnx.NodeProto], arrays: Arrays
) -> list[onnx.NodeProto]:
    """A difference of one running sum from itself `width` before, as `width` times a mean; nothing where it is none."""
    chain = _difference_of_running_sum(node, made_by)
    if chain is None:
        return []
    later, earlier, padded = chain
    width, pads = int(arrays[later.input[1]][0]), arrays[padded.input[1]].tolist()
    if int(arrays[earlier.input[2]][0]) != -width or len(pads) != 6 or pads[2] < 1 or any(pads[:2] + pads[3:5]):
        return []
    mean, factor = f"{node.output[0]}_mean", f"{node.output[0]}_width"
    graph.initializer.append(numpy_helper.from_array(np.float32(width), factor))
    pooling = {"kernel_shape": [width], "pads": [pads[2] - 1, pads[5]], "count_include_pad": 1}
    return [
        helper.make_node("AveragePool", [padded.input[0]], [mean], mean, **pooling),
        helper.make_node("Mul", [mean, factor], [node.output[0]], node.name),
    ]


def _difference_of_running_sum(
    node: onnx.NodeProto, made_by: Mapping[str, onnx.NodeProto]
) -> tuple[onnx.NodeProto, onnx.NodeProto, onnx.NodeProto] | None:
    """The two Slices and the Pad of Sub(Slice(s), Slice(s)) where s = CumSum(Pad)."""
    if node.op_type != "Sub":
        return None
    later, earlier = (made_by.get(name) for name in node.input)
    if later is None or earlier is None or {later.op_type, earlier.op_type} != {"Slice"} or later.input[0] != earlier.input[0]:
        return None
    running = made_by.get(later.input[0])
    padded = made_by.get(running.input[0]) if running is not None and running.op_type == "CumSum" else None
    return (later, earlier, padded) if padded is not None and padded.op_type == "Pad" else None


def _leave_out_expands(model: onnx.ModelProto) -> None:
    """What reads an Expand stretches its inputs to each other by itself, where another of them has that shape already."""
    shapes = _shapes(model)
    for expand in [node for node in model.graph.node if node.op_type == "Expand"]:
        name = expand.output[0]
        readers = [node for node in model.graph.node if name in node.input]
        if name in shapes and all(_has_shape_without(node, name, shapes) for node in readers):
            _rename_inputs(readers, name, expand.input[0])


def _has_shape_without(node: onnx.NodeProto, name: str, shapes: Mapping[str, list[object]]) -> bool:
    return node.op_type in _BROADCAST and any(other != name and shapes.get(other) == shapes[name] for other in node.input)


def _rename_inputs(nodes: Iterable[onnx.NodeProto], before: str, after: str) -> None:
    for node in nodes:
        renamed = [after if name == before else name for name in node.input]
        del node.input[:]
        node.input.extend(renamed)


def _shapes(model: onnx.ModelProto) -> dict[str, list[object]]:
    """Of every tensor of which it is known: numbers, and names of free axes."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    known = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.input, *graph.value_info]}
    return {name: shape for name, shape in known.items() if all(shape)}


def _arrays(graph: onnx.GraphProto) -> Arrays:
    return {i.name: numpy_helper.to_array(i) for i in graph.initializer}


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {output.name for output in graph.output}
    for node in reversed(graph.node):
        read.update(node.input if not read.isdisjoint(node.output) else ())
    _keep(graph.node, lambda node: not read.isdisjoint(node.output))
    _keep(graph.initializer, lambda i: i.name in read)


def _keep(items: Any, wanted: Any) -> None:
    kept = [item for item in items if wanted(item)]
    del items[:]
    items.extend(kept)
