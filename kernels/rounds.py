"""Tasks in; how long their runs took, in bursts by turns, and the rows of figures that this gives, out."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .peak import Macs, Meter, Peak

BASELINE = "torch"
"""The engine that the others are told in multiples of."""

HOP_S = 1.0
ROUNDS = 20
LEAST_RUNS = 5

Clock = Callable[[], float]
"""In seconds."""

_ON_GPU = {"torch-cuda", "onnx-cuda", "tensorrt"}
_SHORT_S = 0.05
_WARM_S = 1.0
_WARM_RUNS = 3


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
