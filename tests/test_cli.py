"""The command as its users run it: JSON lines, tables, pictures; one line and exit 2 for everything they can mend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge.alarm import Alert
from edge.draw import _cells
from edge.replay import Summary
from edge.score import Scores
from edge.table import episode_rows
from kernels.bundle import SHIPPED_BUNDLE

from .conftest import DATA, EXCERPT, heart


def _run(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge", *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(DATA.parent.parent), "COLUMNS": "120"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, env=env)


def _csv(path: Path, samples: np.ndarray, header: str = "I,II,V1") -> Path:
    np.savetxt(path, samples.T, delimiter=",", header=header, comments="", fmt="%.4f")
    return path


def _wfdb(folder: Path, rate: int = 250, samples: int = 5000, lead: str = "II", written: int | None = None) -> Path:
    digits = (heart(70, samples / rate + 1, rate)[1, :samples] * 1000).astype("<i2")
    (folder / "rec.dat").write_bytes(digits[:written].tobytes())
    (folder / "rec.hea").write_text(f"rec 1 {rate} {samples}\nrec.dat 16 1000/mV 16 0 0 0 0 {lead}\n")
    return folder / "rec"


def test_json_lines_are_scores_vitals_and_alerts() -> None:
    done = _run("replay", EXCERPT, "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    by_type = {kind: [line for line in lines if line["type"] == kind] for kind in ("scores", "vitals", "alert", "evidence")}
    assert done.returncode == 0
    assert done.stderr == ""
    assert len(by_type["scores"]) == 261
    assert {"source", "at_s", "probability", "abstained"} <= by_type["scores"][0].keys()
    assert {"source", "at_s", "heart_rate_bpm"} <= by_type["vitals"][0].keys()
    assert {"id", "finding", "state", "at_s"} <= by_type["alert"][0].keys()
    assert {line["state"] for line in by_type["alert"]} <= {"raised", "updated", "cleared"}


def test_the_picture_and_the_page_stand_alone(tmp_path: Path) -> None:
    done = _run("replay", EXCERPT, "--plot", tmp_path / "out.png", "--report", tmp_path / "out.html")
    page = (tmp_path / "out.html").read_text()
    assert done.returncode == 0
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert "atrial fibrillation" in page
    assert "src=" not in page
    assert "http" not in page.replace("http://www.w3.org/", "").replace("http-equiv", "")


def test_a_csv_and_a_wfdb_record_with_the_same_samples_score_the_same(tmp_path: Path) -> None:
    samples = heart(70, 20, 250)[[0, 1, 6]].round(3)
    (tmp_path / "a.dat").write_bytes(np.round(samples.T * 1000).astype("<i2").tobytes())
    signals = "".join(f"a.dat 16 1000/mV 16 0 0 0 0 {lead}\n" for lead in ("I", "II", "V1"))
    (tmp_path / "a.hea").write_text(f"a 3 250 5000\n{signals}")
    (tmp_path / "csv").mkdir()
    csv = _csv(tmp_path / "csv" / "a.csv", samples)
    assert _run("replay", csv, "--rate", "250", "--json").stdout == _run("replay", tmp_path / "a", "--json").stdout


def test_a_thousand_hertz_is_scored(tmp_path: Path) -> None:
    done = _run("replay", _wfdb(tmp_path, rate=1000, samples=12_000), "--json")
    assert done.returncode == 0
    assert '"type": "scores"' in done.stdout


def test_partial_replays_what_is_left(tmp_path: Path) -> None:
    record = _wfdb(tmp_path, samples=5000, written=3000)
    assert _run("replay", record, "--partial").returncode == 0


def test_a_constant_signal_abstains_and_says_why(tmp_path: Path) -> None:
    done = _run("replay", _csv(tmp_path / "c.csv", np.full((1, 3000), 0.2), "II"), "--rate", "250", "--json")
    scores = [json.loads(line) for line in done.stdout.splitlines() if '"type": "scores"' in line]
    assert done.returncode == 0
    assert all(s["probability"] == {} and s["abstained"] == "no usable lead: II flat" for s in scores)


def _mistakes(folder: Path) -> dict[str, tuple[list[str | Path], str]]:
    """What a user can get wrong -> the words, and what the answer must say."""
    (folder / "picture.png").write_bytes(b"\x89PNG\0\0")
    (folder / "text.csv").write_text("hello world\nno numbers\n")
    (folder / "lonely.dat").write_bytes(b"\0" * 100)
    (folder / "headed.hea").write_text("headed 1 250 5000\nheaded.dat 16 200 12 0 0 0 0 II\n")
    (folder / "bad.toml").write_text('[[finding]]\nname = "x"\nprompt = ["y"]\n')
    (folder / "old.onnx").write_bytes(SHIPPED_BUNDLE.read_bytes().replace(b'"cardiogloss_bundle":1,', b'"cardiogloss_bundle":7,'))
    made = {name: folder / name for name in ("truncated", "slow", "short", "unknown")}
    for path in made.values():
        path.mkdir()
    one = _csv(folder / "one.csv", np.zeros((1, 1)), "II")
    return {
        "absent": ([folder / "nothing"], "no such recording"),
        "folder": ([folder], "is a folder"),
        "not a recording": ([folder / "picture.png"], "is a picture; export the recording itself"),
        "no numbers": ([folder / "text.csv"], "name them in order"),
        "missing header": ([folder / "lonely.dat"], "its header lonely.hea is missing"),
        "missing signals": ([folder / "headed"], "its signal file headed.dat is missing"),
        "truncated": ([_wfdb(made["truncated"], written=3000)], "is truncated: it holds 12.00 of 20.00 s"),
        "unknown lead": ([_wfdb(made["unknown"], lead="ECG")], "--leads I"),
        "50 Hz": ([_wfdb(made["slow"], rate=50, samples=1000)], "50 Hz is too slow"),
        "too short": ([_wfdb(made["short"], samples=2000)], "no stretch of 10 s"),
        "one sample": ([one, "--rate", "250"], "no stretch of 10 s"),
        "no rate": ([one], "--rate 250"),
        "bad unit": ([one, "--rate", "250", "--unit", "furlong"], "allowed are mV, uV, V"),
        "bad hop": ([EXCERPT, "--hop", "60"], "--hop 60 must lie between"),
        "bad speed": ([EXCERPT, "--speed", "-1"], "--speed -1 must be at least 0.01"),
        "no bundle": ([EXCERPT, "--bundle", folder / "picture.png"], "not a cardiogloss bundle"),
        "other version": ([EXCERPT, "--bundle", folder / "old.onnx"], "bundle format 7"),
        "bad findings": ([EXCERPT, "--findings", folder / "bad.toml"], "finding.0.prompts: Field required"),
        "picture of no kind": ([EXCERPT, "--plot", folder / "out.xyz"], "must end in one of .png, .svg, .pdf"),
        "picture on a folder": ([EXCERPT, "--report", folder], "its name must end in .html"),
        "page over the recording": ([EXCERPT, "--report", EXCERPT.with_suffix(".dat")], "its name must end in .html"),
        "rate not finite": ([one, "--rate", "inf"], "--rate inf must be positive and at most"),
        "speed not a number": ([EXCERPT, "--speed", "nan"], "--speed nan must be at least"),
        "unit zero": ([one, "--rate", "250", "--unit", "0"], "--unit '0' is unknown"),
        "rate for WFDB": ([EXCERPT, "--rate", "250"], "are for CSV files"),
        "lead twice": ([EXCERPT, "--leads", "I,I"], "lead I stands twice"),
        "no folder": ([EXCERPT, "--plot", folder / "no" / "out.png"], "there is no folder"),
    }  # fmt: skip


@pytest.mark.parametrize("mistake", range(27))
def test_a_mistake_is_one_line_and_exit_2(tmp_path: Path, mistake: int) -> None:
    words, answer = list(_mistakes(tmp_path).values())[mistake]
    done = _run("replay", *words)
    assert done.returncode == 2
    assert answer in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    command = f"{sys.executable} -m edge replay {EXCERPT} --json | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=DATA.parent.parent, timeout=60)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1


def test_without_its_extra_a_command_says_what_to_install() -> None:
    code = "import sys; sys.modules['onnx'] = None; from kernels.__main__ import main; sys.argv = ['x', 'compare']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=DATA.parent.parent, timeout=60)
    assert done.returncode == 2
    assert "pip install 'cardiogloss[bake]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_samples_that_are_not_finite_are_no_score(tmp_path: Path) -> None:
    lines = ["II", *(["0.1", "inf", "1e40", "nan"] * 1000)]
    (tmp_path / "wild.csv").write_text("\n".join(lines))
    done = _run("replay", tmp_path / "wild.csv", "--rate", "250", "--json")
    assert done.returncode == 0
    assert "NaN" not in done.stdout
    assert done.stderr == ""
    assert all(json.loads(line).get("probability", {}) == {} for line in done.stdout.splitlines())


def test_the_picture_paints_only_what_was_scored() -> None:
    edges, image = _cells(np.array([12.0, 13.0, 600.0, 601.0]), np.float32([[0.1, 0.2, 0.3, 0.4]]))
    assert edges.tolist() == [11, 12, 13, 599, 600, 601]
    assert np.array_equal(image, np.float32([[0.1, 0.2, np.nan, 0.3, 0.4]]), equal_nan=True)
    edges, image = _cells(np.arange(9000.0) + 10, np.zeros((2, 9000), np.float32))
    assert image.shape == (2, 3000)
    assert len(edges) == 3001


def test_the_peak_of_an_alert_is_followed_to_the_end() -> None:
    summary = Summary()
    alert = Alert("id", 0, "bed1", "", "af", "physiological", "medium", "raised", 3.0, 1.0, 0.55)
    summary.add(None, [alert, Scores("bed1", 4.0, {"af": 0.99}, {})])
    assert [row[-1] for row in episode_rows(summary)] == ["0.99"]


def test_other_findings_are_watched_without_training(tmp_path: Path) -> None:
    """Known texts need no language model; new ones are embedded."""
    (tmp_path / "few.toml").write_text(
        '[[finding]]\nname = "irregular"\npriority = "high"\nprompts = ["irregular rhythm without P waves"]\n'
        '[[finding]]\nname = "sinus_rhythm"\nprompts = ["sinus rhythm"]\n'
    )
    done = _run("replay", EXCERPT, "--findings", tmp_path / "few.toml", "--json")
    first = next(json.loads(line) for line in done.stdout.splitlines() if '"type": "scores"' in line)
    assert done.returncode == 0
    assert list(first["probability"]) == ["irregular", "sinus_rhythm"]
