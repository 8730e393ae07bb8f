"""A bundle, a tree like /sys and this machine in; multiply-adds of the first, joules of the second and the peak of the third out."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from .bundle import Bundle
from .signal import LEADS

_WEIGHTS = {
    "Conv": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3,
    "Gemm": 1, "FusedGemm": 1, "QGemm": 3,
    "MatMul": 1, "FusedMatMul": 1, "MatMulInteger": 1, "MatMulIntegerToFloat": 1, "DynamicQuantizeMatMul": 1, "QLinearMatMul": 3,
}  # fmt: skip
"""Operators that multiply and add, and which of their inputs holds the weights (ONNX, and ONNX Runtime's own)."""
_INTEGER = {"ConvInteger", "QLinearConv", "QGemm", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul"}

_SIZES = (512, 1024, 1536)
"""Of the square matrices: one of them fits the caches of any machine best."""
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_BOARD_RAILS = {"VDD_IN", "POM_5V_IN"}
"""On a Jetson that has one of these, it feeds the others."""


@dataclass(frozen=True, slots=True)
class Peak:
    """The most multiply-adds a second that large matrix products reached, in 1e9, each counted as two operations."""

    fp32_gflops: float
    int8_gops: float

    def or_more(self, other: Peak) -> Peak:
        """The better of two measurements: a machine that is busy with other things only ever shows less."""
        return Peak(max(self.fp32_gflops, other.fp32_gflops), max(self.int8_gops, other.int8_gops))


@dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-adds: in floating point, and in whole numbers of eight bits."""

    floating: float = 0.0
    integer: float = 0.0

    def __add__(self, other: Macs) -> Macs:
        return Macs(self.floating + other.floating, self.integer + other.integer)

    def __mul__(self, times: float) -> Macs:
        return Macs(self.floating * times, self.integer * times)

    @property
    def total(self) -> float:
        return self.floating + self.integer

    def least_s(self, peak: Peak) -> float:
        """How long they take a machine at its peak: the one after the other, each kind at its own."""
        return 2e-9 * (self.floating / peak.fp32_gflops + self.integer / peak.int8_gops)


def count_macs(bundle: Bundle, samples: int | None = None) -> Macs:
    """Of one window, or of one step of a stream that takes so many samples.

    Convolutions and matrix products count; what depends on no input does not, as every engine computes it
    once. Shapes are those that ONNX Runtime finds in one run over zeros.
    """
    model = onnx.load_model_from_string(bundle.onnx)
    nodes = list(_multiplying(model.graph))
    shapes = _shapes(model, nodes, samples or bundle.card.samples)
    made_by = {name: node.op_type for node in model.graph.node for name in node.output}
    return sum((_macs_of(node, shapes, made_by) for node in nodes), Macs())


def hop_sizes(hop: int, stride: int) -> list[int]:
    """How many samples a stream may be given at each hop of `hop` samples, in multiples of `stride`, until that repeats."""
    ends = [k * hop // stride * stride for k in range(stride // math.gcd(hop, stride) + 1)]
    return [end - begin for begin, end in pairwise(ends) if end > begin]


def count_hop(bundle: Bundle, hop: int) -> Macs:
    """Of a stream, for each hop of so many samples, in the mean."""
    stride = bundle.card.stride
    assert stride is not None
    sizes = hop_sizes(hop, stride)
    counted = {size: count_macs(bundle, size) for size in set(sizes)}
    return sum((counted[size] for size in sizes), Macs()) * (hop / sum(sizes))


def _multiplying(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Those that depend on what goes in."""
    fed = {i.name for i in graph.input} - {i.name for i in graph.initializer}
    for node in graph.node:
        if not fed.isdisjoint(node.input):
            fed.update(node.output)
            if node.op_type in _WEIGHTS:
                yield node


def _shapes(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], samples: int) -> Mapping[str, tuple[int, ...]]:
    """Of the initializers, and of what comes out of these nodes and goes into them as weights, in a batch of one."""
    known = {i.name: tuple(i.dims) for i in model.graph.initializer}
    wanted = {name for node in nodes for name in (node.output[0], node.input[_WEIGHTS[node.op_type]])} - known.keys()
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    zeros = {i.name: np.zeros(_one_of(i.name, i.shape, samples), np.float32) for i in session.get_inputs()}
    return known | {name: value.shape for name, value in zip(sorted(wanted), session.run(sorted(wanted), zeros), strict=True)}


def _one_of(name: str, shape: Sequence[int | str], samples: int) -> tuple[int, ...]:
    if name == "ecg":
        return (1, len(LEADS), samples)
    return (1, *(int(size) for size in shape[1:]))


def _macs_of(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]], made_by: Mapping[str, str]) -> Macs:
    at = _WEIGHTS[node.op_type]
    count = float(math.prod(shapes[node.output[0]]) * _products_each(node, shapes[node.input[at]]))
    dequantised = all(made_by.get(name) == "DequantizeLinear" for name in (node.input[0], node.input[at]))
    return Macs(integer=count) if node.op_type in _INTEGER or dequantised else Macs(floating=count)


def _products_each(node: onnx.NodeProto, weight: tuple[int, ...]) -> int:
    """How many products each number that comes out is the sum of."""
    if "Conv" in node.op_type:
        return math.prod(weight[1:])
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return weight[-1] if transposed or len(weight) == 1 else weight[-2]


def measure_peak(threads: int = 1, seconds: float = 1.0) -> Peak:
    """Of this many threads, in a process of its own, where BLAS can still be told how many there are."""
    environment = os.environ | dict.fromkeys(_ONE_THREAD, str(threads))
    command = [sys.executable, "-m", "kernels.peak", str(threads), str(seconds)]
    told = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout
    return Peak(**json.loads(told))


def best_products(threads: int, seconds: float) -> Peak:
    """Half of the time for float32 by NumPy, half for u8 by s8 with ONNX Runtime's MatMulInteger, over all sizes."""
    share_s = seconds / (2 * len(_SIZES))
    return Peak(
        fp32_gflops=max(_rate(size, _float_product(size), share_s) for size in _SIZES),
        int8_gops=max(_rate(size, _integer_product(size, threads), share_s) for size in _SIZES),
    )


def _rate(size: int, product: Callable[[], object], seconds: float) -> float:
    """In 1e9 operations a second; the best of as many products as the time allows."""
    product()
    best_s, end_s = math.inf, time.perf_counter() + seconds
    while best_s == math.inf or time.perf_counter() < end_s:
        begun_s = time.perf_counter()
        product()
        best_s = min(best_s, time.perf_counter() - begun_s)
    return 2e-9 * size**3 / best_s


def _float_product(size: int) -> Callable[[], object]:
    a, b = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
    out = np.empty_like(a)
    return lambda: np.matmul(a, b, out=out)


def _integer_product(size: int, threads: int) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.integers(-127, 128, (size, size), np.int8), "b")
    tensor = helper.make_tensor_value_info
    ends = [tensor("a", TensorProto.UINT8, [size, size])], [tensor("c", TensorProto.INT32, [size, size])]
    graph = helper.make_graph([helper.make_node("MatMulInteger", ["a", "b"], ["c"])], "peak", *ends, [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fed = {"a": rng.integers(0, 256, (size, size), np.uint8)}
    return lambda: session.run(None, fed)


class Meter(Protocol):
    """Tells the energy between two moments, of all that runs on the machine."""

    name: str

    def begin(self) -> None:
        """Of a stretch of work."""

    def end(self, seconds: float) -> float:
        """The joules since `begin`, so many seconds ago."""


def find_meter(sys_tree: Path = Path("/sys")) -> Meter | None:
    """RAPL's counters of the processor packages (Intel and AMD), or a Jetson's INA3221; None where neither may be read."""
    packages = sorted(sys_tree.glob("class/powercap/intel-rapl*:*/energy_uj"))
    zones = [energy.parent for energy in packages if _is_package(energy)]
    inputs = sorted(sys_tree.glob("bus/i2c/drivers/ina3221/*/hwmon/*/in[123]_input"))
    rails = [voltage for voltage in inputs if _current_of(voltage).exists()]
    boards = [voltage for voltage in rails if _label(voltage) in _BOARD_RAILS]
    return _readable(_Counters, zones) or _readable(_Rails, boards or rails)


def _is_package(energy: Path) -> bool:
    """Not a part of one, not the platform around it, and not the same package told a second time over memory."""
    zone = energy.parent
    return bool(re.fullmatch(r"intel-rapl:\d+", zone.name)) and (zone / "name").read_text().startswith("package")


def _current_of(voltage: Path) -> Path:
    return voltage.with_name(voltage.name.replace("in", "curr", 1))


def _label(voltage: Path) -> str:
    label = voltage.with_name(voltage.name.replace("_input", "_label"))
    return label.read_text().strip() if label.exists() else ""


def _readable(kind: Callable[[list[Path]], Meter], files: list[Path]) -> Meter | None:
    """Since Linux 5.10 only root may read RAPL's counters."""
    if not files:
        return None
    try:
        meter = kind(files)
        meter.begin()
        meter.end(0.0)
    except OSError:
        return None
    return meter


class _Counters:
    """Microjoules, each counting from zero again after its range (Linux, Documentation/power/powercap)."""

    name = "RAPL, whole packages"

    def __init__(self, zones: list[Path]) -> None:
        self._files = [zone / "energy_uj" for zone in zones]
        self._ranges = [_number(zone / "max_energy_range_uj") for zone in zones]
        self._begun: list[int] = []

    def begin(self) -> None:
        self._begun = [_number(file) for file in self._files]

    def end(self, seconds: float) -> float:
        used = (_number(f) - b for f, b in zip(self._files, self._begun, strict=True))
        return 1e-6 * sum(u + r if u < 0 else u for u, r in zip(used, self._ranges, strict=True))


class _Rails:
    """Millivolts times milliamperes of each rail, the mean of the first moment and the last (Linux, Documentation/hwmon/ina3221)."""

    name = "INA3221"

    def __init__(self, voltages: list[Path]) -> None:
        self._pairs = [(voltage, _current_of(voltage)) for voltage in voltages]
        self._begun_w = 0.0

    def begin(self) -> None:
        self._begun_w = self._power_w()

    def end(self, seconds: float) -> float:
        return (self._begun_w + self._power_w()) / 2 * seconds

    def _power_w(self) -> float:
        return sum(1e-6 * _number(voltage) * _number(current) for voltage, current in self._pairs)


def _number(file: Path) -> int:
    return int(file.read_text())


def _main(threads: str, seconds: str) -> None:
    told: dict[str, Any] = asdict(best_products(int(threads), float(seconds)))
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
