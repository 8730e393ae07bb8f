"""The history behind the dashboard: what was told, whatever the order, the clock, the disk and the program did meanwhile."""

from __future__ import annotations

import copy
import inspect
import itertools
import json
import math
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge.gallery import Gallery
from edge.outbox import Letter, Outbox
from edge.supervisor import Supervisor
from edge.web import chronicle as chronicle_module
from edge.web import history as module
from edge.web.history import History
from kernels.findings import ConfigError

from .test_gallery import Client
from .test_gallery import told as real_alerts
from .test_schema import replayed

Json = dict[str, Any]

ROOT = Path(__file__).parent.parent
NOW_S = 1_772_600_000.0
DAY_S = 86_400.0
FOREVER_S = 1e9
_FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where a commit costs no time; what a power cut leaves is not tested here."""


def open_history(path: Path, journaled: bool = True, keep_s: float = FOREVER_S, **more: Any) -> History:
    return History(path, keep_s, Supervisor(), journaled, **{"now_s": lambda: NOW_S, **more})


@pytest.fixture
def path() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=_FAST))
    yield folder / "state" / "home-history.db"
    shutil.rmtree(folder)


@pytest.fixture
def history(path: Path) -> Iterator[History]:
    opened = open_history(path)
    yield opened
    opened.close()
    assert opened._supervisor.faults == 0


def until(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end_s, "it never came"
        time.sleep(0.002)


def scores(source: str, time_s: float, probability: dict[str, float]) -> Json:
    return {"type": "scores", "source": source, "time": time_s, "at_s": 0.0, "probability": probability, "abstained": None, "quality": {}}


def vitals(source: str, time_s: float, bpm: float | None, quality: dict[str, str]) -> Json:
    return {"type": "vitals", "source": source, "time": time_s, "at_s": 0.0, "heart_rate_bpm": bpm, "beats_s": [], "quality": quality}


def alert(alert_id: str, seq: int, state: str, time_s: float, source: str = "bed1", onset_s: float = math.inf, samples: int = 4) -> Json:
    strip = {
        "start_s": 0.0,
        "rate_hz": 100.0,
        "leads": ["II"],
        "uv": [random.Random(f"{alert_id}{seq}").choices(range(-999, 999), k=samples)],
    }
    return {
        "schema": 2, "site": "home", "type": "alert", "id": alert_id, "seq": seq, "source": source, "finding": "atrial_fibrillation",
        "priority": "medium", "state": state, "time": time_s, "at_s": 9.0, "onset_time": min(onset_s, time_s), "why": None,
        "evidence": {"decided": [{"at_s": 9.0, "score": 0.9}], "strip": strip if samples else None},
    }  # fmt: skip


def evidence(alert_id: str, time_s: float, samples: int = 4) -> Json:
    strip = {"start_s": 9.0, "rate_hz": 100.0, "leads": ["II"], "uv": [random.Random(alert_id).choices(range(-999, 999), k=samples)]}
    return {"type": "evidence", "id": alert_id, "source": "bed1", "finding": "atrial_fibrillation", "time": time_s, "strip": strip}


def without_strip(message: Json) -> Json:
    return message | {"evidence": message["evidence"] | {"strip": None}}


# What it was like: against plain lists of all that was said.


def check_day(day: Json, said: list[Json], now_s: float, hours: float, source: str | None = None) -> None:
    """What `day` answers, counted once more, message by message."""
    begin_s, end_s, step_s = day["from"], day["to"], day["step_s"]
    assert step_s % 60 == 0 and begin_s % step_s == 0 and (end_s - begin_s) % step_s == 0
    assert end_s - step_s <= now_s < end_s and 0 <= (end_s - begin_s) - hours * 3600 < step_s
    assert (end_s - begin_s) / step_s <= 288
    said = [one for one in said if begin_s <= one["time"] < end_s and source in (None, one["source"])]
    assert day["sources"].keys() == {one["source"] for one in said}
    for name, shown in day["sources"].items():
        own = [one for one in said if one["source"] == name]
        assert len(shown["heart_rate_bpm"]) == len(shown["good"]) == (end_s - begin_s) // step_s
        best: dict[str, list[float | None]] = {}
        for step in range((end_s - begin_s) // step_s):
            here = [one for one in own if (one["time"] - begin_s) // step_s == step]
            check_step(shown, step, [one for one in here if one["type"] == "vitals"])
            for one in here:
                for finding, value in one.get("probability", {}).items():
                    row = best.setdefault(finding, [None] * len(shown["good"]))
                    row[step] = max(value, row[step] or 0.0)
        wanted = {finding for finding, row in best.items() if max(value for value in row if value is not None) >= 0.0505}
        either = {finding for finding, row in best.items() if max(value for value in row if value is not None) >= 0.0495}
        assert wanted <= shown["findings"].keys() <= either
        for finding, row in shown["findings"].items():
            assert [value is None for value in row] == [value is None for value in best[finding]]
            assert all(abs(a - (b or 0)) <= 0.00051 and a == round(a, 3) for a, b in zip(row, best[finding], strict=True) if a is not None)


def check_step(shown: Json, step: int, here: list[Json]) -> None:
    rates = [one["heart_rate_bpm"] for one in here if one["heart_rate_bpm"] is not None]
    states = [state for one in here for state in one["quality"].values()]
    low, mean, high = shown["heart_rate_bpm"][step] or (None, None, None)
    assert (low, high) == ((round(min(rates), 1), round(max(rates), 1)) if rates else (None, None))
    assert mean is None if not rates else abs(mean - math.fsum(rates) / len(rates)) <= 0.051
    assert shown["good"][step] == (pytest.approx(states.count("good") / len(states), abs=0.00051) if states else None)


_TIMES = st.floats(NOW_S - 9000, NOW_S + 60) | st.floats(NOW_S - 90, NOW_S + 60)
_SECONDS = st.lists(
    st.one_of(
        st.builds(
            scores,
            st.sampled_from(["bed1", "bed2", "Bett ä"]),
            _TIMES,
            st.dictionaries(st.sampled_from("abcd"), st.floats(0, 1) | st.floats(0, 0.06), max_size=4),
        ),
        st.builds(
            vitals,
            st.sampled_from(["bed1", "bed2", "bed3"]),
            _TIMES,
            st.none() | st.integers(200, 2500).map(lambda tenth: tenth / 10),
            st.dictionaries(st.sampled_from(["I", "II", "V1"]), st.sampled_from(["good", "good", "noise", "off"]), max_size=3),
        ),
    ),
    max_size=40,
)


@given(
    said=_SECONDS,
    cuts=st.lists(st.integers(0, 40), max_size=3),
    hours=st.floats(0.02, 744),
    source=st.sampled_from([None, "bed1", "nobody"]),
)
@settings(max_examples=40)
def test_a_day_is_what_was_said_in_it_wherever_it_was_cut_by_a_restart(
    said: list[Json], cuts: list[int], hours: float, source: str | None
) -> None:
    """Some of it on disk, some in memory, in any order of time; every minute may be in both."""
    folder = Path(tempfile.mkdtemp(dir=_FAST))
    edges = [0, *sorted(min(cut, len(said)) for cut in cuts), len(said)]
    history = open_history(folder / "h.db")
    for begin, end in itertools.pairwise(edges):
        for message in said[begin:end]:
            history.add(message)
        check_day(history.day(NOW_S, hours, source), said[:end], NOW_S, hours, source)
        if end < len(said):
            history.close()
            history = open_history(folder / "h.db")
    assert history._supervisor.faults == 0 and history.problem is None
    history.close()
    shutil.rmtree(folder)


def test_a_day_of_a_real_recording_is_what_the_monitor_said_of_it(history: History) -> None:
    said = [message for _, message in replayed().messages if message["type"] in ("scores", "vitals")]
    for message in said + real_alerts():
        history.add(message)
    now_s = said[-1]["time"]
    for hours in (0.05, 1.0, 24.0):
        day = history.day(now_s, hours)
        shown = copy.deepcopy(day)
        alerted = {(one["source"], one["finding"]) for one in day["alerts"]}
        for finding in [name for name, row in day["sources"]["bed1"]["findings"].items() if max(filter(None, row), default=0) < 0.05]:
            assert ("bed1", finding) in alerted
            del shown["sources"]["bed1"]["findings"][finding]
        check_day(shown, said, now_s, hours)
    assert max(filter(None, day["sources"]["bed1"]["findings"]["atrial_fibrillation"])) > 0.9
    assert json.loads(json.dumps(day, allow_nan=False)) == day


@pytest.mark.parametrize(
    ("hours", "step_s", "steps"),
    [(0.5, 60, 30), (4.8, 60, 288), (5, 120, 150), (24, 300, 288), (48, 600, 288), (744, 10_800, 248), (9e9, 10_800, 248)],
)
def test_a_page_gets_at_most_288_steps_as_fine_as_that_allows(history: History, hours: float, step_s: int, steps: int) -> None:
    day = history.day(NOW_S, hours)
    assert (day["step_s"], (day["to"] - day["from"]) / day["step_s"]) == (step_s, steps)


def test_a_finding_that_was_alerted_is_shown_however_improbable_it_was(history: History) -> None:
    history.add(scores("bed1", NOW_S, {"atrial_fibrillation": 0.01, "atrial_flutter": 0.01}))
    history.add(scores("bed2", NOW_S, {"atrial_fibrillation": 0.01}))
    assert [shown["findings"] for shown in history.day(NOW_S, 1)["sources"].values()] == [{}, {}]
    history.add(alert("a", 0, "raised", NOW_S))
    shown = history.day(NOW_S, 1)["sources"]
    assert shown["bed1"]["findings"] == {"atrial_fibrillation": [*[None] * 59, 0.01]} and shown["bed2"]["findings"] == {}


@given(
    spans=st.lists(st.tuples(st.integers(-300, 10), st.integers(0, 100), st.booleans(), st.sampled_from(["bed1", "bed2"])), max_size=12),
    hours=st.sampled_from([0.5, 2.0, 24.0]),
    source=st.sampled_from([None, "bed1"]),
)
@settings(max_examples=25)
def test_the_alerts_of_a_day_are_those_that_were_on_at_any_time_newest_first(
    spans: list[tuple[int, int, bool, str]], hours: float, source: str | None
) -> None:
    folder = Path(tempfile.mkdtemp(dir=_FAST))
    history = open_history(folder / "h.db")
    expected = []
    for number, (minute, length, is_on, of) in enumerate(spans):
        begun_s, ended_s = NOW_S + 60.0 * minute, NOW_S + 60.0 * (minute + length)
        history.add(alert(str(number), 0, "raised", begun_s, of))
        last = alert(str(number), 1, "updated" if is_on else "cleared", ended_s, of, onset_s=begun_s if is_on else math.inf)
        history.add(last)
        day = history.day(NOW_S, hours, source)
        if source in (None, of) and (is_on or (begun_s < day["to"] and ended_s >= day["from"])):
            expected.append({key: value for key, value in last.items() if key != "evidence"})
    assert history.day(NOW_S, hours, source)["alerts"] == expected[::-1]
    history.close()
    shutil.rmtree(folder)


# What was told of alerts, in any order.


class Model(RuleBasedStateMachine):
    """A list of all that was told against the history, over restarts, a disk that is full, and a clock that is set at will."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=_FAST))
        self.now_s = NOW_S
        self.told: list[Json] = []
        self.is_full = False
        self.open()

    def open(self) -> None:
        self.history = open_history(self.folder / "h.db", keep_s=1000.0, now_s=lambda: self.now_s)
        # Its first turn takes what is old.
        until(lambda: self.history._saved_s > -math.inf and self.history._busy_since_s is None)
        self._prune()

    def teardown(self) -> None:
        self.history.close()
        assert self.history._supervisor.faults == 0
        shutil.rmtree(self.folder)

    @rule(number=st.integers(0, 5), seq=st.integers(0, 4), step_s=st.integers(-50, 50))
    def tell(self, number: int, seq: int, step_s: int) -> None:
        state = "raised" if seq == 0 else "cleared" if seq == 4 else "updated"
        self._add(alert(str(number), seq, state, self.now_s + step_s, onset_s=self.now_s - 60))

    @rule(number=st.integers(0, 5))
    def follow_up(self, number: int) -> None:
        self._add(evidence(str(number), self.now_s))

    @rule()
    def recall(self) -> None:
        """All that was told, once more, as from an outbox."""
        self.history.catch_up(copy.deepcopy(self.told))

    @rule(step_s=st.integers(-300, 300))
    def set_clock(self, step_s: int) -> None:
        self.now_s += step_s

    @rule()
    @precondition(lambda self: not self.is_full)
    def restart(self) -> None:
        self.history.close()
        self.open()

    @rule()
    @precondition(lambda self: not self.is_full)
    def fill_disk(self) -> None:
        self.is_full = True
        self.write = self.history._file.write
        self.history._file.write = _refuse  # type: ignore[method-assign, assignment]

    @rule()
    @precondition(lambda self: self.is_full)
    def make_room(self) -> None:
        self.is_full = False
        self.history._file.write = self.write  # type: ignore[method-assign]

    @rule(older_s=st.integers(0, 3000))
    def grow_old(self, older_s: int) -> None:
        """Whatever is then told of what went is new."""
        self.now_s += older_s
        self.history._prune()
        self._prune()

    @invariant()
    def knows_the_last_word_of_each_alert_those_that_changed_last_first(self) -> None:
        last = self._last()
        assert self.history.newest_first() == [without_strip(one) for one in reversed(last.values())]
        assert self.history.on() == [without_strip(one) for one in reversed(last.values()) if one["state"] != "cleared"]

    @invariant()
    def has_the_seconds_before_and_after_each_alert(self) -> None:
        for alert_id, last in self._last().items():
            told = [one for one in self.told if one["id"] == alert_id]
            first = min((one for one in told if one["type"] == "alert"), key=lambda one: one["seq"])
            after = [one for one in told if one["type"] == "evidence"]
            page = self.history.page(alert_id)
            assert page == {"alert": without_strip(last), "raised": first, "evidence": after[0] if after else None}

    @invariant()
    def has_no_page_of_anything_else(self) -> None:
        for alert_id in {str(number) for number in range(6)} - self._last().keys():
            with pytest.raises(KeyError):
                self.history.page(alert_id)

    def _add(self, message: Json) -> None:
        """What was told before is told as it was then."""
        name = message["id"], message.get("seq")
        before = [one for one in self.told if (one["id"], one.get("seq")) == name]
        self.history.add(copy.deepcopy((before or [message])[0]))
        self.told += [] if before else [message]

    def _prune(self) -> None:
        last, before_s = self._last(), self.now_s - 1000
        gone = {one for one, word in last.items() if word["state"] == "cleared" and word["time"] < before_s}
        self.told = [one for one in self.told if one["id"] not in gone and (one["id"] in last or one["time"] >= before_s)]

    def _last(self) -> dict[str, Json]:
        """By alert, in the order in which they were told: a word that is older than another changes nothing."""
        last: dict[str, Json] = {}
        for one in self.told:
            if one["type"] == "alert" and one["seq"] > last.get(one["id"], {"seq": -1})["seq"]:
                last.pop(one["id"], None)
                last[one["id"]] = one
        return last


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=25)


def _refuse(*given: object) -> None:
    raise OSError("no room")


def test_pages_show_what_the_gallery_in_memory_shows(history: History) -> None:
    """Another implementation, through the same routes, with the alerts of a real recording."""
    gallery = Gallery()
    for message in real_alerts():
        gallery.add(message)
        history.add(message)
    ours, theirs = Client(history), Client(gallery)  # type: ignore[arg-type]
    assert ours.get("/alerts").json() == theirs.get("/alerts").json()
    for one in theirs.get("/alerts").json():
        for ending in ("json", "hea", "dat"):
            path = f"/alerts/{one['id']}.{ending}"
            assert (ours.get(path).status_code, ours.get(path).content) == (theirs.get(path).status_code, theirs.get(path).content)
    assert ours.get("/alerts/feed.json").status_code == 404


def test_only_where_a_journal_goes_on_with_it_an_alert_stays_on_over_a_restart(path: Path) -> None:
    history = open_history(path)
    for message in (alert("a", 0, "raised", NOW_S - 50), alert("b", 0, "raised", NOW_S - 40), alert("b", 1, "cleared", NOW_S - 30)):
        history.add(message)
    history.close()
    history = open_history(path, journaled=True)
    assert [one["id"] for one in history.on()] == ["a"]
    history.close()
    history = open_history(path, journaled=False)
    for _ in range(2):
        assert history.on() == []
        last, before = history.newest_first()
        assert last == without_strip(alert("a", 0, "raised", NOW_S - 50)) | {
            "seq": 1, "state": "cleared", "why": "the monitor was started anew", "time": NOW_S, "evidence": {"decided": [], "strip": None},
        }  # fmt: skip
        assert (before["id"], before["why"]) == ("b", None) and history.page("a")["raised"] == alert("a", 0, "raised", NOW_S - 50)
        history.close()
        history = open_history(path)
    history.close()


def test_what_the_daemon_does_not_go_on_with_is_cleared_but_not_what_it_raised_meanwhile(path: Path) -> None:
    """The journal knows "kept" and, from an outbox that the history never heard of, "other"; "lost" is in no journal any more."""
    history = open_history(path)
    for name in ("kept", "lost", "anew"):
        history.add(alert(name, 0, "raised", NOW_S - 50))
    history.close()
    history = open_history(path)
    history.add(alert("live", 0, "raised", NOW_S))
    history.add(alert("anew", 1, "updated", NOW_S))
    journal = {key: value for key, value in alert("other", 3, "updated", NOW_S - 5).items() if key != "evidence"}
    history.catch_up([alert("gone", 0, "raised", NOW_S - 9), journal], going_on=["kept", "other"])
    assert {one["id"] for one in history.on()} == {"live", "kept", "other", "anew"}
    whys = {one["id"]: one["why"] for one in history.newest_first() if one["state"] == "cleared"}
    assert whys == dict.fromkeys(["gone", "lost"], "the monitor was started anew")
    history.close()


def test_what_cannot_be_read_is_a_fault_that_keeps_nothing_else_from_its_place(path: Path) -> None:
    """As of an outbox that a later version wrote."""
    history = open_history(path)
    strange = {"type": "alert", "id": "strange", "seq": 0, "source": "bed1", "evidence": {"strip": None}}
    history.catch_up([strange, alert("a", 0, "raised", NOW_S)], going_on=["a"])
    history.add(strange)
    history.add(alert("b", 0, "raised", NOW_S))
    assert [one["id"] for one in history.on()] == ["b", "a"] and history._supervisor.faults == 2
    history.close()


def test_an_outbox_tells_what_the_history_missed_once(path: Path) -> None:
    """A real one, with real alerts; every second message never reached the history."""
    outbox = Outbox(path.with_name("outbox.db"), 1 << 26, FOREVER_S)
    told = [{key: value for key, value in one.items() if key not in ("outbox", "number")} for one in real_alerts()]
    keys = [f"{one['id']}/{one.get('seq', 'evidence')}" for one in told]
    outbox.write([Letter("t", one, key) for one, key in zip(told, keys, strict=True)], NOW_S)
    history, whole = open_history(path), open_history(path.with_name("whole.db"))
    for message in told:
        whole.add(message)
    for message in told[::2]:
        history.add(message)
    alerts = {one["id"] for one in told[::2] if one["type"] == "alert"}
    assert [key for key in keys if history.knows(key)] == [key for key in keys[::2] if key.split("/")[0] in alerts]
    for _ in range(2):
        history.catch_up(json.loads(row.payload) for row in outbox.since(0, 1000))
        assert all(map(history.knows, keys)) and not history.knows("feed/0") and not history.knows(f"{told[0]['id']}/99")
        assert history.counts == {"alerts": len({one["id"] for one in told}), "waiting": 0, "unwritten": 0}
        for one in told:
            ours, theirs = history.page(one["id"]), whole.page(one["id"])
            assert [_plain(ours[part]) for part in ours] == [_plain(theirs[part]) for part in theirs]
    for opened in (history, whole, outbox):
        opened.close()


def _plain(message: Json | None) -> Json | None:
    return message and {key: value for key, value in message.items() if key not in ("outbox", "number")}


# Bounds.


def test_of_too_many_alerts_the_oldest_go_and_those_that_are_on_last(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chronicle_module, "MOST_ALERTS", 10)
    history = open_history(path)
    for i in range(20):
        history.add(alert(f"{i}", 0, "raised", NOW_S + 100 - i))
        if i not in (1, 15):
            history.add(alert(f"{i}", 1, "cleared", NOW_S + 200 - i))
    history._absorb()
    history._prune()
    for _ in range(2):
        assert [one["id"] for one in history.newest_first()] == ["19", "18", "17", "16", "15", "14", "13", "12", "11", "1"]
        with pytest.raises(KeyError):
            history.page("0")
        history.close()
        history = open_history(path)
    history.close()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*), count(DISTINCT id) FROM strip").fetchone() == (10, 10)
    db.close()


def test_a_storm_takes_old_strips_never_words_and_the_file_grows_no_larger_and_shrinks_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A megabyte and a half of strips for one megabyte."""
    monkeypatch.setattr("edge.web.history_file._SPARE_PAGES", 10)
    clock = [NOW_S]
    history = open_history(path, keep_s=1000.0, most_bytes=1 << 20, now_s=lambda: clock[0])
    sizes = []
    history.add(vitals("bed1", NOW_S, 60.0, {}))
    for i in range(60):
        history.add(alert(f"{i}", 0, "cleared", NOW_S, samples=16_000))
        history.catch_up([])
        history._prune()
        sizes.append(path.stat().st_size)
        assert history._file.used_bytes <= 1 << 20
    packed = [history._ask(lambda file, i=i: file.strip(f"{i}", "raised")) for i in range(60)]  # type: ignore[misc]
    kept = [i for i, one in enumerate(packed) if one]
    assert kept == list(range(kept[0], 60)) and kept[0] and sum(len(one) for one in packed if one) > 400_000
    assert len(history.newest_first()) == 60 and history.page("0")["raised"]["evidence"]["strip"] is None
    assert max(sizes) < 3 << 20 and history.day(NOW_S, 1)["sources"].keys() == {"bed1"}
    clock[0] += 2000
    for _ in range(60):
        history._prune()
        history._save(True)
    history.close()
    assert history.newest_first() == [] and path.stat().st_size < 150_000


def test_minutes_go_when_they_are_old_and_before_that_only_for_their_size(path: Path) -> None:
    history = open_history(path, keep_s=3600.0, most_bytes=300_000)
    history._prune()
    for minute in range(-90, 1):
        history.add(vitals("bed1", NOW_S + 60 * minute, 60.0, {}))
    history._absorb()
    history._save(True)
    history._prune()
    shown = history.day(NOW_S, 2)["sources"]["bed1"]["heart_rate_bpm"]
    assert [value is not None for value in shown] == [False] * 59 + [True] * 61
    for source in range(60):
        for minute in range(-50, 1):
            history.add(scores(f"{source}", NOW_S + 60 * minute, {f"finding {i}": 0.5 for i in range(30)}))
    history._absorb()
    history._save(True)
    assert history._file.used_bytes > 400_000
    history._prune()
    assert 0 < history._file.used_bytes <= 300_000
    history.close()


# Disks.


def test_while_the_disk_hangs_nobody_waits_and_everything_new_is_seen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HANGS_S", 0.05)
    monkeypatch.setattr(module, "_ANSWER_S", 0.05)
    history = open_history(path)
    hangs, goes_on = threading.Event(), threading.Event()
    write = history._file.write

    def _hang(*given: Any) -> None:
        hangs.set()
        goes_on.wait(60)
        write(*given)

    monkeypatch.setattr(history._file, "write", _hang)
    history.add(alert("a", 0, "raised", NOW_S))
    assert hangs.wait(60)
    history.add(alert("b", 0, "raised", NOW_S))
    history.add(scores("bed1", NOW_S, {"atrial_fibrillation": 0.9}))
    assert [one["id"] for one in history.newest_first()] == ["b", "a"] == [one["id"] for one in history.on()]
    assert [history.page(one)["raised"] for one in "ab"] == [alert("a", 0, "raised", NOW_S), alert("b", 0, "raised", NOW_S)]
    assert history.day(NOW_S, 1)["sources"]["bed1"]["findings"]["atrial_fibrillation"][-1] == 0.9
    until(lambda: history.problem)
    assert history.problem == f"{path}: its disk does not answer"
    history.close(0.01)
    goes_on.set()
    history.close(60)
    history = open_history(path)
    assert [one["id"] for one in history.newest_first()] == ["b", "a"] and history.problem is None
    history.close()


def test_whoever_adds_waits_for_no_lock_of_those_who_write_or_look(history: History) -> None:
    messages = [scores("bed1", NOW_S, {}), vitals("bed1", NOW_S, None, {}), alert("a", 0, "raised", NOW_S), evidence("a", NOW_S)]
    adding = threading.Thread(target=lambda: list(map(history.add, messages)), daemon=True)
    with history._disk, history._lock:
        adding.start()
        adding.join(30)
        assert not adding.is_alive()
    assert history.page("a")["evidence"] == evidence("a", NOW_S)


def test_what_waits_for_a_disk_that_hangs_is_bounded_and_counted(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a second nothing is kept, of an alert first the strip is not."""
    for name, limit in (("_MOST_SECONDS", 10), ("_MOST_TOLD", 6), ("_MOST_VALUES", 400)):
        monkeypatch.setattr(module, name, limit)
    with history._lock:
        for i in range(15):
            history.add(scores("bed1", NOW_S + i, {"x": i / 20}))
        for i in range(4):
            history.add(alert(f"{i}", 0, "raised", NOW_S, samples=150))
        history.add(evidence("0", NOW_S, samples=150))
        assert history._refused == 5 + 3
        history.add({"type": "reply", "source": "bed1"})
        for i in range(4, 8):
            history.add(alert(f"{i}", 0, "raised", NOW_S, samples=0))
        assert history._refused == 5 + 3 + 2
    assert [one["id"] for one in history.newest_first()] == ["5", "4", "3", "2", "1", "0"]
    strips = [history.page(f"{i}")["raised"]["evidence"]["strip"] is not None for i in range(6)]
    assert strips == [True, True, False, False, False, False] and history.page("0")["evidence"] is None
    assert history.counts["unwritten"] == 10 and history._told_values == 0
    assert max(filter(None, history.day(NOW_S, 1)["sources"]["bed1"]["findings"]["x"])) == 0.45


def test_what_waits_for_a_full_disk_is_bounded_and_counted_and_the_rest_is_written_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chronicle_module, "MOST_MINUTES", 5)
    monkeypatch.setattr(chronicle_module, "MOST_STRIP_BYTES", 20_000)
    history = open_history(path)
    with monkeypatch.context() as full:
        full.setattr(history._file, "write", _refuse)
        for i in range(8):
            history.add(vitals(f"bed{i}", NOW_S, 60.0, {}))
            history.add(alert(f"{i}", 0, "raised", NOW_S, samples=2000))
        history._absorb()
        history._save(True)
        until(lambda: history.problem == f"{path}: no room")
        lost = history._chronicle.lost - 3
        assert 0 < lost < 6 and history.counts == {"alerts": 8, "waiting": 8 + 8 - lost + 5, "unwritten": 3 + lost}
        assert history.day(NOW_S, 1)["sources"].keys() == {f"bed{i}" for i in range(3, 8)}
    until(lambda: history.problem is None)
    history._save(True)
    assert history.counts["waiting"] == 0
    history.close()
    history = open_history(path)
    assert [history.page(f"{i}")["raised"]["evidence"]["strip"] is not None for i in range(8)] == [False] * lost + [True] * (8 - lost)
    assert history.day(NOW_S, 1)["sources"].keys() == {f"bed{i}" for i in range(3, 8)}
    history.close()


def test_what_comes_while_the_disk_refuses_the_same_minute_is_added_to_it(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    late = [vitals("bed1", NOW_S, 80.0, {})]

    def _refuse_late(*given: object) -> None:
        while late:
            history.add(late.pop())
        history._absorb()
        raise OSError("no room")

    history.add(vitals("bed1", NOW_S, 60.0, {}))
    with monkeypatch.context() as full:
        full.setattr(history._file, "write", _refuse_late)
        history._absorb()
        history._save(True)
    assert history.day(NOW_S, 1)["sources"]["bed1"]["heart_rate_bpm"][-1] == [60.0, 70.0, 80.0]


def test_an_alert_that_is_told_again_after_it_went_stays(path: Path) -> None:
    clock = [NOW_S]
    history = open_history(path, keep_s=1000.0, now_s=lambda: clock[0])
    for seq, state in enumerate(("raised", "cleared")):
        history.add(alert("a", seq, state, NOW_S))
    history.add(evidence("a", NOW_S))
    history.catch_up([])
    clock[0] += 2000
    history._prune()
    assert history.newest_first() == []
    history.add(alert("a", 0, "raised", clock[0]))
    for step in range(3):
        assert history.page("a")["raised"]["time"] == clock[0] and history.page("a")["evidence"] is None
        history.add(vitals(f"bed{step}", clock[0], 60.0, {}))
        history.catch_up([])
    history.close()
    history = open_history(path, keep_s=1000.0, now_s=lambda: clock[0])
    assert history.page("a")["raised"]["time"] == clock[0] and history.page("a")["evidence"] is None
    history.close()


def test_a_file_that_is_spoiled_while_it_is_open_is_told_and_monitoring_goes_on(path: Path) -> None:
    history = open_history(path)
    for i in range(60):
        history.add(alert(f"{i}", 0, "raised", NOW_S, samples=4000))
        history.add(vitals(f"bed{i}", NOW_S, 60.0, {}))
    history._absorb()
    history._save(True)
    with history._disk:
        db = history._file._db
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("PRAGMA cache_size = 0")
        db.execute("PRAGMA shrink_memory")
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(random.Random(1).randbytes(size - 4096))
    for i in range(60):
        assert history.page(f"{i}")["alert"] == without_strip(alert(f"{i}", 0, "raised", NOW_S, samples=4000))
    history.day(NOW_S, 1)
    history.add(alert("new", 0, "raised", NOW_S))
    until(lambda: history.problem)
    assert str(path) in str(history.problem) and history.newest_first()[0]["id"] == "new" and len(history.on()) == 61
    assert history._supervisor.faults == 0
    history.close()
    history = open_history(path)
    assert history.newest_first() == [] and path.with_name(f"{path.name}.broken-1").exists()
    history.close()


# Files.


@pytest.mark.parametrize("damage", ["zeros", "cut", "middle"])
def test_a_history_that_is_no_longer_sound_is_moved_aside_and_a_new_one_begun(damage: str, path: Path) -> None:
    history = open_history(path)
    for i in range(100):
        history.add(alert(f"{i}", 0, "raised", NOW_S, samples=2000))
    history.close()
    sound = path.read_bytes()
    broken = {
        "zeros": bytes(len(sound)),
        "cut": sound[: len(sound) // 2],
        "middle": sound[:8192] + bytes(len(sound) - 16384) + sound[-8192:],
    }[damage]
    for count in (1, 2):
        path.write_bytes(broken)
        history = open_history(path)
        assert history.newest_first() == []
        history.add(alert("a", 0, "raised", NOW_S))
        history.close()
        assert path.with_name(f"{path.name}.broken-{count}").exists()
        assert [one["id"] for one in open_and_list(path)] == ["a"]


def open_and_list(path: Path) -> list[Json]:
    history = open_history(path)
    history.close()
    return history.newest_first()


@pytest.mark.parametrize(
    ("content", "words"),
    [("text", "is no database"), ("photos", "database of another program"), ("newer", "another version of cardiogloss")],
)
def test_a_file_that_is_no_history_is_left_as_it_is(content: str, words: str, path: Path) -> None:
    path.parent.mkdir()
    if content == "text":
        path.write_text("what a nurse wrote down\n" * 500)
    elif content == "newer":
        open_history(path).close()
    if content != "text":
        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version = 9" if content == "newer" else "CREATE TABLE photo (name TEXT)")
        db.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=rf"web\.history: .*{words}.*give a") as told:
        open_history(path)
    assert str(path) in str(told.value)
    assert len(path.read_bytes()) == len(before) and path.read_bytes()[100:] == before[100:]
    assert not [file for file in path.parent.iterdir() if "broken" in file.name]


@pytest.mark.parametrize("place", ["a folder", "under a file"])
def test_a_place_that_can_hold_no_file_is_the_operators_mistake(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"web\.history: .*cannot be opened and written.*give a file on a disk that takes it"):
        open_history(tmp_path if place == "a folder" else tmp_path / "file" / "home.db")


@pytest.mark.parametrize("what", ["folder", "file"])
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user, whom the disk refuses")
def test_a_file_that_may_only_be_read_is_the_operators_mistake(what: str, path: Path) -> None:
    open_history(path).close()
    path.parent.parent.chmod(0o755)
    path.parent.chmod(0o755 if what == "folder" else 0o777)
    path.chmod(0o666 if what == "folder" else 0o644)
    os.seteuid(65534)
    try:
        with pytest.raises(ConfigError, match=r"web\.history: .*cannot be opened and written"):
            open_history(path)
    finally:
        os.seteuid(0)
    assert open_and_list(path) == []


def test_a_second_daemon_on_the_same_file_is_told_so_and_harms_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.database._PATIENCE_S", 0.1)
    history = open_history(path)
    history.add(alert("a", 0, "raised", NOW_S))
    other = subprocess.run([sys.executable, "-c", _SECOND, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert "ConfigError" in other.stderr and f"web.history: {path}: another cardiogloss uses this file" in other.stderr
    with pytest.raises(ConfigError, match="another cardiogloss uses this file"):
        open_history(path)
    history.add(alert("b", 0, "raised", NOW_S))
    history.close()
    assert [one["id"] for one in open_and_list(path)] == ["b", "a"]


_SECOND = """
import sys, pathlib, edge.supervisor, edge.web.history
edge.web.history.History(pathlib.Path(sys.argv[1]), 9.0, edge.supervisor.Supervisor(), True)
"""


def test_a_file_that_another_program_reads_is_in_use(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.database._PATIENCE_S", 0.1)
    open_history(path).close()
    with sqlite3.connect(path) as db:
        db.execute("BEGIN")
        assert db.execute("SELECT count(*) FROM alert").fetchone() == (0,)
        with pytest.raises(ConfigError, match="another cardiogloss uses this file"):
            open_history(path)
    db.close()
    assert open_and_list(path) == []


def test_by_sqlites_own_words_a_commit_needs_no_wait_for_the_disk_and_the_folder_is_private(path: Path) -> None:
    """Synchronous 1 is NORMAL, auto_vacuum 2 is INCREMENTAL."""
    history = open_history(path)
    names = ("journal_mode", "synchronous", "locking_mode", "auto_vacuum")
    with history._disk:
        assert [history._file._db.execute(f"PRAGMA {name}").fetchone()[0] for name in names] == ["wal", 1, "exclusive", 2]
    assert path.parent.stat().st_mode & 0o077 == 0
    history.close()


_CHILD = """
from __future__ import annotations
import math, random, sys, time
from pathlib import Path
from edge.supervisor import Supervisor
from edge.web.history import History
# told
begin = int(sys.argv[2])
history = History(Path(sys.argv[1]), 1e9, Supervisor(), True)
for i in range(begin, begin + 100_000):
    history.add(alert(str(i), 0, "raised", 1e9 + i, samples=500))
    history.add(evidence(str(i), 1e9 + i, samples=500))
    history.add(vitals("bed1", 1e9, 60.0, {"II": "good"}))
    if i % 7 == 0:
        while history.counts["waiting"] > 1:
            time.sleep(0.001)
        sys.stdout.write(f"{i}\\n")
        sys.stdout.flush()
"""


def test_what_was_taken_outlives_a_program_that_is_killed(path: Path) -> None:
    """Twice on the same file, wherever it was just then."""
    told = "\n".join(inspect.getsource(one) for one in (alert, evidence, vitals))
    written, choose, code = -1, random.Random(5), _CHILD.replace("# told", told)
    for _ in range(2):
        child = subprocess.Popen([sys.executable, "-c", code, str(path), str(written + 1)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for line in itertools.islice(child.stdout, choose.randrange(3, 30)):
            written = int(line)
        time.sleep(choose.random() / 50)
        child.send_signal(signal.SIGKILL)
        written = max([written, *(int(line) for line in child.stdout if line.endswith("\n"))])
        child.wait()
        child.stdout.close()
        history = open_history(path)
        known = {one["id"] for one in history.on()}
        assert known >= {str(i) for i in range(written + 1)}
        for i in range(0, written + 1, 9):
            assert history.page(str(i)) == {
                "alert": without_strip(alert(str(i), 0, "raised", 1e9 + i, samples=500)),
                "raised": alert(str(i), 0, "raised", 1e9 + i, samples=500),
                "evidence": evidence(str(i), 1e9 + i, samples=500),
            }
        with history._disk:
            assert history._file._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        history.close()
        written = max(map(int, known))


def test_threads_that_add_at_once_lose_nothing(history: History) -> None:
    def _add(thread: int) -> None:
        for i in range(200):
            history.add(vitals("bed1", NOW_S, 60.0 + thread, {"II": "good", "V1": "off"}))
            if i % 20 == 0:
                history.add(alert(f"{thread}-{i}", 0, "raised", NOW_S))
                history.day(NOW_S, 1)

    threads = [threading.Thread(target=_add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(history.on()) == 80
    assert history.day(NOW_S, 1)["sources"]["bed1"]["heart_rate_bpm"][-1] == [60.0, 63.5, 67.0]
    history._save(True)
    with history._disk:
        assert history._file._db.execute("SELECT rates, good, judged FROM minute").fetchall() == [(1600, 1600, 3200)]
