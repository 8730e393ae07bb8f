"""Windows in; probabilities out, by PyTorch, which executes the bundle's graph operator by operator, or compiles it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from .bundle import Bundle, BundleError, golden_windows
from .engine import Engine, Result, check_shape
from .findings import ConfigError
from .signal import Samples

try:
    import onnx
    import torch
    from onnx import helper, numpy_helper
    from torch import Tensor

    from .torch_operators import OPERATORS, Value
except ModuleNotFoundError as error:
    raise ConfigError(f"engine 'torch' needs {error.name}: pip install 'cardiogloss[text]', or take --engine onnx") from error

_OUTPUTS = ("probability", "embedding")

_Call = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True)
class _Step:
    """One node of the graph with its attributes bound."""

    function: Callable[..., Value]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    last_read: tuple[str, ...] = ()
    """What no later step reads: it is dropped, as the memory of a large batch costs time too."""

    def execute(self, values: dict[str, Value]) -> None:
        answer = self.function(*[values[name] for name in self.inputs])
        if len(self.outputs) == 1:
            values[self.outputs[0]] = answer
        else:
            values.update(zip(self.outputs, answer, strict=True))
        for name in self.last_read:
            del values[name]


class TorchEngine(Engine):
    """A bundle in PyTorch, on `cpu` or `cuda`.

    Windows run one by one, since PyTorch takes other algorithms for a batch, with other bits; `together` runs them as
    they come, for the baseline of a benchmark. `compiled` hands the graph to `torch.compile`, which takes up to a
    minute. On `cuda` each call is one CUDA graph. Raises ConfigError without such a device or compiler, BundleError
    for operators it does not know.
    """

    def __init__(self, bundle: Bundle, threads: int = 1, compiled: bool = False, device: str = "cpu", together: bool = False) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("engine 'torch' finds no CUDA device; take device cpu")
        self.bundle = bundle
        self._threads = threads
        self._together = together
        self._device = torch.device(device)
        self._constants, self._steps = _prepare(onnx.load_model_from_string(bundle.onnx), self._device)
        self._call: _Call = torch.compile(self._execute, dynamic=False) if compiled else self._execute
        self._recorded: dict[int, _Call] = {}
        self._widths = self._warm_up()

    def run(self, ecg: Samples) -> Result:
        check_shape(self.bundle, ecg)
        ecg = np.require(ecg, np.float32, ["C", "W"])
        result = Result(*(np.empty((len(ecg), width), np.float32) for width in self._widths))
        step = max(len(ecg), 1) if self._together else 1
        with _settings(self._threads, self._device):
            for start in range(0, len(ecg), step):
                rows = slice(start, start + step)
                answers = self._answer(torch.from_numpy(ecg[rows]).to(self._device))
                result.probability[rows], result.embedding[rows] = (answer.cpu().numpy() for answer in answers)
        return result

    def close(self) -> None:
        del self._call
        self._recorded.clear()

    def _answer(self, ecg: Tensor) -> tuple[Tensor, ...]:
        if self._device.type != "cuda":
            return self._call(ecg)
        if len(ecg) not in self._recorded:
            self._recorded[len(ecg)] = _record(self._call, ecg)
        return self._recorded[len(ecg)](ecg)

    def _execute(self, ecg: Tensor) -> tuple[Tensor, ...]:
        values = {**self._constants, "ecg": ecg}
        for step in self._steps:
            step.execute(values)
        return tuple(values[name] for name in _OUTPUTS)

    def _warm_up(self) -> list[int]:
        """The widths of the outputs."""
        ecg = torch.from_numpy(golden_windows(self.bundle.card.samples)[:1]).to(self._device)
        try:
            with _settings(self._threads, self._device):
                return [answer.shape[1] for answer in self._answer(ecg)]
        except torch._dynamo.exc.BackendCompilerFailed as error:
            raise ConfigError(f"torch.compile cannot work here: {str(error).splitlines()[0]}; take it uncompiled") from error
        except RuntimeError as error:
            raise BundleError(f"torch refuses the bundle: {str(error).splitlines()[0]}") from error


def open_bundle(bundle: Bundle, threads: int) -> TorchEngine:
    """What `open_engine` calls."""
    return TorchEngine(bundle, threads)


@contextmanager
def _settings(threads: int, device: torch.device) -> Iterator[None]:
    """Without gradients, and on a GPU without rounded float32; the number of threads is the whole process's, and given back."""
    before = torch.get_num_threads()
    exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False) if device.type == "cuda" else nullcontext()
    if threads != before:
        torch.set_num_threads(threads)
    try:
        with torch.inference_mode(), exact:
            yield
    finally:
        if threads != before:
            torch.set_num_threads(before)


def _record(call: _Call, ecg: Tensor) -> _Call:
    """The call as a CUDA graph, launched as one; on a stream of its own it is first run until its libraries have settled."""
    inside = ecg.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call(inside)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answers = call(inside)

    def replay(ecg: Tensor) -> tuple[Tensor, ...]:
        inside.copy_(ecg)
        graph.replay()
        return answers

    return replay


def _prepare(model: onnx.ModelProto, device: torch.device) -> tuple[dict[str, Value], list[_Step]]:
    """Everything that does not depend on the input, computed, and the steps that do."""
    constants: dict[str, Value] = {"": None}
    constants |= {i.name: _constant(numpy_helper.to_array(i), device) for i in model.graph.initializer}
    steps = []
    with torch.inference_mode():
        for step in (_bind(node, device) for node in model.graph.node):
            if set(step.inputs) <= constants.keys():
                step.execute(constants)
            else:
                steps.append(step)
    needed = {name for step in steps for name in step.inputs}
    return {name: value for name, value in constants.items() if name in needed}, _with_last_reads(steps, {*constants, *_OUTPUTS})


def _with_last_reads(steps: Sequence[_Step], kept: set[str]) -> list[_Step]:
    """The steps, each with what it is the last to read, of what need not be `kept`."""
    last = {name: number for number, step in enumerate(steps) for name in step.inputs if name not in kept}
    read: dict[int, list[str]] = {}
    for name, number in last.items():
        read.setdefault(number, []).append(name)
    return [replace(step, last_read=tuple(read.get(number, ()))) for number, step in enumerate(steps)]


def _bind(node: onnx.NodeProto, device: torch.device) -> _Step:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Constant" and "value" in attributes:
        value = _constant(numpy_helper.to_array(attributes["value"]), device)
        return _Step(lambda: value, (), tuple(node.output))
    if node.op_type not in OPERATORS:
        raise BundleError(f"engine 'torch' does not know the operator {node.op_type}; take --engine onnx")
    function = OPERATORS[node.op_type]
    return _Step(partial(function, **attributes) if attributes else function, tuple(node.input), tuple(node.output))


def _constant(array: np.ndarray[Any, Any], device: torch.device) -> Value:
    if array.dtype == np.int64:
        return tuple(array.tolist()) if array.ndim else int(array)
    return torch.tensor(array, device=device)
