"""A recording, the engine of this process and a fleet at a broker in; what a window costs here and there out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from kernels.engine import Engine
from kernels.findings import ConfigError
from kernels.signal import Samples

from ..config import Mqtt
from ..pipeline import Pipeline
from ..transport.file import open_recording
from .remote import RemoteEngine
from .window import Asked, Ticket, pack_window, unpack_window

_WINDOWS = 256
_BATCH = 64
_ALONE = 100


@dataclass(frozen=True, slots=True)
class Pace:
    """What a window costs."""

    window_bytes: int
    pack_ms: float
    local_ms: float
    remote_ms: float
    local_per_s: float
    remote_per_s: float


def measure(recording: Path, engine: Engine, mqtt: Mqtt) -> Pace:
    """With the first windows of a recording. Raises ConfigError where it has none, or the workers give other scores."""
    ecg = _windows(recording, engine)
    messages, pack_s = _packed(ecg)
    with RemoteEngine(engine.bundle, mqtt, "measure", "measure") as remote:
        remote.run(ecg[:1])
        if not np.array_equal(remote.run(ecg).probability, engine.run(ecg).probability):
            raise ConfigError("the workers' scores are not those of this machine; use one kind of processor and engine for all")
        return Pace(
            window_bytes=round(statistics.median(map(len, messages))),
            pack_ms=round(pack_s * 1e3, 3),
            local_ms=round(_alone_s(engine, ecg) * 1e3, 2),
            remote_ms=round(_alone_s(remote, ecg) * 1e3, 2),
            local_per_s=round(_together_per_s(engine, ecg), 1),
            remote_per_s=round(_together_per_s(remote, ecg), 1),
        )


def _windows(recording: Path, engine: Engine) -> Samples:
    pipeline, found = Pipeline("", engine), list[Samples]()
    for chunk in open_recording(recording).chunks():
        found += [job.ecg for job in pipeline.prepare(chunk).jobs]
        if len(found) >= _WINDOWS:
            break
    if not found:
        raise ConfigError(f"{recording}: has no window to score; give a longer recording")
    return np.stack(found[:_WINDOWS])


def _packed(ecg: Samples) -> tuple[list[bytes], float]:
    """The messages, and the seconds that it takes to make and read one."""
    begun_s = time.perf_counter()
    messages = [pack_window(Asked(Ticket(bytes(16), i), "0" * 64, window)) for i, window in enumerate(ecg)]
    for message in messages:
        unpack_window(message)
    return messages, (time.perf_counter() - begun_s) / len(ecg)


def _alone_s(engine: Engine, ecg: Samples) -> float:
    """The time at the middle of windows that are scored one after the other."""
    return statistics.median(_timed_s(partial(engine.run, window[None])) for window in ecg[:_ALONE])


def _together_per_s(engine: Engine, ecg: Samples) -> float:
    return len(ecg) / sum(_timed_s(partial(engine.run, ecg[at : at + _BATCH])) for at in range(0, len(ecg), _BATCH))


def _timed_s(work: Callable[[], object]) -> float:
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s
