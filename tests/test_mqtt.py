"""The connection to a real broker: it comes back by itself, hides no refusal, loses no acknowledged message and cannot be killed."""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import paho.mqtt.publish
import pytest
import structlog
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from edge.config import Mqtt
from edge.transport import mqtt as module
from edge.transport.mqtt import Broker, Properties
from edge.transport.proxy import Proxy
from kernels.findings import ConfigError

from .broker import Mosquitto, free_port, wait_for

VERSIONS = ["3.1.1", "5"]


class Client:
    """A `Broker` whose callbacks write down what they are told."""

    def __init__(self, port: int, name: str = "cardiogloss-test", password: str | None = None, will: Any = None, **settings: Any) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self.states: list[tuple[bool, str]] = []
        self.published: list[int] = []
        self.refused: list[tuple[int, str]] = []
        self.refusals: list[str] = []
        config = Mqtt(host=settings.pop("host", "127.0.0.1"), port=port, **settings)
        heard = self._on_message, self._on_state, self.published.append, self._on_refused, self.refusals.append
        self.broker = Broker(config, name, password, will, *heard)

    def _on_message(self, topic: str, payload: bytes, retained: bool) -> None:
        self.messages.append((topic, payload, retained))

    def _on_state(self, connected: bool, why: str) -> None:
        self.states.append((connected, why))

    def _on_refused(self, mid: int, why: str) -> None:
        self.refused.append((mid, why))

    def told(self, words: str) -> bool:
        return any(words in why for _, why in self.states) or any(words in why for why in self.refusals)

    def connect(self) -> Client:
        self.broker.start()
        wait_for(lambda: self.broker.connected, "the connection")
        return self


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same waits, shorter, so that the tests need not last minutes."""
    whole = module.Backoff
    monkeypatch.setattr(module, "Backoff", lambda seed, first_s, longest_s=30.0: whole(seed, first_s / 20, longest_s / 80))


@pytest.fixture
def scope() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def make(scope: ExitStack) -> Callable[..., Client]:
    """Clients that are stopped at the end, while the broker still runs."""

    def _make(*given: Any, **settings: Any) -> Client:
        client = Client(*given, **settings)
        scope.callback(client.broker.stop)
        # Without a farewell, which takes up to a second.
        scope.callback(client.broker._client.disconnect)
        return client

    return _make


@pytest.fixture
def mosquitto(tmp_path: Path, scope: ExitStack) -> Mosquitto:
    return scope.enter_context(Mosquitto(tmp_path))


def send(port: int, topic: str, payload: bytes, **how: Any) -> None:
    """By paho's own one-shot client, which shares no code with `Broker`; returns once the broker has it."""
    paho.mqtt.publish.single(topic, payload, qos=1, hostname="127.0.0.1", port=port, **how)


def subscribed(client: Client, port: int, topic: str = "probe/ready") -> None:
    """Until messages come through: the broker has taken what was subscribed to before."""
    client.broker.subscribe(topic)
    sent: list[bytes] = []

    def _through() -> bool:
        sent.append(str(len(sent)).encode())
        send(port, topic, sent[-1])
        return any(heard == topic for heard, _, _ in client.messages)

    wait_for(_through, "the subscription")
    wait_for(lambda: (topic, sent[-1], False) in client.messages, "the last of those sent")
    client.messages[:] = [message for message in client.messages if message[0] != topic]


@pytest.mark.parametrize("version", VERSIONS)
def test_messages_come_and_go_in_both_versions(version: str, mosquitto: Mosquitto, make: Callable[..., Client]) -> None:
    send(mosquitto.port, "site/old/ecg", b"old", retain=True)
    client = make(mosquitto.port, version=version).connect()
    client.broker.subscribe("site/+/ecg")
    wait_for(lambda: client.messages, "the retained message")
    assert client.messages == [("site/old/ecg", b"old", True)]
    send(mosquitto.port, "site/a/ecg", bytes(range(256)))
    mid = client.broker.publish("site/b/ecg", "text", qos=1)
    wait_for(lambda: len(client.messages) == 3 and mid in client.published, "both messages")
    assert set(client.messages[1:]) == {("site/a/ecg", bytes(range(256)), False), ("site/b/ecg", b"text", False)}
    assert client.broker.received == 3 and client.broker.refused == client.broker.dropped == client.broker.reconnects == 0


def test_each_version_is_what_the_broker_is_spoken_to_in(mosquitto: Mosquitto, make: Callable[..., Client]) -> None:
    """By the broker's own log: p2 is level 4 (3.1.1), p5 is MQTT 5; c1 a clean session."""
    for version in VERSIONS:
        make(mosquitto.port, name=f"speaks-{version}", version=version).connect()
    log = mosquitto.log.read_text()
    assert "as speaks-3.1.1 (p2, c1, k30" in log and "as speaks-5 (p5, c1, k30" in log


def test_a_broker_that_is_absent_at_boot_is_found_when_it_comes(tmp_path: Path, scope: ExitStack, make: Callable[..., Client]) -> None:
    late = Mosquitto(tmp_path)
    scope.callback(late.kill)
    client = make(late.port)
    client.broker.subscribe("site/a/ecg")
    client.broker.start()
    wait_for(lambda: len(client.states) >= 2, "two failed attempts")
    assert all(not connected and f"127.0.0.1:{late.port}" in why and "refused" in why for connected, why in client.states)
    late.start()
    wait_for(lambda: client.broker.connected)
    subscribed(client, late.port)
    send(late.port, "site/a/ecg", b"x")
    wait_for(lambda: client.messages)
    assert client.messages == [("site/a/ecg", b"x", False)]


@pytest.mark.parametrize("version", VERSIONS)
def test_messages_flow_again_after_the_broker_was_killed(version: str, mosquitto: Mosquitto, make: Callable[..., Client]) -> None:
    client = make(mosquitto.port, version=version).connect()
    client.broker.subscribe("site/a/ecg")
    client.broker.subscribe("site/gone")
    client.broker.unsubscribe("site/gone")
    for count in (1, 2):
        mosquitto.kill()
        wait_for(lambda: not client.broker.connected)
        assert not client.states[-1][0]
        mosquitto.start()
        wait_for(lambda: client.broker.connected)
        assert client.broker.reconnects == count
    subscribed(client, mosquitto.port)
    send(mosquitto.port, "site/gone", b"no")
    send(mosquitto.port, "site/a/ecg", b"yes")
    wait_for(lambda: client.messages)
    assert client.messages == [("site/a/ecg", b"yes", False)]


def test_a_subscription_asked_for_twice_is_sent_once(mosquitto: Mosquitto, make: Callable[..., Client]) -> None:
    """A second SUBSCRIBE would bring every retained message anew."""
    send(mosquitto.port, "site/a/ecg", b"old", retain=True)
    client = make(mosquitto.port).connect()
    for _ in range(3):
        client.broker.subscribe("site/a/ecg")
    subscribed(client, mosquitto.port)
    assert client.messages == [("site/a/ecg", b"old", True)]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_wrong_password_is_told_never_counts_as_connected_and_is_retried(
    version: str, tmp_path: Path, scope: ExitStack, make: Callable[..., Client]
) -> None:
    passwords = tmp_path / "passwords"
    _set_password(passwords, "another")
    broker = scope.enter_context(Mosquitto(tmp_path, f"allow_anonymous false\npassword_file {passwords}"))
    client = make(broker.port, user="edge", password="right", version=version)
    client.broker.start()
    wait_for(lambda: len(client.states) >= 2, "two refusals")
    assert all(not connected and "refused" in why and "check user" in why for connected, why in client.states)
    assert not client.broker.connected and client.broker.publish("site/x", b"") is None
    _set_password(passwords, "right")
    broker.restart()
    wait_for(lambda: client.broker.connected)
    assert client.broker.reconnects == 0


def _set_password(path: Path, password: str) -> None:
    subprocess.run([shutil.which("mosquitto_passwd") or "mosquitto_passwd", "-b", "-c", path, "edge", password], check=True)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate authority, a broker's and a client's certificate, and an authority that made neither."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ca", "stranger"):
        _openssl(folder, f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={name} -keyout {name}.key -out {name}.crt")
    for name in ("localhost", "edge"):
        (folder / f"{name}.ext").write_text(f"subjectAltName=DNS:{name}\n")
        _openssl(folder, f"req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr")
        signed = f"x509 -req -days 2 -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile {name}.ext -out {name}.crt"
        _openssl(folder, signed)
    _openssl(folder, "rsa -aes128 -passout pass:secret -in edge.key -out locked.key")
    return folder


def _openssl(folder: Path, command: str) -> None:
    subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def guarded(tmp_path: Path, keys: Path, scope: ExitStack) -> Mosquitto:
    """A broker that takes only clients with a certificate, which is their name."""
    files = f"cafile {keys}/ca.crt\ncertfile {keys}/localhost.crt\nkeyfile {keys}/localhost.key"
    return scope.enter_context(Mosquitto(tmp_path, f"{files}\nrequire_certificate true\nuse_identity_as_username true"))


def test_a_client_certificate_opens_a_guarded_broker(guarded: Mosquitto, keys: Path, make: Callable[..., Client]) -> None:
    files = {"ca": keys / "ca.crt", "certificate": keys / "edge.crt", "key": keys / "edge.key"}
    client = make(guarded.port, host="localhost", tls=True, **files).connect()
    mid = client.broker.publish("site/x", b"secret", qos=1)
    wait_for(lambda: mid in client.published)
    assert "u'edge'" in guarded.log.read_text()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tls": True, "ca": "stranger.crt", "certificate": "edge.crt", "key": "edge.key"}, "certificate verify failed"),
        ({"tls": True, "ca": "ca.crt"}, "hung up without an answer"),
        ({}, "hung up without an answer"),
    ],
    ids=["foreign authority", "no certificate", "no tls"],
)
def test_a_failure_of_tls_is_told_in_words(
    settings: dict[str, Any], words: str, guarded: Mosquitto, keys: Path, make: Callable[..., Client]
) -> None:
    files = {name: keys / value if isinstance(value, str) else value for name, value in settings.items()}
    client = make(guarded.port, host="localhost", **files)
    client.broker.start()
    wait_for(lambda: client.told(words), words)
    assert not client.broker.connected


def test_a_certificate_for_another_host_is_refused(guarded: Mosquitto, keys: Path, make: Callable[..., Client]) -> None:
    client = make(guarded.port, host="127.0.0.1", tls=True, ca=keys / "ca.crt")
    client.broker.start()
    wait_for(lambda: client.told("certificate is not valid for '127.0.0.1'"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tls": True, "ca": "none.crt"}, "none.crt"),
        ({"tls": True, "ca": "edge.ext"}, "edge.ext"),
        ({"tls": True, "certificate": "edge.crt", "key": "ca.key"}, "mismatch"),
        ({"tls": True, "certificate": "edge.crt", "key": "locked.key"}, "locked.key"),
    ],
)
def test_what_can_never_connect_is_the_operators_mistake_at_once(settings: dict[str, Any], words: str, keys: Path) -> None:
    files = {name: keys / value if name in ("ca", "certificate", "key") else value for name, value in settings.items()}
    with pytest.raises(ConfigError, match=words):
        Client(1883, **files)


def test_what_is_no_filter_is_refused_before_it_can_spoil_the_others() -> None:
    client = Client(1883)
    with pytest.raises(ValueError):
        client.broker.subscribe("a/#/b")
    assert not client.broker._filters


def test_a_message_above_the_limit_is_refused_and_counted_and_one_at_the_limit_is_not(
    mosquitto: Mosquitto, make: Callable[..., Client]
) -> None:
    client = make(mosquitto.port, largest_kb=2).connect()
    client.broker.subscribe("site/a/ecg")
    subscribed(client, mosquitto.port)
    before = client.broker.received
    send(mosquitto.port, "site/a/ecg", bytes(2049))
    send(mosquitto.port, "site/a/ecg", bytes(2048))
    wait_for(lambda: client.messages)
    assert [len(payload) for _, payload, _ in client.messages] == [2048]
    assert client.broker.refused == 1 and client.broker.received == before + 1


@pytest.mark.parametrize("version", VERSIONS)
def test_qos_1_waits_for_the_broker_and_qos_0_is_dropped_and_counted(
    version: str, tmp_path: Path, scope: ExitStack, make: Callable[..., Client]
) -> None:
    broker = Mosquitto(tmp_path)
    scope.callback(broker.kill)
    client = make(broker.port, version=version)
    client.broker.start()
    wait_for(lambda: client.states)
    assert client.broker.publish("site/a/scores", b"lost") is None
    mids = [client.broker.publish("site/a/alert", f"{number}", qos=1, retain=number == 149) for number in range(150)]
    assert client.broker.dropped == 1 and len(set(mids)) == 150 and None not in mids
    assert client.published == []
    broker.start()
    wait_for(lambda: len(client.published) >= 150, "150 acknowledgements")
    assert sorted(client.published) == sorted(mids)
    late = make(broker.port, name="late").connect()
    late.broker.subscribe("site/a/alert")
    wait_for(lambda: late.messages)
    assert late.messages == [("site/a/alert", b"149", True)]


def test_the_queue_for_an_absent_broker_is_bounded_and_what_does_not_fit_is_told() -> None:
    client = Client(free_port())
    mids = [client.broker.publish("site/a/alert", b"x", qos=1) for _ in range(1005)]
    assert mids.count(None) == client.broker.dropped == 5


@pytest.mark.parametrize("version", VERSIONS)
def test_a_burst_beyond_what_may_be_in_flight_arrives_whole_and_in_order(
    version: str, mosquitto: Mosquitto, make: Callable[..., Client]
) -> None:
    reader = make(mosquitto.port, name="reader").connect()
    reader.broker.subscribe("site/a/alert")
    subscribed(reader, mosquitto.port)
    client = make(mosquitto.port, version=version).connect()
    for number in range(500):
        assert client.broker.publish("site/a/alert", f"{number}", qos=1) is not None
    wait_for(lambda: len(reader.messages) >= 500)
    assert [int(payload) for _, payload, _ in reader.messages] == list(range(500))
    assert client.broker.reconnects == 0


def test_a_stop_lets_what_waits_leave_first_and_keeps_the_will_unsaid(mosquitto: Mosquitto, make: Callable[..., Client]) -> None:
    reader = make(mosquitto.port, name="reader").connect()
    reader.broker.subscribe("site/#")
    subscribed(reader, mosquitto.port)
    client = make(mosquitto.port, will=("site/status", b"offline")).connect()
    for number in range(300):
        client.broker.publish("site/a/alert", f"{number}", qos=1)
    client.broker.stop()
    assert not client.broker.connected and len(client.published) == 300
    wait_for(lambda: len(reader.messages) == 300)
    subscribed(reader, mosquitto.port)
    assert len(reader.messages) == 300


def test_the_will_is_said_and_kept_for_a_program_that_is_lost(mosquitto: Mosquitto, make: Callable[..., Client]) -> None:
    client = make(mosquitto.port, version="3.1.1", will=("site/status", b"offline")).connect()
    client.broker.subscribe("site/status")
    # The broker hangs up on the older of two clients with one name, and says its will.
    make(mosquitto.port, version="3.1.1", name="cardiogloss-test", will=None).connect()
    late = make(mosquitto.port, name="late").connect()
    late.broker.subscribe("site/status")
    wait_for(lambda: late.messages)
    assert late.messages[0][:2] == ("site/status", b"offline")


def test_two_programs_of_one_name_are_told_so(mosquitto: Mosquitto, make: Callable[..., Client]) -> None:
    client = make(mosquitto.port).connect()
    make(mosquitto.port).broker.start()
    wait_for(lambda: client.told("give each its own"))


def test_the_reason_that_a_broker_gives_when_it_hangs_up_is_told(play: Callable[[bytes], int], make: Callable[..., Client]) -> None:
    """MQTT 5 names 0x8E "session taken over" in DISCONNECT; mosquitto 2.0 keeps it to itself."""
    client = make(play(b"\x20\x03\x00\x00\x00" + b"\xe0\x06\x8e\x04\x1f\x00\x01x"), version="5")
    client.broker.start()
    wait_for(lambda: client.told("Session taken over; another program uses the same client_id"))


def test_an_old_broker_that_knows_no_mqtt_5_is_told_with_the_version_to_set(
    play: Callable[[bytes], int], make: Callable[..., Client]
) -> None:
    """Code 1 in the CONNACK of 3.1.1, section 3.2.2.3, with no properties after it; 0x84 in that of 5."""
    client = make(play(b"\x20\x03\x00\x84\x00"), version="5")
    client.broker.start()
    wait_for(lambda: client.told('set version = "3.1.1"'))
    older = make(play(b"\x20\x02\x00\x01"), version="5")
    older.broker.start()
    wait_for(lambda: older.states)
    assert not older.broker.connected


_OLD = """
import asyncio, sys
from amqtt.broker import Broker
config = {
    "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{sys.argv[1]}"}},
    "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
}
async def serve():
    await Broker(config).start()
    await asyncio.Event().wait()
asyncio.run(serve())
"""


@pytest.fixture(scope="module")
def old_port() -> Iterator[int]:
    """Of a real broker of 3.1.1, which refuses MQTT 5: amqtt."""
    port = free_port()
    with subprocess.Popen([sys.executable, "-c", _OLD, str(port)], stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: _answers(port), "amqtt")
            yield port
        finally:
            process.kill()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_auto_speaks_5_where_the_broker_knows_it(mosquitto: Mosquitto, make: Callable[..., Client]) -> None:
    client = make(mosquitto.port, name="new").connect()
    assert client.broker.version == "5" and "as new (p5, c1, k30" in mosquitto.log.read_text()
    wait_for(lambda: client.states)
    assert client.states == [(True, f"connected to 127.0.0.1:{mosquitto.port} in MQTT 5")]


def test_auto_speaks_3_1_1_to_a_broker_that_refuses_5_and_loses_nothing_that_waited(old_port: int, make: Callable[..., Client]) -> None:
    client = make(old_port)
    waiting = client.broker.publish("site/a/alert", b"before", qos=1, properties=Properties("application/json", 60, (("id", "1"),)))
    client.broker.subscribe("site/a/alert")
    client.connect()
    assert client.told("it knows no MQTT 5, so the next attempt is in 3.1.1")
    wait_for(lambda: client.told("in MQTT 3.1.1"))
    assert client.broker.version == "3.1.1"
    wait_for(lambda: waiting in client.published)
    later = client.broker.publish("site/a/alert", b"after", qos=1, properties=Properties(user=(("id", "2"),)))
    wait_for(lambda: later in client.published and (("site/a/alert", b"after", False) in client.messages))


def test_auto_finds_a_broker_that_misreads_a_will_of_5_and_falls_silent(old_port: int, make: Callable[..., Client]) -> None:
    """amqtt looks at the level only after it has read the rest as 3.1.1, for which it then waits."""
    client = make(old_port, will=("site/status", b"offline"), keepalive_s=5).connect()
    assert client.told("gave no answer in 5 s") and client.broker.version == "3.1.1"


def test_auto_finds_a_broker_that_only_hangs_up_on_5(play: Callable[..., int], make: Callable[..., Client]) -> None:
    """The byte after the name of the protocol in CONNECT is its level (3.1.1 section 3.1.2.2): 5, or 4 for 3.1.1."""
    levels: list[int] = []

    def answer(connect: bytes) -> bytes:
        levels.append(connect[connect.index(b"MQTT") + 4])
        return b"\x20\x02\x00\x00" if levels[-1] == 4 else b""

    client = make(play(answer)).connect()
    assert levels == [5, 5, 5, 4][-len(levels) :] and levels.count(5) >= 2 and client.broker.version == "3.1.1"


def test_what_worked_once_is_kept_when_a_broker_hangs_up(mosquitto: Mosquitto, make: Callable[..., Client]) -> None:
    """A gate before a broker that is away takes connections and closes them."""
    with Proxy(mosquitto.port) as proxy:
        client = make(proxy.port).connect()
        mosquitto.kill()
        spoken = set()
        wait_for(
            lambda: (spoken.add(client.broker.version), sum("hung up" in why for _, why in client.states) >= 5)[1], "five that hang up"
        )
        mosquitto.start()
        wait_for(lambda: client.broker.connected)
        assert spoken == {"5"} == {client.broker.version}


def test_a_version_that_is_given_is_never_left(old_port: int, make: Callable[..., Client]) -> None:
    client = make(old_port, version="5")
    client.broker.start()
    wait_for(lambda: len(client.states) >= 5)
    assert client.broker.version == "5" and not client.broker.connected and client.told('set version = "3.1.1"')


def test_properties_arrive_in_mqtt_5_and_are_left_out_in_3_1_1(mosquitto: Mosquitto, make: Callable[..., Client]) -> None:
    """As mosquitto's own client prints them: %P user properties, %C content type, %E seconds left."""
    said = subprocess.Popen(
        [_find("mosquitto_sub"), "-V", "5", "-p", str(mosquitto.port), "-t", "site/x", "-C", "2", "-F", "%p|%C|%E|%P"],
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: "SUBSCRIBE" in mosquitto.log.read_text())
    properties = Properties("application/json", 90, (("schema", "2"), ("priority", "high")))
    for version in ("5", "3.1.1"):
        client = make(mosquitto.port, name=f"speaks-{version}", version=version).connect()
        client.broker.publish("site/x", version, qos=1, properties=properties)
        wait_for(lambda client=client: client.published)
    lines = said.communicate(timeout=10)[0].splitlines()
    assert [re.sub(r"\|(89|90)\|", "|90|", line) for line in lines] == ["5|application/json|90|schema:2 priority:high", "3.1.1|||"]


def _find(program: str) -> str:
    return shutil.which(program) or pytest.skip(f"there is no {program}")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_refused_subscription_is_told_with_its_filter(
    version: str, tmp_path: Path, scope: ExitStack, make: Callable[..., Client]
) -> None:
    """An access list of a mosquitto 2.0 is silent at SUBSCRIBE; its dynamic security plugin is not."""
    plugins = sorted(Path("/usr/lib").rglob("mosquitto_dynamic_security.so")) or sorted(Path("/opt").rglob("mosquitto_dynamic_security.so"))
    default = {"publishClientSend": True, "publishClientReceive": True, "subscribe": False, "unsubscribe": True}
    roles = [{"rolename": "open", "acls": [{"acltype": "subscribePattern", "topic": "site/open", "allow": True}]}]
    group = [{"groupname": "all", "roles": [{"rolename": "open"}]}]
    security = {"defaultACLAccess": default, "clients": [], "groups": group, "roles": roles, "anonymousGroup": "all"}
    (tmp_path / "security.json").write_text(json.dumps(security))
    lines = f"allow_anonymous true\nplugin {plugins[0]}\nplugin_opt_config_file {tmp_path}/security.json"
    broker = scope.enter_context(Mosquitto(tmp_path, lines))
    client = make(broker.port, version=version)
    client.broker.subscribe("site/asked/before")
    client.connect()
    client.broker.subscribe("site/asked/later")
    wait_for(lambda: client.told("site/asked/before") and client.told("site/asked/later"))
    assert client.broker.connected and len(client.states) == 1, "a refusal is no change of the connection"
    client.broker.subscribe("site/open")
    subscribed(client, broker.port, "site/open")
    assert not client.told("site/open")


def test_a_refusal_that_overtakes_its_question_is_told_with_its_filter(
    mosquitto: Mosquitto, make: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network thread may bring the SUBACK before the caller's thread knows the number of its SUBSCRIBE."""
    client = make(mosquitto.port).connect()
    paho_client = client.broker._client

    def answer_at_once(topic: str, qos: int) -> tuple[int, int]:
        refusal = ReasonCode(PacketTypes.SUBACK, "Not authorized")
        paho_client.on_subscribe(paho_client, None, 7, [refusal], None)  # type: ignore[misc]
        return 0, 7

    monkeypatch.setattr(paho_client, "subscribe", answer_at_once)
    client.broker.subscribe("site/early")
    assert client.told("refused to subscribe to site/early")


def test_a_message_that_the_broker_refuses_is_not_called_published(tmp_path: Path, scope: ExitStack, make: Callable[..., Client]) -> None:
    """Only MQTT 5 tells: the acknowledgement bears a reason."""
    (tmp_path / "acl").write_text("topic read #\n")
    broker = scope.enter_context(Mosquitto(tmp_path, f"allow_anonymous true\nacl_file {tmp_path}/acl"))
    client = make(broker.port, version="5").connect()
    mid = client.broker.publish("site/a/alert", b"x", qos=1)
    wait_for(lambda: client.told("refused a message: Not authorized"))
    assert client.published == []
    assert [refused for refused, _ in client.refused] == [mid] and client.refused[0][1].startswith("Not authorized")
    client.broker.publish("site/a/alert", b"x", qos=1)
    wait_for(lambda: len(client.refused) == 2)
    assert len(client.refusals) == len(client.states) == 1, "told once, and as no change of the connection"


def test_only_what_the_broker_acknowledged_is_called_published(mosquitto: Mosquitto, make: Callable[..., Client]) -> None:
    client = make(mosquitto.port).connect()
    for _ in range(50):
        client.broker.publish("site/a/scores", b"x")
    mid = client.broker.publish("site/a/alert", b"x", qos=1)
    wait_for(lambda: mid in client.published)
    assert client.published == [mid]


class Strict(threading.Thread):
    """A peer of MQTT 5 that takes `most` messages at a time, says so, is slow, and hangs up on one that sends more (section 3.3.4)."""

    def __init__(self, most: int) -> None:
        super().__init__(daemon=True)
        self.most, self.hang_ups, self.highest = most, 0, 0
        self.taken: list[bytes] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.lose = False

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._server.accept()
                with peer:
                    self._serve(peer, peer.makefile("rb"))

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)

    def _serve(self, peer: socket.socket, stream: Any) -> None:
        owed: list[bytes] = []
        peer.settimeout(0.02)
        data = b""
        while len(owed) <= self.most:
            try:
                data += (new := peer.recv(4096))
                if not new or (self.lose and b"lose" in data):
                    self.lose = False
                    return
            except TimeoutError:
                if owed:
                    peer.sendall(b"\x40\x02" + owed.pop(0))
            data = self._answer(peer, data, owed)
            self.highest = max(self.highest, len(owed))
        self.hang_ups += 1

    def _answer(self, peer: socket.socket, data: bytes, owed: list[bytes]) -> bytes:
        while len(data) >= 2 and len(data) >= 2 + data[1]:
            kind, body, data = data[0], data[2 : 2 + data[1]], data[2 + data[1] :]
            if kind >> 4 == 1:
                peer.sendall(b"\x20\x06\x00\x00\x03\x21" + self.most.to_bytes(2, "big"))
            elif kind >> 4 == 3:
                end = 2 + int.from_bytes(body[:2], "big")
                owed.append(body[end : end + 2])
                self.taken.append(body[end + 3 :])
        return data


@pytest.mark.parametrize("most", [1, 10])
def test_no_more_is_in_flight_than_the_broker_allows_from_the_first_packet_on(
    most: int, scope: ExitStack, make: Callable[..., Client]
) -> None:
    """What waited in memory, what was in flight when the connection was lost, and what is new."""
    peer = Strict(most)
    peer.start()
    scope.callback(peer.close)
    client = make(peer.port, version="5")
    sent = [f"{number}".encode() for number in range(25)]
    mids = [client.broker.publish("a", payload, qos=1) for payload in sent]
    client.connect()
    assert client.broker.most_inflight == most
    wait_for(lambda: len(client.published) == 25)
    assert peer.taken == sent and peer.highest <= most
    peer.lose = True
    later = [b"lose", *(f"later {number}".encode() for number in range(20))]
    mids += [client.broker.publish("a", payload, qos=1) for payload in later]
    wait_for(lambda: len(client.published) == 46)
    assert client.published == mids and list(dict.fromkeys(peer.taken)) == sent + later
    assert peer.hang_ups == 0 and client.broker.reconnects == 1 and peer.highest <= most


def test_what_is_larger_than_the_broker_allows_is_refused_and_not_sent(
    tmp_path: Path, scope: ExitStack, make: Callable[..., Client]
) -> None:
    broker = scope.enter_context(Mosquitto(tmp_path, "allow_anonymous true\nmax_packet_size 2000"))
    client = make(broker.port, version="5")
    before = [client.broker.publish("site/a", bytes(size), qos=1) for size in (5000, 10)]
    client.connect()
    wait_for(lambda: client.published and client.refused)
    assert client.published == before[1:] and [mid for mid, _ in client.refused] == before[:1]
    properties = Properties(user=(("name", "x" * 500),))
    mids = [client.broker.publish("site/a", bytes(1600), qos=1, properties=one) for one in (None, properties)]
    wait_for(lambda: mids[0] in client.published)
    assert client.refused[1][0] == mids[1] and "2000 bytes" in client.refused[1][1]
    assert client.broker.publish("site/a", bytes(5000)) is None and client.broker.dropped == 1
    assert client.broker.reconnects == 0 and len(client.states) == 1


def test_a_message_that_the_broker_hangs_up_on_is_set_aside_after_three_times_and_the_others_go_on(
    tmp_path: Path, scope: ExitStack, make: Callable[..., Client]
) -> None:
    """MQTT 3.1.1 has no words for it."""
    broker = scope.enter_context(Mosquitto(tmp_path, "allow_anonymous true\nmax_packet_size 2000"))
    client = make(broker.port, version="3.1.1").connect()
    sizes = [10] * 5 + [5000] + [10] * 5 + [6000] + [10] * 5
    mids = [client.broker.publish("site/a", bytes(size), qos=1) for size in sizes]
    wait_for(lambda: len(client.refused) == 2 and len(client.published) == 15)
    assert [mid for mid, _ in client.refused] == [mids[5], mids[11]]
    assert sorted(client.published) == sorted(set(mids) - {mids[5], mids[11]})
    assert client.broker.reconnects <= 12


def test_a_callback_that_raises_does_not_stop_the_messages(
    mosquitto: Mosquitto, make: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []

    def fail(topic: str, payload: bytes, retained: bool) -> None:
        seen.append(payload)
        raise ZeroDivisionError("the caller's own")

    with structlog.testing.capture_logs() as logs:
        client = make(mosquitto.port)
        monkeypatch.setattr(client.broker, "_on_message", fail)
        client.connect()
        client.broker.subscribe("site/a/ecg")
        for payload in (b"1", b"2"):
            wait_for(lambda p=payload: (send(mosquitto.port, "site/a/ecg", p), p in seen)[1])
        mid = client.broker.publish("site/b", b"", qos=1)
        wait_for(lambda: mid in client.published)
    assert any("the caller's own" in entry.get("said", "") and entry["log_level"] == "error" for entry in logs)


@pytest.fixture
def play(scope: ExitStack) -> Callable[..., int]:
    """The port of a peer that answers each connection with these bytes, to say what mosquitto never does; with none it hangs up."""

    def _play(answer: bytes | Callable[[bytes], bytes]) -> int:
        server = scope.enter_context(socket.create_server(("127.0.0.1", 0)))

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    scope.callback(peer.close)
                    asked = peer.recv(1024)
                    said = answer if isinstance(answer, bytes) else answer(asked)
                    peer.sendall(said)
                    if not said:
                        peer.close()

        threading.Thread(target=serve, daemon=True).start()
        scope.callback(server.shutdown, socket.SHUT_RDWR)
        return int(server.getsockname()[1])

    return _play


def test_a_topic_that_is_no_text_is_counted_and_harms_nothing(play: Callable[[bytes], int], make: Callable[..., Client]) -> None:
    connack, spoilt, sound = b"\x20\x02\x00\x00", b"\x30\x06\x00\x02\xc3\x28no", b"\x30\x06\x00\x01ayes"
    client = make(play(connack + spoilt + sound), version="3.1.1").connect()
    wait_for(lambda: client.messages)
    assert client.messages == [("a", b"yes", False)] and client.broker.refused == 1


def test_a_network_thread_that_died_is_brought_back_by_another_start(
    mosquitto: Mosquitto, make: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda *_: None)
    client = make(mosquitto.port).connect()
    network = next(thread for thread in threading.enumerate() if "cardiogloss-test" in thread.name)
    paho_client = client.broker._client
    monkeypatch.setattr(paho_client, "_packet_handle", lambda: 1 / 0)
    wait_for(lambda: (client.broker.publish("site/x", b"", qos=1), not network.is_alive())[1], "the thread to die")
    monkeypatch.undo()
    client.broker.start()
    client.broker.start()
    mid = client.broker.publish("site/x", b"", qos=1)
    wait_for(lambda: mid in client.published)


def test_it_can_be_stopped_before_it_ever_connected_and_started_again(
    tmp_path: Path, scope: ExitStack, make: Callable[..., Client]
) -> None:
    broker = Mosquitto(tmp_path)
    scope.callback(broker.kill)
    client = make(broker.port)
    client.broker.stop()
    client.broker.start()
    wait_for(lambda: client.states)
    client.broker.stop()
    broker.start()
    client.connect()


def test_many_threads_publish_and_subscribe_without_a_deadlock_or_a_lost_message(mosquitto: Mosquitto, make: Callable[..., Client]) -> None:
    client = make(mosquitto.port).connect()

    def work(number: int) -> None:
        for turn in range(50):
            client.broker.subscribe(f"site/{number}/{turn}")
            client.broker.publish(f"site/{number}/{turn}", b"x", qos=1)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    wait_for(lambda: len(client.messages) == 300)
    assert len(client.published) == 300 and not client.broker._asked and not client.broker._answered


def test_no_lock_of_its_own_is_held_around_a_call_of_the_client_or_of_a_callback() -> None:
    """paho holds locks around its callbacks, so one of ours around its calls could close the circle."""
    tree = ast.parse(Path(module.__file__).read_text())
    held = [node for node in ast.walk(tree) if isinstance(node, ast.With)]
    assert held
    for node in held:
        assert [ast.unparse(item.context_expr) for item in node.items] == ["self._lock"]
        called = [ast.unparse(call.func) for line in node.body for call in ast.walk(line) if isinstance(call, ast.Call)]
        assert all(name.split(".")[-1] in {"clear", "pop"} for name in called), called


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "paho")
