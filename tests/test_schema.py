"""What is written down of the messages: the schemas are those of the code, and every example is a message that the code made.

`python -m tests.test_schema` writes both anew.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edge.command import Acknowledge, Reply, Silence, read_command
from edge.contract import MESSAGES, Resend, ResentMessage, StripPart, to_strip
from edge.decode.chunk import Chunk
from edge.live import Dated
from edge.outbox import Letter
from edge.pipeline import Options, Pipeline
from edge.publish import Publisher
from edge.schema import schemas, write_schemas
from edge.subscribe import Subscription, subscribe
from edge.transport.file import open_recording
from kernels.bundle import SHIPPED_BUNDLE, Bundle
from kernels.engine import open_engine

from .broker import free_port
from .conftest import EXCERPT

FOLDER = Path(__file__).parent.parent / "deploy" / "schema"
BEGUN_TIME = datetime(2026, 3, 4, 5, 6, 7, tzinfo=timezone.utc).timestamp()
OUTBOX = "5eed0b0c"
SHOWN_SAMPLES = 12
"""Of each lead, in a strip of an example."""

Json = dict[str, Any]


class Kept:
    """Takes what a publisher sends, by topic, with the numbers that an outbox gives."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Json]] = []
        self._numbers = itertools.count(1)

    def send(self, topic: str, payload: str, qos: int, retain: bool) -> None:
        self.messages.append((topic, json.loads(payload)))

    def post(self, letter: Letter) -> None:
        place = {"outbox": OUTBOX, "number": next(self._numbers)}
        self.messages.append((letter.topic, json.loads(json.dumps(letter.message | place))))
        if letter.state_topic:
            self.messages.append((letter.state_topic, json.loads(json.dumps((letter.state or {}) | place))))

    def on(self, ending: str) -> list[Json]:
        return [message for topic, message in self.messages if topic.endswith(ending)]


@cache
def replayed() -> Kept:
    """The whole excerpt, as a monitor tells of it; the third alert is acknowledged by a command."""
    kept = Kept()
    publisher = Publisher("cardiogloss", "home", kept.send)
    publisher.post = kept.post
    publisher.tell_online(OUTBOX, 0)
    publisher.tell_status("bed1", "online", None, BEGUN_TIME, {"samples": 3600, "lost": 2, "broken": 0})
    with open_engine(Bundle.read(SHIPPED_BUNDLE)) as engine:
        pipeline = Pipeline("bed1", engine, Options(stream="20260304-050607"))
        for event in _events(pipeline, list(open_recording(EXCERPT).chunks())):
            publisher.tell("bed1", Dated(event, BEGUN_TIME + _at_s(event), BEGUN_TIME + getattr(event, "onset_s", 0.0)))
    publisher.tell("bed1", Dated(Reply("bed1", "1f2e3d4c5b6a7988", True), BEGUN_TIME, BEGUN_TIME))
    return kept


def _events(pipeline: Pipeline, chunks: list[Chunk]) -> Iterator[Any]:
    for chunk in chunks:
        yield from pipeline.feed(chunk)
    yield from pipeline.flush()


def _at_s(event: Any) -> float:
    return float(event.vitals.at_s if hasattr(event, "vitals") else event.at_s)


@cache
def asked() -> dict[str, Json]:
    """What the subscriber's side sends: its commands, and its questions."""
    told: dict[str, Json] = {}
    with subscribe("127.0.0.1", free_port(), site="home") as alerts:
        _answering(alerts, told)
        alerts.silence("bed1", 600, by="nurse 7", wait_s=0)
        alerts._ledger.feed("home", {"schema": 2, "type": "site", "site": "home", "state": "online", "outbox": OUTBOX}, True, 0.0)
        alerts._ledger.feed("home", replayed().on("/alert")[0] | {"number": 42}, True, 0.0)
        alerts._ask(0.0)
    return told


def _answering(alerts: Subscription, told: dict[str, Json]) -> None:
    """Without a broker: what would be published is kept, and each command answered."""

    class _Connected:
        connected = True
        stop = alerts._broker.stop

        def publish(self, topic: str, payload: str, qos: int) -> None:
            told[topic.split("/")[-1]] = message = json.loads(payload)
            if "command" in message:
                reply = replayed().on("/reply")[0] | {"command_id": message["command_id"]}
                alerts._take("cardiogloss/home/bed1/reply", json.dumps(reply).encode(), False)

    alerts._broker = _Connected()  # type: ignore[assignment]
    alerts._is_connected.set()


@cache
def examples() -> dict[str, Json]:
    """A message of each kind, cut to be readable."""
    kept, sent = replayed(), asked()
    alerts = kept.on("/alert")
    shown = next(alert for alert in alerts if alert["kind"] == "physiological" and alert["state"] == "raised")
    state = next(state for state in kept.on(f"/alert/{shown['finding']}") if state["id"] == shown["id"])
    evidence = next(message for message in kept.on("/evidence") if message["id"] == shown["id"])
    found = {
        "alert": shown, "alert-state": state, "evidence": evidence, "scores": kept.on("/scores")[0], "vitals": kept.on("/vitals")[4],
        "status": kept.on("bed1/status")[0], "site": kept.on("home/status")[0], "reply": kept.on("/reply")[0],
        "command": sent["command"], "resend": sent["resend"], "resent": {"type": "resent", "outbox": OUTBOX, "first": 1, "last": 57},
    }  # fmt: skip
    return {name: _readable(copy.deepcopy(message)) for name, message in found.items()}


def _readable(message: Json) -> Json:
    for holder in (message, message.get("evidence") or {}):
        if holder.get("strip"):
            holder["strip"]["uv"] = [lead[:SHOWN_SAMPLES] for lead in holder["strip"]["uv"]]
    return message


def _read(name: str) -> Any:
    return json.loads((FOLDER / "examples" / f"{name}.json").read_text())


def test_the_schemas_that_are_shipped_are_those_of_the_code(tmp_path: Path) -> None:
    for path in write_schemas(tmp_path):
        assert (FOLDER / path.name).read_text() == path.read_text(), f"write them anew: python -m {__name__}"
    known = {path.stem for path in FOLDER.glob("*.json")} - {"edge"}
    assert known == set(schemas()) == set(MESSAGES) | {"command"}


@pytest.mark.parametrize("name", sorted(schemas()))
def test_a_schema_is_one_and_its_example_fits(name: str) -> None:
    """By another implementation, of the schema and not of the models."""
    schema = json.loads((FOLDER / f"{name}.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(_read(name))
    for key in schema.get("required", ["command"]):
        without = {other: value for other, value in _read(name).items() if other != key}
        assert not validator.is_valid(without), key


@pytest.mark.parametrize("name", sorted(schemas()))
def test_an_example_has_the_keys_of_a_message_that_the_code_makes_now(name: str) -> None:
    """Its values may be those of an earlier model."""
    assert _shape(_read(name)) == _shape(examples()[name])


def _shape(value: Any) -> Any:
    """Names of keys, in order; of probabilities, which a bundle names, only that they are some."""
    if not isinstance(value, dict):
        return isinstance(value, list)
    return [(key, _shape(inner) if key not in ("probability", "quality") else None) for key, inner in value.items()]


@pytest.mark.parametrize(("name", "kind"), [("alert", "/alert"), ("evidence", "/evidence"), ("scores", "/scores"), ("vitals", "/vitals")])
def test_every_message_of_a_replay_fits_its_schema(name: str, kind: str) -> None:
    messages = replayed().on(kind)
    assert len(messages) > 1
    validator = jsonschema.Draft202012Validator(json.loads((FOLDER / f"{name}.json").read_text()))
    for message in messages:
        validator.validate(message)
        # What a model reads and tells again is the same, with nothing left out.
        assert json.loads(MESSAGES[name].model_validate(message).model_dump_json(by_alias=True)) == message


def test_a_strip_reads_back_as_it_was_told(excerpt: Chunk) -> None:
    """The samples of the record itself, at a hundred a second, to half a microvolt."""
    alert = next(alert for alert in replayed().on("/alert") if alert["evidence"]["strip"])
    strip = to_strip([MESSAGES["alert"].model_validate(alert).evidence.strip])  # type: ignore[attr-defined]
    told = alert["evidence"]["strip"]
    expected = np.array([[np.nan if uv is None else uv / 1000 for uv in lead] for lead in told["uv"]])
    np.testing.assert_allclose(strip.samples_mv, expected, atol=1e-6)
    assert (strip.leads, strip.start_s) == (tuple(told["leads"]), told["start_s"]) == (("II", "V1"), alert["at_s"] - 10.0)


def part(**more: Any) -> StripPart:
    return StripPart.model_validate({"start_s": 0.0, "rate_hz": 1.0, "leads": ["I"], "uv": [[1000]], **more})


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate_hz": 0.9}, {"rate_hz": 10_001.0}, {"rate_hz": float("nan")}, {"start_s": 1e300}, {"uv": [[0] * 61]}, {"uv": []},
        {"leads": ["I"] * 17, "uv": [[0]] * 17}, {"leads": ["I" * 41]}, {"uv": [[2**63]]},
    ],
)  # fmt: skip
def test_a_strip_that_nobody_could_draw_is_refused(wrong: Json) -> None:
    with pytest.raises(ValidationError):
        part(**wrong)


@pytest.mark.parametrize("rate_hz", [1.0, 99.7, 360.0, 10_000.0])
def test_a_strip_of_a_minute_or_of_sixteen_leads_is_read(rate_hz: float) -> None:
    count = int(60 * rate_hz)
    assert part(rate_hz=rate_hz, uv=[[0] * count]).length_s == pytest.approx(60, abs=1 / rate_hz)
    assert len(part(rate_hz=rate_hz, leads=["I"] * 16, uv=[[0]] * 16).leads) == 16
    with pytest.raises(ValidationError, match="60 s at most"):
        part(rate_hz=rate_hz, uv=[[0] * (count + 1)])


@given(
    st.lists(
        st.builds(
            lambda start_s, rate_hz, leads, count: part(
                start_s=start_s, rate_hz=rate_hz, leads=leads, uv=[[int(start_s)] * count for _ in leads]
            ),
            st.integers(-70, 70) | st.sampled_from([-1e10, 1e10]),
            st.sampled_from([1.0, 1.0, 1.0, 2.0]),
            st.lists(st.sampled_from([f"l{i}" for i in range(20)]), max_size=16),
            st.integers(0, 60),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_parts_become_one_strip_of_a_minute_and_sixteen_leads_at_most(parts: list[StripPart]) -> None:
    """Each sample where its time says, by a table that is filled second by second."""
    strip, first = to_strip(parts), parts[0]
    kept, leads = list[StripPart](), dict[str, None]()
    for one in parts:
        inside = first.start_s <= one.start_s and one.start_s + one.length_s <= first.start_s + 60 and one.rate_hz == first.rate_hz
        if inside and len({*leads, *one.leads}) <= 16:
            kept.append(one)
            leads |= dict.fromkeys(one.leads)
    table = {
        (lead, one.start_s + i / one.rate_hz): value / 1000
        for one in kept
        for lead, uv in zip(one.leads, one.uv, strict=True)
        for i, value in enumerate(uv)
        if value is not None
    }
    assert strip.leads == tuple(leads) and strip.samples_mv.shape[1] == _count(kept) <= 60 * first.rate_hz
    for lead, samples in zip(strip.leads, strip.samples_mv, strict=True):
        expected = [table.get((lead, strip.start_s + i / strip.rate_hz), np.nan) for i in range(len(samples))]
        np.testing.assert_allclose(samples, expected, rtol=1e-6)


def _count(parts: list[StripPart]) -> int:
    """Samples from the first to the last second; a part without leads has none."""
    return max(round((one.start_s + one.length_s - parts[0].start_s) * one.rate_hz) for one in parts)


def test_the_monitor_understands_what_a_subscriber_sends() -> None:
    sent = asked()
    silence = read_command(json.dumps(sent["command"]).encode())
    assert isinstance(silence, Silence) and (silence.for_s, silence.by) == (600, "nurse 7")
    assert Resend.model_validate(sent["resend"]).after == 42
    assert isinstance(read_command(b'{"command":"acknowledge","id":"a1","by":"x","command_id":"y"}'), Acknowledge)
    assert ResentMessage.model_validate(_read("resent")).last == 57


def _write() -> None:
    write_schemas(FOLDER)
    (FOLDER / "examples").mkdir(exist_ok=True)
    for name, message in examples().items():
        text = json.dumps(message, indent=2)
        (FOLDER / "examples" / f"{name}.json").write_text(_compact(text) + "\n")


def _compact(text: str) -> str:
    """A list of numbers on one line."""
    lines = []
    for opened, group in itertools.groupby(
        text.split("\n"), key=lambda line: line.strip().rstrip(",").lstrip("-").replace(".", "").isdigit()
    ):
        items = list(group)
        lines += ["".join([items[0], *(f" {item.strip()}" for item in items[1:])])] if opened else items
    return "\n".join(lines)


if __name__ == "__main__":
    _write()
