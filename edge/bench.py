"""A recording in; how fast and how small its replay is, as a user would measure it from outside, out."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from kernels.findings import ConfigError

from .transport.file import open_recording

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Figures:
    """One replay in a fresh process on one core, imports included."""

    first_score_s: float
    """From the start of the process to the first line of scores."""
    total_s: float
    times_real_time: float
    """Length of the recording over `total_s`."""
    peak_memory_mb: float


def bench(recording: Path) -> Figures:
    """Run `cardiogloss replay RECORDING --json` and watch it, on Linux. Raises ConfigError where it fails."""
    import resource

    source = open_recording(recording)
    begun_s = time.monotonic()
    first_s = None
    command = [sys.executable, "-m", "edge", "replay", str(recording), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=use_one_core) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if first_s is None and '"type": "scores"' in line:
                first_s = time.monotonic() - begun_s
    total_s = time.monotonic() - begun_s
    if process.returncode or first_s is None or source.duration_s is None:
        raise ConfigError(f"{recording}: its replay failed, or it does not tell its length; give a WFDB record that replays")
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return Figures(first_s, total_s, source.duration_s / total_s, peak_mb)


def use_one_core() -> None:
    """From now on, where the system can be told so."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def on_one_core(work: Callable[..., T], *given: object) -> T:
    """What it comes to in a process of its own, with one core and one thread. Raises what it raises."""
    kept = dict(os.environ)
    os.environ.update(_ONE_THREAD)
    try:
        with ProcessPoolExecutor(1, get_context("spawn"), use_one_core) as process:
            return process.submit(work, *given).result()
    finally:
        os.environ.clear()
        os.environ.update(kept)
