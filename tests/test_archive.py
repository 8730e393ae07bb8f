"""Archives: every recording once, the same results however a run is divided or killed, and a reason for each that cannot be read."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.archive.find import Entry, find
from edge.archive.manifest import Manifest, Settings, Shard, cut
from edge.archive.ordeal import FILES
from edge.archive.part import read_parts, write_part
from edge.decode.csv import Columns
from kernels.findings import ConfigError

from .conftest import EXCERPT, heart

ROOT = Path(__file__).parent.parent
TABLES = ("scores", "alerts", "annotations", "recordings")


def _replay(*words: object, cwd: Path = ROOT, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge", "replay", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=_env(), capture_output=True, text=True, timeout=300, **options)  # type: ignore


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def _lines(out: Path, table: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / f"{table}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def archive(ptbxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty short records, some minutes' excerpt with annotations, a table, and all kinds of what cannot be read."""
    root = tmp_path_factory.mktemp("archive")
    (root / "short").mkdir()
    for file in sorted((ptbxl / "records100" / "00000").iterdir()):
        shutil.copy(file, root / "short")
    for ending in ("hea", "dat", "atr"):
        shutil.copy(EXCERPT.with_suffix(f".{ending}"), root)
    rows = "\n".join(",".join(f"{value:.3f}" for value in row) for row in heart(70, 12, 250)[:2].T)
    (root / "table.csv").write_text(f"I,II\n{rows}\n")
    (root / "REFERENCE.csv").write_text("00001,N\n00002,A\n")
    (root / "empty.edf").write_bytes(b"")
    (root / "cut.hea").write_text((root / "mitdb201af.hea").read_text().replace("mitdb201af", "cut"))
    (root / "cut.dat").write_bytes((root / "mitdb201af.dat").read_bytes()[:1000])
    (root / "loop").symlink_to(root, target_is_directory=True)
    return root


@pytest.fixture(scope="module")
def calm(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("calm") / "out"
    done = _replay(archive, "--rate", 250, "--out", out, "--jobs", 1)
    assert done.returncode == 1, done.stderr
    return out


def _same(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


def test_every_recording_is_found_once_and_what_is_none_is_left_out(archive: Path) -> None:
    found = find([str(archive), str(archive / "short" / "00001_lr.dat"), str(archive / "mitdb201af")], Columns(rate_hz=250.0))
    names = [entry.name for entry in found.entries]
    assert names == sorted(set(names))
    assert names == ["cut", "mitdb201af", *(f"short/{n:05}_lr" for n in range(1, 41)), "table.csv"]
    assert found.unreadable == {"empty.edf": "is empty; copy it again"}
    assert set(found.left_out) == {"REFERENCE.csv", "loop"}


def test_lists_and_patterns_name_the_same_recordings_as_the_folder(archive: Path, tmp_path: Path) -> None:
    wanted = {entry.path for entry in find([str(archive / "short")]).entries}
    listed = tmp_path / "list.txt"
    listed.write_text("# all of them\n" + "\n".join(sorted(wanted)))
    assert {entry.path for entry in find([f"@{listed}"]).entries} == wanted
    assert {entry.path for entry in find([str(archive / "sh*" / "*.hea")]).entries} == wanted


@pytest.mark.parametrize("path", ["absent", "ab*ent", "@absent"])
def test_a_path_that_leads_nowhere_is_the_operators_mistake(path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        find([f"@{tmp_path}/absent" if path[0] == "@" else str(tmp_path / path)])


def test_a_folder_without_a_recording_is_the_operators_mistake(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(ConfigError, match="no recording in"):
        find([str(tmp_path)])


def test_segments_of_a_longer_record_are_no_records_of_their_own(tmp_path: Path) -> None:
    for ending in ("hea", "dat"):
        shutil.copy(EXCERPT.with_suffix(f".{ending}"), tmp_path)
    (tmp_path / "whole.hea").write_text("whole/2 2 360 194400\nmitdb201af 97200\nmitdb201af 97200\n")
    assert [entry.name for entry in find([str(tmp_path)]).entries] == ["whole"]


def _as_nobody(path: Path) -> dict[str, str]:
    """What a user without rights finds there, in a process of its own."""
    find_there = f"find([{str(path)!r}]).unreadable"
    code = f"import os, json; from edge.archive.find import find; os.setresuid(65534, 65534, 65534); print(json.dumps({find_there}))"
    return json.loads(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True))  # type: ignore[no-any-return]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_what_may_not_be_read_is_said_and_does_not_hide_the_rest(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0o700)
    (tmp_path / "closed.edf").write_bytes(b"0       ")
    (tmp_path / "closed.edf").chmod(0o600)
    found = _as_nobody(tmp_path)
    assert set(found) == {"closed", "closed.edf"}
    assert all("permission" in why for why in found.values())


def test_an_archives_lines_are_those_of_each_recording_replayed_alone(archive: Path, calm: Path) -> None:
    for name, path in (("mitdb201af", archive / "mitdb201af"), ("short/00003_lr", archive / "short" / "00003_lr")):
        alone = [json.loads(line) for line in _replay(path, "--json").stdout.splitlines()]
        for kind, table in (("scores", "scores"), ("alert", "alerts")):
            told = [line for line in _lines(calm, table) if line["recording"] == name]
            expected = [{"recording": name} | line for line in alone if line["type"] == kind]
            for line in expected if kind == "alert" else []:
                line["evidence"] = {**line["evidence"], "strip": None}  # type: ignore[dict-item]
            assert told == expected


def test_what_cannot_be_read_has_a_reason_and_changes_the_exit_code_only(calm: Path) -> None:
    why = {line["recording"]: line["why"] for line in _lines(calm, "recordings")}
    del why["empty.edf"]
    assert why.pop("cut") == "cut.dat is truncated: it holds 0.93 of 270.00 s; copy it again, or replay what is there with --partial"
    assert set(why.values()) == {None}
    assert "empty.edf" in (calm / "overview.md").read_text()


def test_what_cannot_be_found_readable_stands_in_the_tables_too(calm: Path) -> None:
    assert _lines(calm, "recordings")[-1] == {"type": "recording", "recording": "empty.edf", "why": "is empty; copy it again"}


def test_parquet_holds_what_the_lines_hold(calm: Path) -> None:
    for table in TABLES:
        rows, lines = pyarrow.parquet.read_table(calm / f"{table}.parquet").to_pylist(), _lines(calm, table)
        assert [row["recording"] for row in rows] == [line["recording"] for line in lines]
    for row, line in zip(pyarrow.parquet.read_table(calm / "scores.parquet").to_pylist(), _lines(calm, "scores"), strict=True):
        told = {name: value for name, value in row.items() if name in line["probability"]}  # type: ignore[operator]
        assert told == pytest.approx(line["probability"], abs=1e-6)
        assert row["at_s"] == line["at_s"]


def test_annotations_come_along(calm: Path) -> None:
    import wfdb

    expected = wfdb.rdann(str(EXCERPT), "atr")
    told = [line for line in _lines(calm, "annotations") if line["recording"] == "mitdb201af"]
    assert [line["at_s"] for line in told] == pytest.approx((expected.sample / expected.fs).tolist(), abs=1e-6)
    assert told[0]["text"] == expected.aux_note[0].strip("\0") or expected.symbol[0]


def test_any_number_of_processes_gives_the_same_bytes(archive: Path, calm: Path, tmp_path: Path) -> None:
    assert _replay(archive, "--rate", 250, "--out", tmp_path / "out", "--jobs", 3).returncode == 1
    assert _same(calm, tmp_path / "out")


def test_shards_together_give_the_same_bytes_as_one_run(archive: Path, calm: Path, tmp_path: Path) -> None:
    for shard in ("2/3", "3/3", "1/3"):
        assert not (tmp_path / "out" / "scores.parquet").exists()
        _replay(archive, "--rate", 250, "--out", tmp_path / "out", "--jobs", 1, "--shard", shard)
    assert _same(calm, tmp_path / "out")


def test_shards_at_once_give_the_same_bytes_as_one_run(archive: Path, calm: Path, tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "edge",
        "replay",
        str(archive),
        "--rate",
        "250",
        "--out",
        str(tmp_path / "out"),
        "--jobs",
        "1",
        "--shard",
    ]
    runs = [subprocess.Popen([*words, f"{i}/4"], cwd=ROOT, env=_env(), stdout=subprocess.DEVNULL) for i in (1, 2, 3, 4)]
    assert {run.wait(200) for run in runs} <= {0, 1}
    assert _same(calm, tmp_path / "out")


def test_a_second_run_does_nothing_again_and_a_changed_recording_alone_is_done_anew(archive: Path, calm: Path, tmp_path: Path) -> None:
    mine, out = tmp_path / "archive", tmp_path / "out"
    shutil.copytree(archive, mine, ignore=shutil.ignore_patterns("loop"))
    words = (mine, "--rate", 250, "--out", out, "--jobs", 1, "--json")
    assert json.loads(_replay(*words).stdout)["now"] == 43
    again = json.loads(_replay(*words).stdout)
    assert (again["before"], again["now"], again["failed"]) == (42, 1, 2)  # what could not be scored is tried again
    shutil.copy(EXCERPT.with_suffix(".dat"), mine / "cut.dat")
    shutil.copy(EXCERPT.with_suffix(".atr"), mine / "cut.atr")
    told = _replay(*words)
    assert json.loads(told.stdout)["now"] == 1
    assert {line["recording"] for line in _lines(out, "recordings") if line["why"]} == {"empty.edf"}


def test_a_run_that_is_killed_over_and_over_ends_with_the_same_bytes(archive: Path, calm: Path, tmp_path: Path) -> None:
    chance, out, killed = random.Random(0), tmp_path / "out", 0
    command = [sys.executable, "-m", "edge", "replay", str(archive), "--rate", "250", "--out", str(out), "--jobs", "2"]
    while not (out / "overview.html").exists():
        with subprocess.Popen(command, cwd=ROOT, env=_env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            try:
                run.wait(chance.uniform(0.5, 3.5) if killed < 6 else None)
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGKILL)
                killed += 1
    assert killed
    assert _same(calm, out)


@pytest.mark.parametrize("after_s", [0.02, 0.2, 0.5])
def test_a_worker_that_dies_at_its_start_is_replaced(after_s: float, ptbxl: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge", "replay", str(ptbxl), "--out", str(tmp_path / "out"), "--jobs", "1"]
    with subprocess.Popen(command, cwd=ROOT, env=_env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        worker = _wait_for_children(run.pid, most=2)[-1]
        time.sleep(after_s)
        os.kill(worker, signal.SIGKILL)
        assert run.wait(100) == 0
    assert len(_lines(tmp_path / "out", "recordings")) == 40


def test_a_recording_that_takes_its_worker_down_over_and_over_is_given_up(ptbxl: Path, tmp_path: Path) -> None:
    """The others of its task are scored."""
    name = ptbxl / "records100" / "00000" / "00007_lr.hea"
    (tmp_path / "sitecustomize.py").write_text(_KILLER.format(victim=str(name)))
    env = _env() | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "edge", "replay", str(ptbxl), "--out", str(tmp_path / "out"), "--jobs", "2"]
    assert subprocess.run(command, cwd=ROOT, env=env, capture_output=True, timeout=200).returncode == 1
    why = {str(line["recording"])[-8:]: line["why"] for line in _lines(tmp_path / "out", "recordings")}
    assert "took 3 processes down" in str(why.pop("00007_lr"))
    assert set(why.values()) == {None}
    assert len(why) == 39


_KILLER = """
import os, signal, sys
if any("spawn_main" in word for word in sys.orig_argv):
    from edge.archive import score
    opened = score.open_recording
    def killing(path, *rest, **more):
        if str(path) == {victim!r}:
            os.kill(os.getpid(), signal.SIGKILL)
        return opened(path, *rest, **more)
    score.open_recording = killing
"""


def test_no_process_outlives_a_killed_run(archive: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge", "replay", str(archive), "--rate", "250", "--out", str(tmp_path / "out"), "--jobs", "2"]
    with subprocess.Popen(command, cwd=ROOT, env=_env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        children = _wait_for_children(run.pid)
        run.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() and "Z" not in _state(child) for child in children):
        assert time.monotonic() < deadline, children
        time.sleep(0.05)


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


def _wait_for_children(process: int, most: int = 3) -> list[int]:
    """Those that do the work; the first is Python's own, which looks after what they share."""
    while True:
        children = [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
        if len(children) >= most:
            return children
        time.sleep(0.02)


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(archive: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge", "replay", str(archive), "--rate", "250", "--out", str(tmp_path / "out"), "--jobs", "2"]
    with subprocess.Popen(command, cwd=ROOT, env=_env(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        _wait_for_children(run.pid)
        run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "The same command goes on from here" in said
    assert "Traceback" not in said


def test_a_full_disk_ends_the_run_with_exit_1_and_a_later_one_goes_on(archive: Path, calm: Path, tmp_path: Path) -> None:
    import resource

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))

    words = (archive, "--rate", 250, "--out", tmp_path / "out", "--jobs", 1)
    done = _replay(*words, preexec_fn=small)
    assert done.returncode == 1
    assert "is full" in done.stderr
    assert not (tmp_path / "out" / "scores.parquet").exists()
    _replay(*words)
    assert _same(calm, tmp_path / "out")


MISTAKES = {
    "several without --out": (["A", "A"], "several recordings need --out DIR"),
    "a folder without --out": (["F"], "is a folder; name one recording in it, or give --out"),
    "--plot with --out": (["A", "--out", "O", "--plot", "x.png"], "--plot is for a single recording"),
    "--speed with --out": (["A", "--out", "O", "--speed", "1"], "--speed is for a single recording"),
    "a shard of none": (["A", "--out", "O", "--shard", "3/2"], "must read i/n"),
    "an engine that is none": (["A", "--out", "O", "--engine", "spark"], "--engine"),
    "results of another hop": (["F", "--out", "C", "--hop", "2"], "holds results with another hop_s 1.0"),
    "a finding named like a column": (["A", "--out", "O", "--findings", "T"], "'recording', which the tables have already"),
    "results in a file": (["A", "--out", "A.dat"], "cannot be made (Not a directory)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_command_is_one_line_and_exit_2(mistake: str, archive: Path, calm: Path, tmp_path: Path) -> None:
    words, answer = MISTAKES[mistake]
    real = {"A": EXCERPT, "F": archive, "O": tmp_path / "out", "C": calm, "A.dat": archive / "mitdb201af.dat", "T": tmp_path / "f.toml"}
    (tmp_path / "f.toml").write_text('[[finding]]\nname = "recording"\nprompts = ["atrial fibrillation"]\n')
    done = _replay(*(real.get(word, word) for word in words))
    assert done.returncode == 2, done.stderr
    assert answer in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    settings = Settings("/", "x", 1.0, "", False)
    with (
        Manifest(tmp_path).open(settings, Shard()),
        pytest.raises(ConfigError, match="another run is writing"),
        Manifest(tmp_path).open(settings, Shard()),
    ):
        pass


_entries = st.lists(
    st.builds(Entry, st.text("abc/", min_size=1, max_size=6), st.just("x"), st.integers(0, 30 << 20), st.integers(0, 9)),
    unique_by=lambda entry: entry.name, max_size=200,
)  # fmt: skip


@given(_entries)
def test_tasks_hold_every_recording_once(entries: list[Entry]) -> None:
    tasks = cut(entries)
    assert sorted(entry for task in tasks for entry in task.entries) == sorted(entries)
    assert all(task.bytes <= 2 << 20 or len(task.entries) == 1 for task in tasks)
    assert len({task.name for task in tasks}) == len(tasks)


@given(_entries, st.integers(1, 9))
def test_every_recording_falls_to_one_shard(entries: list[Entry], of: int) -> None:
    for entry in entries:
        assert [Shard(number, of).has(entry) for number in range(1, of + 1)].count(True) == 1


@given(st.lists(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"") + b"\n"), max_size=5), max_size=6))
def test_a_part_gives_back_the_lines_of_each_recording(tmp_path_factory: pytest.TempPathFactory, blocks: list[list[bytes]]) -> None:
    folder = tmp_path_factory.mktemp("parts")
    with write_part(folder, "one") as part:
        for number, lines in enumerate(blocks):
            with part.block(Entry(str(number), "somewhere", 1, 2)) as block:
                block.file.writelines(lines)
    assert [list(block.lines()) for block in read_parts(folder)] == blocks


def test_a_part_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), write_part(tmp_path, "one") as part, part.block(Entry("a", "b", 1, 2)) as block:
        block.file.write(b"lost\n")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_damaged_part_gives_whole_recordings_or_none(tmp_path_factory: pytest.TempPathFactory, cut_at: int, byte: int) -> None:
    folder = tmp_path_factory.mktemp("parts")
    with write_part(folder, "one") as part:
        for number in range(3):
            with part.block(Entry(str(number), "somewhere", 1, 2)) as block:
                block.file.write(b"a line of some length\n" * 2)
    (file,) = folder.glob("*.part")
    file.write_bytes(file.read_bytes()[:cut_at] + bytes([byte]))
    for block in read_parts(folder):
        assert b"".join(block.lines()).startswith(b"a line of some length\na line of some length")
