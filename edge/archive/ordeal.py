"""An archive and a number of kills in; whether its tables came out as those of a run that nobody disturbed, out."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from kernels.findings import ConfigError

from ..live_command import tell_figures

TABLES = ("scores", "alerts", "annotations", "recordings")
FILES = (*(f"{name}.{ending}" for name in TABLES for ending in ("jsonl", "parquet")), "overview.md", "overview.html")
_PATIENCE_S = 3600.0


@dataclass(slots=True)
class Figures:
    """What became of the results."""

    recordings: int = 0
    kills: int = 0
    of_whole_runs: int = 0
    of_workers: int = 0
    runs: int = 0
    """Finished ones; each began with an empty folder."""
    different: int = 0
    """Runs of which a table or page was not, byte for byte, that of the undisturbed one."""
    minutes: float = 0.0


def ordeal(paths: list[str], kills: int, jobs: int, seed: int) -> Figures:
    """Kill runs and their workers at random moments, go on each time, and compare. On Linux.

    Raises ConfigError where the undisturbed run fails.
    """
    begun_s, chance, figures = time.monotonic(), random.Random(seed), Figures()
    with tempfile.TemporaryDirectory() as folder:
        calm, rough = Path(folder) / "calm", Path(folder) / "rough"
        with _start(paths, calm, jobs) as run:
            run.wait(_PATIENCE_S)
        length_s = time.monotonic() - begun_s
        if not (calm / "recordings.jsonl").is_file():
            raise ConfigError(f"the undisturbed run ended with exit code {run.returncode}; try it by `cardiogloss replay` first")
        figures.recordings = (calm / "recordings.jsonl").read_bytes().count(b"\n")
        while figures.kills < kills:
            name = rough.with_name(f"rough{figures.runs}")
            _disturb(paths, name, jobs, chance, length_s, figures, kills)
            figures.runs += 1
            figures.different += any((calm / file).read_bytes() != (name / file).read_bytes() for file in FILES)
    figures.minutes = round((time.monotonic() - begun_s) / 60, 1)
    return figures


def _disturb(paths: list[str], out: Path, jobs: int, chance: random.Random, length_s: float, figures: Figures, most: int) -> None:
    """One run with as many kills as it takes until it ends."""
    while True:
        with _start(paths, out, jobs) as run:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    run.wait(_PATIENCE_S if figures.kills >= most else chance.uniform(0, length_s / 2))
                    return
                if _kill(run.pid, chance, figures):
                    break


def _start(paths: list[str], out: Path, jobs: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "edge", "replay", *paths, "--out", str(out), "--jobs", str(jobs)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _kill(run: int, chance: random.Random, figures: Figures) -> bool:
    """The whole run, or one of its workers; whether it was the whole run."""
    workers = children(run)
    figures.kills += 1
    if workers and chance.random() < 0.5:
        figures.of_workers += 1
        with suppress(ProcessLookupError):
            os.kill(chance.choice(workers), signal.SIGKILL)
        return False
    figures.of_whole_runs += 1
    with suppress(ProcessLookupError):
        os.kill(run, signal.SIGKILL)
    return True


def children(process: int) -> list[int]:
    """None of one that has ended."""
    try:
        told = [task.joinpath("children").read_text() for task in Path(f"/proc/{process}/task").iterdir()]
    except OSError:
        return []
    return [int(child) for text in told for child in text.split()]


def ordeal_archive_command(
    paths: Annotated[list[str], typer.Argument(help="Recordings and folders, as for replay --out.")],
    kills: Annotated[int, typer.Option(min=1, help="How many times to kill.")] = 200,
    jobs: Annotated[int, typer.Option(min=1, help="Processes of each run.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the random moments.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Kill runs of an archive at random moments, go on each time, and compare the results with those of an undisturbed run."""
    tell_figures(asdict(ordeal(paths, kills, jobs, seed)), as_json)
