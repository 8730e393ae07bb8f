"""An archive in; how fast and in how much memory it is replayed, beside what its engines alone would do, out."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from kernels.bundle import SHIPPED_BUNDLE, Bundle, golden_windows
from kernels.engine import StreamEngine, open_engine
from kernels.findings import ConfigError

from ..live_command import tell_figures
from .ordeal import children

_TOGETHER = 64
_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Figures:
    """One replay in fresh processes, imports, tables and pictures included; engines before and after it, as many at once."""

    recordings: int
    jobs: int
    recordings_per_s: float
    """While it scores, reading included."""
    windows_per_s: float
    engine_windows_per_s: float
    """Of as many processes that do nothing else; the mean of before and after."""
    share_of_engine: float
    times_real_time: float
    total_s: float
    """From the start to the last picture."""
    peak_memory_mb: float
    """Of all processes together; what they share counts once."""


def bench(paths: list[str], bundle: Path, jobs: int, engine_s: float = 15.0) -> Figures:
    """On Linux. Raises ConfigError where the replay fails."""
    before = _engines(bundle, jobs, engine_s)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        options = ["--out", str(out), "--jobs", str(jobs), "--bundle", str(bundle), "--json"]
        command = [sys.executable, "-m", "edge", "replay", *paths, *options]
        begun_s = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run, _peak_of(run.pid) as peak_mb:
            told, _ = run.communicate()
        total_s = time.monotonic() - begun_s
        if run.returncode not in (0, 1) or not told:
            raise ConfigError(f"the replay ended with exit code {run.returncode}; try it by `cardiogloss replay` first")
        figures: dict[str, Any] = json.loads(told)
        windows = (out / "scores.jsonl").read_bytes().count(b"\n")
    engine = (before + _engines(bundle, jobs, engine_s)) / 2
    rate = windows / figures["scoring_s"]
    return Figures(
        figures["now"], jobs, round(figures["recordings_per_s"], 1), round(rate, 1), round(engine, 1), round(rate / engine, 3),
        round(figures["ecg_s"] / figures["scoring_s"], 1), round(total_s, 1), round(max(peak_mb), 1),
    )  # fmt: skip


def _engines(bundle: Path, jobs: int, seconds: float) -> float:
    """Windows a second of engines side by side, one a process."""
    with get_context("spawn").Pool(jobs) as pool:
        return float(sum(pool.starmap(_engine, [(bundle, seconds)] * jobs)))


def _engine(bundle: Path, seconds: float) -> float:
    model = Bundle.read(bundle)
    windows = np.resize(golden_windows(model.card.samples), (_TOGETHER, 12, model.card.samples))
    with open_engine(model) as engine:
        if isinstance(engine, StreamEngine):
            raise ConfigError("a bundle for streams has no speed of windows; compare it by `cardiogloss-kernels bench`")
        engine.run(windows)
        count, begun_s = 0, time.monotonic()
        while time.monotonic() - begun_s < seconds:
            engine.run(windows)
            count += _TOGETHER
        return count / (time.monotonic() - begun_s)


@contextmanager
def _peak_of(process: int) -> Iterator[list[float]]:
    """Looks now and then at the memory of a process and its children, until the end."""
    seen, ended = [0.0], threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK_S):
            seen.append(sum(map(_memory_mb, (process, *children(process)))))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        ended.set()
        looking.join()


def _memory_mb(process: int) -> float:
    """0 of one that has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def bench_archive_command(
    paths: Annotated[list[str], typer.Argument(help="Recordings and folders, as for replay --out.")],
    bundle: Annotated[Path, typer.Option(help="The model.", show_default="the shipped one")] = SHIPPED_BUNDLE,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long the engines run alone, before and after.")] = 15.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Measure the replay of an archive beside what its engines alone would do on the same cores."""
    tell_figures(asdict(bench(paths, bundle, jobs, seconds)), as_json)
