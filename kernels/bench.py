"""Bundles, the names of engines and windows in; how fast each engine scores them, measured side by side, out."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.util import find_spec
from itertools import cycle
from typing import Any

import numpy as np
import onnxruntime

from .bundle import Bundle, BundleError
from .engine import Engine, Result, StreamEngine, check_shape, open_engine
from .findings import ConfigError
from .peak import Macs, Meter, Peak, count_hop, count_macs, find_meter, hop_sizes, measure_peak
from .signal import Samples

ENGINES = ("torch", "torch-compile", "torch-cuda", "onnx", "onnx-cuda", "openvino", "stream", "tensorrt")
"""Those that are tried unless some are named; `reference` is slow and only tried by name."""
BASELINE = "torch"

HOP_S = 1.0
ROUNDS = 20
LEAST_RUNS = 5
WHOLE_S = 180.0
MOST_S = 10.0
"""So long all rows take together, and each at the most, where nobody says how long a row may take."""

Clock = Callable[[], float]
"""In seconds."""

_PRECISIONS = {"torch": {"fp32"}, "torch-compile": {"fp32"}, "torch-cuda": {"fp32", "fp16"}, "onnx-cuda": {"fp32", "fp16"}}
"""What an engine has arithmetic for, where that is not everything: elsewhere it would only imitate the precision."""
_ON_GPU = {"torch-cuda", "onnx-cuda", "tensorrt"}
_PACKAGES = {
    "torch": (("torch",), "pip install torch"),
    "torch-compile": (("torch",), "pip install torch"),
    "torch-cuda": (("torch",), "pip install torch"),
    "openvino": (("openvino",), "pip install 'cardiogloss[openvino]'"),
    "tensorrt": (("tensorrt", "tensorrt_rtx"), "it comes with JetPack, elsewhere with NVIDIA's own packages"),
}
_CUDA = "CUDAExecutionProvider"
_SHORT_S = 0.05
_WARM_S = 1.0
_WARM_RUNS = 3


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


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Row:
    """What one engine did with one bundle in batches of one size; a batch of a stream engine is a step of so many streams."""

    engine: str
    precision: str
    batch: int
    threads: int
    median_ms: float
    p99_ms: float
    windows_per_s: float
    joules_per_window: float | None
    """Of the whole machine; None where the platform does not tell."""
    share_of_peak: float | None
    """Time that the multiply-adds take at the machine's measured peak, over the time taken; None on a GPU."""
    sources_per_core: float | None
    """At a hop of one second; None on a GPU."""
    times_torch: float | None
    """How many times as many windows a second as torch in eager mode, of the same batch in the same run."""
    bundle: str
    runs: int
    share_of_core: float | None
    """Of its time, how much the process ran: below 1 others had the core, which slows long calls more than short ones. None on a GPU."""
    hop_s: float | None = None
    macs_per_window: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Without the last two for what is no stream."""
        return {name: value for name, value in asdict(self).items() if value is not None or name not in ("hop_s", "macs_per_window")}


@dataclass(frozen=True, slots=True)
class Task:
    """What is timed: `run` scores one batch, and says how many samples of each window or stream it took."""

    engine: str
    bundle: str
    precision: str
    batch: int
    run: Callable[[], int]
    macs: Macs
    """Of one window, or of one hop of one stream."""
    hop_s: float | None = None


@dataclass(slots=True)
class Tally:
    """The runs of one task so far."""

    task: Task
    seconds: list[float] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    spent_s: float = 0.0
    ran_s: float = 0.0
    joules: float = 0.0
    warm_s: float = 0.0

    def warm_up(self, clock: Clock) -> None:
        """Runs that do not count, as the first ones compile, allocate and fill caches."""
        end_s = clock() + _WARM_S
        for _ in range(_WARM_RUNS):
            begun_s = clock()
            self.task.run()
            self.warm_s = clock() - begun_s
            if clock() >= end_s:
                return

    def burst(self, until_s: float, least: int, clock: Clock, cpu_clock: Clock, meter: Meter | None) -> None:
        """Run until so many seconds were spent and so many runs made in all."""
        if not self._wants(until_s, least):
            return
        if self.warm_s < _SHORT_S:
            self.task.run()  # the caches hold what the engine before it left there
        if meter:
            meter.begin()
        before_s, ran_before_s = self.spent_s, cpu_clock()
        try:
            while self._wants(until_s, least):
                self._time(clock)
        finally:  # what was measured before Ctrl-C counts
            self.ran_s += cpu_clock() - ran_before_s
            self.joules += meter.end(self.spent_s - before_s) if meter else 0.0

    def _time(self, clock: Clock) -> None:
        begun_s = clock()
        taken = self.task.run()
        self.seconds.append(clock() - begun_s)
        self.taken.append(taken)
        self.spent_s += self.seconds[-1]

    def _wants(self, until_s: float, least: int) -> bool:
        return self.spent_s < until_s or len(self.seconds) < least

    @property
    def typical_s(self) -> float:
        """The median; over hops of several sizes, the mean of the medians of each."""
        seconds, taken = np.array(self.seconds), np.array(self.taken)
        medians = {size: float(np.median(seconds[taken == size])) for size in set(self.taken)}
        return float(np.mean([medians[size] for size in self.taken]))


def run_rounds(
    tallies: Sequence[Tally],
    seconds: float,
    advance: Callable[[float], None] = lambda share: None,
    meter: Meter | None = None,
    clock: Clock = time.perf_counter,
    cpu_clock: Clock = time.process_time,
) -> bool:
    """Give each task its seconds in short bursts, one task after the other, so that a noisy moment hits all alike.

    Each has had its part of the time by the end of a round. Nothing is collected while the clock runs.
    False where Ctrl-C ended it early: what was measured until then stands.
    """
    collected = gc.isenabled()
    gc.disable()
    gc.collect()
    gc.freeze()  # so that what lies there already costs the collections between the rounds no time
    try:
        for share in (done / ROUNDS for done in range(1, ROUNDS + 1)):
            gc.collect()
            for tally in tallies:
                tally.burst(seconds * share, math.ceil(LEAST_RUNS * share), clock, cpu_clock, meter)
            advance(share)
    except KeyboardInterrupt:
        return False
    finally:
        gc.unfreeze()
        if collected:
            gc.enable()
    return True


def to_rows(tallies: Sequence[Tally], threads: int, peak: Peak, with_joules: bool) -> list[Row]:
    """Of those that ran at all, by batch, in the order of the tallies."""
    ran = [tally for tally in tallies if tally.seconds]
    torch_s = {t.task.batch: t.typical_s for t in reversed(ran) if t.task.engine == BASELINE}
    return [_row(t, threads, peak, with_joules, torch_s.get(t.task.batch)) for t in sorted(ran, key=lambda t: t.task.batch)]


def _row(tally: Tally, threads: int, peak: Peak, with_joules: bool, torch_s: float | None) -> Row:
    task, typical_s = tally.task, tally.typical_s
    windows_per_s = task.batch / typical_s
    on_gpu = task.engine in _ON_GPU
    return Row(
        engine=task.engine,
        precision=task.precision,
        batch=task.batch,
        threads=threads,
        median_ms=1e3 * float(np.median(tally.seconds)),
        p99_ms=1e3 * float(np.percentile(tally.seconds, 99)),
        windows_per_s=windows_per_s,
        joules_per_window=tally.joules / (task.batch * len(tally.seconds)) if with_joules else None,
        share_of_peak=None if on_gpu else task.macs.least_s(peak) * windows_per_s,
        sources_per_core=None if on_gpu else windows_per_s * HOP_S / threads,
        times_torch=torch_s / typical_s if torch_s else None,
        bundle=task.bundle,
        runs=len(tally.seconds),
        share_of_core=None if on_gpu else min(tally.ran_s / sum(tally.seconds), 1.0),
        hop_s=task.hop_s,
        macs_per_window=task.macs.total if task.hop_s else None,
    )


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
            peak = peak.or_more(measure_peak(selection.threads, min(seconds, 1.0)))
    rows = to_rows(tallies, selection.threads, peak, with_joules=meter is not None)
    return Report(tuple(rows), tuple(absent), peak, meter.name if meter else None, seconds, is_whole)


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
