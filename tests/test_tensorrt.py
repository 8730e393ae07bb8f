"""TensorRT: the graph that it gets equals the bundle, the real parser and builder take it, and plans are kept, known again and run.

Where TensorRT is absent, what needs its parser or builder is skipped. A GPU is nowhere: the plan's execution alone is stood in for,
by ONNX Runtime over the same graph, behind a device whose work is done when it is waited for and not before.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper, parser
from structlog.testing import capture_logs
from typer.testing import CliRunner

from edge.decode.chunk import Chunk
from kernels import compile as compiling
from kernels import engine_cache, engine_tensorrt
from kernels.bundle import SHIPPED_BUNDLE, Bundle, BundleError, golden_windows
from kernels.compile import BATCHES, build_plan, graph_for_tensorrt, head_arrays, tensorrt_module, without_head
from kernels.compile_command import compile_command, half_command
from kernels.device import Device
from kernels.engine import Result, open_engine
from kernels.engine_cache import Key, plan_path, read_plan, write_plan
from kernels.engine_tensorrt import WARM_AFTER_S, TensorRtEngine, pieces
from kernels.export import bake
from kernels.findings import ConfigError
from kernels.half import to_half
from kernels.quantize import quantize

from .test_half import real_windows, small_bundle, some_windows

pytest_plugins = ["tests.fake_cuda.fixtures"]

TENSORRT = next((name for name in ("tensorrt", "tensorrt_rtx") if find_spec(name)), None)
needs_tensorrt = pytest.mark.skipif(TENSORRT is None, reason="no TensorRT here: pip install tensorrt-rtx==1.7.1.116 (needs no GPU)")
KEY = Key("a" * 64, "fp16", "Orin", "8.7", "CUDA 12.6", "tensorrt 10.3.0", "2: batches 1, 8")


def _run(onnx_bytes: bytes, bundle: Bundle, windows: np.ndarray) -> Result:
    with open_engine(replace(bundle, onnx=onnx_bytes)) as engine:
        return engine.run(windows)


def _apart(one: Result, other: Result) -> float:
    return float(max(np.abs(one.probability - other.probability).max(), np.abs(one.embedding - other.embedding).max()))


# ---- the graph


@pytest.mark.parametrize("convert", [lambda b: b, to_half], ids=["fp32", "fp16"])
def test_the_graph_that_tensorrt_gets_equals_the_bundle(bundle: Bundle, excerpt: Chunk, convert: Callable[[Bundle], Bundle]) -> None:
    made = convert(bundle)
    windows = np.concatenate([golden_windows(1000), real_windows(excerpt), 20 * real_windows(excerpt)[:1]])
    assert _apart(_run(graph_for_tensorrt(made), made, windows), _run(made.onnx, made, windows)) < 1e-5


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.booleans(), st.integers(2, 60))
def test_so_it_does_for_any_width_of_the_running_sum_and_a_causal_one(seed: int, causal: bool, width: int) -> None:
    small = small_bundle(width=width, causal=causal)
    windows = some_windows(small, 3, seed)
    assert _apart(_run(graph_for_tensorrt(small), small, windows), _run(small.onnx, small, windows)) < 1e-5


@pytest.mark.parametrize("causal", [False, True])
def test_what_old_parsers_unroll_or_refuse_is_gone(causal: bool, bundle: Bundle) -> None:
    for origin in (bundle, small_bundle(causal=causal)):
        kinds = {node.op_type for node in onnx.load_model_from_string(graph_for_tensorrt(origin)).graph.node}
        assert not kinds & {"CumSum", "Expand", "Shape", "Slice", "LpNormalization"}
        assert "AveragePool" in kinds


@settings(max_examples=30)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 30), st.integers(0, 10**6))
def test_a_running_sum_becomes_the_moving_sum_of_its_definition(width: int, before: int, after: int, seed: int) -> None:
    before, after = min(before, width), min(after, width - 1)
    x = np.random.default_rng(seed).standard_normal((1, 2, 40)).astype(np.float32)
    model = _moving_sum(width, [0, 0, before, 0, 0, after])
    compiling._pool_running_sums(model.graph)
    compiling._drop_unread(model.graph)
    assert [node.op_type for node in model.graph.node] == ["AveragePool", "Mul"]
    padded = np.pad(x, [(0, 0), (0, 0), (before, after)])
    wanted = np.stack([padded[..., at + 1 : at + 1 + width].sum(-1) for at in range(padded.shape[-1] - width)], axis=-1)
    assert np.allclose(_onnxruntime(model, {"x": x})[0], wanted, atol=1e-5)


@pytest.mark.parametrize("pads", [[0, 0, 0, 0, 0, 5], [0, 1, 5, 0, 0, 0], [1, 0, 5, 1, 0, 0]])
def test_a_running_sum_of_another_form_stays(pads: list[int]) -> None:
    model = _moving_sum(5, pads)
    compiling._pool_running_sums(model.graph)
    assert "AveragePool" not in [node.op_type for node in model.graph.node]


def _moving_sum(width: int, pads: list[int]) -> onnx.ModelProto:
    model = parser.parse_model("""<ir_version: 10, opset_import: ["" : 18]>
        sum (float[a, b, c] x) => (float[a, b, d] y) {
            padded = Pad(x, pads)
            running = CumSum(padded, axis)
            later = Slice(running, width, end, axes)
            earlier = Slice(running, start, back, axes)
            y = Sub(later, earlier)
        }""")
    whole = {"pads": pads, "axis": -1, "width": [width], "end": [2**62], "start": [0], "back": [-width], "axes": [-1]}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(v, np.int64), k) for k, v in whole.items())
    return model


def _onnxruntime(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


def test_one_graph_serves_every_set_of_findings(bundle: Bundle, excerpt: Chunk) -> None:
    other = bake(bundle, bundle.card.findings[::-4])
    graph = without_head(graph_for_tensorrt(bundle))
    assert graph == without_head(graph_for_tensorrt(other))
    windows = real_windows(excerpt)
    answer = _onnxruntime(onnx.load_model_from_string(graph), {"ecg": windows, **head_arrays(other)})[0]
    assert np.abs(answer - _run(other.onnx, other, windows).probability).max() < 1e-5


def test_another_encoder_or_precision_is_another_graph() -> None:
    graphs = {without_head(graph_for_tensorrt(b)) for b in (small_bundle(), small_bundle(width=20), to_half(small_bundle()))}
    assert len(graphs) == 3


def test_a_bundle_of_streams_is_refused() -> None:
    small = small_bundle()
    streams = replace(small, card=small.card.model_copy(update={"stride": 4}))
    for make in (graph_for_tensorrt, to_half):
        with pytest.raises(BundleError, match=r"takes streams; "):
            make(streams)


# ---- the real parser and builder


@needs_tensorrt
@pytest.mark.parametrize("convert", [lambda b: b, to_half], ids=["fp32", "fp16"])
def test_the_real_builder_makes_a_plan_of_the_shipped_bundle(bundle: Bundle, convert: Callable[[Bundle], Bundle]) -> None:
    made = convert(bundle)
    assert len(build_plan(made)) > 0.7 * len(made.onnx)


@needs_tensorrt
def test_the_real_parser_gives_the_network_the_types_of_the_graph(bundle: Bundle) -> None:
    """Strongly typed: a float16 convolution stays one, and nothing else becomes one."""
    for made, types in ((bundle, {"FLOAT"}), (to_half(bundle), {"HALF"})):
        network, _builder = _parsed(made)
        layers = [network.get_layer(at) for at in range(network.num_layers)]
        convolutions = [layer for layer in layers if layer.type.name == "CONVOLUTION"]
        assert len(convolutions) == 20
        assert {layer.get_output(0).dtype.name for layer in convolutions} == types
        ends = [network.get_input(at) for at in range(network.num_inputs)] + [network.get_output(at) for at in range(network.num_outputs)]
        assert {end.dtype.name for end in ends} == {"FLOAT"}
        assert [end.name for end in ends] == ["ecg", "head_weight", "head_offset", "probability", "embedding"]


def _parsed(bundle: Bundle) -> tuple[Any, Any]:
    """The network, and the builder with which it would die."""
    trt = tensorrt_module()
    said: list[str] = []
    builder = trt.Builder(compiling.listener(trt, said))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    compiling._parse(trt, network, without_head(graph_for_tensorrt(bundle)), said)
    return network, builder


@needs_tensorrt
def test_the_real_builder_takes_symmetric_int8(bundle: Bundle, excerpt: Chunk) -> None:
    made = quantize(bundle, real_windows(excerpt, every=600), symmetric=True)
    assert build_plan(made)
    windows = real_windows(excerpt)
    assert _apart(_run(graph_for_tensorrt(made), made, windows), _run(made.onnx, made, windows)) < 1e-5


@needs_tensorrt
def test_what_the_parser_refuses_is_told_in_full() -> None:
    small = small_bundle()
    model = onnx.load_model_from_string(small.onnx)
    next(node for node in model.graph.node if node.op_type == "ReduceMax").op_type = "NoSuchOperator"
    model.opset_import.append(onnx.helper.make_opsetid("nowhere", 1))
    next(node for node in model.graph.node if node.op_type == "NoSuchOperator").domain = "nowhere"
    with pytest.raises(BundleError, match=r"parser of tensorrt.* refuses the bundle.*NoSuchOperator"):
        build_plan(Bundle(model.SerializeToString(), small.card))


def test_eight_bits_made_for_processors_are_refused_in_one_line_that_says_what_to_do(bundle: Bundle, excerpt: Chunk) -> None:
    shipped = Bundle.read(SHIPPED_BUNDLE.with_name("cardiogloss-int8.onnx"))
    for made in (shipped, quantize(bundle, real_windows(excerpt, every=600))):
        with pytest.raises(BundleError, match=r"^this int8 .*`cardiogloss-kernels quantize --symmetric`, or use the engine onnx$"):
            graph_for_tensorrt(made)


def test_absent_tensorrt_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"^TensorRT is not installed: .*use the engine onnx$"):
        open_engine(small_bundle(), "tensorrt")


def test_tensorrt_comes_before_tensorrt_rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt_rtx", "tensorrt"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        assert tensorrt_module().__name__ == name


# ---- what is kept on the disk


def test_a_kept_plan_is_read_again(tmp_path: Path) -> None:
    assert read_plan(KEY, tmp_path) is None
    write_plan(KEY, b"plan", plan_path(KEY, tmp_path))
    assert read_plan(KEY, tmp_path) == b"plan"


@pytest.mark.parametrize("field", ["gpu", "compute_capability", "driver", "tensorrt", "recipe"])
def test_a_plan_of_another_machine_is_stale_and_the_log_says_of_which(tmp_path: Path, field: str) -> None:
    write_plan(KEY, b"plan", plan_path(KEY, tmp_path))
    with capture_logs() as lines:
        assert read_plan(replace(KEY, **{field: "new"}), tmp_path) is None
    (line,) = lines
    assert line["event"] == "plan_stale"
    assert line["why"] == f"{field} {getattr(KEY, field)!r}, now 'new'"


@pytest.mark.parametrize("field", ["graph", "precision"])
def test_another_model_or_precision_lies_beside_it(tmp_path: Path, field: str) -> None:
    other = replace(KEY, **{field: "b" * 64})
    write_plan(KEY, b"plan", plan_path(KEY, tmp_path))
    write_plan(other, b"other", plan_path(other, tmp_path))
    assert (read_plan(KEY, tmp_path), read_plan(other, tmp_path)) == (b"plan", b"other")


@pytest.mark.parametrize("damage", [b"plam", b"", b"plan2"])
def test_a_damaged_plan_is_not_read(tmp_path: Path, damage: bytes) -> None:
    write_plan(KEY, b"plan", plan_path(KEY, tmp_path))
    plan_path(KEY, tmp_path).write_bytes(damage)
    assert read_plan(KEY, tmp_path) is None


@pytest.mark.parametrize("damage", ["", "{", "[]"])
def test_a_damaged_key_is_no_key(tmp_path: Path, damage: str) -> None:
    path = plan_path(KEY, tmp_path)
    write_plan(KEY, b"plan", path)
    engine_cache.key_path(path).write_text(damage)
    with capture_logs() as lines:
        assert read_plan(KEY, tmp_path) is None
    assert len(lines) == 1


def test_a_plan_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = plan_path(KEY, tmp_path)
    write_plan(KEY, b"plan", path)
    monkeypatch.setattr(os, "fsync", _full_disk)
    with pytest.raises(OSError, match=r"No space"):
        write_plan(KEY, b"new plan", path)
    assert read_plan(KEY, tmp_path) == b"plan"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_plan_that_cannot_be_kept_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", _full_disk)
    with capture_logs() as lines:
        engine_cache.keep_plan(KEY, b"plan", tmp_path)
    assert [line["event"] for line in lines] == ["plan_not_kept"]


def _full_disk(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_who_may_read_a_plan_the_umask_says(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_plan(KEY, b"plan", plan_path(KEY, tmp_path))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~mask}


def test_the_folder_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARDIOGLOSS_CACHE", "/somewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert engine_cache.plan_folder() == Path("/somewhere/engines")
    monkeypatch.delenv("CARDIOGLOSS_CACHE")
    assert engine_cache.plan_folder() == Path("/elsewhere/cardiogloss/engines")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert engine_cache.plan_folder() == Path.home() / ".cache/cardiogloss/engines"


class _Config:
    """TensorRT's config as far as flags and timings go: it refuses those of another machine."""

    def __init__(self) -> None:
        self.timings = b""
        self.flags = {"TF32"}
        self.set_flag, self.clear_flag = self.flags.add, self.flags.discard
        self.add_optimization_profile: Callable[[Any], None] = lambda _: None

    def create_timing_cache(self, known: bytes) -> bytes:
        return known

    def set_timing_cache(self, cache: bytes, _: bool) -> bool:
        if cache.startswith(b"other"):
            return False
        self.timings = cache
        return True

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.timings + b"+")


class _Classic:
    """Stands in for a TensorRT 10, which measures: its whole builder, but for the plan."""

    __name__, __version__ = "tensorrt", "10.3.0"
    BuilderFlag = SimpleNamespace(TF32="TF32")
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)

    class ILogger:
        Severity = SimpleNamespace(ERROR=1)

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config = _Config()
        monkeypatch.setattr(compiling, "tensorrt_module", lambda: self)

    def Builder(self, _: Any) -> Any:
        return SimpleNamespace(
            create_network=lambda _: None,
            create_builder_config=lambda: self.config,
            create_optimization_profile=lambda: SimpleNamespace(set_shape=lambda *_: None),
            build_serialized_network=lambda *_: b"plan",
        )

    def OnnxParser(self, *_: Any) -> Any:
        return SimpleNamespace(parse=lambda _: True)


@pytest.mark.parametrize(("before", "after"), [(None, b"+"), (b"mine", b"mine+"), (b"other", b"+")])
def test_timings_are_used_again_unless_they_are_of_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None, after: bytes
) -> None:
    path, _ = tmp_path / "timings", _Classic(monkeypatch)
    if before is not None:
        path.write_bytes(before)
    assert build_plan(small_bundle(), path) == b"plan"
    assert path.read_bytes() == after


def test_timings_that_cannot_be_kept_or_read_end_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _Classic(monkeypatch)
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "timings", tmp_path / ("long" * 100), tmp_path):
        with capture_logs() as lines:
            assert build_plan(small_bundle(), path) == b"plan"
        assert lines[-1]["event"] == "timings_not_kept"
        assert {line["event"] for line in lines} <= {"timings_unreadable", "timings_not_kept"}
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", _full_disk)
        with capture_logs() as lines:
            assert build_plan(small_bundle(), tmp_path / "timings") == b"plan"
    assert [line["event"] for line in lines] == ["timings_not_kept"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_may_not_allocate_where_tensorrt_can_be_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    classic = _Classic(monkeypatch)
    build_plan(small_bundle())
    assert classic.config.flags == set()
    monkeypatch.setattr(classic, "BuilderFlag", SimpleNamespace(TF32="TF32", REQUIRE_USER_ALLOCATION="OWN"))
    build_plan(small_bundle())
    assert classic.config.flags == {"OWN"}


# ---- running


@given(st.integers(0, 2000))
def test_batches_hold_every_window_once_and_are_at_least_half_full(count: int) -> None:
    cut = list(pieces(count))
    assert sum(taken for _, taken in cut) == count
    assert all(BATCHES[index] >= taken >= BATCHES[index] / 2 for index, taken in cut)
    assert len(cut) <= count // 256 + 8


class _Memory:
    """An array on both sides; copies happen when the device works, with what lies there by then."""

    def __init__(self, device: _Gpu, shape: tuple[int, ...]) -> None:
        self.shape, self.host, self.far = shape, np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self.address = self.far.ctypes.data
        self._device = device
        device.memory[self.address] = self.far
        device.allocations += 1

    def upload(self, rows: int | None = None) -> None:
        self._device.enqueue(lambda: np.copyto(self.far[:rows], self.host[:rows]))

    def download(self, rows: int | None = None) -> None:
        self._device.enqueue(lambda: np.copyto(self.host[:rows], self.far[:rows]))


class _Gpu:
    """Stands in for `kernels.device.Device`."""

    name, compute_capability, driver, stream = "Stand-in", "8.7", "CUDA 12.6", 7

    def __init__(self) -> None:
        self.memory: dict[int, np.ndarray] = {}
        self.allocations = self.launched = self.depth = 0
        self.closed = False
        self.at_close: Callable[[], None] = lambda: None
        self._queue: list[Callable[[], None]] = []
        self._capture: list[Callable[[], None]] | None = None

    @contextmanager
    def current(self) -> Iterator[None]:
        assert not self.closed
        self.depth += 1
        yield
        self.depth -= 1

    def pair(self, shape: tuple[int, ...], dtype: type) -> _Memory:
        assert dtype is np.float32
        return _Memory(self, shape)

    def enqueue(self, work: Callable[[], None]) -> None:
        (self._queue if self._capture is None else self._capture).append(work)

    def wait(self) -> None:
        assert self._capture is None
        while self._queue:
            self._queue.pop(0)()

    def capture(self, enqueue: Callable[[], None]) -> Any:
        self._capture = kept = []
        enqueue()
        self._capture = None
        return SimpleNamespace(launch=lambda: self._launch(kept))

    def _launch(self, kept: list[Callable[[], None]]) -> None:
        self.launched += 1
        self._queue.extend(kept)

    def close(self) -> None:
        self.at_close()
        self.closed = True


class _Context:
    """Stands in for an execution context: it refuses what the real one does, and runs the graph in ONNX Runtime."""

    def __init__(self, runtime: _Runtime) -> None:
        runtime.contexts.add(self)
        self._runtime, self._shapes, self._addresses = runtime, {}, {}
        self._profile: int | None = None

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        assert self._profile is None, "a second profile moves the memory under a captured graph"
        self._profile = index
        return stream == _Gpu.stream and index < len(engine_tensorrt.BATCHES)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self._profile is not None
        self._shapes[name] = shape
        batches = engine_tensorrt.BATCHES
        smallest = batches[self._profile - 1] + 1 if self._profile else 1
        return name != "ecg" or smallest <= shape[0] <= batches[self._profile]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return address in self._runtime.gpu.memory

    def execute_async_v3(self, stream: int) -> bool:
        assert self._runtime.gpu.depth, "the GPU's context is not current"
        ready = set(self._addresses) == {"ecg", "head_weight", "head_offset", "probability", "embedding"} and len(self._shapes) == 3
        self._runtime.gpu.enqueue(self._work)
        return ready and stream == _Gpu.stream

    def _work(self) -> None:
        far = {name: self._runtime.gpu.memory[address] for name, address in self._addresses.items()}
        self._runtime.batches.append(len(far["ecg"]))
        feeds = {name: far[name].reshape(shape) for name, shape in self._shapes.items()}
        for name, value in zip(("probability", "embedding"), self._runtime.session.run(["probability", "embedding"], feeds), strict=True):
            far[name][:] = value + self._runtime.errors.get(len(value), 0.0)


class _Runtime:
    """Stands in for TensorRT's runtime: it loads what was built for it."""

    def __init__(self, gpu: _Gpu, bundle: Bundle) -> None:
        self.gpu, self.loads = gpu, True
        self.errors: dict[int, float] = {}
        """By batch, what the plan is wrong by."""
        self.batches: list[int] = []
        self.asked: list[Any] = []
        """How contexts were asked for."""
        self.contexts: weakref.WeakSet[_Context] = weakref.WeakSet()
        graph = without_head(graph_for_tensorrt(bundle))
        self.session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def __call__(self, _: Any) -> _Runtime:
        return self

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        return (
            SimpleNamespace(create_execution_context=self._context, create_runtime_config=_RuntimeConfig) if self.loads and plan else None
        )

    def _context(self, asked: Any) -> _Context:
        self.asked.append(asked)
        return _Context(self)


class _RuntimeConfig:
    """That of TensorRT-RTX."""

    dynamic_shapes_kernel_specialization_strategy: Any = None
    memory: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.memory = strategy


_PLANS: dict[str, bytes] = {}
"""By the hash of the bundle: each is built once."""


class _Machine:
    """A machine with a GPU: TensorRT as it is installed, or as little of it as is needed, but for the runtime."""

    def __init__(self, bundle: Bundle, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gpu, self.folder, self.builds = _Gpu(), folder, 0
        self.runtime = _Runtime(self.gpu, bundle)
        self.trt = tensorrt_module() if TENSORRT else _no_tensorrt()
        monkeypatch.setattr(self.trt, "Runtime", self.runtime, raising=False)
        monkeypatch.setattr(engine_tensorrt, "tensorrt_module", lambda: self.trt)
        monkeypatch.setattr(engine_tensorrt, "build_plan", self._count)

    def _count(self, bundle: Bundle, timings: Path) -> bytes:
        self.builds += 1
        if bundle.card.sha256 not in _PLANS:
            _PLANS[bundle.card.sha256] = build_plan(bundle, timings) if TENSORRT else b"plan"
        return _PLANS[bundle.card.sha256]

    def open(self, bundle: Bundle) -> TensorRtEngine:
        self.gpu.closed = False
        return TensorRtEngine(bundle, self.gpu, self.folder)  # type: ignore[arg-type]


def _no_tensorrt() -> Any:
    strategy = SimpleNamespace(ON_PROFILE_CHANGE="memory of its own profile")
    return SimpleNamespace(
        __name__="tensorrt", __version__="0", ILogger=type("ILogger", (), {}), ExecutionContextAllocationStrategy=strategy
    )


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Machine:
    return _Machine(small_bundle(), tmp_path, monkeypatch)


@pytest.mark.parametrize("count", [0, 1, 3, 5, 8, 9, 40, 300])
def test_any_number_of_windows_is_scored_as_onnxruntime_does(machine: _Machine, count: int) -> None:
    small = small_bundle()
    windows = some_windows(small, count)
    with machine.open(small) as engine, open_engine(small) as wanted:
        answer, expected = engine.run(windows), wanted.run(windows)
    assert answer.probability.shape == expected.probability.shape
    assert answer.embedding.shape == expected.embedding.shape
    assert count == 0 or _apart(answer, expected) < 1e-5


def test_the_next_run_does_not_change_an_answer(machine: _Machine) -> None:
    small = small_bundle()
    with machine.open(small) as engine:
        first = engine.run(some_windows(small, 8))
        kept = first.probability.copy()
        engine.run(some_windows(small, 8, seed=1))
    assert np.array_equal(first.probability, kept)


def test_once_open_nothing_is_allocated_and_every_run_is_a_captured_one(machine: _Machine) -> None:
    small = small_bundle()
    with machine.open(small) as engine:
        machine.runtime.batches.clear()
        allocated, launched = machine.gpu.allocations, machine.gpu.launched
        engine.run(some_windows(small, 300))
        assert machine.gpu.allocations == allocated
        assert machine.runtime.batches == [256, 64]
        assert machine.gpu.launched == launched + 2


def test_a_second_start_builds_nothing(machine: _Machine) -> None:
    for _ in range(2):
        machine.open(small_bundle()).close()
    assert machine.builds == 1


def test_other_findings_need_no_other_plan(machine: _Machine) -> None:
    machine.open(small_bundle()).close()
    rebaked = small_bundle(findings=5, seed=3)
    windows = some_windows(rebaked, 4)
    with machine.open(rebaked) as engine, open_engine(rebaked) as wanted:
        assert _apart(engine.run(windows), wanted.run(windows)) < 1e-5
    assert machine.builds == 1


def test_too_many_findings_are_refused(machine: _Machine) -> None:
    with pytest.raises(BundleError, match=r"up to 256 findings, not 257"):
        machine.open(small_bundle(findings=257))


def test_a_new_driver_builds_anew_once(machine: _Machine) -> None:
    machine.open(small_bundle()).close()
    machine.gpu.driver = "CUDA 13.0"  # type: ignore[misc]
    with capture_logs() as lines:
        machine.open(small_bundle()).close()
        machine.open(small_bundle()).close()
    assert machine.builds == 2
    assert [line["event"] for line in lines] == ["plan_stale", "plan_building"]


@pytest.mark.parametrize(("name", "value"), [("BATCHES", (1, 16)), ("MOST_FINDINGS", 8), ("RECIPE", 99)])
def test_what_is_asked_of_the_builder_is_part_of_the_key(
    machine: _Machine, monkeypatch: pytest.MonkeyPatch, name: str, value: object
) -> None:
    before = engine_tensorrt.key_of(machine.trt, small_bundle())
    monkeypatch.setattr(compiling, name, value)
    assert engine_tensorrt.key_of(machine.trt, small_bundle()) != before


def test_where_nothing_can_be_kept_the_engine_opens_all_the_same(
    machine: _Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _Classic(monkeypatch)
    monkeypatch.setattr(engine_tensorrt, "build_plan", build_plan)
    (tmp_path / "file").touch()
    machine.folder = tmp_path / "file" / "engines"
    with capture_logs() as lines:
        machine.open(small_bundle()).close()
    assert [line["event"] for line in lines] == ["plan_unreadable", "plan_building", "timings_not_kept", "plan_not_kept"]


def test_a_plan_that_does_not_load_is_built_anew(machine: _Machine) -> None:
    machine.open(small_bundle()).close()
    machine.runtime.deserialize_cuda_engine = _refuse_first(machine.runtime.deserialize_cuda_engine)  # type: ignore[method-assign]
    with capture_logs() as lines:
        machine.open(small_bundle()).close()
    assert machine.builds == 2
    assert [line["event"] for line in lines] == ["plan_unloadable", "plan_building"]


def _refuse_first(load: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    loads = iter([lambda _: None])
    return lambda plan: next(loads, load)(plan)


def test_where_no_plan_loads_it_says_what_to_use_instead(machine: _Machine) -> None:
    machine.runtime.loads = False
    with pytest.raises(ConfigError, match=r"cannot run on Stand-in: .*use the engine onnx"):
        machine.open(small_bundle())
    assert not list(machine.folder.glob("*.plan"))


@pytest.mark.parametrize(("wrong", "told"), [(1e-3, "0.001"), (float("nan"), "nan")])
@pytest.mark.parametrize("batch", BATCHES)
def test_a_plan_that_misjudges_the_golden_windows_in_any_batch_is_refused(machine: _Machine, batch: int, wrong: float, told: str) -> None:
    machine.runtime.errors[batch] = wrong
    with pytest.raises(BundleError, match=f"golden windows {told}"):
        machine.open(small_bundle())
    assert machine.gpu.closed


def test_after_a_pause_one_window_runs_first(machine: _Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(engine_tensorrt.time, "monotonic", lambda: now[0])
    small = small_bundle()
    with machine.open(small) as engine:
        for pause_s, batches in ((0.0, [64]), (WARM_AFTER_S - 1, [64]), (WARM_AFTER_S + 1, [1, 64])):
            now[0] += pause_s
            machine.runtime.batches.clear()
            engine.run(some_windows(small, 40))
            assert machine.runtime.batches == batches


def test_windows_that_are_on_the_gpu_already_are_scored_in_place(machine: _Machine) -> None:
    small = small_bundle()
    windows = some_windows(small, 5)
    with machine.open(small) as engine, open_engine(small) as wanted:
        machine.gpu.memory[engine.input_for(5)][:5] = windows
        assert _apart(engine.run_in_place(5), wanted.run(windows)) < 1e-5


@pytest.mark.parametrize("count", [257, 1000])
def test_more_than_the_largest_batch_is_refused_in_place(machine: _Machine, count: int) -> None:
    with machine.open(small_bundle()) as engine:
        for refused in (engine.input_for, engine.run_in_place):
            with pytest.raises(ValueError, match=f"{count} windows are more than the largest batch, which is 256"):
                refused(count)


def test_a_context_has_memory_for_its_own_profile_alone(machine: _Machine) -> None:
    machine.trt = _no_tensorrt()
    machine.trt.Runtime = machine.runtime
    machine.open(small_bundle()).close()
    assert machine.runtime.asked == ["memory of its own profile"] * len(BATCHES)


def test_tensorrt_rtx_is_told_to_compile_before_the_first_run(machine: _Machine) -> None:
    machine.trt = _no_tensorrt()
    machine.trt.Runtime, machine.trt.DynamicShapesKernelSpecializationStrategy = machine.runtime, SimpleNamespace(EAGER="before")
    machine.open(small_bundle()).close()
    asked = [(config.memory, config.dynamic_shapes_kernel_specialization_strategy) for config in machine.runtime.asked]
    assert asked == [("memory of its own profile", "before")] * len(BATCHES)


@needs_tensorrt
def test_the_real_tensorrt_has_these_names() -> None:
    """An engine, of which a config is made, loads on a GPU alone."""
    trt = tensorrt_module()
    assert trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
    if trt.__name__ == "tensorrt_rtx":
        assert trt.DynamicShapesKernelSpecializationStrategy.EAGER is not None
        assert trt.BuilderFlag.REQUIRE_USER_ALLOCATION
        assert trt.ICudaEngine.create_runtime_config
        assert trt.IRuntimeConfig.set_execution_context_allocation_strategy
        assert trt.IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy


@pytest.mark.parametrize("fails", range(len(BATCHES)))
def test_where_a_context_fails_all_of_them_go_before_the_device_does(
    machine: _Machine, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    left: list[int] = []
    machine.gpu.at_close = lambda: left.append(len(machine.runtime.contexts))
    select = _Context.set_optimization_profile_async
    monkeypatch.setattr(_Context, "set_optimization_profile_async", lambda self, at, stream: at != fails and select(self, at, stream))
    with pytest.raises(ConfigError, match="no room for batches of") as raised:
        machine.open(small_bundle())
    assert raised.traceback
    assert left == [0]


def test_where_a_stream_cannot_be_captured_it_runs_uncaptured(machine: _Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Context, "is_stream_capturable", lambda self, stream: False, raising=False)
    small = small_bundle()
    windows = some_windows(small, 9)
    with machine.open(small) as engine, open_engine(small) as wanted:
        assert _apart(engine.run(windows), wanted.run(windows)) < 1e-5
    assert machine.gpu.launched == 0


def test_closing_closes_the_device_once_the_plan_is_gone(machine: _Machine) -> None:
    left: list[int] = []
    machine.gpu.at_close = lambda: left.append(len(machine.runtime.contexts))
    engine = machine.open(small_bundle())
    assert len(machine.runtime.contexts) == len(BATCHES)
    engine.close()
    engine.close()
    assert left[0] == 0
    assert machine.gpu.closed
    with pytest.raises(IndexError):
        engine.run(some_windows(small_bundle(), 1))


@pytest.mark.device
def test_the_engine_runs_over_the_real_device_code(
    device: Device, fake: ctypes.CDLL, machine: _Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real pycuda over the fake driver, whose memory is the host's; what is no call of the driver cannot be captured by it."""
    monkeypatch.setattr(_Context, "is_stream_capturable", lambda self, stream: False, raising=False)
    machine.runtime.gpu = _HostMemory(device)  # type: ignore[assignment]
    monkeypatch.setattr(_Gpu, "stream", device.stream)
    small = small_bundle()
    windows = some_windows(small, 300)
    with TensorRtEngine(small, device, machine.folder) as engine, open_engine(small) as wanted:
        made = [fake.fake_made(kind) for kind in (b"device", b"host")]
        assert _apart(engine.run(windows), wanted.run(windows)) < 1e-5
        assert [fake.fake_made(kind) for kind in (b"device", b"host")] == made
    assert [fake.fake_live(kind) for kind in (b"device", b"host", b"context")] == [0, 0, 0]


class _HostMemory:
    """What `_Context` needs of a GPU, over a device whose addresses are those of the host."""

    depth = 1

    def __init__(self, device: Device) -> None:
        self.memory = self
        self._pairs: dict[int, Any] = {}
        self._pair = device.pair
        device.pair = self._remember  # type: ignore[method-assign]

    def _remember(self, shape: tuple[int, ...], dtype: Any) -> Any:
        pair = self._pair(shape, dtype)
        self._pairs[pair.address] = pair
        return pair

    def __contains__(self, address: int) -> bool:
        return address in self._pairs

    def __getitem__(self, address: int) -> np.ndarray:
        pair = self._pairs[address]
        return np.frombuffer((ctypes.c_char * pair.nbytes).from_address(address), np.float32).reshape(pair.shape)

    def enqueue(self, work: Callable[[], None]) -> None:
        work()


@needs_tensorrt
def test_the_shipped_bundle_goes_all_the_way_with_a_real_plan(
    bundle: Bundle, excerpt: Chunk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (compiling, engine_tensorrt):
        monkeypatch.setattr(module, "BATCHES", (1, 8))
    machine = _Machine(bundle, tmp_path, monkeypatch)
    with machine.open(bundle) as engine, open_engine(bundle) as wanted:
        assert _apart(engine.run(real_windows(excerpt)), wanted.run(real_windows(excerpt))) < 1e-5
    (plan,) = tmp_path.glob("*.plan")
    assert plan.read_bytes()[1:4] == b"trt"


# ---- the commands


def _commands() -> typer.Typer:
    app = typer.Typer()
    app.command("compile")(compile_command)
    app.command("half")(half_command)
    return app


def _compile(bundle: Bundle, tmp_path: Path, *words: str) -> Any:
    source = tmp_path / "source.onnx"
    source.write_bytes(bundle.onnx)
    return CliRunner().invoke(_commands(), ["compile", str(source), *words])


@needs_tensorrt
@pytest.mark.parametrize("convert", [lambda b: b, to_half], ids=["fp32", "fp16"])
def test_compile_writes_the_plan_and_its_key_and_tells_the_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, convert: Callable[[Bundle], Bundle]
) -> None:
    monkeypatch.setenv("CARDIOGLOSS_CACHE", str(tmp_path / "cache"))
    made, out = convert(small_bundle()), tmp_path / "small.plan"
    done = _compile(made, tmp_path, "--out", str(out))
    assert done.exit_code == 0, done.output
    assert f"{made.card.precision}, 3 windows: probabilities differ by up to" in done.output
    assert json.loads(out.with_suffix(".json").read_text())["precision"] == made.card.precision
    assert out.stat().st_size > 1000


@pytest.mark.parametrize("convert", [lambda b: b, to_half], ids=["fp32", "fp16"])
def test_without_more_words_the_engine_finds_what_was_compiled(
    machine: _Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, convert: Callable[[Bundle], Bundle]
) -> None:
    made = convert(small_bundle())
    monkeypatch.setenv("CARDIOGLOSS_CACHE", str(tmp_path))
    monkeypatch.setattr("kernels.device.Device", lambda: nullcontext(machine.gpu))
    monkeypatch.setattr(compiling, "tensorrt_module", lambda: machine.trt)
    monkeypatch.setattr(compiling, "build_plan", lambda *_: b"plan")
    assert _compile(made, tmp_path).exit_code == 0
    assert read_plan(engine_tensorrt.key_of(machine.trt, made, machine.gpu), tmp_path / "engines") == b"plan"  # type: ignore[arg-type]


def test_where_the_graph_differs_by_more_than_the_gate_nothing_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compiling.GATES, "fp32", -1.0)
    monkeypatch.setattr(compiling, "build_plan", lambda *_: pytest.fail("it was built"))
    done = _compile(small_bundle(), tmp_path, "--out", str(tmp_path / "small.plan"))
    assert isinstance(done.exception, SystemExit)
    assert done.exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == ["source.onnx"]


@pytest.mark.parametrize("out", ["small.json", "."])
def test_an_out_that_can_be_no_plan_is_refused(tmp_path: Path, out: str) -> None:
    done = _compile(small_bundle(), tmp_path, "--out", str(tmp_path / out))
    assert isinstance(done.exception, ConfigError)
    assert "name a file that ends in .plan" in str(done.exception)


def test_half_writes_a_bundle(tmp_path: Path) -> None:
    out = tmp_path / "half.onnx"
    assert CliRunner().invoke(_commands(), ["half", "--out", str(out), str(SHIPPED_BUNDLE)]).exit_code == 0
    assert Bundle.read(out).card.precision == "fp16"
