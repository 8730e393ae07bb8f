"""The same archive on a real Ray of two workers, one of which is killed in the middle: the bytes of a run of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge.archive.ordeal import FILES

from .conftest import EXCERPT

pytest.importorskip("ray")

ROOT = Path(__file__).parent.parent


def _command(ptbxl: Path, out: Path, *words: str) -> list[str]:
    archive = [str(EXCERPT.with_suffix(".hea")), str(ptbxl)]
    return [sys.executable, "-m", "edge", "replay", *archive, "--out", str(out), "--jobs", "2", *words]


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def _actor_at_work(deadline_s: float) -> int:
    """The process of an actor; Ray gives it the name of what it does."""
    while time.monotonic() < deadline_s:
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if process.read_bytes().startswith(b"ray::Worker.run"):
                    return int(process.parent.name)
            except OSError:
                continue
        time.sleep(0.005)
    raise AssertionError("no actor was seen at work")


def test_a_cluster_that_loses_a_worker_gives_the_bytes_of_one_machine(ptbxl: Path, tmp_path: Path) -> None:
    local, cluster = tmp_path / "local", tmp_path / "cluster"
    subprocess.run(_command(ptbxl, local), cwd=ROOT, env=_env(), check=True, capture_output=True, timeout=200)
    with subprocess.Popen(_command(ptbxl, cluster, "--engine", "ray"), cwd=ROOT, env=_env(), stderr=subprocess.PIPE, text=True) as run:
        victim = _actor_at_work(time.monotonic() + 90)
        os.kill(victim, signal.SIGKILL)
        _, said = run.communicate(timeout=200)
    assert run.returncode == 0, said
    for name in FILES:
        assert (cluster / name).read_bytes() == (local / name).read_bytes(), name


def test_a_crew_that_is_larger_than_the_cluster_ends_all_the_same(ptbxl: Path, tmp_path: Path) -> None:
    """Of three actors two wait for room for ever."""
    words = ["cardiogloss", *_command(ptbxl, tmp_path / "out", "--engine", "ray", "--jobs", "3", "--address")[3:]]
    code = f"""
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={{"num_cpus": 1, "include_dashboard": False}})
import edge.__main__ as program
sys.argv = {words!r} + [cluster.address]
program.main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=_env(), capture_output=True, text=True, timeout=200)
    assert (tmp_path / "out" / "overview.html").exists(), done.stderr


def test_a_cluster_that_is_not_there_is_the_operators_mistake(ptbxl: Path, tmp_path: Path) -> None:
    words = _command(ptbxl, tmp_path / "out", "--engine", "ray", "--address", "127.0.0.1:1")
    done = subprocess.run(words, cwd=ROOT, env=_env(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 2, done.stderr
    assert "no Ray cluster at 127.0.0.1:1" in done.stderr
