"""The graph of an encoder that never looks ahead in; its layers, with their norms folded in, out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from .bundle import BundleError
from .signal import LEADS, STRIDE, Samples

Array = np.ndarray[Any, Any]

_OTHER_SHAPE = "its encoder has another shape than cardiogloss trains for streams; train one by the recipe `stream`"


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution whose outputs end with the last of the `stride` samples that each stands for."""

    weight: Samples
    """[outputs, inputs, kernel]"""
    bias: Samples
    stride: int

    @property
    def past(self) -> int:
        """Positions before the new ones that it looks at."""
        return self.weight.shape[2] - self.stride

    @property
    def rows(self) -> Samples:
        """[kernel * inputs, outputs], for the positions of a kernel laid side by side."""
        return self.weight.transpose(2, 1, 0).reshape(-1, len(self.weight))


@dataclass(frozen=True, slots=True)
class Block:
    """Two convolutions, and what goes around them."""

    first: Layer
    second: Layer
    shortcut: Layer | None


@dataclass(frozen=True, slots=True)
class Network:
    """The weights of an encoder, its norms folded in."""

    stem: Layer
    leads: Samples
    """[outputs, 12]: what the presence of each lead adds to the stem."""
    blocks: tuple[Block, ...]
    project: Samples
    """[d, features]"""
    project_bias: Samples


def read_network(model: onnx.ModelProto) -> Network:
    """Raises BundleError for an encoder of another shape than cardiogloss trains for streams."""
    try:
        network = _read_network(model)
    except (KeyError, IndexError, ValueError) as error:
        raise BundleError(_OTHER_SHAPE) from error
    if not _fits(network):
        raise BundleError(_OTHER_SHAPE)
    return network


def _read_network(model: onnx.ModelProto) -> Network:
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    convolutions = [_layer(node, arrays) for node in model.graph.node if node.op_type == "Conv"]
    norms = [[arrays[name] for name in node.input[1:5]] for node in model.graph.node if node.op_type == "BatchNormalization"]
    projections = [
        [arrays[name] for name in node.input[1:]]
        for node in model.graph.node
        if node.op_type == "Gemm" and node.input[0] not in arrays and node.input[1] in arrays
    ]
    if len(norms) != 1 or len(convolutions) < 4 or convolutions[1].weight.shape[2] != 1 or not projections:
        raise BundleError(_OTHER_SHAPE)
    stem, leads = convolutions[0], convolutions[1]
    scale, shift, mean, variance = norms[0]
    gain = scale / np.sqrt(variance + 1e-5)
    bias = (stem.bias + leads.bias - mean) * gain + shift
    return Network(
        stem=Layer(stem.weight * gain[:, None, None], bias.astype(np.float32), stem.stride),
        leads=leads.weight[:, :, 0] * gain[:, None],
        blocks=tuple(_blocks(convolutions[2:])),
        project=projections[0][0],
        project_bias=projections[0][1],
    )


def _layer(node: onnx.NodeProto, arrays: Mapping[str, Array]) -> Layer:
    weight = arrays[node.input[1]]
    bias = arrays[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)
    return Layer(weight, bias, next((a.ints[0] for a in node.attribute if a.name == "strides"), 1))


def _blocks(layers: Sequence[Layer]) -> Iterator[Block]:
    rest = list(layers)
    while rest:
        first, second = rest.pop(0), rest.pop(0)
        yield Block(first, second, rest.pop(0) if rest and rest[0].weight.shape[2] == 1 else None)


def _fits(network: Network) -> bool:
    """Whether each layer takes what the one before it gives, and all together halve as often as a stream needs."""
    stem, width = network.stem, len(network.stem.weight)
    for block in network.blocks:
        if not _is_block(block, width):
            return False
        width = len(block.second.weight)
    starts_so = (stem.weight.shape[1], stem.stride, *network.leads.shape) == (len(LEADS), 2, len(stem.weight), len(LEADS))
    halves_so = 4 * math.prod(block.first.stride for block in network.blocks) == STRIDE
    return starts_so and halves_so and stem.past > 0 and network.project.shape == (len(network.project_bias), 2 * width)


def _is_block(block: Block, inputs: int) -> bool:
    first, second, shortcut = block.first, block.second, block.shortcut
    if (first.weight.shape[1], second.weight.shape[1], second.stride) != (inputs, len(first.weight), 1):
        return False
    if first.past <= 0 or second.past <= 0:
        return False
    if shortcut is None:
        return first.stride == 1 and len(second.weight) == inputs
    return first.stride == shortcut.stride == 2 and shortcut.weight.shape == (len(second.weight), inputs, 1)
