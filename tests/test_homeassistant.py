"""What Home Assistant is told: by the rules of its documentation, and rendered by its own template language over real messages."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.homeassistant import discovery, removal
from edge.technical import NAMES
from edge.wildcard import name_source
from kernels.bundle import Bundle
from kernels.findings import Finding

from .test_schema import replayed

jinja2 = pytest.importorskip("jinja2")

Json = dict[str, Any]

BINARY_SENSOR = {"platform", "name", "device_class", "state_topic", "value_template", "json_attributes_topic", "unique_id"}
BINARY_SENSOR |= {"entity_category", "availability"}
SENSOR = BINARY_SENSOR | {"icon", "unit_of_measurement", "state_class", "suggested_display_precision", "expire_after", "qos", "options"}
"""Keys of the two platforms that stand in Home Assistant's documentation, as far as they are used."""
SHARED = {"device", "origin", "components", "availability", "availability_mode", "qos"}


@pytest.fixture(scope="module")
def device(bundle: Bundle) -> Json:
    ((_, payload),) = discovery("cardiogloss", "home", bundle.card.findings, ["bed1"])
    read: Json = json.loads(payload)
    return read


def rendered(template: str, payload: str) -> str:
    """As Home Assistant does: `value_json` is there where the payload is JSON."""
    values: Json = {"value": payload}
    if payload:
        values["value_json"] = json.loads(payload)
    return str(jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(template).render(values))


def test_every_finding_that_alerts_is_an_entity_and_no_other(device: Json, bundle: Bundle) -> None:
    alerting = {finding.name for finding in bundle.card.findings if finding.priority != "none"}
    binary = {name for name, component in device["components"].items() if component["platform"] == "binary_sensor"}
    assert binary == alerting | set(NAMES)
    diagnostic = {name for name, component in device["components"].items() if component.get("entity_category") == "diagnostic"}
    assert diagnostic == {*NAMES, "source-status"}


def test_only_keys_are_told_that_home_assistant_knows(device: Json) -> None:
    assert set(device) == SHARED
    assert device["origin"].keys() <= {"name", "sw_version", "support_url"} and device["origin"]["name"]
    assert device["device"].keys() <= {"identifiers", "name", "manufacturer", "model", "sw_version"} and device["device"]["identifiers"]
    for component in device["components"].values():
        allowed = BINARY_SENSOR if component["platform"] == "binary_sensor" else SENSOR
        assert component.keys() <= allowed
        assert {"platform", "unique_id", "state_topic", "name"} <= component.keys()


def test_an_entity_is_on_from_raised_to_cleared_by_the_messages_of_a_replay(device: Json) -> None:
    """Each on the topic that the monitor retains."""
    seen = set()
    for topic, message in replayed().messages:
        found = re.fullmatch(r"cardiogloss/home/bed1/alert/(.+)", topic)
        if found:
            component = device["components"][found[1]]
            assert component["state_topic"] == component["json_attributes_topic"] == topic
            state = rendered(component["value_template"], json.dumps(message))
            assert state == {"raised": "ON", "updated": "ON", "cleared": "OFF"}[message["state"]]
            seen.add(state)
    assert seen == {"ON", "OFF"}


def test_a_state_that_was_taken_back_renders_to_nothing_and_raises_nothing(device: Json) -> None:
    assert rendered(device["components"]["atrial_fibrillation"]["value_template"], "") == ""


def test_the_heart_rate_is_that_of_the_vitals_and_unknown_without_one(device: Json) -> None:
    component = device["components"]["heart-rate"]
    (topic, message), *_ = [(topic, m) for topic, m in replayed().messages if m["type"] == "vitals" and m["heart_rate_bpm"]]
    assert component["state_topic"] == topic
    assert rendered(component["value_template"], json.dumps(message)) == str(message["heart_rate_bpm"])
    assert rendered(component["value_template"], json.dumps(message | {"heart_rate_bpm": None})) == "None"


@pytest.mark.parametrize(
    ("site", "source", "finding_there", "technical_there"),
    [
        ("online", "online", True, True),
        ("online", "stalled", False, True),
        ("online", "offline", False, True),
        ("offline", "online", False, False),
    ],
)
def test_findings_are_there_while_their_source_is_and_technical_alerts_while_the_monitor_is(
    site: str, source: str, finding_there: bool, technical_there: bool, device: Json
) -> None:
    """What a component says of its own takes the place of what all share; a template must give one of two words."""
    said = {"cardiogloss/home/status": site, "cardiogloss/home/bed1/status": source}

    def _there(name: str) -> bool:
        topics = device["components"][name].get("availability", device["availability"])
        answers = [rendered(one["value_template"], json.dumps({"state": said[one["topic"]]})) for one in topics]
        assert set(answers) <= {"online", "offline"}
        return set(answers) == {"online"}

    assert device["availability_mode"] == "all"
    assert _there("atrial_fibrillation") == _there("heart-rate") == finding_there
    assert _there("stalled") == _there("source-status") == technical_there


names = st.lists(st.text(max_size=8), min_size=1, max_size=3).map(lambda levels: name_source(tuple(levels)))


@given(st.sets(st.tuples(names, names), min_size=2, max_size=6))
def test_every_source_has_ids_of_its_own_that_fit_into_a_topic(places: set[tuple[str, str]]) -> None:
    ids: list[str] = []
    for site, source in places:
        ((topic, payload),) = discovery("cardiogloss", site, [_finding("a"), _finding("b")], [source])
        assert re.fullmatch(r"homeassistant/device/[a-zA-Z0-9_-]+/config", topic)
        ids += [topic, *(component["unique_id"] for component in json.loads(payload)["components"].values())]
    assert len(set(ids)) == len(ids)


def _finding(name: str) -> Finding:
    return Finding(name=name, prompts=("x",), priority="low")


def test_a_source_that_left_is_taken_back_on_the_topic_it_was_told_on() -> None:
    ((topic, first),) = discovery("clinic/ecg", "ward", [_finding("a")], ["bed.1"], "ha")
    assert removal("clinic/ecg", "ward", "bed.1", "ha") == (topic, "")
    assert topic.startswith("ha/device/")
    assert list(discovery("clinic/ecg", "ward", [_finding("a")], ["bed.1"], "ha")) == [(topic, first)]
