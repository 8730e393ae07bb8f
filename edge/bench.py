"""A recording in; how fast and how small its replay is, as a user would measure it from outside, out."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from kernels.findings import ConfigError

from .transport.file import open_recording


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
