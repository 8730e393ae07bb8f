"""Alerts over a broker: whatever is lost, repeated or out of order on the way, a program gets each once."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from edge.config import Mqtt, parse_config
from edge.contract import AlertMessage, AlertState, EvidenceMessage
from edge.exchange import Exchange
from edge.ledger import PATIENCE_S, Given, Ledger, Mark
from edge.message import SCHEMA
from edge.outbox import Letter
from edge.subscribe import Subscription, subscribe
from edge.supervisor import Supervisor
from edge.transport import mqtt as module
from kernels.findings import ConfigError

from .broker import Mosquitto, free_port, wait_for

SITE = "ward"
HEAD = {"schema": SCHEMA, "site": SITE, "shard": "", "time": 1000.0, "source": "bed1"}


def alert(number: int, outbox: str = "aa", **more: Any) -> dict[str, Any]:
    """The message of this number; each is an alert of its own."""
    body = {
        "type": "alert", "id": f"{outbox}-{number}", "seq": 0, "stream": "s", "finding": "atrial_fibrillation", "kind": "physiological",
        "priority": "medium", "state": "raised", "at_s": float(number), "onset_s": 0.0, "onset_time": 1000.0, "score": 0.9, "why": None,
        "acknowledged_by": None, "silenced": False, "heart_rate_bpm": 80.0, "quality": {"I": "good"}, "bundle": "b",
        "evidence": {"decided": [], "strip": None},
    }  # fmt: skip
    return {**HEAD, **body, **more, "outbox": outbox, "number": number}


def evidence(number: int, of: int, outbox: str = "aa") -> dict[str, Any]:
    strip = {"start_s": 0.0, "rate_hz": 100.0, "leads": ["I"], "uv": [[1, None, 3]]}
    body = {"type": "evidence", "id": f"{outbox}-{of}", "finding": "atrial_fibrillation", "at_s": 10.0, "strip": strip}
    return {**HEAD, **body, "outbox": outbox, "number": number}


def resent(first: int, last: int, outbox: str = "aa") -> dict[str, Any]:
    return {"type": "resent", "outbox": outbox, "first": first, "last": last}


def site_status(last: int, outbox: str = "aa", state: str = "online") -> dict[str, Any]:
    return {"schema": SCHEMA, "type": "site", "site": SITE, "state": state, "outbox": outbox, "last": last}


class Reader:
    """A ledger with the numbers that it gave."""

    def __init__(self, **how: Any) -> None:
        self.ledger = Ledger(**how)
        self.given: list[Given] = []
        self.now_s = 0.0

    def feed(self, message: dict[str, Any], live: bool = True) -> list[int]:
        return self._note(self.ledger.feed(SITE, message, live, self.now_s))

    def wait(self, seconds: float) -> list[int]:
        self.now_s += seconds
        return self._note(self.ledger.tick(self.now_s))

    def asks(self) -> list[int]:
        return [ask.after for ask in self.ledger.asks(self.now_s)]

    def _note(self, given: list[Given]) -> list[int]:
        self.given += given
        return [one.number for one in given if one.message]

    @property
    def ids(self) -> list[str]:
        return [one.message.id for one in self.given if one.message]


@given(st.integers(1, 40), st.randoms(use_true_random=False), st.floats(0, 0.9), st.integers(0, 10))
def test_any_loss_repetition_and_order_gives_every_message_once_and_in_order(
    count: int, random: random.Random, loss: float, swaps: int
) -> None:
    """The network may do anything for a while; later the monitor answers, and what it answers arrives."""
    reader = Reader(since="beginning")
    sent = [alert(number) for number in range(1, count + 1)]
    heard = [(message, True) for message in sent if random.random() > loss] + [
        (message, False) for message in random.choices(sent, k=swaps)
    ]
    for _ in range(swaps):
        i, j = random.randrange(len(heard)), random.randrange(len(heard))
        heard[i], heard[j] = heard[j], heard[i]
    for message, live in heard:
        reader.feed(message, live)
        reader.now_s += random.random() * PATIENCE_S / 100
    reader.feed(site_status(count))
    _answer_until_quiet(reader, sent, lambda: random.random() > loss)
    assert reader.ids == [message["id"] for message in sent]
    assert reader.ledger.missed == reader.ledger.bad == 0


def _answer_until_quiet(reader: Reader, sent: list[dict[str, Any]], arrives: Callable[[], bool], rounds: int = 3) -> None:
    """A monitor that answers; in the last rounds nothing is lost any more."""
    for round_ in range(rounds + 3):
        for after in reader.asks():
            for message in sent[after:]:
                if round_ >= rounds or arrives():
                    reader.feed(message, live=False)
            if round_ >= rounds or arrives():
                reader.feed(resent(1, len(sent)))
        # Time for the next question, though none for anything to be overdue.
        reader.now_s += 0.01
        reader.ledger.check()


@given(st.integers(1, 40), st.randoms(use_true_random=False), st.floats(0, 0.9))
def test_however_long_it_takes_every_message_is_given_once(count: int, random: random.Random, loss: float) -> None:
    """Alerts that waited for too long go before those that are missing, and none of both goes twice or nowhere."""
    reader = Reader(since="beginning")
    sent = [alert(number) for number in range(1, count + 1)]
    for message in random.choices(sent, k=2 * count):
        reader.feed(message, live=random.random() > loss)
        reader.wait(random.random() * PATIENCE_S)
    reader.feed(site_status(count))
    _answer_until_quiet(reader, sent, lambda: random.random() > loss)
    assert sorted(reader.ids) == sorted(message["id"] for message in sent)
    assert reader.ledger.missed == 0 and reader.ledger._outboxes[SITE].mark == Mark(count)


@given(st.permutations(range(1, 13)), st.integers(0, 12))
def test_who_begins_now_gets_what_is_told_from_now_on_and_nothing_before(order: list[int], known: int) -> None:
    """Numbers up to `known` are of the past and only ever resent."""
    reader = Reader(since="now")
    assert reader.feed(site_status(known // 2), live=False) == []
    reader.feed(resent(1, known))
    for number in order:
        reader.feed(alert(number), live=number > known)
    assert [one.number for one in reader.given if one.message] == list(range(known + 1, 13))


def test_who_begins_now_asks_for_nothing_of_the_past_and_begins_with_the_first_that_comes_live() -> None:
    reader = Reader(since="now")
    reader.feed(site_status(5), live=False)
    (after,) = reader.asks()
    assert after >= 2**31
    assert reader.feed(alert(42, state="updated")) == [42]
    reader.feed(resent(1, 42))
    assert reader.asks() == [] and reader.feed(alert(41), live=False) == []
    assert reader.feed(alert(44)) == [] and reader.asks() == [42]


def test_a_hole_holds_up_what_follows_for_ten_seconds_and_is_filled_later_all_the_same() -> None:
    reader = Reader(since="beginning")
    assert [*reader.feed(alert(1)), *reader.feed(alert(3))] == [1]
    assert reader.wait(PATIENCE_S - 0.1) == []
    assert reader.wait(0.2) == [3]
    assert reader.feed(alert(4)) == [] and reader.feed(alert(2), live=False) == [2, 4]
    assert reader.feed(alert(3), live=False) == reader.wait(60) == []


def test_a_hole_is_asked_for_again_and_again_at_growing_intervals() -> None:
    reader = Reader(since="beginning")
    reader.feed(alert(2))
    asked_s = []
    for _ in range(1200):
        asked_s += [reader.now_s for after in reader.asks() if after == 0]
        reader.wait(0.1)
    assert asked_s[0] == 0 and 5 <= len(asked_s) <= 10
    assert all(b - a <= 60.5 for a, b in itertools.pairwise(asked_s))


def test_what_the_outbox_has_forgotten_is_missed_and_holds_nothing_up() -> None:
    reader = Reader(since="beginning", known={SITE: ("aa", Mark(4))})
    reader.feed(alert(12))
    reader.feed(alert(9), live=False)
    assert reader.feed(resent(10, 12)) == [9]
    assert reader.ledger.missed == 4
    reader.feed(alert(10), live=False)
    assert reader.feed(alert(11), live=False) == [11, 12]


def test_what_never_comes_though_the_monitor_answers_is_given_up_and_counted() -> None:
    """As a message that is too large for the broker."""
    reader = Reader(since="beginning")
    reader.feed(alert(1))
    reader.feed(alert(3))
    for _ in range(100):
        reader.wait(1)
        for _after in reader.asks():
            reader.feed(alert(3), live=False)
            reader.feed(resent(1, 3))
    assert reader.ledger.missed == 1 and reader.feed(alert(4)) == [4]


def test_answers_to_others_do_not_give_up_a_hole() -> None:
    reader = Reader(since="beginning")
    reader.feed(alert(1))
    reader.feed(alert(3))
    assert reader.asks() == [1]
    for _ in range(50):
        reader.feed(resent(1, 3))
    assert reader.ledger.missed == 0 and reader.feed(alert(2), live=False) == [2, 3]


def test_another_outbox_begins_anew_and_frees_what_waited_in_the_old_one() -> None:
    reader = Reader(since="now")
    assert reader.feed(alert(7)) == [7] and reader.feed(alert(9)) == []
    assert reader.feed(site_status(3, "bb")) == [9]
    assert reader.asks() == [0] and reader.ledger.missed == 1
    assert [n for number in (1, 2, 3) for n in reader.feed(alert(number, "bb"), live=False)] == [1, 2, 3]


def test_a_number_that_was_used_twice_loses_no_alert() -> None:
    """A monitor that died on a full disk counts again from what it had written."""
    reader = Reader(since="beginning")
    for number in (1, 2, 3):
        reader.feed(alert(number))
    assert reader.feed(alert(3, id="another")) == [0]
    assert reader.ids[-1] == "another" and reader.feed(alert(3, id="another")) == []


def test_a_message_without_an_outbox_is_given_at_once_and_once() -> None:
    reader = Reader(since="now")
    message = {key: value for key, value in alert(1).items() if key not in ("outbox", "number")}
    assert reader.feed(message) == [0] and reader.feed(message) == []
    assert reader.feed({**message, "seq": 1}) == [0]


@pytest.mark.parametrize("broken", [{"state": "escalated"}, {"priority": None}, {"evidence": 3}, {"id": ["x"]}])
def test_a_message_that_cannot_be_read_is_counted_and_leaves_no_hole(broken: dict[str, Any]) -> None:
    reader = Reader(since="beginning")
    reader.feed(alert(1))
    assert reader.feed(alert(2, **broken)) == [] and reader.ledger.bad == 1
    reader.feed(resent(1, 2))
    assert reader.feed(alert(3)) == [3] and reader.asks() == []


def test_a_newer_schema_is_read_as_far_as_it_fits() -> None:
    reader = Reader(since="beginning")
    assert reader.feed(alert(1, schema=99, invented={"deep": 1})) == [1]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda one: st.dictionaries(st.text(), one)))
def test_no_object_is_too_strange(content: Any) -> None:
    reader = Reader(since="beginning")
    for kind in ("alert", "evidence", "resent", "site", "other"):
        reader.feed({"type": kind, "outbox": content, "number": content, "first": content, "last": content})
        reader.feed(alert(1, outbox="aa") | {"number": content})
    reader.wait(100)
    list(reader.ledger.asks(reader.now_s))


def test_nothing_grows_while_a_hole_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.ledger._REMEMBERED", 50)
    reader = Reader(since="beginning")
    for number in range(2, 400):
        reader.feed(alert(number))
        reader.wait(0.001)
    outbox = reader.ledger._outboxes[SITE]
    assert len(outbox.waiting) <= 50 and len(outbox.mark.beyond) <= 50 and len(reader.ledger._seen) <= 50
    reader.wait(PATIENCE_S)
    assert [one.number for one in reader.given if one.message] == list(range(2, 400))


class Monitor:
    """A daemon's side in few lines: it keeps all, publishes each once, and answers who asks. It shares no code with what it tests."""

    def __init__(self, port: int, outbox: str = "aa", first: int = 1, prefix: str = "cardiogloss", **tls: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self.outbox, self.first, self.root = outbox, first, f"{prefix}/{SITE}"
        self.commands: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]
        self.client.on_connect, self.client.on_message = self._connected, self._message
        if tls:
            self.client.tls_set(str(tls["ca"]))
            self.client.username_pw_set("edge", "right")
        self.client.connect_async("localhost" if tls else "127.0.0.1", port)
        self.client.loop_start()
        wait_for(self.client.is_connected)

    def tell(self, message: dict[str, Any], publish: bool = True) -> None:
        """`publish` is false for one that the broker lost."""
        self.sent.append(message)
        if publish:
            self.publish(f"bed1/{message['type']}", message)

    def publish(self, topic: str, message: Any, retain: bool = False) -> None:
        payload = message if isinstance(message, bytes) else json.dumps(message)
        self.client.publish(f"{self.root}/{topic}", payload, 1, retain)

    def status(self) -> None:
        self.publish("status", site_status(len(self.sent), self.outbox), retain=True)

    def _connected(self, client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        client.subscribe([(f"{self.root}/resend", 1), (f"{self.root}/+/command", 1)])
        self.status()

    def _message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        asked = json.loads(message.payload)
        if message.topic.endswith("/command"):
            self.commands.append(asked)
            source = message.topic.split("/")[-2]
            reply = {**HEAD, "type": "reply", "source": source, "command_id": asked["command_id"], "ok": True, "why": None}
            self.publish(f"{source}/reply", reply)
            return
        self.asked.append(asked)
        after = asked["after"] if asked["outbox"] == self.outbox else 0
        for one in self.sent[max(after, self.first - 1) :]:
            self.publish("resent", one)
        self.publish("resent", resent(self.first, len(self.sent), self.outbox))

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnects are shorter, and there is no farewell, which takes up to a second, so that the tests need not last minutes."""
    whole, stop = module.Backoff, module.Broker.stop

    def _stop(broker: module.Broker) -> None:
        broker._client.disconnect()
        stop(broker)

    monkeypatch.setattr(module, "Backoff", lambda seed, first_s, longest_s=30.0: whole(seed, first_s / 20, longest_s / 80))
    monkeypatch.setattr(module.Broker, "stop", _stop)


@pytest.fixture
def scope() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def mosquitto(tmp_path: Path, scope: ExitStack) -> Mosquitto:
    return scope.enter_context(Mosquitto(tmp_path))


@pytest.fixture
def monitor(mosquitto: Mosquitto, scope: ExitStack) -> Monitor:
    monitor = Monitor(mosquitto.port)
    scope.callback(monitor.close)
    return monitor


@pytest.fixture
def listen(mosquitto: Mosquitto, scope: ExitStack) -> Callable[..., Subscription]:
    def _listen(**how: Any) -> Subscription:
        how = {"site": SITE, "since": "beginning", "timeout_s": 10.0} | how
        subscription = subscribe("127.0.0.1", mosquitto.port, **how)
        scope.callback(subscription.close)
        return subscription

    return _listen


def take(alerts: Subscription, count: int) -> list[str]:
    return [alert.id for _, alert in zip(range(count), alerts, strict=False)]


def settle(alerts: Subscription, monitor: Monitor) -> None:
    """Until it is subscribed, and has asked for what it may have missed."""
    before = len(monitor.asked)
    wait_for(lambda: alerts.receive(0.05) is None and len(monitor.asked) > before)


def names(*numbers: int) -> list[str]:
    return [f"aa-{number}" for number in numbers]


def test_alerts_come_typed_once_and_with_what_was_told_before(monitor: Monitor, listen: Callable[..., Subscription]) -> None:
    monitor.tell(alert(1))
    monitor.tell(evidence(2, of=1))
    monitor.tell(alert(3), publish=False)
    with listen(also=["evidence"]) as alerts:
        first, second, third = (alerts.receive(10) for _ in range(3))
        assert isinstance(first, AlertMessage) and isinstance(second, EvidenceMessage) and isinstance(third, AlertMessage)
        assert [first.number, second.number, third.number] == [1, 2, 3] and second.strip.uv == [[1, None, 3]]
        monitor.tell(alert(4))
        monitor.publish("bed1/alert", alert(4))
        assert take(alerts, 1) == names(4) and alerts.receive(0.5) is None


def test_evidence_is_no_alert_and_other_sources_are_left_out(monitor: Monitor, listen: Callable[..., Subscription]) -> None:
    for message in (alert(1), evidence(2, of=1), alert(3, source="bed2"), alert(4)):
        monitor.tell(message)
    assert take(listen(source="bed1"), 2) == names(1, 4)
    assert take(listen(source="bed2"), 1) == names(3)


def test_now_gives_nothing_that_was_told_before(monitor: Monitor, listen: Callable[..., Subscription]) -> None:
    monitor.tell(alert(1))
    monitor.publish("bed1/alert", alert(1), retain=True)
    with listen(since="now") as alerts:
        assert alerts.receive(1) is None and monitor.asked
        monitor.tell(alert(2), publish=False)
        monitor.tell(alert(3))
        assert take(alerts, 2) == names(2, 3)


def test_what_was_told_while_only_this_connection_was_lost_is_asked_for(monitor: Monitor, listen: Callable[..., Subscription]) -> None:
    """Nothing that comes later shows a hole."""
    alerts = listen()
    settle(alerts, monitor)
    monitor.tell(alert(1), publish=False)
    alerts._broker._client.socket().shutdown(socket.SHUT_RDWR)
    assert take(alerts, 1) == names(1)


def test_a_broker_that_was_killed_and_forgot_all_costs_nothing(
    mosquitto: Mosquitto, monitor: Monitor, listen: Callable[..., Subscription]
) -> None:
    alerts = listen(site="+")
    monitor.tell(alert(1))
    assert take(alerts, 1) == names(1)
    for number in (2, 4):
        mosquitto.kill()
        monitor.tell(alert(number), publish=False)
        wait_for(lambda: not alerts.connected and not monitor.client.is_connected())
        assert alerts.why
        mosquitto.start()
        wait_for(monitor.client.is_connected)
        monitor.tell(alert(number + 1))
        assert take(alerts, 2) == names(number, number + 1)
    assert alerts.missed == alerts.bad == 0


class RealMonitor:
    """The daemon's own outbox, delivery and exchange, without a source."""

    def __init__(self, folder: Path, port: int) -> None:
        tables = {
            "site": SITE, "mqtt": {"host": "127.0.0.1", "port": port}, "outbox": {"file": "outbox.db"},
            "source": [{"mqtt": f"cardiogloss/{SITE}/+/ecg"}],
        }  # fmt: skip
        config = parse_config(tables, folder / "edge.toml")
        self.exchange = Exchange(config, "a model", Supervisor(), lambda *_: None, lambda *_: True)
        self.exchange.start(config)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._greet, daemon=True)
        self._thread.start()

    def tell(self, message: dict[str, Any]) -> None:
        assert self.exchange.delivery is not None
        bare = {key: value for key, value in message.items() if key not in ("outbox", "number")}
        self.exchange.delivery.put(Letter(f"cardiogloss/{SITE}/bed1/alert", bare, f"{bare['id']}/{bare['seq']}"))

    def close(self) -> None:
        self._ends.set()
        self._thread.join()
        self.exchange.stop()

    def _greet(self) -> None:
        while not self._ends.wait(0.02):
            self.exchange.greet()


def test_with_the_monitors_own_outbox_nothing_is_lost_however_often_the_broker_is_killed(
    tmp_path: Path, mosquitto: Mosquitto, scope: ExitStack, listen: Callable[..., Subscription]
) -> None:
    """Both programs are started anew meanwhile, too."""
    got: list[str] = []
    for begun in range(1, 121, 40):
        monitor = RealMonitor(tmp_path, mosquitto.port)
        with listen(cursor=tmp_path / "cursor.json") as alerts:
            for number in range(begun, begun + 10):
                monitor.tell(alert(number))
            got += take(alerts, 10)
            mosquitto.kill()
            for number in range(begun + 10, begun + 30):
                monitor.tell(alert(number))
            mosquitto.start()
            for number in range(begun + 30, begun + 40):
                monitor.tell(alert(number))
            got += take(alerts, 15)
            assert alerts.missed == alerts.bad == 0
        monitor.close()
    monitor = RealMonitor(tmp_path, mosquitto.port)
    scope.callback(monitor.close)
    got += [alert.id for alert in listen(cursor=tmp_path / "cursor.json", timeout_s=1.5)]
    # The last that a program was given when it ended comes again: it had not asked for the next.
    assert [name for name, _ in itertools.groupby(got)] == names(*range(1, 121)) and len(got) == 123


def test_a_broker_that_is_absent_at_first_is_waited_for(tmp_path: Path, scope: ExitStack) -> None:
    broker = Mosquitto(tmp_path)
    scope.callback(broker.kill)
    states: list[tuple[bool, str]] = []
    alerts = scope.enter_context(
        subscribe("127.0.0.1", broker.port, since="beginning", timeout_s=10, on_state=lambda *state: states.append(state))
    )
    wait_for(lambda: states)
    assert not states[0][0] and "refused" in alerts.why
    broker.start()
    monitor = Monitor(broker.port)
    scope.callback(monitor.close)
    monitor.tell(alert(1))
    assert take(alerts, 1) == names(1)


def test_a_program_that_is_started_again_goes_on_after_what_it_dealt_with(
    tmp_path: Path, monitor: Monitor, listen: Callable[..., Subscription]
) -> None:
    how: dict[str, Any] = {"cursor": tmp_path / "cursor.json", "since": "now"}
    with listen(**how) as alerts:
        settle(alerts, monitor)
        monitor.tell(alert(1))
        monitor.tell(alert(2))
        # The second was given, and not dealt with: nobody asked for the next.
        assert [*take(alerts, 1), next(alerts).id] == names(1, 2)
    monitor.tell(alert(3))
    with listen(**how) as alerts:
        assert take(alerts, 2) == names(2, 3) and alerts.receive(0.3) is None
    monitor.tell(alert(4))
    monitor.tell(evidence(5, of=4))
    with listen(**how) as alerts:
        monitor.publish("bed1/alert", alert(3))
        assert take(alerts, 1) == names(4) and alerts.receive(0.3) is None
    with listen(**how) as alerts:
        assert alerts.receive(0.5) is None
    assert json.loads((tmp_path / "cursor.json").read_text())["sites"] == {SITE: {"outbox": "aa", "after": 5, "beyond": []}}


def test_a_cursor_begins_where_the_program_did_and_not_at_the_first_alert(
    tmp_path: Path, monitor: Monitor, listen: Callable[..., Subscription]
) -> None:
    for number in (1, 2, 3):
        monitor.tell(alert(number), publish=False)
    for number in (4, 5):
        with listen(cursor=tmp_path / "cursor.json", since="now") as alerts:
            settle(alerts, monitor)
            monitor.tell(alert(number))
            assert take(alerts, 1) == names(number) and alerts.receive(0.1) is None
    assert json.loads((tmp_path / "cursor.json").read_text())["sites"][SITE] == {"outbox": "aa", "after": 5, "beyond": []}


def test_a_program_that_heard_nothing_before_its_restart_gets_what_came_meanwhile(
    tmp_path: Path, monitor: Monitor, listen: Callable[..., Subscription]
) -> None:
    monitor.tell(alert(1), publish=False)
    monitor.status()
    with listen(cursor=str(tmp_path / "cursor.json"), since="now") as alerts:
        settle(alerts, monitor)
        wait_for(lambda: alerts.receive(0.05) is None and json.loads((tmp_path / "cursor.json").read_text())["sites"])
    monitor.tell(alert(2))
    with listen(cursor=tmp_path / "cursor.json", since="now") as alerts:
        assert take(alerts, 1) == names(2) and alerts.receive(0.3) is None


def test_an_alert_with_which_a_program_was_lost_is_given_again_even_where_it_was_the_first(
    tmp_path: Path, monitor: Monitor, listen: Callable[..., Subscription]
) -> None:
    """It begins now, with an alert that comes before any word of the site."""
    monitor.outbox = ""
    monitor.status()
    lost = listen(cursor=tmp_path / "cursor.json", since="now")
    wait_for(lambda: lost.receive(0.3) is None and lost.connected)
    monitor.outbox = "aa"
    monitor.tell(alert(1))
    assert next(lost).id == "aa-1"
    lost.close()
    with listen(cursor=tmp_path / "cursor.json", since="now") as alerts:
        monitor.status()
        assert take(alerts, 1) == names(1)


def test_an_alert_is_not_lost_where_the_cursor_cannot_be_written_for_a_while(
    tmp_path: Path, monitor: Monitor, listen: Callable[..., Subscription]
) -> None:
    (tmp_path / "folder").mkdir()
    alerts = listen(cursor=tmp_path / "folder" / "cursor.json")
    monitor.tell(alert(1))
    monitor.tell(evidence(2, of=1))
    monitor.tell(alert(3))
    assert take(alerts, 1) == names(1)
    shutil.rmtree(tmp_path / "folder")
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            alerts.receive(1)
    (tmp_path / "folder").mkdir()
    assert take(alerts, 1) == names(3)


@pytest.mark.parametrize("place", ["missing/cursor.json", "file/cursor.json", "folder"])
def test_a_cursor_that_cannot_be_kept_is_the_operators_mistake_at_once(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=f"the cursor .*{place} cannot be kept: .*name a file in a folder that exists"):
        subscribe("127.0.0.1", cursor=tmp_path / place)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cursor_in_a_folder_that_is_read_only_is_the_operators_mistake_at_once(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match=r"cannot be kept: Permission denied"):
        subscribe("127.0.0.1", cursor=tmp_path / "cursor.json")


def test_a_file_that_is_no_cursor_is_the_operators_mistake(tmp_path: Path) -> None:
    (tmp_path / "cursor.json").write_text('{"cursor": 7}')
    with pytest.raises(ConfigError, match=r"cursor\.json is not the cursor"):
        subscribe("127.0.0.1", cursor=tmp_path / "cursor.json")


@pytest.mark.parametrize(
    "how",
    [{"host": "mqtt://x"}, {"port": 0}, {"site": "a/b"}, {"source": "#"}, {"prefix": "/x"}, {"site": "x" * 70_000}, {"source": "\udcff"}],
    ids=["host", "port", "site", "source", "prefix", "long", "no text"],
)
def test_an_address_that_cannot_be_is_the_operators_mistake(how: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(how))):
        subscribe(**how)


def test_bad_messages_are_counted_and_skipped(monitor: Monitor, listen: Callable[..., Subscription]) -> None:
    alerts = listen(also=["state", "vitals"])
    settle(alerts, monitor)
    for topic in ("bed1/alert", "bed1/evidence", "resent", "bed1/alert/x", "bed1/vitals", "bed1/reply"):
        for payload in (b"\xff", b"{", b"[]", b"[" * 5000, b'{"type":"alert"}'):
            monitor.publish(topic, payload)
    monitor.publish("bed1/alert/x", b"", retain=True)
    monitor.tell(alert(1))
    assert take(alerts, 1) == names(1)
    assert alerts.bad == 5 * 5


def test_the_last_word_about_each_finding_is_there_on_start(monitor: Monitor, listen: Callable[..., Subscription]) -> None:
    state = {key: value for key, value in alert(1).items() if key != "evidence"}
    monitor.publish("bed1/alert/atrial_fibrillation", state, retain=True)
    alerts = listen(since="now", also=["state"])
    told = alerts.receive(10)
    assert isinstance(told, AlertState) and not isinstance(told, AlertMessage) and told.id == "aa-1"


def test_commands_reach_the_monitor_and_bring_its_reply(monitor: Monitor, listen: Callable[..., Subscription]) -> None:
    monitor.tell(alert(1))
    alerts = listen()
    assert alerts.acknowledge(next(alerts), by="nurse 7").ok
    assert alerts.silence("bed2", 600, by="nurse 7").source == "bed2"
    without_id = [{key: value for key, value in command.items() if key != "command_id"} for command in monitor.commands]
    assert without_id == [
        {"command": "acknowledge", "id": "aa-1", "by": "nurse 7"},
        {"command": "silence", "for_s": 600, "finding": None, "by": "nurse 7"},
    ]


def test_a_command_that_nobody_answers_is_told_in_words(mosquitto: Mosquitto, listen: Callable[..., Subscription]) -> None:
    alerts = listen()
    with pytest.raises(TimeoutError, match="no monitor answered for source 'bed9' of site 'ward'"):
        alerts.silence("bed9", 1, by="x", wait_s=0.3)
    mosquitto.kill()
    wait_for(lambda: not alerts.connected)
    with pytest.raises(TimeoutError, match="the broker cannot be reached: "):
        alerts.silence("bed9", 1, by="x", wait_s=0.1)


@pytest.mark.parametrize(
    ("site", "source", "words"),
    [
        ("+", "bed1", "site '\\+' must be one name: a command"),
        ("ward", "+", "source '\\+' must be one name: a command"),
        ("ward", "a+b", "source 'a\\+b' must be one name"),
        ("ward", "a/b", "source 'a/b' must be one name"),
        ("", "bed1", "site '' must be one name"),
        ("ward", "#", "source '#' must be one name"),
        ("ward", "\udcff", "source .* must be one name"),
    ],
)
def test_a_command_to_what_can_be_no_source_is_a_mistake_that_is_told_before_anything_is_sent(site: str, source: str, words: str) -> None:
    """Though there is no broker, and so none is waited for."""
    with subscribe("127.0.0.1", free_port()) as alerts, pytest.raises(ConfigError, match=words):
        alerts.command(site, source, {"command": "silence", "for_s": 1}, wait_s=60)


def test_a_subscriber_that_may_not_ask_waits_longer_each_time(tmp_path: Path, scope: ExitStack) -> None:
    """A read-only account. By the broker's own log."""
    (tmp_path / "acl").write_text("topic read cardiogloss/#\n")
    broker = scope.enter_context(Mosquitto(tmp_path, f"allow_anonymous true\nacl_file {tmp_path}/acl"))
    with subscribe("127.0.0.1", broker.port, site=SITE) as alerts:
        wait_for(lambda: alerts.connected)
        alerts._ledger.feed(SITE, site_status(3), True, time.monotonic())
        assert alerts.receive(4.5) is None
    # At once, and after three seconds.
    assert broker.log.read_text().count("Denied PUBLISH") == 2


def test_a_refusal_is_no_connection_that_came_back(monitor: Monitor, listen: Callable[..., Subscription]) -> None:
    alerts = listen()
    settle(alerts, monitor)
    before = len(monitor.asked)
    for _ in range(8):
        alerts._note(True, "the broker refused a message: Not authorized")
        assert alerts.receive(0.1) is None
    assert len(monitor.asked) == before
    alerts._note(False, "lost")
    alerts._note(True, "connected")
    wait_for(lambda: alerts.receive(0.1) is None and len(monitor.asked) == before + 1)


def test_closing_ends_the_wait_of_another_thread(listen: Callable[..., Subscription]) -> None:
    alerts = listen(timeout_s=60.0)
    ended: list[float] = []
    thread = threading.Thread(target=lambda: ended.append(len(list(alerts))))
    thread.start()
    time.sleep(0.1)
    alerts.close()
    thread.join(5)
    assert ended == [0]


def test_many_threads_may_close_it_at_once(listen: Callable[..., Subscription]) -> None:
    alerts = listen()
    wait_for(lambda: alerts.connected)
    threads = [threading.Thread(target=alerts.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads) and list(alerts) == [] and not alerts.connected


def test_a_broker_that_was_never_there_ends_the_loop_after_its_time() -> None:
    begun_s = time.monotonic()
    with subscribe("127.0.0.1", free_port(), timeout_s=0.5) as alerts:
        assert list(alerts) == [] and "refused" in alerts.why
        assert 0.5 <= time.monotonic() - begun_s < 2.0
    assert list(alerts) == []


@pytest.mark.parametrize("is_there", [True, False])
def test_ctrl_c_ends_the_loop_and_nothing_hangs(mosquitto: Mosquitto, is_there: bool) -> None:
    program = f"""
from edge.subscribe import subscribe
try:
    with subscribe("127.0.0.1", {mosquitto.port if is_there else free_port()}, on_state=lambda *why: print(*why, flush=True)) as alerts:
        for alert in alerts:
            pass
except KeyboardInterrupt:
    print("interrupted")
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and str(is_there).encode() in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=15)
    assert (process.returncode, out.splitlines()[-1], err) == (0, b"interrupted", b"")


def test_a_program_that_is_slow_loses_nothing(
    monitor: Monitor, listen: Callable[..., Subscription], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.subscribe._QUEUED", 20)
    alerts = listen()
    settle(alerts, monitor)
    for number in range(1, 101):
        monitor.tell(alert(number))
    wait_for(lambda: alerts._inbox.full())
    time.sleep(0.3)
    assert take(alerts, 100) == names(*range(1, 101))


def test_tls_and_a_password_open_a_guarded_broker(tmp_path: Path, scope: ExitStack) -> None:
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt",
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout localhost.key -out localhost.csr",
        "x509 -req -days 2 -in localhost.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile localhost.ext -out localhost.crt",
    ):
        (tmp_path / "localhost.ext").write_text("subjectAltName=DNS:localhost\n")
        subprocess.run(["openssl", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    passwords = tmp_path / "passwords"
    subprocess.run([shutil.which("mosquitto_passwd") or "mosquitto_passwd", "-b", "-c", passwords, "edge", "right"], check=True)
    files = f"cafile {tmp_path}/ca.crt\ncertfile {tmp_path}/localhost.crt\nkeyfile {tmp_path}/localhost.key"
    broker = scope.enter_context(Mosquitto(tmp_path, f"{files}\nallow_anonymous false\npassword_file {passwords}"))
    monitor = Monitor(broker.port, ca=tmp_path / "ca.crt")
    scope.callback(monitor.close)
    monitor.tell(alert(1), publish=False)
    how: dict[str, Any] = {"site": SITE, "since": "beginning", "timeout_s": 10}
    wrong = scope.enter_context(subscribe("localhost", broker.port, user="edge", password="wrong", tls=True, ca=tmp_path / "ca.crt", **how))
    secret = tmp_path / "secret"
    secret.write_text("right\n")
    config = Mqtt(host="localhost", port=broker.port, user="edge", password_file=secret, tls=True, ca=tmp_path / "ca.crt", client_id="edge")
    assert take(scope.enter_context(subscribe(config, **how)), 1) == names(1)
    wait_for(lambda: "check user" in wrong.why)
    assert not wrong.connected
