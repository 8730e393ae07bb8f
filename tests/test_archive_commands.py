"""The commands that measure and torment archives tell the truth of a small one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def _json(*words: object) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "edge", *map(str, words), "--json"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_killed_runs_come_out_as_the_one_that_nobody_disturbed(ptbxl: Path) -> None:
    figures = _json("ordeal-archive", ptbxl, "--kills", 4, "--jobs", 1)
    assert figures["recordings"] == 40
    assert figures["kills"] == figures["of_whole_runs"] + figures["of_workers"] == 4
    assert figures["runs"] >= 1
    assert figures["different"] == 0


def test_an_archive_is_measured_beside_its_engines(ptbxl: Path) -> None:
    figures = _json("bench-archive", ptbxl, "--jobs", 1, "--seconds", 0.5)
    assert figures["recordings"] == 40
    assert figures["windows_per_s"] > 0
    assert figures["share_of_engine"] == pytest.approx(figures["windows_per_s"] / figures["engine_windows_per_s"], abs=0.003)
    assert 50 < figures["peak_memory_mb"] < 1000


def test_a_bundle_for_streams_has_no_speed_of_windows(ptbxl: Path) -> None:
    words = [sys.executable, "-m", "edge", "bench-archive", str(ptbxl), "--bundle", "cardiogloss-stream"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert "cardiogloss-kernels bench" in done.stderr
