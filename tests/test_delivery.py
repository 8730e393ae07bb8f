"""Alerts through the outbox to a real broker: each arrives, once by its number and in order, whatever is killed, cut, stalled or full."""

from __future__ import annotations

import json
import random
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
import structlog
from paho.mqtt.enums import CallbackAPIVersion

from edge import delivery as module
from edge.config import Mqtt
from edge.delivery import Delivery
from edge.outbox import Letter, Outbox
from edge.supervisor import Supervisor
from edge.transport import mqtt
from edge.transport.mqtt import Broker, Properties
from edge.transport.proxy import Proxy

from .broker import Mosquitto, wait_for

ROOT = Path(__file__).parent.parent
RESENT = "site/resent"
RESEND = "site/resend"
ALERT = "site/bed1/alert"
PATIENCE_S = 60.0


def letter(number: int, size: int = 20) -> Letter:
    """The n-th alert of a stream: its key does not depend on how often it is told."""
    alert = {"schema": 1, "id": f"a{number}", "seq": 1, "state": "raised", "priority": "high", "evidence": "x" * size}
    return Letter(ALERT, alert, f"a{number}/1", f"{ALERT}/f{number % 3}", {"id": f"a{number}"})


class Monitor:
    """A `Broker` and a `Delivery`, joined as the daemon does it."""

    def __init__(self, path: Path, **settings: Any) -> None:
        password = settings.pop("secret", None)
        self.outbox = Outbox(path, 1 << 26, 1e9)
        self.delivery = Delivery(self.outbox, Supervisor(), RESENT)
        self.broker = Broker(
            Mqtt(**{"host": "127.0.0.1"} | settings),
            "cardiogloss-test",
            password,
            on_message=self._asked,
            on_state=self._note,
            on_published=self.delivery.on_published,
            on_refused=self.delivery.on_refused,
        )

    def start(self) -> Monitor:
        self.broker.subscribe(RESEND)
        self.delivery.start(self.broker.publish)
        self.broker.start()
        return self

    def close(self, wait_s: float = 5.0) -> None:
        self.delivery.close(wait_s)
        # Without a farewell, which takes up to a second.
        self.broker._client.disconnect()
        self.broker.stop()

    def _note(self, connected: bool, why: str) -> None:
        if connected:
            self.delivery.on_connected(self.broker.most_inflight)
        else:
            self.delivery.on_lost()

    def _asked(self, topic: str, payload: bytes, retained: bool) -> None:
        asked = json.loads(payload)
        self.delivery.resend(asked["outbox"], asked["after"])


class Subscriber:
    """By paho alone. After each connect, and where a number is missing, it asks for what it has not seen."""

    def __init__(self, port: int, asks: bool = True, **how: Any) -> None:
        self.live: list[dict[str, Any]] = []
        self.states: dict[str, bytes] = {}
        self.raw: dict[int, set[str]] = {}
        self.ends: list[dict[str, Any]] = []
        self.properties: list[Any] = []
        self._asks = asks
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.reconnect_delay_set(0.1, 0.3)  # type: ignore[arg-type]
        self._subscribed = threading.Event()
        self._client.on_connect = lambda client, *rest: client.subscribe([(ALERT, 1), (f"{ALERT}/+", 1), (RESENT, 1)])
        self._client.on_subscribe = self._ready
        self._client.on_message = self._take
        if how:
            self._client.username_pw_set(how["user"], how["password"])
        self._client.connect_async("127.0.0.1", port)
        self._client.loop_start()
        wait_for(self._subscribed.is_set, "the subscription")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def ask(self, outbox: str, after: int) -> None:
        self._client.publish(RESEND, json.dumps({"outbox": outbox, "after": after}), qos=1)

    def ask_for_missing(self) -> None:
        name = next(iter(self.live or self.ends), {"outbox": ""})["outbox"]
        self.ask(name, next(number for number in range(len(self.raw) + 1) if number + 1 not in self.raw))

    @property
    def numbers(self) -> list[int]:
        """Of the live messages, in the order in which they came first."""
        return list(dict.fromkeys(message["number"] for message in self.live))

    def _ready(self, *_: Any) -> None:
        self._subscribed.set()
        if self._asks:
            self.ask_for_missing()

    def _take(self, client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        if message.topic not in (ALERT, RESENT):
            self.states[message.topic] = message.payload
            return
        told = json.loads(message.payload)
        if told.get("type") == "resent":
            self.ends.append(told)
            return
        self.raw.setdefault(told["number"], set()).add(message.payload.decode())
        if message.topic == ALERT:
            self.live.append(told)
            self.properties.append(message.properties)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same waits, shorter."""
    whole = mqtt.Backoff
    monkeypatch.setattr(mqtt, "Backoff", lambda seed, first_s, longest_s=30.0: whole(seed, first_s / 20, longest_s / 80))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


@pytest.fixture
def scope() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def mosquitto(tmp_path: Path, scope: ExitStack) -> Mosquitto:
    return scope.enter_context(Mosquitto(tmp_path))


@pytest.fixture
def listen(scope: ExitStack) -> Callable[..., Subscriber]:
    def _listen(port: int, **how: Any) -> Subscriber:
        subscriber = Subscriber(port, **how)
        scope.callback(subscriber.close)
        return subscriber

    return _listen


@pytest.fixture
def watch(tmp_path: Path, scope: ExitStack) -> Callable[..., Monitor]:
    def _watch(port: int, **settings: Any) -> Monitor:
        monitor = Monitor(tmp_path / "home.db", port=port, **settings)
        scope.callback(monitor.close, 0.1)
        return monitor

    return _watch


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt",
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout localhost.key -out localhost.csr",
        "x509 -req -days 2 -in localhost.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile localhost.ext -out localhost.crt",
    ):
        (folder / "localhost.ext").write_text("subjectAltName=DNS:localhost\n")
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("password", [False, True], ids=["open", "password"])
@pytest.mark.parametrize("version", ["3.1.1", "5", "auto"])
def test_alerts_arrive_in_every_version_with_and_without_tls_and_a_password(
    version: str, password: bool, tls: bool, tmp_path: Path, keys: Path, scope: ExitStack
) -> None:
    lines = ["allow_anonymous " + str(not password).lower()]
    settings: dict[str, Any] = {"version": version}
    if password:
        subprocess.run([shutil.which("mosquitto_passwd") or "mosquitto_passwd", "-b", "-c", tmp_path / "p", "edge", "secret"], check=True)
        lines += [f"password_file {tmp_path}/p"]
        settings |= {"user": "edge", "secret": "secret"}
    if tls:
        lines += [f"cafile {keys}/ca.crt", f"certfile {keys}/localhost.crt", f"keyfile {keys}/localhost.key"]
        settings |= {"tls": True, "ca": keys / "ca.crt", "host": "localhost"}
    broker = scope.enter_context(Mosquitto(tmp_path, "\n".join(lines)))
    monitor = Monitor(tmp_path / "home.db", port=broker.port, **settings)
    monitor.delivery.put(*map(letter, range(1, 41)))
    monitor.start()
    wait_for(lambda: monitor.outbox.last == 40 and not monitor.outbox.waiting_count, "40 acknowledgements")
    monitor.close()
    assert monitor.delivery.counts == {"waiting": 0, "dropped": 0, "unwritten": 0, "resent": 0, "refused": 0}
    assert broker.log.read_text().count(f"'{ALERT}', ... (") == 40


def test_a_message_says_in_mqtt_5_what_it_is(
    mosquitto: Mosquitto, watch: Callable[..., Monitor], listen: Callable[..., Subscriber]
) -> None:
    subscriber = listen(mosquitto.port)
    monitor = watch(mosquitto.port).start()
    monitor.delivery.put(letter(1))
    wait_for(lambda: subscriber.live)
    (told,) = subscriber.properties
    assert told.ContentType == "application/json"
    assert 0 < told.MessageExpiryInterval <= monitor.outbox.oldest_s
    assert told.UserProperty == [("schema", "1"), ("id", "a1"), ("seq", "1"), ("state", "raised"), ("priority", "high")]


def test_a_letter_is_on_disk_before_it_is_announced(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "home.db", 1 << 26, 1e9)
    delivery = Delivery(outbox, Supervisor(), RESENT)
    seen: list[tuple[int, int]] = []

    def publish(topic: str, payload: str, qos: int, retain: bool, properties: Properties | None) -> int:
        if topic == ALERT:
            ((on_disk,),) = outbox._file._db.execute("SELECT max(number) FROM letter").fetchall()
            seen.append((json.loads(payload)["number"], on_disk))
        return len(seen) + 1000 * (topic != ALERT)

    delivery.start(publish)
    delivery.on_connected()
    delivery.put(letter(1))
    delivery.put(letter(2), letter(3))
    wait_for(lambda: len(seen) == 3)
    delivery.close(0.1)
    assert [number for number, _ in seen] == [1, 2, 3] and all(on_disk >= number for number, on_disk in seen)


def test_few_are_in_flight_and_the_rest_waits_on_disk(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "home.db", 1 << 26, 1e9)
    delivery = Delivery(outbox, Supervisor(), RESENT)
    taken: list[str] = []
    delivery.start(lambda topic, payload, qos, retain, properties: taken.append(payload) or len(taken))  # type: ignore[func-returns-value]
    delivery.put(*[Letter(ALERT, {"id": i}, f"{i}/1") for i in range(100)])
    delivery.on_connected()
    wait_for(lambda: len(taken) == 16)
    delivery.ask(lambda outbox: None).result(5)
    assert len(taken) == 16
    delivery.on_published(1)
    delivery.on_published(777)
    wait_for(lambda: len(taken) == 17)
    delivery.close(0.1)
    assert [json.loads(payload)["number"] for payload in taken] == list(range(1, 18))


def test_after_a_loss_the_client_sends_again_first_and_nothing_overtakes_it(tmp_path: Path) -> None:
    """Against a client that behaves as paho does: what it took it sends again by itself, under the same mid."""
    delivery = Delivery(Outbox(tmp_path / "home.db", 1 << 26, 1e9), Supervisor(), RESENT)
    taken: list[str] = []
    delivery.start(lambda topic, payload, qos, retain, properties: taken.append(payload) or len(taken))  # type: ignore[func-returns-value]
    delivery.on_connected()
    delivery.put(*[Letter(ALERT, {"id": i}, f"{i}/1") for i in range(3)])
    wait_for(lambda: len(taken) == 3)
    delivery.on_published(1)
    delivery.on_lost()
    delivery.put(Letter(ALERT, {"id": 3}, "3/1"))
    delivery.on_connected()
    delivery.on_published(2)
    delivery.ask(lambda outbox: None).result(5)
    time.sleep(0.05)
    assert len(taken) == 3, "number 3 has not arrived again"
    delivery.on_published(3)
    wait_for(lambda: len(taken) == 4)
    assert json.loads(taken[3])["number"] == 4
    delivery.close(0.1)


def test_what_the_broker_refuses_waits_for_the_next_connect_and_holds_up_nothing(
    tmp_path: Path, scope: ExitStack, watch: Callable[..., Monitor]
) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite site/open/#\ntopic read #\n")
    broker = scope.enter_context(Mosquitto(tmp_path, f"allow_anonymous true\nacl_file {acl}"))
    monitor = watch(broker.port, version="5").start()
    monitor.delivery.put(Letter("site/shut/alert", {"id": 1}, "1/1"), Letter("site/open/alert", {"id": 2}, "2/1"))
    wait_for(lambda: monitor.delivery.counts["refused"] == 1 and monitor.outbox.waiting_count == 1)
    assert [row.number for row in monitor.delivery.ask(lambda outbox: outbox.waiting(0, 9)).result(5)] == [1]
    acl.write_text("topic readwrite #\n")
    broker.restart()
    wait_for(lambda: not monitor.outbox.waiting_count, "the refused one")
    assert monitor.delivery.counts["refused"] == 1


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_a_letter_too_large_for_the_broker_holds_up_no_other_and_arrives_once_it_may(
    version: str, tmp_path: Path, scope: ExitStack, watch: Callable[..., Monitor], listen: Callable[..., Subscriber]
) -> None:
    """Its state, too, is too large."""
    broker = scope.enter_context(Mosquitto(tmp_path, "allow_anonymous true\nmax_packet_size 4000"))
    subscriber = listen(broker.port, asks=False)
    monitor = watch(broker.port, version=version).start()
    large = Letter(ALERT, {"id": "large", "x": "x" * 9000}, "large/1", f"{ALERT}/large")
    monitor.delivery.put(*map(letter, range(1, 6)), large, *map(letter, range(6, 11)))
    wait_for(lambda: monitor.outbox.waiting_count == 1 and monitor.delivery.counts["refused"] >= 2, patience_s=40)
    assert set(subscriber.numbers) == set(range(1, 12)) - {6}
    broker.restart()
    wait_for(lambda: monitor.delivery.counts["refused"] >= 4, "the second turn of both", 40)
    monitor.delivery.put(letter(11))
    wait_for(lambda: monitor.outbox.last == 12 and monitor.outbox.waiting_count == 1)
    reconnects = monitor.broker.reconnects
    time.sleep(0.5)
    assert monitor.broker.connected and monitor.broker.reconnects == reconnects, "one turn in a connection"
    broker.configure("allow_anonymous true")
    broker.restart()
    wait_for(lambda: not monitor.outbox.waiting_count and monitor.delivery._is_idle(), "the large one")
    assert not monitor.delivery._aside


def test_few_are_offered_to_a_broker_that_takes_few_and_one_at_least(tmp_path: Path) -> None:
    for most, expected in ((10, 8), (2, 1), (65535, 16)):
        delivery = Delivery(Outbox(tmp_path / f"{most}.db", 1 << 26, 1e9), Supervisor(), RESENT)
        taken: list[str] = []
        delivery.start(lambda topic, payload, *rest, taken=taken: taken.append(payload) or len(taken))
        delivery.put(*[Letter(ALERT, {"id": i}, f"{i}/1") for i in range(30)])
        delivery.on_connected(most)
        wait_for(lambda taken=taken, expected=expected: len(taken) == expected)
        delivery.ask(lambda outbox: None).result(5)
        assert len(taken) == expected
        delivery.close(0.1)


def test_what_was_refused_comes_after_all_others_once_in_a_connection(tmp_path: Path) -> None:
    """Against a client that takes all; numbers 2 and 4 and one state are refused whenever they come."""
    delivery = Delivery(Outbox(tmp_path / "home.db", 1 << 26, 1e9), Supervisor(), RESENT)
    taken: list[str] = []

    def publish(topic: str, payload: str, qos: int, retain: bool, properties: Properties | None) -> int:
        taken.append(topic if retain else str(json.loads(payload)["number"]))
        answer = partial(delivery.on_refused, why="no") if taken[-1] in ("2", "4", "state/0") else delivery.on_published
        answer(len(taken))
        return len(taken)

    delivery.start(publish)
    delivery.put(*[Letter(ALERT, {"id": i}, f"{i}/1", f"state/{i % 2}") for i in range(1, 6)])
    delivery.ask(lambda outbox: None).result(5)
    delivery.on_connected()
    wait_for(lambda: len(taken) == 7)
    delivery.on_lost()
    delivery.put(Letter(ALERT, {"id": 6}, "6/1"))
    delivery.on_connected()
    wait_for(lambda: len(taken) == 12)
    delivery.put(Letter(ALERT, {"id": 7}, "7/1"))
    wait_for(lambda: len(taken) == 13)
    delivery.close(0.1)
    assert sorted(taken[:2]) == ["state/0", "state/1"] and taken[2:7] == ["1", "2", "3", "4", "5"]
    assert taken[7:] == ["state/1", "6", "2", "4", "state/0", "7"]


def test_while_the_disk_cannot_be_read_nothing_is_passed_over_and_no_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(tmp_path / "home.db", 1 << 26, 1e9)
    delivery = Delivery(outbox, Supervisor(), RESENT)
    taken: list[dict[str, Any]] = []

    def publish(topic: str, payload: str, *rest: Any) -> int:
        taken.append(json.loads(payload))
        delivery.on_published(len(taken))
        return len(taken)

    def refuse(after: int) -> Iterator[Any]:
        raise OSError("disk I/O error")
        yield

    with monkeypatch.context() as broken:
        broken.setattr(outbox._file, "rows", refuse)
        broken.setattr(outbox._file, "rows_waiting", refuse)
        delivery.start(publish)
        delivery.put(*[Letter(ALERT, {"id": i}, f"{i}/1") for i in range(3)])
        delivery.resend("another", 0)
        delivery.on_connected()
        for _ in range(3):
            delivery.ask(lambda outbox: None).result(5)
        assert taken == []
    wait_for(lambda: taken and "type" in taken[-1])
    delivery.close(0.1)
    assert [told.get("number") for told in taken] == [1, 2, 3, 1, 2, 3, None]


def test_a_letter_does_not_make_all_states_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(tmp_path / "home.db", 1 << 26, 1e9)
    delivery = Delivery(outbox, Supervisor(), RESENT)
    taken: list[str] = []
    delivery.start(lambda topic, *rest: taken.append(topic) or len(taken))
    delivery.on_connected()
    delivery.ask(lambda outbox: None).result(5)
    monkeypatch.setattr(outbox._file, "states", lambda: pytest.fail("read"))
    delivery.put(letter(1), letter(1))
    wait_for(lambda: len(taken) == 2)
    delivery.close(0.1)
    assert sorted(taken) == [ALERT, f"{ALERT}/f1"]


def test_behind_a_disk_that_hangs_what_is_held_is_bounded_in_bytes_and_wakes_the_thread_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 100_000)
    delivery = Delivery(Outbox(tmp_path / "home.db", 1 << 26, 1e9), Supervisor(), RESENT)
    for i in range(100):
        delivery.put(Letter(ALERT, {"id": i, "uv": [1000] * 1000}, f"{i}/1"))
    assert delivery.counts["dropped"] == 100 - len(delivery._letters) and 15 <= len(delivery._letters) <= 20
    assert delivery._said.qsize() == 1
    delivery.put(Letter(ALERT, {"id": 0, "x": "x" * 200_000}, "large/1"))
    assert [held.key for held in delivery._letters] == ["large/1"]
    delivery.close(0.0)


def test_retained_states_come_back_to_a_broker_that_forgot_them_and_go_when_they_are_taken_back(
    mosquitto: Mosquitto, watch: Callable[..., Monitor], listen: Callable[..., Subscriber]
) -> None:
    monitor = watch(mosquitto.port).start()
    monitor.delivery.put(*map(letter, range(1, 7)))
    wait_for(lambda: monitor.outbox.last == 6 and not monitor.outbox.waiting_count)
    for _ in range(2):
        late = listen(mosquitto.port, asks=False)
        wait_for(lambda late=late: len(late.states) == 3)
        assert {topic: json.loads(payload)["number"] for topic, payload in late.states.items()} == {
            f"{ALERT}/f0": 6, f"{ALERT}/f1": 4, f"{ALERT}/f2": 5,
        }  # fmt: skip
        late.close()
        mosquitto.kill()
        mosquitto.start()
        wait_for(lambda: monitor.broker.connected)
    watcher = listen(mosquitto.port, asks=False)
    wait_for(lambda: len(watcher.states) == 3)
    monitor.delivery.forget_state(f"{ALERT}/f1")
    wait_for(lambda: watcher.states[f"{ALERT}/f1"] == b"")
    late = listen(mosquitto.port, asks=False)
    wait_for(lambda: len(late.states) == 2)
    assert f"{ALERT}/f1" not in late.states


def test_a_subscriber_gets_again_the_same_bytes_in_order_and_then_the_range_of_numbers(
    mosquitto: Mosquitto, watch: Callable[..., Monitor], listen: Callable[..., Subscriber]
) -> None:
    monitor = watch(mosquitto.port).start()
    first = listen(mosquitto.port, asks=False)
    monitor.delivery.put(*map(letter, range(1, 101)))
    wait_for(lambda: len(first.live) == 100)
    second = listen(mosquitto.port, asks=False)
    second.ask(monitor.outbox.name, 60)
    wait_for(lambda: second.ends)
    assert list(second.raw) == list(range(61, 101))
    assert second.ends == [{"type": "resent", "outbox": monitor.outbox.name, "first": 1, "last": 100}]
    second.ask("another", 60)
    wait_for(lambda: len(second.ends) == 2)
    assert sorted(second.raw) == list(range(1, 101)) and second.raw == first.raw
    assert all(len(payloads) == 1 for payloads in second.raw.values())
    assert monitor.delivery.counts["resent"] == 140
    for after in (2**53, 2**70):
        second.ends.clear()
        second.ask(monitor.outbox.name, after)
        wait_for(lambda: second.ends)
    assert monitor.delivery.counts["resent"] == 140


def test_a_request_while_one_runs_extends_it_and_live_alerts_go_first(tmp_path: Path) -> None:
    delivery = Delivery(Outbox(tmp_path / "home.db", 1 << 26, 1e9), Supervisor(), RESENT)
    taken: list[tuple[str, dict[str, Any]]] = []

    def publish(topic: str, payload: str, qos: int, retain: bool, properties: Properties | None) -> int:
        taken.append((topic, json.loads(payload)))
        return len(taken)

    def arrive(count: int) -> None:
        for mid in range(len(acknowledged) + 1, count + 1):
            acknowledged.append(mid)
            delivery.on_published(mid)

    acknowledged: list[int] = []
    delivery.put(*[Letter(ALERT, {"id": i}, f"{i}/1") for i in range(50)])
    delivery.start(publish)
    delivery.on_connected()
    while len(acknowledged) < 50:
        arrive(len(taken))
    name = delivery.ask(lambda outbox: outbox.name).result(5)
    taken.clear()
    acknowledged.clear()
    delivery.resend(name, 20)
    wait_for(lambda: len(taken) == 16)
    delivery.resend(name, 30)
    delivery.resend(name, 10)
    delivery.put(Letter(ALERT, {"id": 50}, "50/1"))
    while not taken or "type" not in taken[-1][1]:
        arrive(len(taken))
    delivery.close(0.1)
    again = [told["number"] for topic, told in taken[:-1] if topic == RESENT]
    assert again == [*range(21, 37), *range(11, 52)]
    assert taken[16] == (ALERT, {"id": 50, "outbox": name, "number": 51})
    assert taken[-1] == (RESENT, {"type": "resent", "outbox": name, "first": 1, "last": 51})


def test_a_disk_that_hangs_holds_up_no_caller_and_the_oldest_beyond_the_bound_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_LETTERS", 100)
    outbox = Outbox(tmp_path / "home.db", 1 << 26, 1e9)
    hangs, goes_on = threading.Event(), threading.Event()
    write = outbox._file.write

    def hang(*given: Any) -> None:
        hangs.set()
        goes_on.wait(10)
        write(*given)

    monkeypatch.setattr(outbox._file, "write", hang)
    delivery = Delivery(outbox, Supervisor(), RESENT)
    taken: list[int] = []
    delivery.start(lambda topic, payload, qos, retain, properties: taken.append(json.loads(payload)["id"]) or len(taken))  # type: ignore[func-returns-value]
    delivery.on_connected()
    delivery.put(Letter(ALERT, {"id": 0}, "0/1"))
    assert hangs.wait(5)
    begun_s = time.monotonic()
    for i in range(1, 151):
        delivery.put(Letter(ALERT, {"id": i}, f"{i}/1"))
    delivery.on_published(1)
    assert time.monotonic() - begun_s < 1.0 and delivery.counts["dropped"] == 50
    goes_on.set()
    wait_for(lambda: len(taken) >= 16)
    delivery.close(0.1)
    assert taken[:16] == [0, *range(51, 66)]


def tell(path: str, port: int, begin: int, end: int, full: tuple[int, int] = (0, 0)) -> None:
    """Runs in a process of its own: alerts `begin` to `end`, each said on standard output once it is on disk, then all delivered.

    Between the two of `full` the system lets no file grow.
    """
    monitor = Monitor(Path(path), port=port)
    monitor.start()
    wal = Path(path + "-wal")
    for number in range(begin, end + 1):
        if number in full:
            resource.setrlimit(resource.RLIMIT_FSIZE, (wal.stat().st_size if number == full[0] else resource.RLIM_INFINITY, -1))
        monitor.delivery.put(letter(number, 3000))
        while monitor.delivery.ask(lambda outbox: outbox.last if full[1] else outbox._file.newest()).result(PATIENCE_S) < number:
            pass
        _say(str(number))
        time.sleep(0.003)
    wait_for(lambda: not monitor.outbox.waiting_count, "the last acknowledgements", PATIENCE_S)
    _say(json.dumps(monitor.delivery.counts))
    monitor.close()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Teller:
    """`tell` in a process, again and again until all is told."""

    def __init__(self, path: Path, port: int, end: int, full: tuple[int, int] = (0, 0)) -> None:
        self.said: list[str] = []
        self._path, self._port, self._end, self._full = path, port, end, full
        self.start()

    @property
    def on_disk(self) -> int:
        return int(self.said[-1]) if self.said and self.said[-1].isdigit() else (self._end if self.said else 0)

    def start(self) -> None:
        """From a few before the first that is not known to be on disk: whoever reads a file again tells the same alerts again."""
        given = (str(self._path), self._port, max(self.on_disk - 4, 1), self._end, self._full)
        code = f"from tests.test_delivery import tell; tell(*{given})"
        self._process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def wait_for(self, number: int) -> None:
        wait_for(lambda: self.on_disk >= number or self._process.poll() is not None, f"alert {number}", PATIENCE_S)

    def finish(self) -> dict[str, int]:
        assert self._process.wait(PATIENCE_S) == 0, self.said[-3:]
        self._reader.join()
        counts: dict[str, int] = json.loads(self.said[-1])
        return counts

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.said += [line for line in map(str.strip, self._process.stdout) if line.isdigit() or line.startswith("{")]


def check(subscriber: Subscriber, end: int) -> None:
    """Every alert came, under its number and in one wording only; the live ones in order; the last state of each finding is there."""

    def _complete() -> bool:
        if len(subscriber.raw) < end:
            subscriber.ask_for_missing()
            time.sleep(0.3)
        return len(subscriber.raw) == end

    wait_for(_complete, "all alerts", PATIENCE_S)
    assert sorted(subscriber.raw) == list(range(1, end + 1))
    for number, payloads in subscriber.raw.items():
        assert len(payloads) == 1 and json.loads(next(iter(payloads)))["id"] == f"a{number}"
    assert subscriber.numbers == sorted(subscriber.numbers)
    wait_for(
        lambda: {json.loads(payload)["number"] for payload in subscriber.states.values()} == {end, end - 1, end - 2}, "the last states"
    )


def test_a_monitor_that_is_killed_at_any_moment_tells_every_alert_that_was_on_disk(
    tmp_path: Path, mosquitto: Mosquitto, listen: Callable[..., Subscriber]
) -> None:
    generator = random.Random(3)
    subscriber = listen(mosquitto.port)
    teller = Teller(tmp_path / "home.db", mosquitto.port, 200)
    for at in (20, 60, 61, 140):
        teller.wait_for(at)
        time.sleep(generator.random() * 0.02)
        teller.kill()
        teller.start()
    assert teller.finish()["dropped"] == 0
    check(subscriber, 200)


def test_a_broker_that_is_killed_costs_no_alert_where_the_subscriber_asks_again(
    tmp_path: Path, mosquitto: Mosquitto, listen: Callable[..., Subscriber]
) -> None:
    subscriber = listen(mosquitto.port)
    teller = Teller(tmp_path / "home.db", mosquitto.port, 250)
    for at in (20, 80, 150):
        teller.wait_for(at)
        mosquitto.kill()
        teller.wait_for(at + 20)
        mosquitto.start()
    assert teller.finish()["dropped"] == 0
    check(subscriber, 250)


def test_a_connection_that_is_cut_or_stalls_costs_no_alert_and_no_order(
    tmp_path: Path, mosquitto: Mosquitto, scope: ExitStack, listen: Callable[..., Subscriber]
) -> None:
    proxy = scope.enter_context(Proxy(mosquitto.port))
    subscriber = listen(mosquitto.port)
    teller = Teller(tmp_path / "home.db", proxy.port, 300)
    for at in (20, 60, 100, 140, 180):
        teller.wait_for(at)
        proxy.stall()
        teller.wait_for(at + 15)
        if at != 100:
            proxy.cut()
        proxy.resume()
    assert teller.finish() | {"resent": 0} == {"waiting": 0, "dropped": 0, "unwritten": 0, "resent": 0, "refused": 0}
    check(subscriber, 300)
    assert subscriber.numbers == list(range(1, 301)), "the broker lost nothing"


def test_on_a_full_disk_alerts_go_out_all_the_same_and_are_written_when_there_is_room(
    tmp_path: Path, mosquitto: Mosquitto, scope: ExitStack, listen: Callable[..., Subscriber]
) -> None:
    proxy = scope.enter_context(Proxy(mosquitto.port))
    subscriber = listen(mosquitto.port)
    teller = Teller(tmp_path / "home.db", proxy.port, 200, (30, 150))
    for at in (60, 140):
        teller.wait_for(at)
        proxy.cut()
    counts = teller.finish()
    assert counts["unwritten"] > 50 and counts["dropped"] == 0
    check(subscriber, 200)
    outbox = Outbox(tmp_path / "home.db", 1 << 26, 1e9)
    assert [row.number for row in outbox.since(0, 1000)] == list(range(1, 201)) and not outbox.waiting_count
    outbox.close()
