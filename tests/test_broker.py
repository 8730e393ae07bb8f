"""The shipped mosquitto.conf and access list with a real mosquitto and real clients: who comes in, and what each may do there.

Among them Home Assistant and Node-RED, by the examples in deploy.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from edge.command import Acknowledge, Silence, read_command
from edge.decode.device import Wiring
from edge.decode.devices import device
from edge.publish import Publisher

from .broker import Mosquitto, free_port, wait_for
from .daemon import Daemon, encoded, write_excerpt

DEPLOY = Path(__file__).parent.parent / "deploy"
INSTALLED = "/etc/mosquitto/cardiogloss"
"""Where mosquitto.conf has its files."""

ROLES = ("cardiogloss", "worker", "viewer", "nurse", "homeassistant", "health")
DEVICES = ("bed1", "bed2")
WILDCARDS = ("+", "a+")

SOURCE = "cardiogloss/ward/bed1"
STATES = {"cardiogloss/ward/status", "cardiogloss/ward/shard/1of2/status", f"{SOURCE}/status"}
FOR_PEOPLE = {f"{SOURCE}/{kind}" for kind in ("vitals", "alert", "alert/atrial_fibrillation", "reply")}
SAID = STATES | FOR_PEOPLE | {f"{SOURCE}/scores", f"{SOURCE}/evidence", "cardiogloss/ward/resent", "cardiogloss/ward/shard/1of2/resent"}
COMMANDS = {f"{SOURCE}/command"}
RESENDS = {"cardiogloss/ward/resend", "cardiogloss/ward/shard/1of2/resend"}
SAMPLES = {f"cardiogloss/ward/{name}/ecg" for name in (*DEVICES, *ROLES)}
WINDOWS, RESULTS = {"cardiogloss/ward/fleet/window/gateway1"}, {"cardiogloss/ward/fleet/result/gateway1"}
DISCOVERY, BIRTH = {"homeassistant/device/cardiogloss_ward_bed1/config"}, {"homeassistant/status"}
OTHERS = {
    "cardiogloss",
    SOURCE,
    f"{SOURCE}/ecg/more",
    "cardiogloss/bed1/ecg",
    "homeassistant/switch/x/config",
    "other",
    "$SYS/broker/uptime",
}
OURS = SAID | COMMANDS | RESENDS | SAMPLES | WINDOWS | RESULTS
EVERYTHING = sorted(OURS | DISCOVERY | BIRTH | OTHERS)

MAY_WRITE = {
    "cardiogloss": SAID | WINDOWS | DISCOVERY,
    "worker": RESULTS,
    "viewer": set(),
    "nurse": COMMANDS | RESENDS,
    "homeassistant": COMMANDS | BIRTH,
    "health": set(),
    "bed1": {"cardiogloss/ward/bed1/ecg"},
    "bed2": {"cardiogloss/ward/bed2/ecg"},
}
WRITTEN = set().union(*MAY_WRITE.values())
OF_DEVICES = {f"cardiogloss/ward/{name}/ecg" for name in DEVICES}
MAY_READ = {
    "cardiogloss": OF_DEVICES | COMMANDS | RESENDS | RESULTS | BIRTH,
    "worker": WINDOWS,
    "viewer": WRITTEN - DISCOVERY - BIRTH,
    "nurse": WRITTEN - DISCOVERY - BIRTH,
    "homeassistant": STATES | FOR_PEOPLE | DISCOVERY | BIRTH,
    "health": set(),
    "bed1": set(),
    "bed2": set(),
}


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


class Site(Mosquitto):
    """The broker as it is installed: a main file that includes ours, unchanged but for folder and ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certified_port = free_port()
        self.make()
        super().__init__(folder)

    def make(self) -> None:
        """What mosquitto.conf names."""
        run(DEPLOY / "certificates.sh", self.folder, "broker.test")
        for name in (*DEVICES, *ROLES):
            run(DEPLOY / "certificates.sh", self.folder, "--client", name)
        shutil.copy(DEPLOY / "acl", self.folder)
        (self.folder / "passwords").touch(0o600)
        for name in (*DEVICES, *ROLES, *WILDCARDS):
            run("mosquitto_passwd", "-b", self.folder / "passwords", name, f"of {name}")

    def __enter__(self) -> Site:
        self.start()
        return self

    def configure(self, extra: str) -> None:
        """As Debian's own main file does, with what the tests must change of ours."""
        ours = (DEPLOY / "mosquitto.conf").read_text()
        changes = {
            INSTALLED: str(self.folder),
            "listener 8883": f"listener {self.port}",
            "listener 8884": f"listener {self.certified_port}",
        }
        for old, new in changes.items():
            assert old in ours, f"mosquitto.conf has no {old}"
            ours = ours.replace(old, new)
        (self.folder / "conf.d").mkdir(exist_ok=True)
        (self.folder / "conf.d" / "cardiogloss.conf").write_text(ours)
        # Without this line a broker started by root becomes another user, who may not read the test's files.
        user = "user root\n" if os.geteuid() == 0 else ""
        self._config.write_text(f"{user}persistence_location {self.folder}/\ninclude_dir {self.folder}/conf.d\n")


@dataclass(frozen=True, slots=True)
class Told:
    """A client's end: whether it came in, or in which words it did not."""

    came_in: bool
    words: str


class Person:
    """`with Person(site, "nurse") as nurse:` is connected, with a password, or with a certificate where there is one."""

    def __init__(self, site: Site, user: str, certificate: Path | None = None, version: MQTTProtocolVersion = paho.MQTTv5) -> None:
        """`certificate` is the path of it and of its key, without their endings."""
        self.heard: list[str] = []
        self.authority = site.folder / "ca.crt"
        self.port = site.certified_port if certificate else site.port
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=version, reconnect_on_failure=False)
        if certificate is None:
            self.client.username_pw_set(user, f"of {user}")
        self._certificate = certificate
        self._codes: dict[int, ReasonCode] = {}
        self._granted: set[int] = set()
        self._ends: list[Told] = []
        self.client.on_connect = lambda client, data, flags, code, more: self._ends.append(Told(not code.is_failure, str(code)))
        self.client.on_disconnect = lambda client, data, flags, code, more: self._ends.append(Told(False, str(code)))
        self.client.on_message = lambda client, data, message: self.heard.append(message.topic)
        self.client.on_publish = lambda client, data, mid, code, more: self._codes.__setitem__(mid, code)
        self.client.on_subscribe = lambda client, data, mid, codes, more: self._granted.add(mid)

    def connect(self, host: str = "localhost") -> Told:
        """How it ended. Raises OSError where it came to no MQTT."""
        own = (f"{self._certificate}.crt", f"{self._certificate}.key") if self._certificate else ()
        self.client.tls_set(str(self.authority), *own)
        self.client.connect(host, self.port)
        self.client.loop_start()
        wait_for(lambda: self._ends, "an answer of the broker")
        return self._ends[0]

    def __enter__(self) -> Person:
        told = self.connect()
        assert told.came_in, told.words
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def die(self) -> None:
        """Without a farewell."""
        line = self.client.socket()
        assert isinstance(line, socket.socket)
        line.shutdown(socket.SHUT_RDWR)

    def publish(self, *topics: str) -> set[str]:
        """Those that the broker has not refused, at QoS 1."""
        mids = {self.client.publish(topic, b"{}", qos=1).mid: topic for topic in topics}
        wait_for(lambda: mids.keys() <= self._codes.keys(), "the broker's acknowledgements")
        refused = {mids[mid] for mid, code in self._codes.items() if mid in mids and code.is_failure}
        codes = {self._codes[mid].value for mid in mids if mids[mid] in refused}
        assert codes <= {0x87}, codes
        return set(topics) - refused

    def subscribe(self, *filters: str) -> None:
        """At QoS 0, so that nothing waits for an acknowledgement. What came before the broker's answer has come when this returns."""
        mid = self.client.subscribe([(one, 0) for one in filters])[1]
        assert mid is not None
        wait_for(lambda: mid in self._granted, "the subscription")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if not shutil.which("openssl"):
        pytest.skip("wants openssl, which makes the certificates: apt-get install openssl")
    with Site(tmp_path_factory.mktemp("site")) as broker:
        yield broker


@pytest.mark.parametrize("user", MAY_WRITE)
def test_each_role_may_publish_on_its_own_topics_and_on_no_other(site: Site, user: str) -> None:
    with Person(site, user) as person:
        assert person.publish(*EVERYTHING) == MAY_WRITE[user]


def test_each_role_hears_what_it_may_read_and_nothing_else(site: Site) -> None:
    readers = {user: Person(site, user) for user in MAY_READ}
    for reader in readers.values():
        assert reader.connect().came_in
        reader.subscribe("#", "$SYS/#", "$share/scorers/cardiogloss/+/fleet/window/+" if reader is readers["worker"] else "none")
    for user, topics in MAY_WRITE.items():
        with Person(site, user, site.folder / "clients" / user) as writer:
            assert writer.publish(*sorted(topics)) == topics
    for reader in readers.values():
        reader.subscribe("nothing")
        reader.close()
    assert {user: set(reader.heard) for user, reader in readers.items()} == MAY_READ


def test_a_share_of_the_windows_is_a_workers_and_nobody_elses(site: Site) -> None:
    with Person(site, "worker") as worker, Person(site, "bed1") as thief, Person(site, "cardiogloss") as gateway:
        for one in (worker, thief):
            one.subscribe(f"$share/{one}/cardiogloss/+/fleet/window/+")
        gateway.publish(*WINDOWS)
        for one in (worker, thief):
            one.subscribe("nothing")
        assert (set(worker.heard), thief.heard) == (WINDOWS, [])


def test_what_is_refused_in_mqtt_3_is_not_delivered_either(site: Site) -> None:
    """That version has no word for it: the broker acknowledges, and throws away."""
    with Person(site, "cardiogloss") as monitor, Person(site, "bed1", version=MQTTProtocolVersion.MQTTv311) as bed:
        monitor.subscribe("cardiogloss/+/+/ecg")
        bed.publish("cardiogloss/ward/bed2/ecg", "cardiogloss/ward/bed1/ecg")
        monitor.subscribe("nothing")
        assert monitor.heard == ["cardiogloss/ward/bed1/ecg"]


def test_a_viewer_cannot_retain_or_take_back_a_state(site: Site) -> None:
    topic = f"{SOURCE}/alert/atrial_fibrillation"
    with Person(site, "cardiogloss") as monitor, Person(site, "viewer") as viewer, Person(site, "nurse") as nurse:
        monitor.client.publish(topic, b"{}", qos=1, retain=True).wait_for_publish(10)
        viewer.client.publish(topic, b"", qos=1, retain=True).wait_for_publish(10)
        nurse.subscribe(topic)
        nurse.subscribe("nothing")
        assert nurse.heard == [topic]


def outcome(person: Person, host: str = "localhost") -> str:
    """Why it did not come in; `came in` where it did."""
    try:
        told = person.connect(host)
    except OSError as error:
        return str(error)
    finally:
        person.close()
    return "came in" if told.came_in else told.words


REFUSED = str(ReasonCode(PacketTypes.CONNACK, "Not authorized"))


def test_a_wrong_password_no_user_and_an_unknown_user_are_refused(site: Site) -> None:
    wrong, anonymous, unknown = (Person(site, "viewer") for _ in range(3))
    wrong.client.username_pw_set("viewer", "of nurse")
    anonymous.client.username_pw_set(None)
    unknown.client.username_pw_set("bed3", "of bed3")
    assert [outcome(person) for person in (wrong, anonymous, unknown)] == [REFUSED] * 3


def test_a_will_is_told_only_where_the_dead_may_publish(site: Site) -> None:
    """Else a device could say, by dying, that the monitor is away."""
    topics = {"bed1": "cardiogloss/ward/status", "bed2": "cardiogloss/ward/bed2/ecg"}
    with Person(site, "viewer") as viewer:
        viewer.subscribe("cardiogloss/+/status", "cardiogloss/+/+/ecg")
        for name, topic in topics.items():
            person = Person(site, name)
            person.client.will_set(topic, b"offline", qos=1)
            person.connect()
            person.die()
        wait_for(lambda: viewer.heard, "a will")
        viewer.subscribe("nothing")
        assert viewer.heard == ["cardiogloss/ward/bed2/ecg"]


def test_a_device_under_the_monitors_client_id_hears_and_says_no_more_than_a_device(site: Site) -> None:
    """It takes over the session with its subscriptions, and the list still asks for its user."""
    people = {user: Person(site, user, version=MQTTProtocolVersion.MQTTv311) for user in ("cardiogloss", "bed1")}
    for person in people.values():
        # So that the session outlives the connection.
        person.client._client_id, person.client._clean_session = b"cardiogloss-ward", False
    monitor, thief = people.values()
    assert monitor.connect().came_in
    monitor.client.subscribe("cardiogloss/+/+/ecg", qos=1)
    monitor.subscribe("nothing")
    assert thief.connect().came_in
    wait_for(lambda: len(monitor._ends) == 2, "the end of the monitor's connection")
    with Person(site, "bed2") as bed, Person(site, "viewer") as viewer:
        viewer.subscribe("cardiogloss/+/status", "cardiogloss/+/+/ecg")
        thief.publish("cardiogloss/ward/status", "cardiogloss/ward/bed1/ecg")
        assert bed.publish("cardiogloss/ward/bed2/ecg")
        thief.subscribe("nothing")
        viewer.subscribe("nothing")
        assert (thief.heard, viewer.heard) == ([], ["cardiogloss/ward/bed1/ecg", "cardiogloss/ward/bed2/ecg"])
    thief.close()


@pytest.mark.parametrize("user", WILDCARDS)
def test_a_user_named_as_a_wildcard_writes_nowhere(site: Site, user: str) -> None:
    with Person(site, user) as person:
        assert person.publish(*EVERYTHING) == set()


def test_without_tls_nobody_comes_in(site: Site) -> None:
    for port in (site.port, site.certified_port):
        came_in = threading.Event()
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.on_connect = lambda *rest, came_in=came_in: came_in.set()
        client.username_pw_set("viewer", "of viewer")
        client.connect("localhost", port)
        while client.loop(timeout=5.0) == paho.MQTT_ERR_SUCCESS:
            pass
        assert not came_in.is_set()


def test_a_client_trusts_only_the_authority_that_it_was_given_and_the_names_in_the_certificate(site: Site, tmp_path: Path) -> None:
    run(DEPLOY / "certificates.sh", tmp_path)
    misled = Person(site, "viewer")
    misled.authority = tmp_path / "ca.crt"
    assert "CERTIFICATE_VERIFY_FAILED" in outcome(misled)
    assert "not valid for '127.0.0.2'" in outcome(Person(site, "viewer"), "127.0.0.2")
    assert outcome(Person(site, "viewer"), "127.0.0.1") == "came in"


def test_a_certificate_that_is_expired_strange_or_of_a_server_opens_nothing(site: Site, tmp_path: Path) -> None:
    ours, expired, strange = site.folder / "clients" / "bed1", tmp_path / "expired", tmp_path / "clients" / "bed1"
    run(DEPLOY / "certificates.sh", tmp_path, "--client", "bed1")
    shutil.copy(f"{ours}.key", f"{expired}.key")
    run("openssl", "req", "-new", "-key", f"{ours}.key", "-subj", "/CN=bed1", "-out", tmp_path / "request")
    authority = ("-CA", site.folder / "ca.crt", "-CAkey", site.folder / "ca.key")
    run("openssl", "x509", "-req", "-in", tmp_path / "request", *authority, "-days", "-1", "-out", f"{expired}.crt")
    assert outcome(Person(site, "bed1", ours)) == "came in"
    assert "came in" not in [outcome(Person(site, "bed1", one)) for one in (expired, strange, site.folder / "server")]


def test_where_a_certificate_is_asked_for_a_password_does_not_do(site: Site) -> None:
    person = Person(site, "viewer")
    person.port = site.certified_port
    assert outcome(person) != "came in"


def test_the_name_in_the_certificate_counts_and_not_the_one_that_is_given(site: Site) -> None:
    person = Person(site, "bed1", site.folder / "clients" / "bed1")
    person.client.username_pw_set("cardiogloss", "of cardiogloss")
    with person:
        assert person.publish(f"{SOURCE}/status", f"{SOURCE}/ecg") == {f"{SOURCE}/ecg"}


def test_a_revoked_certificate_is_refused_after_a_restart_and_a_new_one_is_not(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        for end in ("crt", "key"):
            shutil.copy(tmp_path / f"clients/bed1.{end}", tmp_path / f"lost.{end}")
        run(DEPLOY / "certificates.sh", tmp_path, "--revoke", "bed1")
        run(DEPLOY / "certificates.sh", tmp_path, "--client", "bed1")
        site.restart()
        assert outcome(Person(site, "bed1", tmp_path / "lost")) != "came in"
        assert outcome(Person(site, "bed1", tmp_path / "clients" / "bed1")) == "came in"


CONFIG = """
site = "ward"
[mqtt]
host = "localhost"
port = {port}
tls = true
ca = "{folder}/ca.crt"
user = "cardiogloss"
password_file = "password"
[homeassistant]
discovery = true
[http]
port = 0
[[source]]
mqtt = "cardiogloss/ward/+/ecg"
"""


def test_monitor_device_and_home_assistant_do_their_work_through_it(site: Site, tmp_path: Path) -> None:
    """Of what a real daemon sends, nothing is refused; and it may hear what it must."""
    (tmp_path / "password").write_text("of cardiogloss\n")
    pieces = encoded(write_excerpt(tmp_path, "short", 15), device("frame"), Wiring(("II", "V1"), 360.0, 200.0))
    with (
        Daemon(tmp_path, CONFIG.format(port=site.port, folder=site.folder)) as daemon,
        Person(site, "homeassistant") as home,
        Person(site, "bed1", site.folder / "clients" / "bed1") as bed,
    ):
        home.subscribe("#")
        daemon.wait(lambda: daemon.metric("broker_connected") == 1, "the broker")
        for piece in pieces:
            bed.client.publish(f"{SOURCE}/ecg", piece, qos=1).wait_for_publish(30)
        daemon.wait(lambda: daemon.metric("source_samples_total", "bed1") == 15 * 360, "the samples")
        home.client.publish(f"{SOURCE}/command", b'{"command": "silence", "for_s": 60}', qos=1).wait_for_publish(30)
        daemon.wait(lambda: f"{SOURCE}/reply" in home.heard, "the reply to the command")
        daemon.wait(lambda: any(topic.startswith("homeassistant/device/") for topic in home.heard), "the discovery")
        assert daemon.terminate() == 0
        wait_for(lambda: home.heard.count("cardiogloss/ward/status") >= 2, "the farewell")
        assert {f"{SOURCE}/status", f"{SOURCE}/vitals"} <= set(home.heard)
        assert not [line for line in daemon.log if line["level"] in ("warning", "error") and "refused" in str(line)]


EXAMPLES = {path.stem: json.loads(path.read_text()) for path in (DEPLOY / "schema/examples").glob("*.json")}
NODES = json.loads((DEPLOY / "node-red.json").read_text())
PUBLISHER = Publisher("cardiogloss", "ward", lambda *message: None)


def _home() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="wants PyYAML, which reads Home Assistant's package: pip install pyyaml")
    package: dict[str, Any] = yaml.safe_load((DEPLOY / "homeassistant.yaml").read_text())
    return package


def _heard(topic_filter: str) -> set[str]:
    return {topic for topic in EVERYTHING if paho.topic_matches_sub(topic_filter, topic)}


def _steps(package: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for part in (*package["automation"], *package["script"].values()) for step in part.get("actions", part.get("sequence"))]


def _said(topic: str, payload: str) -> Acknowledge | Silence:
    """What the monitor understands of it. A topic that is not the bed's, or that the role may not use, fails."""
    assert topic in MAY_WRITE["homeassistant"] and PUBLISHER.commanded(topic) == "bed1"
    return read_command(payload.encode())


def test_what_home_assistant_and_node_red_listen_to_is_told_and_may_be_heard() -> None:
    triggers = [trigger for one in _home()["automation"] for trigger in one["triggers"] if trigger["trigger"] == "mqtt"]
    filters = {trigger["topic"] for trigger in triggers} | {node["topic"] for node in NODES if node["type"] == "mqtt in"}
    assert len(filters) >= 4
    for topic_filter in filters:
        assert _heard(topic_filter) and _heard(topic_filter) <= MAY_READ["homeassistant"], topic_filter
        assert all(PUBLISHER.owns(topic) for topic in _heard(topic_filter)), topic_filter


def test_home_assistants_templates_read_what_alerts_have_and_write_what_the_monitor_understands() -> None:
    jinja2 = pytest.importorskip("jinja2", reason="wants Jinja2, in which Home Assistant's templates are: pip install jinja2")
    alert = EXAMPLES["alert"] | {"site": "ward", "source": "bed1"}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.filters |= {"timestamp_custom": lambda time_s, how: f"{time_s:.0f}", "to_json": json.dumps}
    parts = ["CARDIOGLOSS", "ward", "bed1", alert["id"]]
    event = {"data": {"action": "|".join(parts)}}
    state = EXAMPLES["alert-state"] | {"site": "ward"}
    known = {
        "alert": alert, "words": "atrial fibrillation", "parts": parts, "entity_id": "binary_sensor.x", "minutes": 5,
        "trigger": {"payload_json": alert, "event": event}, "state_attr": lambda entity, name: state[name],
    }  # fmt: skip

    def _render(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: _render(one) for key, one in value.items()}
        if isinstance(value, list):
            return [_render(one) for one in value]
        return environment.from_string(value).render(known) if isinstance(value, str) else value

    package = _render({key: _home()[key] for key in ("automation", "script")})
    sent = [_said(step["data"]["topic"], step["data"]["payload"]) for step in _steps(package) if step.get("action") == "mqtt.publish"]
    by = "Home Assistant"
    acknowledge = Acknowledge(command="acknowledge", id=alert["id"], by=by)
    assert sent == [acknowledge, acknowledge, Silence(command="silence", for_s=300, by=by)]
    (told,) = (
        step["data"] for step in _steps(package) if step.get("action") == "notify.notify" and "actions" in step["data"].get("data", {})
    )
    assert told["data"]["actions"][0]["action"].split("|") == parts
    assert told["message"].startswith("medium priority, since 1772600777, heart rate 79")


def test_node_reds_wires_end_at_nodes_and_only_its_broker_needs_a_secret() -> None:
    nodes = {node["id"]: node for node in NODES}
    assert len(nodes) == len(NODES)
    for node in NODES:
        assert {end for wire in node.get("wires", ()) for end in wire} <= nodes.keys()
        assert node.get("broker") in nodes or node["type"] not in ("mqtt in", "mqtt out")
    (broker,) = (node for node in NODES if node["type"] == "mqtt-broker")
    assert broker["usetls"] and nodes[broker["tls"]]["verifyservercert"] and broker["port"] == "8883"
    assert "credentials" not in json.dumps(NODES)


def test_node_reds_functions_acknowledge_what_is_on_and_pass_on_what_is_new() -> None:
    if not shutil.which("node"):
        pytest.skip("wants node, in which Node-RED's functions run: apt-get install nodejs")
    code = {node["name"]: node["func"] for node in NODES if node["type"] == "function"}
    state = EXAMPLES["alert-state"] | {"site": "ward", "source": "bed1"}
    over, silenced = state | {"id": "gone"}, EXAMPLES["alert"] | {"silenced": True}
    told = [state, over, over | {"state": "cleared"}, ""]
    script = """
        const kept = {}, flow = { get: (name) => kept[name], set: (name, value) => (kept[name] = value) };
        const node = { status: () => {} }, RED = { util: { generateId: () => "0123456789abcdef" } };
        const { code, told, alerts } = JSON.parse(require("fs").readFileSync(0));
        const run = (name, payload) => new Function("msg", "flow", "node", "RED", code[name])({ payload }, flow, node, RED);
        told.forEach((state) => run("what is on", state));
        const fresh = alerts.filter((alert) => run("new, not silenced", alert));
        console.log(JSON.stringify([run("a command for each")[0], fresh.map((alert) => run("in words", alert))]));
    """
    given = json.dumps({"code": code, "told": told, "alerts": [EXAMPLES["alert"], silenced, EXAMPLES["alert"] | {"state": "cleared"}]})
    done = subprocess.run(["node", "-e", script], input=given, capture_output=True, text=True, check=True)
    commands, fresh = json.loads(done.stdout)
    (command,) = commands
    sent = _said(command["topic"], json.dumps(command["payload"]))
    assert sent == Acknowledge(command="acknowledge", id=state["id"], by="Node-RED", command_id="0123456789abcdef")
    assert fresh == [{"topic": "home bed1: atrial fibrillation", "payload": "medium priority, heart rate 79"}]
