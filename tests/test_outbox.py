"""The outbox: numbers without a hole, each letter once and in order, whatever the disk and the program suffer in between."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge import outbox as module
from edge.outbox import Letter, Outbox
from edge.outbox_file import Entry, Row
from kernels.findings import ConfigError

ROOT = Path(__file__).parent.parent
MB = 1 << 20
WEEK_S = 7 * 86400.0


def letter(key: str, finding: str = "af", size: int = 0, **more: Any) -> Letter:
    message = {"schema": 1, "id": key, "text": "x" * size, **more}
    return Letter("site/bed1/alert", message, key, f"site/bed1/alert/{finding}", {"id": key})


def open_outbox(path: Path, most_bytes: int = 64 * MB, oldest_s: float = WEEK_S) -> Outbox:
    return Outbox(path, most_bytes, oldest_s)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "home.db"


@dataclass
class Told:
    """What the model knows of a letter."""

    number: int
    key: str
    time_s: float
    acknowledged: bool = False
    """Whether it is so on disk, too, where it is on disk."""
    on_disk: bool = True


_FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where a commit costs no time; what a power cut leaves is not tested here."""


class Model(RuleBasedStateMachine):
    """Lists and dictionaries against the file. A crash forgets what only memory knew; a disk that is full takes rows no more."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=_FAST))
        self.outbox = open_outbox(self.folder / "home.db", oldest_s=100)
        self.name = self.outbox.name
        self.time_s = 0.0
        self.told: list[Told] = []
        self.noted: set[int] = set()
        self.last = self.gone = self.dropped = self.noted_dropped = 0
        self.states: dict[str, int | None] = {}
        self.states_on_disk: dict[str, int | None] = {}
        self.is_full = False

    def teardown(self) -> None:
        self.outbox.close()
        shutil.rmtree(self.folder)

    def _saved(self) -> None:
        """What becomes of memory when something is to be written."""
        if self.is_full:
            return
        self.states_on_disk = dict(self.states)
        self.noted = {one.number for one in self.told if one.acknowledged}
        self.noted_dropped = self.dropped
        for one in self.told:
            one.on_disk = True

    @rule(batch=st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc")), max_size=6))
    def write(self, batch: list[tuple[int, str]]) -> None:
        rows = self.outbox.write([letter(f"{key}/1", finding) for key, finding in batch], self.time_s)
        expected = []
        for key, finding in batch:
            if f"{key}/1" not in [one.key for one in self.told]:
                self.last += 1
                self.told.append(Told(self.last, f"{key}/1", self.time_s, on_disk=False))
                self.states[f"site/bed1/alert/{finding}"] = self.last
                expected.append(self.last)
        assert [row.number for row in rows] == expected
        self._saved()

    @rule(picks=st.sets(st.integers(1, 60), max_size=8))
    def acknowledge(self, picks: set[int]) -> None:
        self.outbox.acknowledge(sorted(picks))
        for one in self.told:
            one.acknowledged |= one.number in picks

    @rule()
    def save(self) -> None:
        assert self.outbox.save() or self.is_full
        self._saved()

    @rule(topic=st.sampled_from("abc"))
    def forget_state(self, topic: str) -> None:
        self.outbox.forget_state(f"site/bed1/alert/{topic}")
        self.states[f"site/bed1/alert/{topic}"] = None
        self._saved()

    @rule(step_s=st.integers(0, 60))
    def age(self, step_s: int) -> None:
        """Only what arrived ages, once the disk knows it."""
        self.time_s += step_s
        self.outbox.save()
        self._saved()
        self.outbox.prune(self.time_s)
        gone = [one for one in self.told if one.on_disk and one.number in self.noted and one.time_s < self.time_s - 100]
        self.told = [one for one in self.told if one not in gone]
        self.gone = max([self.gone, *(one.number for one in gone)])

    @rule()
    def reopen(self) -> None:
        self.outbox.close()
        self._saved()
        self._begin_again()

    @rule()
    def crash(self) -> None:
        """SIGKILL: nothing more is saved."""
        self.outbox._file.close()
        self._begin_again()

    def _begin_again(self) -> None:
        self.told = [one for one in self.told if one.on_disk]
        if not self.told or self.told[-1].number < self.last:
            self.gone = self.last
        for one in self.told:
            one.acknowledged = one.number in self.noted
        self.states, self.dropped = dict(self.states_on_disk), self.noted_dropped
        self.is_full = False
        self.outbox = open_outbox(self.folder / "home.db", oldest_s=100)

    @precondition(lambda self: not self.is_full)
    @rule()
    def fill_the_disk(self) -> None:
        """But for the room that was reserved."""
        self.is_full = True

        def refuse(*given: object) -> None:
            raise OSError("database or disk is full")

        self.outbox._file.write = refuse  # type: ignore[method-assign]

    @precondition(lambda self: self.is_full)
    @rule()
    def make_room(self) -> None:
        self.is_full = False
        del self.outbox._file.write

    @invariant()
    def numbers_are_given_once_and_without_a_hole(self) -> None:
        assert (self.outbox.name, self.outbox.last, self.outbox.first) == (self.name, self.last, self.gone + 1)
        known = [row.number for row in self.outbox.since(0, 1000)]
        assert known == [one.number for one in self.told]
        assert known[-1:] in ([], [self.last]) or self.gone == self.last

    @invariant()
    def what_waits_is_what_nobody_acknowledged_in_order(self) -> None:
        waiting = [one.number for one in self.told if not one.acknowledged]
        assert [row.number for row in self.outbox.waiting(0, 1000)] == waiting
        assert self.outbox.waiting_count == len(waiting)
        assert self.outbox.dropped == self.dropped
        if waiting:
            assert [row.number for row in self.outbox.waiting(waiting[0], 2)] == waiting[1:3]

    @invariant()
    def a_payload_is_its_message_with_name_and_number(self) -> None:
        keys = {one.number: one.key for one in self.told}
        for row in self.outbox.since(0, 1000):
            expected = {"schema": 1, "id": keys[row.number], "text": "", "outbox": self.name, "number": row.number}
            assert row.payload == json.dumps(expected, separators=(",", ":"))

    @invariant()
    def the_last_state_of_each_topic_is_kept(self) -> None:
        kept = {topic: json.loads(payload)["number"] for topic, payload in self.outbox.states().items()}
        assert kept == {topic: number for topic, number in self.states.items() if number is not None}


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=25)


def test_the_file_is_durable_at_each_commit_and_belongs_to_this_process(path: Path) -> None:
    """By SQLite's own words: synchronous 2 is FULL."""
    outbox = open_outbox(path)
    db = outbox._file._db
    assert [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "locking_mode")] == [
        "wal",
        2,
        "exclusive",
    ]
    assert path.parent.stat().st_mode & 0o077 == 0
    outbox.close()


def test_a_second_daemon_on_the_same_file_is_told_so_and_harms_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.database._PATIENCE_S", 0.1)
    first = open_outbox(path)
    first.write([letter("a/1")], 0)
    other = subprocess.run([sys.executable, "-c", _SECOND, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert "ConfigError" in other.stderr and f"outbox.file: {path}: another cardiogloss uses this file" in other.stderr
    with pytest.raises(ConfigError, match="another cardiogloss uses this file"):
        open_outbox(path)
    assert [row.number for row in first.write([letter("b/1")], 0)] == [2]
    first.close()


_SECOND = "import sys, pathlib, edge.outbox; edge.outbox.Outbox(pathlib.Path(sys.argv[1]), 1 << 20, 9)"


@pytest.mark.parametrize("place", ["a folder", "under a file"])
def test_a_place_that_can_hold_no_file_is_the_operators_mistake(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path if place == "a folder" else tmp_path / "file" / "home.db"
    with pytest.raises(ConfigError, match=r"outbox\.file: .*cannot be opened and written"):
        open_outbox(path)


def test_the_database_of_another_program_or_of_a_newer_one_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE photo (name TEXT)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="database of another program"):
        open_outbox(path)
    open_outbox(path.with_name("new.db")).close()
    with sqlite3.connect(path.with_name("new.db")) as db:
        db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(ConfigError, match="another version of cardiogloss"):
        open_outbox(path.with_name("new.db"))
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM photo").fetchone() == (0,)
    db.close()
    assert len(before) == path.stat().st_size and [file.name for file in path.parent.iterdir() if "broken" in file.name] == []


@pytest.mark.parametrize("damage", ["rubbish", "zeros", "cut", "middle"])
def test_a_broken_file_is_moved_aside_whole_and_a_new_one_begun(damage: str, path: Path) -> None:
    outbox = open_outbox(path)
    outbox.write([letter(f"{i}/1", size=4000) for i in range(200)], 0)
    name = outbox.name
    outbox.close()
    sound = path.read_bytes()
    broken = {
        "rubbish": random.Random(1).randbytes(5000),
        "zeros": bytes(len(sound)),
        "cut": sound[: len(sound) // 2],
        "middle": sound[:8192] + bytes(len(sound) - 16384) + sound[-8192:],
    }[damage]
    for count in (1, 2):
        path.write_bytes(broken)
        outbox = open_outbox(path)
        assert outbox.name != name and (outbox.last, outbox.waiting_count) == (0, 0)
        assert [row.number for row in outbox.write([letter("0/1")], 0)] == [1]
        outbox.close()
        aside = path.with_name(f"{path.name}.broken-{count}").read_bytes()
        assert aside == broken or damage != "rubbish"


def test_what_belonged_to_a_broken_file_goes_aside_with_it_and_spoils_nothing_new(path: Path) -> None:
    """As after a power cut: the WAL was not yet put into the file, and the number that went out last is noted beside it."""
    lost = path.with_name("lost.db")
    outbox = open_outbox(lost)
    outbox.write([letter(f"{i}/1") for i in range(9)], 0)
    outbox.close()
    outbox = open_outbox(lost)
    outbox.write([letter("9/1")], 0)
    wal = lost.with_name("lost.db-wal").read_bytes()
    assert len(wal) > 4096
    path.write_bytes(random.Random(1).randbytes(8192))
    path.with_name(path.name + "-wal").write_bytes(wal)
    path.with_name(path.name + "-last").write_bytes(lost.with_name("lost.db-last").read_bytes())
    outbox.close()
    outbox = open_outbox(path)
    assert [row.number for row in outbox.write([letter("0/1")], 0)] == [1]
    assert outbox._file._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert path.with_name(f"{path.name}.broken-1-wal").read_bytes() == wal
    outbox.close()


def test_size_takes_what_is_acknowledged_first_then_the_oldest_and_the_file_stays_small(path: Path) -> None:
    outbox = open_outbox(path, most_bytes=MB)
    outbox.write([letter(f"{i}/1", size=8000) for i in range(60)], 0)
    outbox.acknowledge(range(31, 41))
    outbox.save()
    outbox.prune(0)
    assert outbox.waiting_count == 50 and outbox.dropped == 0
    outbox._most_bytes = 400_000
    outbox.prune(0)
    known = [row.number for row in outbox.since(0, 1000)]
    assert 0 < outbox.dropped < 30 and known == [*range(outbox.dropped + 1, 31), *range(41, 61)], "what is acknowledged goes first"
    outbox._most_bytes = MB
    for i in range(60, 200):
        outbox.write([letter(f"{i}/1", size=8000)], i)
        outbox.prune(i)
    known = [row.number for row in outbox.since(0, 1000)]
    assert 70 * 8000 < len(known) * 8000 < MB and known == list(range(201 - len(known), 201))
    assert outbox.dropped == 190 - len(known) and outbox.first == known[0]
    outbox.close()
    assert path.stat().st_size < 1.2 * MB
    outbox = open_outbox(path)
    assert outbox.dropped == 190 - len(known)
    outbox.close()


def test_age_takes_what_arrived_and_a_clock_that_was_set_takes_nothing_that_waits(path: Path) -> None:
    """As on a device without a battery: 1970 in the first run, today in the second."""
    outbox = open_outbox(path, oldest_s=100)
    for i in range(10):
        outbox.write([letter(f"{i}/1")], 10.0 * i)
    outbox.acknowledge([1, 2, 3])
    outbox.close()
    outbox = open_outbox(path, oldest_s=100)
    outbox.prune(115.0)
    assert [row.number for row in outbox.since(0, 100)] == list(range(3, 11))
    outbox.write([letter("new/1")], 1.7e9)
    outbox.prune(1.7e9)
    for _ in range(2):
        assert [row.number for row in outbox.since(0, 100)] == list(range(4, 12)) == [row.number for row in outbox.waiting(0, 100)]
        assert (outbox.first, outbox.dropped) == (4, 0)
        outbox._file.close()
        outbox = open_outbox(path, oldest_s=100)


def test_states_take_no_room_from_letters_and_the_newest_letter_stays_whatever_its_size(path: Path) -> None:
    outbox = open_outbox(path, most_bytes=50_000)
    for i in range(300):
        outbox.write([letter(f"{i}/1", f"f{i}", state={"pad": "x" * 700})], i)
        outbox.acknowledge([i + 1])
    for i in range(300):
        outbox._unsaved.states[f"other/{i}"] = json.dumps({"state": "raised", "number": i, "pad": "x" * 1000})
    outbox.save()
    outbox.prune(300)
    kept = outbox.since(0, 1000)
    assert 40_000 < sum(len(row.payload) for row in kept) < 50_000 and len(outbox.states()) == 600
    outbox.write([letter("large/1", size=200_000)], 301)
    outbox.prune(301)
    assert [row.number for row in outbox.waiting(0, 9)] == [301] and outbox.dropped == 0
    outbox.close()


def test_the_size_is_that_of_the_rows_whatever_came_went_and_was_told_twice(path: Path) -> None:
    """By one sum over the table, against the running one."""
    outbox = open_outbox(path, most_bytes=40_000)
    generator = random.Random(3)
    for i in range(200):
        outbox.write([letter(f"{generator.randrange(150)}/1", size=generator.randrange(3000))], i)
        outbox.acknowledge([generator.randrange(1, 100)])
        outbox._file.write([Entry(Row(10_000 + i, "t", "twice"), "0/1", 0.0)] * outbox._file.knows("0/1"), [], {}, None, outbox._counts)
        outbox.prune(i)
        rows = outbox._file._db.execute("SELECT key, topic, payload FROM letter").fetchall()
        assert outbox._file._bytes == sum(2 * len(key) + len(topic) + len(payload) + 64 for key, topic, payload in rows)
    assert outbox.first > 1
    outbox.close()


def test_states_are_bounded_and_the_oldest_that_are_cleared_go_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_STATES", 20)
    outbox = open_outbox(path)
    gone = []
    for i in range(1, 22):
        state = {"state": "raised" if i < 4 else "cleared"}
        outbox.write([Letter("t", {"id": i}, f"{i}/1", f"s{i}", state)], 0)
        gone += outbox.prune(0)
    assert gone == ["s4", "s5", "s6"]
    assert list(outbox.states()) == sorted(f"s{i}" for i in (1, 2, 3, *range(7, 22)))
    outbox.close()
    outbox = open_outbox(path)
    assert len(outbox.states()) == 18 == len(outbox._state_topics)
    outbox.close()


def test_where_the_disk_refuses_to_be_read_nothing_is_given_and_no_letter_overtakes_another(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = open_outbox(path)
    outbox.write([letter(f"{i}/1") for i in range(3)], 0)
    monkeypatch.setattr(outbox._file, "write", _refuse)
    outbox.write([letter("late/1")], 0)
    with monkeypatch.context() as broken:
        for name in ("rows", "rows_waiting"):
            broken.setattr(outbox._file, name, lambda after: (_refuse() for _ in "x"))
        assert outbox.waiting(0, 9) == outbox.since(0, 9) == [] and outbox.is_unread
    assert [row.number for row in outbox.waiting(0, 9)] == [row.number for row in outbox.since(0, 9)] == [1, 2, 3, 4]
    assert not outbox.is_unread
    outbox.close()


def test_letters_are_held_for_a_full_disk_only_up_to_a_size(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_HELD_BYTES", 50_000)
    outbox = open_outbox(path)
    monkeypatch.setattr(outbox._file, "write", _refuse)
    for i in range(100):
        outbox.write([letter(f"{i}/1", size=3000)], 0)
    held = outbox.waiting(0, 1000)
    assert 45_000 < sum(len(row.payload) for row in held) <= 50_000 and held[-1].number == 100
    assert outbox.dropped == 100 - len(held)
    outbox.close()


def test_a_stream_keeps_its_name_over_a_crash_until_it_ends_or_is_another(path: Path) -> None:
    outbox = open_outbox(path)
    assert outbox.begin_stream("bed1", "a.dat", "first") == "first"
    assert outbox.begin_stream("bed2", "b.dat", "second") == "second"
    outbox._file.close()
    outbox = open_outbox(path)
    assert outbox.begin_stream("bed1", "a.dat", "third") == "first"
    assert outbox.begin_stream("bed2", "c.dat", "fourth") == "fourth"
    outbox.end_stream("bed1")
    outbox.end_stream("nobody")
    outbox._file.close()
    outbox = open_outbox(path)
    assert outbox.streams() == [("bed2", "c.dat", "fourth")]
    assert outbox.begin_stream("bed1", "a.dat", "fifth") == "fifth"
    outbox.close()


def test_letters_are_held_for_a_full_disk_only_up_to_a_number_the_oldest_go_and_are_counted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_HELD", 50)
    outbox = open_outbox(path)
    monkeypatch.setattr(outbox._file, "write", _refuse)
    for i in range(60):
        assert [row.number for row in outbox.write([letter(f"{i}/1")], 0)] == [i + 1]
    assert [row.number for row in outbox.waiting(0, 100)] == list(range(11, 61))
    assert (outbox.dropped, outbox.unwritten, outbox.first) == (10, 60, 11)
    assert outbox.problem == f"{path}: no room"
    outbox.close()


def _refuse(*given: object) -> None:
    raise OSError("no room")


_FULL = """
import resource, sys
from pathlib import Path
from edge.outbox import Letter, Outbox
path = Path(sys.argv[1])
outbox = Outbox(path, 1 << 30, 1e9)
def write(i):
    (row,) = outbox.write([Letter("t", {"text": "x" * 8000}, f"{i}/1")], i)
    assert row.number == i
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
for i in range(1, 11):
    write(i)
outbox.acknowledge([1, 2])
limit(path.with_name(path.name + "-wal").stat().st_size)
for i in range(11, 200):
    write(i)
assert outbox.unwritten and outbox.problem, "the disk was never full"
assert [row.number for row in outbox.waiting(0, 1000)] == list(range(3, 200))
outbox.acknowledge(range(3, 198))
if sys.argv[2] == "room":
    limit(resource.RLIM_INFINITY)
    assert outbox.save() and outbox.problem is None
print("done", outbox.unwritten, flush=True)
import os; os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("later", ["room", "none"])
def test_on_a_full_disk_no_number_is_given_twice_and_nothing_is_lost_that_finds_room_later(later: str, path: Path) -> None:
    """A real limit of the system on the size of files, then SIGKILL; SQLite's own check says that the file is whole."""
    ran = subprocess.run([sys.executable, "-c", _FULL, str(path), later], cwd=ROOT, capture_output=True, text=True)
    assert "done" in ran.stdout, ran.stderr
    outbox = open_outbox(path)
    assert outbox.last == 199
    waiting = [row.number for row in outbox.waiting(0, 1000)]
    if later == "room":
        assert waiting == [198, 199] and outbox.first == 1
    else:
        assert waiting[0] in (1, 3) and outbox.first == 200
    assert [row.number for row in outbox.write([letter("new/1")], 0)] == [200]
    assert outbox._file._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    outbox.close()


_WRITER = """
import sys
from pathlib import Path
from edge.outbox import Letter, Outbox
outbox = Outbox(Path(sys.argv[1]), 1 << 30, 1e9)
while True:
    rows = outbox.write([Letter("t", {"text": "x" * 3000}, f"{outbox.last + 1 + i}/1", "s") for i in range(3)], 0)
    outbox.acknowledge([rows[0].number])
    print(rows[-1].number, flush=True)
"""


def test_whatever_write_returned_is_there_after_a_sigkill(path: Path) -> None:
    generator = random.Random(7)
    last = 0
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = [int(process.stdout.readline()) for _ in range(generator.randrange(1, 20))]
        time.sleep(generator.random() * 0.01)
        process.send_signal(signal.SIGKILL)
        said += [int(line) for line in process.stdout.read().splitlines()]
        process.wait()
        outbox = open_outbox(path)
        assert outbox.last >= said[-1] > last and outbox.last % 3 == 0, "a transaction is whole or not at all"
        assert [row.number for row in outbox.since(0, 10_000)] == list(range(1, outbox.last + 1))
        assert json.loads(outbox.states()["s"])["number"] == outbox.last
        waiting = {row.number for row in outbox.waiting(0, 10_000)}
        assert {number for number in range(1, said[-1] + 1) if number % 3 != 1} <= waiting
        last = outbox.last
        outbox.close()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield
