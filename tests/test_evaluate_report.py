"""The comparison of a report with annotations: what it counts on the excerpt is what its annotations hold."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import wfdb

from edge.evaluate.truth import BEATS

from .conftest import EXCERPT

ROOT = Path(__file__).parent.parent


def test_the_comparison_tells_what_the_annotations_hold() -> None:
    command = [sys.executable, "-m", "edge", "evaluate-report", str(EXCERPT), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    told = json.loads(done.stdout)
    notes = wfdb.rdann(str(EXCERPT), "atr")
    beats = [at for at, symbol in zip(notes.sample, notes.symbol, strict=True) if symbol in BEATS]
    pauses = sum(b - a > 2 * notes.fs for a, b in pairwise(beats))
    assert told["annotated_beats"] == len(beats)
    assert told["annotated_mean_bpm"] == pytest.approx(60 * notes.fs * (len(beats) - 1) / (beats[-1] - beats[0]), abs=0.01)
    assert told["pauses_found"] + told["pauses_missed"] == pauses
    assert told["beats"] == pytest.approx(len(beats), rel=0.02)
    assert told["fibrillation_annotated"] == pytest.approx(0.43, abs=0.02)


def test_a_record_without_annotations_is_the_operators_mistake(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edge", "evaluate-report", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
