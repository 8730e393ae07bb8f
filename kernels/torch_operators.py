"""The name of an ONNX operator in; what computes it in PyTorch out."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .bundle import BundleError

Numbers = tuple[int, ...]
Value = Any
"""A tensor; or the whole numbers of a shape or of axes, as a tuple or an int, so that no tensor has to be read back for them."""


def _begin_and_end(pads: Sequence[int]) -> list[int]:
    """ONNX's begins, then ends, first axis first -> pairs, last axis first, as torch wants them."""
    axes = len(pads) // 2
    return [pads[axis + end * axes] for axis in reversed(range(axes)) for end in (0, 1)]


def _pad(x: Tensor, pads: Numbers, value: Tensor | None = None, axes: Numbers | None = None, mode: bytes = b"constant") -> Tensor:
    if mode != b"constant":
        raise BundleError("engine 'torch' pads with constants only; take --engine onnx")
    if axes is not None:
        given = dict(zip((axis % x.ndim for axis in axes), zip(pads[: len(axes)], pads[len(axes) :], strict=True), strict=True))
        pads = tuple(given.get(axis, (0, 0))[end] for end in (0, 1) for axis in range(x.ndim))
    return F.pad(x, _begin_and_end(pads), value=None if value is None else value.item())


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    pads: Sequence[int] = (),
    strides: Any = 1,
    dilations: Any = 1,
    group: int = 1,
    **_: Any,
) -> Tensor:
    axes = x.ndim - 2
    pads = pads or (0,) * 2 * axes
    convolve = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    if pads[:axes] != pads[axes:]:
        x, pads = F.pad(x, _begin_and_end(pads)), (0,) * 2 * axes
    return convolve(x, weight, bias, strides, tuple(pads[:axes]), dilations, group)


def _max_pool(
    x: Tensor, *, kernel_shape: Sequence[int], pads: Sequence[int] = (), strides: Any = 1, dilations: Any = 1, **_: Any
) -> Tensor:
    axes = x.ndim - 2
    pool: Callable[..., Tensor] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1]
    if pads[:axes] != pads[axes:]:
        x, pads = F.pad(x, _begin_and_end(pads), value=-torch.inf), ()
    return pool(x, kernel_shape, strides, pads[:axes] or 0, dilations)


def _gemm(
    a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0
) -> Tensor:
    a, b = a.T if transA else a, b.T if transB else b
    return alpha * (a @ b) if c is None else torch.addmm(c, a, b, beta=beta, alpha=alpha)


def _batch_norm(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float = 1e-5, **_: Any) -> Tensor:
    return F.batch_norm(x, mean, variance, scale, bias, eps=epsilon)


def _slice(x: Value, starts: Numbers, ends: Numbers, axes: Numbers | None = None, steps: Numbers | None = None) -> Value:
    cuts = [slice(*cut) for cut in zip(starts, ends, steps or (1,) * len(starts), strict=True)]
    if isinstance(x, tuple):
        return x[cuts[0]]
    along = [slice(None)] * x.ndim
    for axis, cut in zip(axes or range(len(cuts)), cuts, strict=True):
        along[axis] = cut
    return x[tuple(along)]


def _reduce(
    function: Callable[..., Tensor], x: Tensor, axes: Sequence[int] | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    if not axes and noop_with_empty_axes:
        return x
    return function(x, dim=tuple(axes or range(x.ndim)), keepdim=bool(keepdims))


def _concat(*parts: Value, axis: int) -> Value:
    return sum(parts, ()) if isinstance(parts[0], tuple) else torch.cat(parts, dim=axis)


def _split(x: Tensor, sizes: Numbers | None = None, *, axis: int = 0, num_outputs: int = 1) -> tuple[Tensor, ...]:
    return tuple(x.split(sizes or -(-x.shape[axis] // num_outputs), dim=axis))


def _unsqueeze(x: Value, axes: Numbers) -> Value:
    if isinstance(x, int):
        return (x,)
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(x: Value, axes: Numbers | None = None) -> Value:
    if isinstance(x, tuple):
        return x[0]
    return x.squeeze() if axes is None else x.squeeze(axes)


def _gather(x: Value, index: Value, *, axis: int = 0) -> Value:
    if isinstance(x, tuple):
        return x[index] if isinstance(index, int) else tuple(x[i] for i in index)
    chosen = x.index_select(axis, torch.tensor(index, device=x.device).reshape(-1))
    return chosen.squeeze(axis) if isinstance(index, int) else chosen


def _reshape(x: Tensor, shape: Numbers, *, allowzero: int = 0) -> Tensor:
    return x.reshape([x.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(shape)])


def _along(parameter: Tensor, x: Tensor, axis: int) -> Tensor:
    """A scale or zero point a slice of `x`, shaped so that it spreads."""
    return parameter if parameter.ndim == 0 else parameter.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])


def _quantize(x: Tensor, scale: Tensor, zero: Tensor, *, axis: int = 1, **_: Any) -> Tensor:
    limits = torch.iinfo(zero.dtype)
    rounded = torch.round(x / _along(scale, x, axis)) + _along(zero, x, axis)
    return rounded.clamp(limits.min, limits.max).to(zero.dtype)


def _dequantize(x: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1, **_: Any) -> Tensor:
    centred = x.to(torch.int32) if zero is None else x.to(torch.int32) - _along(zero.to(torch.int32), x, axis)
    return centred * _along(scale, x, axis)


def _cast(x: Value, *, to: int, **_: Any) -> Value:
    if to not in _DTYPES:
        raise BundleError(f"engine 'torch' does not know the type {to} to cast to; take --engine onnx")
    return x.to(_DTYPES[to]) if isinstance(x, torch.Tensor) else x


def _cumsum(x: Tensor, axis: int, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    if exclusive or reverse:
        raise BundleError("engine 'torch' knows only the plain CumSum; take --engine onnx")
    return x.cumsum(axis)


_DTYPES = {
    1: torch.float32,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
}
"""By the number that ONNX gives each (TensorProto.DataType)."""

OPERATORS: Mapping[str, Callable[..., Value]] = {
    "Add": operator.add,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": torch.clamp,
    "Concat": _concat,
    "Conv": _conv,
    "CumSum": _cumsum,
    "DequantizeLinear": _dequantize,
    "Div": operator.truediv,
    "Expand": lambda x, shape: x.expand(torch.broadcast_shapes(x.shape, shape)),
    "Gather": _gather,
    "Gemm": _gemm,
    "Identity": lambda x: x,
    "IsNaN": torch.isnan,
    "LpNormalization": lambda x, axis=-1, p=2: F.normalize(x, p=p, dim=axis, eps=0.0),
    "MatMul": torch.matmul,
    "Max": lambda *x: reduce(torch.maximum, x),
    "MaxPool": _max_pool,
    "Min": lambda *x: reduce(torch.minimum, x),
    "Mul": operator.mul,
    "Pad": _pad,
    "QuantizeLinear": _quantize,
    "ReduceL2": partial(_reduce, torch.linalg.vector_norm),
    "ReduceMax": partial(_reduce, torch.amax),
    "ReduceMean": partial(_reduce, torch.mean),
    "ReduceSum": partial(_reduce, torch.sum),
    "Relu": F.relu,
    "Reshape": _reshape,
    "Shape": lambda x, start=0, end=None: tuple(x.shape[start:end]),
    "Sigmoid": torch.sigmoid,
    "Slice": _slice,
    "Split": _split,
    "Sqrt": torch.sqrt,
    "Squeeze": _squeeze,
    "Sub": operator.sub,
    "Transpose": lambda x, perm=None: x.permute(*(perm or reversed(range(x.ndim)))),
    "Unsqueeze": _unsqueeze,
    "Where": torch.where,
}
"""Inputs are positional, attributes are keywords."""
