"""What waits for the broker leaves in the order in which it was said, whatever the timing of connections and of who says it."""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge.config import Mqtt
from edge.transport.mqtt import Broker
from edge.transport.proxy import Proxy

from .broker import Mosquitto, wait_for

VERSIONS = ["3.1.1", "5"]
CONNACK = {"3.1.1": b"\x20\x02\x00\x00", "5": b"\x20\x03\x00\x00\x00"}


def impatient(port: int, version: Any, name: str) -> Broker:
    """One that tries again so soon that the tests need not last minutes."""
    broker = Broker(Mqtt(host="127.0.0.1", port=port, version=version), name)
    broker._client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]
    return broker


@pytest.fixture
def scope() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Slow(threading.Thread):
    """A peer that writes down each packet, answers CONNECT only when it is told to, and acknowledges what it is told to."""

    def __init__(self, version: str) -> None:
        super().__init__(daemon=True)
        self.packets: list[list[bytes]] = []
        """By connection: the first byte of each and, of a PUBLISH, its payload."""
        self.answers = threading.Event()
        self.acknowledges = True
        self._connack, self._has_properties = CONNACK[version], version == "5"
        self._server = socket.create_server(("127.0.0.1", 0))
        self._peer: socket.socket | None = None
        self.port = int(self._server.getsockname()[1])

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._peer, _ = self._server.accept()
                self.packets.append([])
                threading.Thread(target=self._answer_connect, args=(self._peer,), daemon=True).start()
                with self._peer, contextlib.suppress(OSError):
                    self._serve(self._peer, self._peer.makefile("rb"))

    def cut(self) -> None:
        self.answers.clear()
        assert self._peer
        self._peer.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self.answers.set()

    def said(self) -> list[bytes]:
        """In the last connection, by kind."""
        return self.packets[-1] if self.packets else []

    def _answer_connect(self, peer: socket.socket) -> None:
        wait_for(self.said, "CONNECT")
        self.answers.wait()
        with contextlib.suppress(OSError):
            peer.sendall(self._connack)

    def _serve(self, peer: socket.socket, stream: Any) -> None:
        while head := stream.read(2):
            body = stream.read(head[1])
            if head[0] >> 4 != 3:
                self.packets[-1].append(head[:1])
                continue
            mid_at = 2 + int.from_bytes(body[:2], "big")
            self.packets[-1].append(head[:1] + body[mid_at + 2 + self._has_properties :])
            if self.acknowledges:
                peer.sendall(b"\x40\x02" + body[mid_at : mid_at + 2])


@pytest.fixture
def slow(request: pytest.FixtureRequest, scope: ExitStack) -> Slow:
    peer = Slow(request.param)
    peer.start()
    scope.callback(peer.close)
    return peer


@pytest.fixture
def broker(request: pytest.FixtureRequest, slow: Slow, scope: ExitStack) -> Broker:
    broker = impatient(slow.port, request.param, "flight")
    scope.callback(broker.stop)
    scope.callback(broker._client.disconnect)
    return broker


both = pytest.mark.parametrize(("slow", "broker"), [(version, version) for version in VERSIONS], indirect=True, ids=VERSIONS)
CONNECT, SUBSCRIBE, RETAINED, AGAIN = b"\x10", b"\x82", b"\x33", b"\x3b"
"""The first bytes of packets (MQTT sections 3.1.1, 3.3.1, 3.8.1): PUBLISH has bits for a copy, QoS 1 and retained."""


def say(broker: Broker, *words: bytes) -> None:
    for word in words:
        assert broker.publish("site/status", word, qos=1, retain=True) is not None


@both
def test_what_is_said_while_it_connects_waits_behind_what_was_said_before(slow: Slow, broker: Broker) -> None:
    """Else the broker would keep the older of two states. And a subscription is there before anybody can answer what is said."""
    broker.subscribe("site/resend")
    say(broker, b"1", b"2")
    broker.start()
    wait_for(slow.said, "CONNECT")
    say(broker, b"3", b"4")
    time.sleep(0.1)
    assert slow.said() == [CONNECT], "nothing leaves before the broker has answered"
    slow.answers.set()
    wait_for(lambda: len(slow.said()) == 6, "all of it")
    assert slow.said() == [CONNECT, SUBSCRIBE, *(RETAINED + word for word in (b"1", b"2", b"3", b"4"))]


@both
def test_what_was_in_flight_goes_first_as_a_copy_and_what_was_said_since_behind_it(slow: Slow, broker: Broker) -> None:
    """The bit for a copy is asked for by MQTT section 3.3.1.1."""
    slow.answers.set()
    broker.start()
    wait_for(lambda: broker.connected)
    slow.acknowledges = False
    say(broker, b"1", b"2")
    wait_for(lambda: len(slow.said()) == 3, "both")
    slow.cut()
    wait_for(lambda: not broker.connected)
    say(broker, b"3")
    wait_for(lambda: slow.said() == [CONNECT], "another CONNECT")
    say(broker, b"4")
    slow.acknowledges = True
    slow.answers.set()
    wait_for(lambda: len(slow.said()) == 5, "all of it")
    assert slow.said() == [CONNECT, AGAIN + b"1", AGAIN + b"2", RETAINED + b"3", RETAINED + b"4"]
    wait_for(lambda: not broker._client._out_messages, "the acknowledgements")


@both
@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_is_half_taken_when_a_connection_begins_is_not_left_behind(
    moment: str, slow: Slow, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread loses the processor inside paho, before or after paho puts what waits in order for the new connection."""
    client, inside = broker._client, threading.Event()
    send, name = client._send_publish, "on_pre_connect" if moment == "after" else "_messages_reconnect_reset"
    prepare: Callable[..., None] = getattr(client, name)

    def _send_slowly(mid: int, topic: bytes, payload: bytes, *rest: Any, **more: Any) -> Any:
        if payload == b"half taken" and not inside.is_set():
            inside.set()
            time.sleep(0.2)
        return send(mid, topic, payload, *rest, **more)

    talker = threading.Thread(target=say, args=(broker, b"half taken"))

    def _prepare(*given: Any) -> None:
        if not talker.ident:
            talker.start()
            inside.wait()
        prepare(*given)

    monkeypatch.setattr(client, "_send_publish", _send_slowly)
    monkeypatch.setattr(client, name, _prepare)
    say(broker, b"before")
    slow.answers.set()
    broker.start()
    wait_for(lambda: not client._out_messages and broker.connected, "the acknowledgements")
    talker.join()
    assert slow.said() == [CONNECT, RETAINED + b"before", RETAINED + b"half taken"]


@pytest.fixture
def eager() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Reader:
    """What a client of paho's hears of all topics, which shares no code with `Broker`."""

    def __init__(self, port: int) -> None:
        self.heard: dict[str, list[int]] = {}
        subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_connect = lambda client, *rest: client.subscribe("#", 1)
        self._client.on_subscribe = lambda *rest: subscribed.set()
        self._client.on_message = lambda client, userdata, message: self.heard.setdefault(message.topic, []).append(int(message.payload))
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        wait_for(subscribed.is_set, "the subscription")

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_last_word_on_each_topic_is_what_the_broker_keeps_however_often_the_line_is_cut(
    version: str, eager: None, tmp_path: Path, scope: ExitStack
) -> None:
    """Three threads talk, one of them only while there is a connection; each word arrives, at first in the order in which it was said."""
    chance = random.Random(3)
    mosquitto = scope.enter_context(Mosquitto(tmp_path, "allow_anonymous true\nmax_queued_messages 0"))
    reader = Reader(mosquitto.port)
    scope.callback(reader.close)
    said: dict[str, int] = {}
    for turn in range(12):
        with Proxy(mosquitto.port) as proxy:
            broker = impatient(proxy.port, version, f"talks-{turn}")
            said |= _talk(broker, proxy, turn, chance)
            broker._client.disconnect()
            broker.stop()
    wait_for(lambda: all(reader.heard.get(topic, [0])[-1] == last for topic, last in said.items()), "the last words")
    for topic, last in said.items():
        assert list(dict.fromkeys(reader.heard[topic])) == list(range(1, last + 1))


def _talk(broker: Broker, proxy: Proxy, turn: int, chance: random.Random) -> dict[str, int]:
    """What was said last on each topic, once the broker has acknowledged all."""
    said, over = {f"{turn}/{name}": 0 for name in ("a", "b", "connected")}, threading.Event()

    def _say_on(topic: str) -> None:
        while not over.is_set():
            if broker.connected or not topic.endswith("connected"):
                said[topic] += 1
                assert broker.publish(topic, f"{said[topic]}", qos=1, retain=True) is not None
            time.sleep(chance.choice([0.0, 0.0003, 0.002, 0.01]))

    talkers = [threading.Thread(target=_say_on, args=(topic,)) for topic in said]
    for talker in talkers:
        talker.start()
    broker.start()
    for _ in range(chance.randint(1, 4)):
        time.sleep(chance.random() * 0.1)
        proxy.stall()
        time.sleep(chance.random() * 0.02)
        proxy.cut()
        proxy.resume()
    wait_for(lambda: broker.connected)
    time.sleep(chance.random() * 0.01)
    over.set()
    for talker in talkers:
        talker.join()
    wait_for(lambda: broker.connected and not broker._client._out_messages, "the acknowledgements")
    return {topic: last for topic, last in said.items() if last}
