"""The MQTT reference is what the code says, and what a real monitor at a real broker sends."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge.decode.chunk import Chunk
from edge.decode.device import Wiring
from edge.decode.frame import unpack
from edge.decode.json_frame import JsonDecoder
from edge.fleet.topics import answer_topic, window_topic
from edge.mqtt_reference import TOPICS, Topic, reference
from edge.publish import Publisher
from edge.schema import schemas
from edge.shard import Shard

from .broker import Mosquitto, wait_for
from .daemon import PATIENCE_S, SITE, Daemon, config, frames, on_topic, source

DEPLOY = Path(__file__).parent.parent / "deploy"
TEXT = (DEPLOY / "mqtt.md").read_text(encoding="utf-8")
ROOT = f"cardiogloss/{SITE}/"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Told:
    """A message as the broker passed it on, with what MQTT 5 says beside it."""

    topic: str
    payload: bytes
    qos: int
    retained: bool
    content_type: str | None
    expiry_s: int | None
    user: dict[str, str]

    @property
    def row(self) -> Topic:
        (found,) = (topic for topic in TOPICS if _fits(topic.pattern, self.topic.removeprefix(ROOT)))
        return found


def _fits(pattern: str, topic: str) -> bool:
    # <source> is one level, and <i>of<n> a part of one.
    return re.fullmatch(re.sub(r"<\w+>", "[^/]+", pattern), topic) is not None


class Listener:
    """To all that is said in a site; retained messages show as they were published."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.heard: list[Told] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)

    def __enter__(self) -> Listener:
        subscribed = threading.Event()
        self.client.on_message = lambda client, userdata, message: self.heard.append(_told(message))
        self.client.on_subscribe = lambda *rest: subscribed.set()
        self.client.connect("127.0.0.1", self.port)
        self.client.subscribe(f"{ROOT}#", options=SubscribeOptions(qos=2, retainAsPublished=True))
        self.client.loop_start()
        wait_for(subscribed.is_set, "the subscription of the test")
        return self

    def __exit__(self, *rest: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def say(self, topic: str, message: Json) -> None:
        self.client.publish(ROOT + topic, json.dumps(message), qos=1)

    def wait_for(self, kind: str, count: int = 1) -> list[Told]:
        """So many messages whose schema is of that name."""
        wait_for(lambda: len(self.of(kind)) >= count, f"{count} of {kind}", PATIENCE_S)
        return self.of(kind)

    def of(self, kind: str) -> list[Told]:
        return [told for told in list(self.heard) if told.payload and told.row.message == kind]


def _told(message: paho.MQTTMessage) -> Told:
    said = message.properties.json() if message.properties else {}
    user = dict(said.get("UserProperty", []))
    place = said.get("ContentType"), said.get("MessageExpiryInterval")
    return Told(message.topic, bytes(message.payload), message.qos, message.retain, *place, user)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, excerpt: Chunk) -> Iterator[list[Told]]:
    """A minute with fibrillation in it, two commands, and a question for what was missed."""
    folder = tmp_path_factory.mktemp("said")
    minute = Chunk(0, excerpt.rate_hz, excerpt.leads, excerpt.samples_mv[:, : round(60 * excerpt.rate_hz)])
    (folder / "bed1.bin").write_bytes(b"".join(frames(minute)))
    sources = source("bed1", "frame", file=folder / "bed1.bin"), on_topic("bed2")
    with Mosquitto(folder) as broker, Listener(broker.port) as listener, Daemon(folder, config(*sources, broker=broker.port)):
        listener.wait_for("evidence")
        listener.say("bed1/command", {"command": "silence", "for_s": 60, "by": "nurse 7", "command_id": "a"})
        listener.say("bed2/command", {"command": "acknowledge", "id": "none", "command_id": "b"})
        listener.wait_for("reply", 2)
        listener.say("resend", {"outbox": "another", "after": 0})
        wait_for(lambda: any(json.loads(told.payload)["type"] == "resent" for told in listener.of("resent")), "the end", PATIENCE_S)
        yield list(listener.heard)


OWN = [topic for topic in TOPICS if topic.by == "monitor"]


def test_the_file_is_what_the_code_says() -> None:
    examples = {path.stem: path.read_text(encoding="utf-8") for path in (DEPLOY / "schema" / "examples").glob("*.json")}
    assert reference(examples) == TEXT, "write it anew: python -m edge.mqtt_reference > deploy/mqtt.md"


def test_a_monitor_uses_every_topic_as_the_reference_tells_and_no_other(said: list[Told]) -> None:
    """`row` fails on a topic that is not told, or told twice."""
    assert {told.row for told in said} >= set(OWN)
    for told in (told for told in said if told.row in OWN and told.payload):
        assert (told.qos, told.retained) == (told.row.qos, told.row.retained), told
        assert told.content_type == "application/json", told


def test_what_expires_and_what_carries_user_properties_is_told(said: list[Told]) -> None:
    week_s = 7 * 86400
    for told in (told for told in said if told.row in OWN and told.payload):
        expected = {"-": None, "60 s": 60}.get(told.row.expires, week_s)
        assert told.expiry_s is None if expected is None else told.expiry_s is not None and expected - 60 <= told.expiry_s <= expected, told
        message = json.loads(told.payload)
        names = ("schema", "id", "seq", "state", "priority") if told.row.is_numbered else ()
        assert told.user == {name: str(message[name]) for name in names if message.get(name) is not None}, told


def _sections() -> dict[str, str]:
    """The text below each `### name`."""
    parts = re.split(r"^###? (.+)$", TEXT, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _fields(name: str) -> dict[str, bool]:
    """The fields that the tables of a message tell, and whether each is always there."""
    text = _sections()[name]
    rows = re.findall(r"^\| `([\w.\[\]]+)`(\*?) \|", text, flags=re.MULTILINE)
    told = {field: not star for field, star in rows}
    common = re.search(r"With ([\w, ]+) as \[above\]", text)
    in_common = dict(re.findall(r"^\| `(\w+)`(\*?) \|", _sections()["Common fields"], flags=re.MULTILINE))
    return told | {field: not in_common[field] for field in (common[1].split(", ") if common else ())}


def _flat(message: Json, within: str = "") -> Iterator[str]:
    """Every field that a table may tell: those that are by name have no fields of their own."""
    for key, value in message.items():
        yield within + key
        if isinstance(value, dict) and key not in ("probability", "quality"):
            yield from _flat(value, f"{within}{key}.")
        for item in value if isinstance(value, list) else ():
            yield from _flat(item, f"{within}{key}[].") if isinstance(item, dict) else ()


def test_every_field_that_is_sent_is_told_and_every_field_that_is_told_as_certain_is_sent(said: list[Told]) -> None:
    seen: dict[str, set[str]] = {}
    for told in (told for told in said if told.payload and not told.topic.endswith("/ecg")):
        message = json.loads(told.payload)
        name = {"resent": message.get("type")}.get(told.row.message, told.row.message)
        found, fields = set(_flat(message)), _fields(name)
        assert found <= fields.keys(), (told.topic, found - fields.keys())
        parents = {"", *(one.rpartition(".")[0] for one in found)}
        missing = {one for one, always in fields.items() if always and one.rpartition(".")[0] in parents} - found
        assert not missing or name == "command", (told.topic, missing)
        seen.setdefault(name, set()).update(found)
    assert seen.keys() == schemas().keys()
    assert {"evidence.decided[].score", "evidence.strip.uv"} <= seen["alert"] and "unrecorded" in seen["status"]


def test_every_message_that_is_sent_fits_its_schema(said: list[Told]) -> None:
    validators = {name: jsonschema.Draft202012Validator(schema) for name, schema in schemas().items()}
    for told in (told for told in said if told.payload):
        message = json.loads(told.payload)
        validators[message["type"] if told.row.message == "resent" else told.row.message].validate(message)


def test_every_field_has_a_meaning() -> None:
    rows = [line.strip("| ").split(" | ") for line in TEXT.splitlines() if line.startswith("| `")]
    fields = [row for row in rows if len(row) == 4]
    assert len(fields) > 60
    for name, kind, unit, meaning in fields:
        assert kind and unit, name
        assert re.fullmatch(r"[A-Z0-9].*\.", meaning), (name, meaning)


@pytest.mark.parametrize("name", sorted(schemas()))
def test_a_message_has_its_place_with_an_example_as_it_is_shipped(name: str) -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", _sections()[name], flags=re.DOTALL)
    assert json.loads(shown) == json.loads((DEPLOY / "schema" / "examples" / f"{name}.json").read_text())


def test_every_link_leads_somewhere() -> None:
    places = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", TEXT, flags=re.MULTILINE)}
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(links) > 30
    for link in links:
        assert link[1:] in places if link.startswith("#") else (DEPLOY / link).exists(), link


def test_the_bytes_of_the_examples_of_samples_are_frames() -> None:
    """Values as their text tells them."""
    found = re.search(r"^((?:    [0-9a-f]+\n)+)", _sections()["Binary"], flags=re.MULTILINE)
    frame = unpack(bytes.fromhex("".join((found[1] if found else "").split())))
    assert frame is not None and (frame.seq, frame.t_s, frame.rate_hz, frame.leads, frame.lead_off) == (
        7, 1767225600.0, 250.0, ("I", "V1"), ("V1",),
    )  # fmt: skip
    np.testing.assert_allclose(frame.samples_mv, [[1.0, np.nan], [-0.5, 163.835]], rtol=1e-6)
    example = re.search(r"^    (\{.*\})$", _sections()["JSON"], flags=re.MULTILINE)
    decoder = JsonDecoder(Wiring((), 0.0, 0.0))
    chunks = [*decoder.feed((example[1] if example else "").encode()), *decoder.flush()]
    assert [(chunk.rate_hz, chunk.leads, chunk.samples_mv.shape) for chunk in chunks] == [(250.0, ("I", "II"), (2, 2))]


def test_a_monitor_takes_no_topic_of_its_own_for_samples() -> None:
    publisher = Publisher("cardiogloss", "home", lambda *sent: None)
    for topic in TOPICS:
        assert publisher.owns("cardiogloss/home/" + re.sub(r"<(\w+)>", r"7", topic.pattern)) == (topic.message != "samples"), topic


def test_shards_and_fleets_use_the_topics_that_are_told() -> None:
    publisher = Publisher("cardiogloss", "home", lambda *sent: None, Shard(2, 3))
    own = [publisher.will[0], publisher.resend, publisher.resent]
    windows = window_topic("cardiogloss", "home", "cardiogloss-home")
    found = [[topic.message for topic in TOPICS if _fits(f"cardiogloss/home/{topic.pattern}", name)] for name in (*own, windows)]
    assert found == [["site"], ["resend"], ["resent"], ["windows"]] and all("/shard/2of3/" in name for name in own)
    answers = answer_topic(windows)
    assert answers and [t.message for t in TOPICS if _fits(f"cardiogloss/home/{t.pattern}", answers)] == ["answers"]
