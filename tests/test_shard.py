"""Monitors that share a site: each source has one of them and no other, and a subscriber hears every alert once."""

from __future__ import annotations

import io
import json
from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edge.config import Config, parse_config
from edge.contract import AlertMessage, AlertState, SiteMessage
from edge.decode.chunk import Chunk
from edge.exchange import Exchange
from edge.outbox import Letter, Outbox
from edge.publish import Publisher
from edge.roster import Roster
from edge.shard import Shard
from edge.subscribe import subscribe
from edge.supervisor import Supervisor
from edge.watch import Board
from kernels.engine import Engine
from kernels.findings import ConfigError

from .broker import Mosquitto
from .daemon import PATIENCE_S, ROOT, SITE, Client, Daemon, between, config, frames, scored, source

NAMES = [f"bed{i}" for i in range(200)]
WILDCARD = {"mqtt": f"cardiogloss/{SITE}/+/ecg", "device": "frame"}


@given(st.text(min_size=1, max_size=40), st.integers(1, 50))
def test_each_source_has_one_monitor_and_no_other(source: str, monitors: int) -> None:
    assert sum(Shard(number, monitors).has(source) for number in range(1, monitors + 1)) == 1


@given(st.integers(1, 20))
def test_one_monitor_more_takes_from_the_others_and_nothing_moves_between_them(monitors: int) -> None:
    before, after = _owners(monitors), _owners(monitors + 1)
    assert all(now in (then, monitors + 1) for then, now in zip(before, after, strict=True))


def test_monitors_have_about_as_many_sources_as_each_other() -> None:
    """Within five standard deviations of a fair draw."""
    counts = Counter(_owners(4))
    assert all(abs(counts[number] - 50) < 5 * (200 * 0.25 * 0.75) ** 0.5 for number in range(1, 5))


def _owners(monitors: int) -> list[int]:
    return [next(number for number in range(1, monitors + 1) if Shard(number, monitors).has(name)) for name in NAMES]


@pytest.mark.parametrize("text", ["", "0/3", "4/3", "1", "1/0", "-1/2", "1/2/3", "a/b", "1/1001", "\u0661/\u0662", "01/+2"])
def test_what_is_no_shard_is_the_operators_mistake_that_names_the_key(text: str) -> None:
    with pytest.raises(ConfigError, match=r"shard: must read i/n"):
        _config(text, WILDCARD)


def test_a_device_on_this_machine_cannot_be_shared() -> None:
    serial = {"name": "bed1", "device": "cyton", "serial": "/dev/ttyUSB0"}
    with pytest.raises(ConfigError, match="with shard only sources over mqtt"):
        _config("1/2", serial)
    assert _config("1/1", serial).mine


def test_named_sources_and_those_of_a_wildcard_fall_to_the_same_monitor(engine: Engine) -> None:
    named = [{"name": name, "mqtt": f"cardiogloss/{SITE}/{name}/ecg"} for name in NAMES[:20]]
    for number in (1, 2, 3):
        by_name, by_topic = _roster(engine, _config(f"{number}/3", *named)), _roster(engine, _config(f"{number}/3", WILDCARD))
        for name in NAMES[:20]:
            by_topic.hear(f"cardiogloss/{SITE}/{name}/ecg", b"", retained=False)
        mine = [name for name in sorted(NAMES[:20]) if Shard(number, 3).has(name)]
        assert [watched.name for watched in by_name.watched()] == [watched.name for watched in by_topic.watched()] == mine
        assert by_topic.ignored == 0, "a source of another monitor is nothing that was ignored"


def test_topics_and_names_of_the_monitors_of_a_site_differ_and_one_alone_has_the_plain_ones() -> None:
    def told(text: str) -> tuple[str, ...]:
        publisher = Publisher("cardiogloss", SITE, lambda *message: None, Shard.parse(text))
        return publisher.will[0], publisher.resend, publisher.resent, _config(text, WILDCARD).name

    assert told("1/1") == (f"cardiogloss/{SITE}/status", f"cardiogloss/{SITE}/resend", f"cardiogloss/{SITE}/resent", SITE)
    for one, other in pairwise(told(f"{number}/3") for number in (1, 2, 3)):
        assert not set(one) & set(other)
    publisher = Publisher("cardiogloss", SITE, lambda *message: None, Shard(2, 3))
    assert all(publisher.owns(topic) for topic in told("1/3")[:3])


def test_a_monitor_says_nothing_of_what_was_on_at_a_source_that_another_has_now(tmp_path: Path, engine: Engine) -> None:
    """Of the sources in one outbox, by which the sources of a site were shared by fewer: what clears there is another's alert."""
    path = tmp_path / "outbox.db"
    with closing(Outbox(path, 10**6, 1e6)) as outbox:
        outbox.write([_letter(name).seal() for name in NAMES[:20]], 0.0)
    shared = _config("1/3", WILDCARD, outbox={"file": str(path)})
    exchange = Exchange(shared, "model", Supervisor(), lambda *message: None, lambda source, command: False)
    mine = {name for name in NAMES[:20] if Shard(1, 3).has(name)}
    try:
        assert exchange.journal().keys() == mine and mine < {*NAMES[:20]}
    finally:
        exchange.stop()


def test_what_a_monitor_clears_it_says_under_its_own_name() -> None:
    """Its numbers are those of its own outbox, whoever raised the alert."""
    told: list[Letter] = []
    publisher = Publisher("cardiogloss", SITE, lambda *message: None, Shard(2, 3))
    publisher.post = told.append
    raised = AlertState.model_validate(_letter("bed1").state)
    publisher.clear(raised, "the source did not come back", 7.0)
    assert raised.shard == "1of2" and told[0].state is not None
    assert (told[0].message["shard"], told[0].state["shard"], told[0].state["state"]) == ("2of3", "2of3", "cleared")


def test_watch_complains_of_a_monitor_that_is_away_until_others_share_its_site() -> None:
    board, output = Board(), io.StringIO()

    def wrong() -> set[str]:
        console = Console(file=output, width=200)
        output.seek(output.truncate(0))
        console.print(board.render())
        return {line.strip() for line in output.getvalue().splitlines() if "is offline" in line and "the monitor" in line}

    board.connection = ""
    board.feed(_site("1of2", "offline"))
    board.feed(_site("2of2", "online"))
    assert "the monitor 1of2 of test is offline" in wrong()
    board.feed(_site("1of3", "online"))
    board.feed(_site("2of3", "offline"))
    assert "the monitor 2of3 of test is offline" in wrong()
    board.feed(_site("2of2", "offline"))
    board._lines.clear()
    assert wrong() == {"the monitor 2of3 of test is offline"}


def test_a_site_of_two_monitors_scores_each_source_once_and_loses_no_alert_when_one_is_killed(
    tmp_path: Path, excerpt: Chunk, engine: Engine
) -> None:
    """What each source makes is what one thread makes of its samples; a subscriber has every alert once, in spite of two outboxes."""
    names = [next(name for name in NAMES if Shard(number, 2).has(name)) for number in (1, 2)]
    chunk = between(excerpt, 0.0, 60.0)
    sent = frames(chunk)
    with Mosquitto(tmp_path) as broker, Client(broker.port) as client:
        shards = [f'shard = "{number}/2"\n' + config(source("", **WILDCARD), broker=broker.port) for number in (1, 2)]
        with Daemon(tmp_path / "1", shards[0]) as first, Daemon(tmp_path / "2", shards[1]) as second:
            alerts = subscribe("127.0.0.1", broker.port, since="beginning", timeout_s=PATIENCE_S)
            with alerts:
                for daemon in (first, second):
                    daemon.wait(lambda daemon=daemon: daemon.metric("broker_connected") == 1, "the broker")
                for name in names:
                    client.send_all(name, sent)
                expected = {name: scored([chunk], name, engine, ended=False) for name in names}
                for name in names:
                    events = client.wait_for_events(name, expected[name])
                    assert events == expected[name]
                assert [first.ready()["sources"].keys(), second.ready()["sources"].keys()] == [{names[0]}, {names[1]}]
                count = sum(event["type"] == "alert" for name in names for event in expected[name])
                assert count >= 2
                second.kill()
                second.start()
                told = [alert for alert in (next(alerts) for _ in range(count)) if isinstance(alert, AlertMessage)]
    assert len({(alert.id, alert.seq) for alert in told}) == count
    assert {(alert.source, alert.shard) for alert in told} == {(names[0], "1of2"), (names[1], "2of2")}


def _config(shard: str, *sources: dict[str, str], **tables: dict[str, str]) -> Config:
    return parse_config({"site": SITE, "shard": shard, "mqtt": {}, "source": list(sources), **tables}, Path("edge.toml"))


def _site(label: str, state: str) -> SiteMessage:
    return SiteMessage.model_validate({"schema": 2, "type": "site", "site": SITE, "shard": label, "state": state})


def _letter(name: str) -> Letter:
    """An alert that is on, of the example that the schemas ship with, told by the first of two monitors."""
    example = json.loads((ROOT / "deploy/schema/examples/alert-state.json").read_text())
    state = example | {"site": SITE, "source": name, "state": "raised", "shard": "1of2"}
    topic = f"cardiogloss/{SITE}/{name}/alert"
    return Letter(topic, state, f"{name}/0", f"{topic}/{state['finding']}", state)


def _roster(engine: Engine, shared: Config) -> Roster:
    roster = Roster(engine, Supervisor(), lambda: None)
    roster.apply(shared)
    return roster
