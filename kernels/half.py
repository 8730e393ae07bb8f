"""A float32 bundle in; the same bundle with its encoder in float16 out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from .bundle import Bundle, BundleError
from .export import seal_model

_MULTIPLY = ("Conv", "Gemm", "MatMul")
_NOT_OF_THE_INPUT_TYPE = ("Shape", "Size", "IsNaN", "Cast", "ArgMax")


def to_half(bundle: Bundle) -> Bundle:
    """The same model with float16 weights and arithmetic from the first convolution to the projection, `precision` fp16.

    The front end, the head, what goes in and what comes out stay float32. Every border is a Cast, so that a
    strongly typed network can be built from it. Its golden answers are its own. Raises BundleError for a
    bundle that is not float32, takes streams, has no convolution, or has a weight beyond float16.
    """
    if bundle.card.precision != "fp32" or bundle.card.stride is not None:
        what = "takes streams" if bundle.card.stride else f"is {bundle.card.precision} already"
        raise BundleError(f"this bundle {what}; float16 is made from the fp32 bundle of windows")
    model = onnx.load_model_from_string(bundle.onnx)
    _Halving(model).rewrite()
    return seal_model(model, bundle.card.model_copy(update={"precision": "fp16", "derived_from": bundle.card.sha256}))


class _Halving:
    """One pass over the nodes of a graph, which stand in the order in which they run."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self._arrays = {i.name: i for i in model.graph.initializer}
        self._floats = _float_tensors(model)
        self._halves: set[str] = set()
        self._made: set[str] = set()

    def rewrite(self) -> None:
        last = _last_of_encoder(self._graph)
        nodes = [made for at, node in enumerate(self._graph.node) for made in self._rewritten(node, at <= last)]
        if not self._halves:
            raise BundleError("its encoder has no convolution to put into float16; export it again")
        del self._graph.node[:], self._graph.value_info[:]
        self._graph.node.extend(nodes)
        self._drop_unread_arrays()

    def _rewritten(self, node: onnx.NodeProto, of_encoder: bool) -> Iterator[onnx.NodeProto]:
        """The node in its new type, behind the casts that it needs."""
        halved = of_encoder and (node.op_type == "Conv" or not self._halves.isdisjoint(node.input))
        wrong = self._floats - self._halves if halved else self._halves
        for at, name in enumerate(node.input):
            if name in wrong:
                node.input[at] = f"{name}_{'half' if halved else 'float'}"
                yield from self._cast(name, node.input[at], TensorProto.FLOAT16 if halved else TensorProto.FLOAT)
        if halved and node.op_type not in _NOT_OF_THE_INPUT_TYPE:
            self._halves.update(node.output)
        yield node

    def _cast(self, name: str, to: str, kind: int) -> Iterator[onnx.NodeProto]:
        if to in self._made:
            return
        self._made.add(to)
        if name in self._arrays:
            self._graph.initializer.append(numpy_helper.from_array(_halved(numpy_helper.to_array(self._arrays[name]), name), to))
        else:
            yield helper.make_node("Cast", [name], [to], f"cast_{to}", to=kind)

    def _drop_unread_arrays(self) -> None:
        read = {name for node in self._graph.node for name in node.input}
        kept = [i for i in self._graph.initializer if i.name in read]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)


def _halved(array: npt.NDArray[Any], name: str) -> npt.NDArray[np.float16]:
    worst = np.abs(array[np.isfinite(array)]).max(initial=0.0)
    if worst > np.finfo(np.float16).max:
        raise BundleError(f"its weight {name} of {worst:.3g} does not fit float16; use float32")
    return array.astype(np.float16)


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Names of all that is float32."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.input, *graph.output, *graph.value_info]
    arrays = {i.name for i in graph.initializer if i.data_type == TensorProto.FLOAT}
    return arrays | {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}


def _last_of_encoder(graph: onnx.GraphProto) -> int:
    """The index of the projection: the last node to multiply by weights before the embedding."""
    wanted, last = {"embedding"}, -1
    for at in reversed(range(len(graph.node))):
        node = graph.node[at]
        if wanted.isdisjoint(node.output):
            continue
        if node.op_type in _MULTIPLY:
            return at
        wanted.update(node.input)
    return last
