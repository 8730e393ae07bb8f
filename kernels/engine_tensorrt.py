"""Windows in; probabilities out, by TensorRT on an NVIDIA GPU: one plan, kept from start to start."""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
import structlog

from .bundle import Bundle, BundleError, golden_windows
from .device import Device, Pair
from .engine import Engine, Result, check_shape
from .engine_cache import Key, keep_plan, plan_folder, plan_path, read_plan
from .findings import ConfigError
from .signal import LEADS, Samples

try:
    from .compile import (
        BATCHES,
        GATES,
        MOST_FINDINGS,
        build_plan,
        graph_for_tensorrt,
        head_arrays,
        listener,
        recipe,
        tensorrt_module,
        without_head,
    )
except ModuleNotFoundError as error:
    raise ConfigError(
        f"the engine tensorrt needs the package {error.name}: pip install 'cardiogloss[bake]', or use the engine onnx"
    ) from error

log = structlog.get_logger()

WARM_AFTER_S = 5.0
"""So long without a run and a GPU lowers its clocks: the next window would take many times as long (onnxruntime #13366)."""


class TensorRtEngine(Engine):
    """A bundle in TensorRT, at the bundle's own precision. Nothing is allocated on the GPU once it is open.

    Windows run in batches of `BATCHES`, whatever the number that comes. In a batch of one size a window has always the same
    bits; between sizes they differ in the last ones, since each has kernels of its own. One call at a time, from any thread.
    """

    def __init__(self, bundle: Bundle, device: Device, folder: Path | None = None) -> None:
        """Takes the device over. Raises BundleError for a bundle that TensorRT refuses or misjudges, ConfigError where it is absent."""
        self.bundle = bundle
        self._device = device
        self._engine: Any = None
        self._lanes: list[_Lane] = []
        with ExitStack() as until_open:
            until_open.push(self._give_up)
            _check_findings(bundle)
            trt = tensorrt_module()
            with device.current():
                self._engine = _load(trt, bundle, device, folder or plan_folder())
                head = _on_device(device, head_arrays(bundle))
                for index in range(len(BATCHES)):
                    self._lanes.append(_Lane(_context(trt, self._engine), index, device, head, bundle.card.samples))
            self._ran_at = time.monotonic()
            self._check_golden()
            until_open.pop_all()

    def run(self, ecg: Samples) -> Result:
        check_shape(self.bundle, ecg)
        self.warm()
        at, results = 0, [self._lanes[0].result(0)]
        for index, count in pieces(len(ecg)):
            results.append(self._lanes[index].run(ecg[at : at + count]))
            at += count
        self._ran_at = time.monotonic()
        return Result(*(np.concatenate(parts) for parts in zip(*((r.probability, r.embedding) for r in results), strict=True)))

    def warm(self) -> None:
        """Run one window for nobody if none has run for `WARM_AFTER_S`; whoever waits for windows may call it meanwhile."""
        if time.monotonic() - self._ran_at > WARM_AFTER_S:
            self._lanes[0].run_in_place(1)
            self._ran_at = time.monotonic()

    def input_for(self, count: int) -> int:
        """The GPU address of float32 [count, 12, samples] where `run_in_place` finds its windows.

        Raises ValueError beyond the largest batch.
        """
        return self._lanes[_smallest_that_holds(count)].ecg.address

    def run_in_place(self, count: int) -> Result:
        """Score the windows that were written to `input_for(count)` on the device's stream."""
        self._ran_at = time.monotonic()
        return self._lanes[_smallest_that_holds(count)].run_in_place(count)

    def close(self) -> None:
        """The contexts and the plan first: they free what is the device's."""
        if self._engine is not None:
            with self._device.current():
                self._lanes.clear()
                self._engine = None
        self._device.close()

    def _give_up(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """What failed still holds a context in its frames, which must go before the device does."""
        with self._device.current():
            traceback.clear_frames(trace)
        self.close()

    def _check_golden(self) -> None:
        """TensorRT has had releases that dropped a bias or misfused a product: such a plan must not watch anybody."""
        windows, wanted = golden_windows(self.bundle.card.samples), np.array(self.bundle.card.golden, np.float32)
        answers = [self.run(windows), *(lane.run(windows) for lane in self._lanes[1:])]
        off = float(np.max([np.abs(answer.probability - wanted) for answer in answers]))  # NaN stays NaN
        if not off <= GATES[self.bundle.card.precision]:
            raise BundleError(
                f"TensorRT scores the golden windows {off:.2g} beside what the bundle says; use the engine onnx and report this"
            )


class _Lane:
    """One optimisation profile at its full batch: context, memory of both sides, and the captured graph of a run."""

    def __init__(self, context: Any, index: int, device: Device, head: dict[str, Pair], samples: int) -> None:
        batch = BATCHES[index]
        self._device = device
        self._context = context
        if context is None or not context.set_optimization_profile_async(index, device.stream):
            raise ConfigError(f"TensorRT has no room for batches of {batch} on {device.name}; close what else uses the GPU")
        device.wait()
        findings, width = head["head_weight"].host.shape
        self.ecg = device.pair((batch, len(LEADS), samples), np.float32)
        self._probability = device.pair((batch, findings), np.float32)
        self._embedding = device.pair((batch, width), np.float32)
        for name, memory in {"ecg": self.ecg, **head}.items():
            _must(self._context.set_input_shape(name, memory.shape), f"the shape {memory.shape} of {name}")
        for name, memory in {"ecg": self.ecg, **head, "probability": self._probability, "embedding": self._embedding}.items():
            _must(self._context.set_tensor_address(name, memory.address), f"the memory of {name}")
        self._launch = self._captured()

    def _captured(self) -> Any:
        """The first run settles what TensorRT puts off until then, and so cannot be captured itself."""
        self._enqueue()
        self._device.wait()
        capturable = getattr(self._context, "is_stream_capturable", None)
        if capturable is not None and not capturable(self._device.stream):
            return self._enqueue
        return self._device.capture(self._enqueue).launch

    def _enqueue(self) -> None:
        with self._device.current():
            _must(self._context.execute_async_v3(self._device.stream), "the run")

    def run(self, ecg: Samples) -> Result:
        self.ecg.host[: len(ecg)] = ecg
        self.ecg.upload(len(ecg))
        return self.run_in_place(len(ecg))

    def run_in_place(self, count: int) -> Result:
        self._launch()
        self._probability.download(count)
        self._embedding.download(count)
        self._device.wait()
        return self.result(count)

    def result(self, count: int) -> Result:
        return Result(self._probability.host[:count].copy(), self._embedding.host[:count].copy())


def open_bundle(bundle: Bundle, threads: int) -> TensorRtEngine:
    """What `open_engine` calls; the GPU has no threads to be told. Raises ConfigError where TensorRT, pycuda or a GPU is absent."""
    tensorrt_module()
    return TensorRtEngine(bundle, Device())


def _context(trt: ModuleType, engine: Any) -> Any:
    """An execution context with memory for its own profile alone, where the default is for the largest of all; None where it has no room.

    That memory moves when a profile is selected. Each context selects one, once, before its run is captured, and so
    the addresses in the captured graph stay. TensorRT-RTX would compile kernels for a shape while it runs on others,
    and the bits would change under way: it is told to compile before the first run. Not yet run on a GPU.
    """
    memory = trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return engine.create_execution_context(memory)
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(memory)
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(config)


def _check_findings(bundle: Bundle) -> None:
    if len(bundle.card.findings) > MOST_FINDINGS:
        raise BundleError(f"the engine tensorrt takes up to {MOST_FINDINGS} findings, not {len(bundle.card.findings)}; bake fewer")


def pieces(count: int) -> Iterator[tuple[int, int]]:
    """(index in `BATCHES`, windows) of the batches that `count` windows run in: none less than half full, but the smallest."""
    while count > 0:
        index = max(at for at, batch in enumerate(BATCHES) if at == 0 or 2 * count >= batch)
        taken = min(count, BATCHES[index])
        yield index, taken
        count -= taken


def _smallest_that_holds(count: int) -> int:
    if count > BATCHES[-1]:
        raise ValueError(f"{count} windows are more than the largest batch, which is {BATCHES[-1]}; score them in parts")
    return next(at for at, batch in enumerate(BATCHES) if batch >= count)


def _must(done: bool, what: str) -> None:
    if not done:
        raise BundleError(f"TensorRT refuses {what}; build the plan again (delete the folder {plan_folder()})")


def _on_device(device: Device, arrays: dict[str, Samples]) -> dict[str, Pair]:
    memory = {name: device.pair(array.shape, np.float32) for name, array in arrays.items()}
    for name, pair in memory.items():
        pair.host[:] = arrays[name]
        pair.upload()
    device.wait()
    return memory


def _load(trt: ModuleType, bundle: Bundle, device: Device, folder: Path) -> Any:
    """The kept plan where it fits and loads, else a new one."""
    said: list[str] = []
    runtime = trt.Runtime(listener(trt, said))
    key = key_of(trt, bundle, device)
    kept = read_plan(key, folder)
    engine = runtime.deserialize_cuda_engine(kept) if kept is not None else None
    if engine is not None:
        return engine
    if kept is not None:
        log.warning("plan_unloadable", path=str(plan_path(key, folder)), why="; ".join(said) or "TensorRT does not say why")
    log.info("plan_building", gpu=device.name, precision=key.precision, note="this takes minutes, once")
    plan = build_plan(bundle, folder / "timings")
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ConfigError(f"{key.tensorrt} cannot run on {device.name}: {'; '.join(said) or 'it does not say why'}; use the engine onnx")
    keep_plan(key, plan, folder)
    return engine


def key_of(trt: ModuleType, bundle: Bundle, device: Device | None = None) -> Key:
    """What a plan for this bundle depends on; without a device one that fits none, so that no engine takes it for its own."""
    return Key(
        graph=hashlib.sha256(without_head(graph_for_tensorrt(bundle))).hexdigest(),
        precision=bundle.card.precision,
        gpu=device.name if device else "",
        compute_capability=device.compute_capability if device else "",
        driver=device.driver if device else "",
        tensorrt=f"{trt.__name__} {trt.__version__}",
        recipe=recipe(),
    )
