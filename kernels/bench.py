"""Bundles, the names of engines and windows in; how fast each engine scores them, measured side by side, out."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import cycle

import numpy as np
import onnxruntime

from .bundle import Bundle, BundleError
from .engine import Engine, Result, StreamEngine, check_shape, cores, open_engine
from .findings import ConfigError
from .peak import Peak, count_hop, count_macs, find_meter, hop_sizes, measure_peak
from .rounds import HOP_S, Row, Tally, Task, run_rounds, to_rows
from .signal import Samples

ENGINES = ("torch", "torch-compile", "torch-cuda", "onnx", "onnx-cuda", "openvino", "stream", "tensorrt")
"""Those that are tried unless some are named; `reference` is slow and only tried by name."""

WHOLE_S = 180.0
MOST_S = 10.0
"""So long all rows take together, and each at the most, where nobody says how long a row may take."""

_PRECISIONS = {"torch": {"fp32"}, "torch-compile": {"fp32"}, "torch-cuda": {"fp32", "fp16"}, "onnx-cuda": {"fp32", "fp16"}}
"""What an engine has arithmetic for, where that is not everything: elsewhere it would only imitate the precision."""
_PACKAGES = {
    "torch": (("torch",), "pip install torch"),
    "torch-compile": (("torch",), "pip install torch"),
    "torch-cuda": (("torch",), "pip install torch"),
    "openvino": (("openvino",), "pip install 'cardiogloss[openvino]'"),
    "tensorrt": (("tensorrt", "tensorrt_rtx"), "it comes with JetPack, elsewhere with NVIDIA's own packages"),
}
_CUDA = "CUDAExecutionProvider"


@dataclass(frozen=True, slots=True)
class Selection:
    """What to measure. Raises ConfigError for what cannot be, and says what can."""

    engines: tuple[str, ...] = ENGINES
    batches: tuple[int, ...] = (1, 8, 64, 256)
    threads: int = 1
    seconds: float | None = None
    """For each row; None shares three minutes among all, up to ten seconds each."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.engines if name not in (*ENGINES, "reference")]
        if unknown or not self.engines:
            raise ConfigError(f"unknown engine {', '.join(unknown)!r}; allowed are {', '.join((*ENGINES, 'reference'))}")
        if not self.batches or min(self.batches) < 1:
            raise ConfigError(f"batch {min(self.batches, default='')}: allowed are whole numbers from 1, such as 1,8,64,256")
        if not 1 <= self.threads <= cores():
            raise ConfigError(f"threads {self.threads}: allowed are 1 to {cores()}, the cores that this process may use")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ConfigError(f"seconds {self.seconds:g}: allowed is any time above 0")


@dataclass(frozen=True, slots=True)
class Report:
    """All rows, and why some engines have none."""

    rows: tuple[Row, ...]
    absent: tuple[str, ...]
    peak: Peak
    energy: str | None
    """What told the joules."""
    seconds: float
    """That each row was given."""
    is_whole: bool


def bench(bundles: Mapping[str, Bundle], windows: Samples, selection: Selection, advance: Callable[[float], None]) -> Report:
    """Measure these bundles, each under a name, on windows [at least the largest batch, 12, samples].

    `advance` is told the share that is done. Raises ConfigError where no engine can run.
    """
    begun_s = time.perf_counter()
    with ExitStack() as stack, _pinned(selection.threads):
        tasks, absent = _tasks(bundles, windows, selection, stack)
        tallies = list(_warm(tasks, absent))
        if not tallies:
            raise ConfigError(f"nothing to measure: {'; '.join(absent)}")
        left_s = max(WHOLE_S - (time.perf_counter() - begun_s), 0) / len(tallies)
        seconds = selection.seconds or min(max(left_s, 0.2), MOST_S)
        peak = measure_peak(selection.threads, min(seconds, 1.0))
        meter = find_meter()
        is_whole = run_rounds(tallies, seconds, advance, meter)
        if is_whole:
            peak, is_whole = _measured_again(peak, selection.threads, min(seconds, 1.0))
    rows = to_rows(tallies, selection.threads, peak, with_joules=meter is not None)
    return Report(tuple(rows), tuple(absent), peak, meter.name if meter else None, seconds, is_whole)


def _measured_again(peak: Peak, threads: int, seconds: float) -> tuple[Peak, bool]:
    """The greater of both, and whether Ctrl-C left time for it: the rows stand either way."""
    try:
        return peak.or_more(measure_peak(threads, seconds)), True
    except KeyboardInterrupt:
        return peak, False


@contextmanager
def _pinned(threads: int) -> Iterator[None]:
    """One thread stays on one core, the last, as the system's own work begins at the first; engines opened here inherit it."""
    if threads > 1 or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _tasks(bundles: Mapping[str, Bundle], windows: Samples, selection: Selection, stack: ExitStack) -> tuple[list[Task], list[str]]:
    """One for each engine, bundle and batch; and a line for each engine that cannot run."""
    tasks, absent = [], []
    for engine in dict.fromkeys(selection.engines):
        fitting = {name: bundle for name, bundle in bundles.items() if _takes(engine, bundle)}
        why = _why_absent(engine) or ("" if fitting else f"{engine}: none of the bundles is made for it")
        absent += [why] if why else []
        for name, bundle in ({} if why else fitting).items():
            try:
                opened = stack.enter_context(_open(engine, bundle, selection.threads))
            except (ConfigError, BundleError, ModuleNotFoundError) as error:
                absent.append(f"{engine}: {error}")
                continue
            tasks += [_task(engine, name, opened, windows[:batch]) for batch in dict.fromkeys(selection.batches)]
    return tasks, list(dict.fromkeys(absent))


def _takes(engine: str, bundle: Bundle) -> bool:
    if engine == "stream" or bundle.card.stride:
        return engine == "stream" and bundle.card.stride is not None
    return bundle.card.precision in _PRECISIONS.get(engine, {bundle.card.precision})


def _why_absent(engine: str) -> str:
    packages, mend = _PACKAGES.get(engine, ((), ""))
    if packages and not any(find_spec(package) for package in packages):
        return f"{engine}: not installed ({mend})"
    if engine == "torch-cuda" and not import_module("torch").cuda.is_available():
        return "torch-cuda: torch finds no GPU"
    if engine == "onnx-cuda" and _CUDA not in onnxruntime.get_available_providers():
        return "onnx-cuda: this onnxruntime has no CUDA (pip install onnxruntime-gpu)"
    return ""


def _open(engine: str, bundle: Bundle, threads: int) -> Engine:
    match engine:
        case "torch" | "torch-compile" | "torch-cuda":
            return _open_torch(bundle, threads, engine)
        case "onnx-cuda":
            return _CudaEngine(bundle)
        case "stream":
            return open_engine(bundle, "onnx", threads)
    return open_engine(bundle, engine, threads)


def _open_torch(bundle: Bundle, threads: int, engine: str) -> Engine:
    """A batch in one call, as one would run it there: window by window it takes twice as long, which would flatter the others."""
    opened: Engine = import_module(".engine_torch", __package__).TorchEngine(
        bundle, threads, compiled=engine == "torch-compile", device="cuda" if engine == "torch-cuda" else "cpu", together=True
    )
    return opened


class _CudaEngine(Engine):
    """A bundle in ONNX Runtime on a GPU, a batch in one call. Only compared, never deployed: it is not among the engines."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._session = onnxruntime.InferenceSession(bundle.onnx, providers=[_CUDA, "CPUExecutionProvider"])
        if self._session.get_providers()[0] != _CUDA:
            raise ConfigError("onnxruntime found no GPU, or not CUDA's libraries, and fell back to the CPU")

    def run(self, ecg: Samples) -> Result:
        check_shape(self.bundle, ecg)
        return Result(*self._session.run(["probability", "embedding"], {"ecg": ecg}))

    def close(self) -> None:
        del self._session


def _task(engine: str, name: str, opened: Engine, ecg: Samples) -> Task:
    card = opened.bundle.card
    if not isinstance(opened, StreamEngine):
        return Task(engine, name, card.precision, len(ecg), _window_run(opened, ecg), count_macs(opened.bundle))
    hop = max(round(HOP_S * card.rate_hz), 1)
    return Task(engine, name, card.precision, len(ecg), _stream_run(opened, ecg, hop), count_hop(opened.bundle, hop), HOP_S)


def _window_run(engine: Engine, ecg: Samples) -> Callable[[], int]:
    def run() -> int:
        engine.run(ecg)
        return ecg.shape[2]

    return run


def _stream_run(engine: StreamEngine, ecg: Samples, hop: int) -> Callable[[], int]:
    """The windows over and over as streams, all cut before the clock runs."""
    sizes = hop_sizes(hop, engine.stride)
    ends = np.cumsum(sizes)
    pieces = [ecg.take(range(end - size, end), axis=2, mode="wrap") for size, end in zip(sizes, ends, strict=True)]
    states = np.repeat(engine.begin()[None], len(ecg), axis=0)
    following = cycle(pieces)

    def run() -> int:
        nonlocal states
        piece = next(following)
        _, states = engine.step(piece, states)
        return piece.shape[2]

    return run


def _warm(tasks: Sequence[Task], absent: list[str]) -> Iterator[Tally]:
    """A task that fails here is told in `absent`: it must not cost the others their figures."""
    for task in tasks:
        tally = Tally(task)
        try:
            tally.warm_up(time.perf_counter)
        except (ConfigError, BundleError, RuntimeError) as error:
            absent.append(f"{task.engine}, batch {task.batch}: {str(error).partition(chr(10))[0]}")
            continue
        yield tally
