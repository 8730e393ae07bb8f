"""JSON and FHIR messages, and the registry of devices: vectors, bits, words for every mistake, and no exception for any message."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.decode.chunk import Chunk
from edge.decode.device import Device, Wiring
from edge.decode.devices import DEVICES, device
from edge.decode.fhir import FhirDecoder
from edge.decode.frame import FrameEncoder
from edge.decode.json_frame import JsonDecoder
from kernels.findings import ConfigError
from kernels.signal import LEADS

BARE = Wiring((), 0.0, 0.0)
MESSAGE_DEVICES = [DEVICES[name] for name in ("json", "fhir", "auto")]

# The first ten of each lead of HL7's example Observation "ekg" (R4 4.0.1 and R5 5.0.0), which leaves out the unit.
HL7_DATA = "2041 2043 2037 2047 2060 2062 2051 2023 2014 2027"
HL7_CODES = ("131329", "131330", "131389")


def _hl7(interval: dict[str, Any], unit: dict[str, str]) -> bytes:
    sampled = {"origin": {"value": 2048, **unit}, **interval, "factor": 1.612, "lowerLimit": -3300, "upperLimit": 3300, "dimensions": 1}
    return json.dumps(
        {
            "resourceType": "Observation",
            "id": "ekg",
            "status": "final",
            "code": {"coding": [{"system": "urn:oid:2.16.840.1.113883.6.24", "code": "131328", "display": "MDC_ECG_ELEC_POTL"}]},
            "effectiveDateTime": "2015-02-19T09:30:35+01:00",
            "component": [
                {
                    "code": {"coding": [{"system": "urn:oid:2.16.840.1.113883.6.24", "code": code}]},
                    "valueSampledData": {**sampled, "data": HL7_DATA},
                }
                for code in HL7_CODES
            ],
        }
    ).encode()


def _json(**fields: Any) -> bytes:
    return json.dumps({"v": 1, "seq": 0, "t": 1.7e9, "hz": 250, "leads": ["I", "II"], "mv": [[0.5, 1], [2, None]]} | fields).encode()


def _sampled(**fields: Any) -> bytes:
    return json.dumps(
        {"origin": {"value": 1, "code": "mV"}, "period": 4, "factor": 0.5, "dimensions": 1, "data": "1 -2.5 3e0"} | fields
    ).encode()


def _one(message: bytes, name: str = "json", wiring: Wiring = BARE) -> Chunk:
    (chunk,) = DEVICES[name].decoder(wiring).feed(message)
    return chunk


def test_a_json_message_is_its_samples() -> None:
    chunk = _one(_json(lead_off=["MLII"]))
    assert (chunk.rate_hz, chunk.leads, chunk.lead_off) == (250.0, ("I", "II"), ("II",))
    assert np.array_equal(chunk.samples_mv, np.float32([[0.5, 1], [2, np.nan]]), equal_nan=True)


@given(st.lists(st.floats(width=32, allow_nan=True, allow_infinity=False), min_size=1, max_size=100))
def test_json_keeps_every_bit_of_a_sample(values: list[float]) -> None:
    samples = np.float32([values])
    wiring = Wiring(("V1",), 500.0, 0.0)
    chunk = _one(DEVICES["json"].encoder(wiring).feed(samples))
    kept = ~np.isnan(samples)
    assert np.array_equal(np.isnan(chunk.samples_mv), ~kept)
    assert chunk.samples_mv[kept].tobytes() == samples[kept].tobytes()


def test_converter_units_are_scaled_by_message_lead_or_wiring() -> None:
    adc = {"mv": None, "adc": [[100, 200], [300, None]]}
    message = json.loads(_json(**adc))
    del message["mv"]
    for scale, wanted in [(0.01, [[1, 2], [3, np.nan]]), ([0.01, 0.1], [[1, 2], [30, np.nan]])]:
        chunk = _one(json.dumps(message | {"mv_per_lsb": scale}).encode())
        assert np.array_equal(chunk.samples_mv, np.float32(wanted), equal_nan=True)
    chunk = _one(json.dumps(message).encode(), wiring=Wiring((), 0.0, 200.0, zero=100.0))
    assert np.array_equal(chunk.samples_mv, np.float32([[0, 0.5], [1, np.nan]]), equal_nan=True)


def test_what_a_message_leaves_out_the_wiring_says() -> None:
    wiring = Wiring(("-", "V5"), 300.0, 0.0)
    bare = b'{"mv": [[1, 2], [3, 4]]}'
    chunk = _one(bare, wiring=wiring)
    assert (chunk.rate_hz, chunk.leads, chunk.samples_mv.tolist()) == (300.0, ("V5",), [[3.0, 4.0]])
    assert _one(_json(leads=["a", "b"]), wiring=wiring).leads == ("V5",)
    assert _one(_json(), wiring=wiring).leads == ("I", "II")
    assert _one(b'{"hz": 100, "leads": ["II"], "mv": [1, 2, NaN]}').samples_mv.shape == (1, 3)


def test_unknown_leads_are_left_out() -> None:
    assert _one(_json(leads=["resp", "avr"])).leads == ("aVR",)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"v": 2}, "version 1"),
        ({"seq": -1}, "whole number"),
        ({"seq": 1.5}, "whole number"),
        ({"seq": "7"}, "seq is"),
        ({"seq": True}, "seq is"),
        ({"t": 1.7e12}, "not milliseconds"),
        ({"t": -1}, "since 1970"),
        ({"t": [[]]}, "a list"),
        ({"hz": 0}, "from 1 to"),
        ({"hz": 1e6}, "from 1 to"),
        ({"hz": None}, "hz is missing"),
        ({"hz": "250"}, "send a number"),
        ({"leads": None}, "name them"),
        ({"leads": "I"}, "list of at most"),
        ({"leads": ["x", "\ud800"]}, "known lead"),
        ({"leads": ["I", "I"]}, "stands twice"),
        ({"leads": ["I"]}, "1 leads are named"),
        ({"leads": ["I"] * 40}, "list of at most"),
        ({"mv": [[1], [1, 2]]}, "differ in length"),
        ({"mv": [["1"], [2]]}, "no number"),
        ({"mv": [[True], [2]]}, "no number"),
        ({"mv": [[[1]], [[2]]]}, "no number"),
        ({"mv": 5}, "one list of numbers"),
        ({"mv": []}, "samples a lead|lists of samples"),
        ({"mv": [[10**400], [1]]}, "too large"),
        ({"mv": [[0] * 15_001] * 2}, "from 1 to 15000"),
        ({"adc": [[1], [2]]}, "either mv"),
        ({"lead_off": 3}, "list of at most"),
    ],
)
def test_a_wrong_json_message_is_refused_in_words(fields: dict[str, Any], words: str) -> None:
    decoder = JsonDecoder(BARE)
    assert list(decoder.feed(_json(**fields))) == []
    assert decoder.tally.broken == 1
    assert decoder.last_error is not None
    assert re.search(words, decoder.last_error)
    decoder.last_error.encode()


def test_hl7s_example_is_origin_plus_factor_times_data() -> None:
    for interval in ({"period": 10}, {"interval": 10, "intervalUnit": "ms"}, {"interval": 0.01, "intervalUnit": "s"}):
        chunk = _one(_hl7(interval, {"unit": "uV"}), "fhir")
        assert (chunk.rate_hz, chunk.leads) == (100.0, ("I", "II", "III"))
        wanted = np.float32([(2048 + 1.612 * int(word)) / 1000 for word in HL7_DATA.split()])
        assert np.allclose(chunk.samples_mv, [wanted] * 3, rtol=1e-6)
    as_published = FhirDecoder(BARE)
    assert list(as_published.feed(_hl7({"period": 10}, {}))) == []
    assert "unit of origin" in (as_published.last_error or "")
    chunk = _one(_hl7({"period": 10}, {}), "fhir", Wiring((), 0.0, 1000.0, zero=5349.376))
    assert chunk.samples_mv[0, 0] == pytest.approx((2041 - 2048) * 1.612 / 1000, abs=1e-6)


@pytest.mark.parametrize(("unit", "scale"), [("mV", 1), ("uV", 1e-3), ("\N{MICRO SIGN}V", 1e-3), ("V", 1e3)])
def test_the_unit_of_origin_scales_and_words_for_no_value_are_nan(unit: str, scale: float) -> None:
    message = _sampled(origin={"value": 1, "unit": unit}, data="1 E -2.5 U L 3e0")
    chunk = _one(message, "fhir", Wiring(("V2",), 0.0, 0.0))
    wanted = scale * np.array([1.5, np.nan, -0.25, np.nan, np.nan, 2.5])
    assert np.allclose(chunk.samples_mv, [wanted], equal_nan=True)
    assert chunk.rate_hz == 250


def test_several_dimensions_are_interleaved() -> None:
    chunk = _one(_sampled(dimensions=2, data="0 1 2 3", factor=1, origin={"value": 0, "code": "mV"}), "fhir", Wiring(("I", "V6"), 0.0, 0.0))
    assert (chunk.leads, chunk.samples_mv.tolist()) == (("I", "V6"), [[0.0, 2.0], [1.0, 3.0]])


@pytest.mark.parametrize(
    ("code", "lead"),
    [
        ({"coding": [{"code": str(code)}]}, lead)
        for code, lead in zip((131329, 131330, 131389, 131390, 131391, 131392, *range(131331, 131337)), LEADS, strict=True)
    ]
    + [
        ({"text": "Lead aVF"}, "aVF"),
        ({"coding": [{"display": "MDC_ECG_ELEC_POTL_V3"}]}, "V3"),
        ({"coding": [{"code": "131329", "display": "V1"}]}, "I"),
    ],
)
def test_a_lead_is_named_by_its_11073_code_or_its_words(code: dict[str, Any], lead: str) -> None:
    message = {
        "resourceType": "Observation",
        "component": [{"code": code, "valueSampledData": json.loads(_sampled())}, {"valueQuantity": {}}],
    }
    assert _one(json.dumps(message).encode(), "fhir").leads == (lead,)


def test_a_period_that_was_rounded_is_the_rate_it_means() -> None:
    assert _one(_sampled(period=2.778), "fhir", Wiring(("I",), 0.0, 0.0)).rate_hz == 360
    assert _one(_sampled(period=1000 / 130.061), "fhir", Wiring(("I",), 0.0, 0.0)).rate_hz == pytest.approx(130.061)


@pytest.mark.parametrize("stamp", ["2026-01-01T00:00:{:06.3f}Z", "2026-01-01T01:00:{:06.3f}+01:00", "2026-01-01T00:00:{:09.6f}000Z"])
def test_the_effective_time_tells_lost_messages(stamp: str) -> None:
    decoder = FhirDecoder(BARE)
    starts = [
        c.start
        for i in (0, 1, 4)
        for c in decoder.feed(
            json.dumps(json.loads(_hl7({"period": 10}, {"unit": "mV"})) | {"effectiveDateTime": stamp.format(i * 0.1)}).encode()
        )
    ]
    assert starts == [0, 10, 40]
    assert decoder.tally.lost == 20


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data": 5}, "must be a text"),
        ({"data": "1 x"}, "no number"),
        ({"data": ""}, "samples a lead"),
        ({"data": "1 2 3", "dimensions": 2}, "do not divide"),
        ({"dimensions": 0}, "whole number"),
        ({"period": 0}, "the interval is"),
        ({"period": 1e-320}, "the interval is"),
        ({"period": None}, "missing"),
        ({"interval": 1, "intervalUnit": "h"}, "intervalUnit"),
        ({"interval": 1, "intervalUnit": []}, "intervalUnit"),
        ({"offsets": "1 2"}, "evenly spaced"),
        ({"origin": {"value": 0, "code": "mm[Hg]"}}, "unit of origin"),
        ({"factor": "2"}, "factor"),
        ({"resourceType": "Bundle"}, "send an Observation"),
    ],
)
def test_a_wrong_fhir_message_is_refused_in_words(fields: dict[str, Any], words: str) -> None:
    decoder = FhirDecoder(Wiring(("I",), 0.0, 0.0))
    assert list(decoder.feed(_sampled(**fields))) == []
    assert decoder.tally.broken == 1
    assert words in (decoder.last_error or "")


WORDS = [
    "v",
    "seq",
    "t",
    "hz",
    "leads",
    "mv",
    "adc",
    "mv_per_lsb",
    "lead_off",
    "resourceType",
    "Observation",
    "component",
    "code",
    "coding",
    "text",
]
WORDS += [
    "valueSampledData",
    "origin",
    "value",
    "unit",
    "period",
    "interval",
    "intervalUnit",
    "factor",
    "dimensions",
    "data",
    "effectiveDateTime",
    "I",
    "1 2",
]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=6),
    max_leaves=20,
)


@pytest.mark.parametrize("kind", MESSAGE_DEVICES, ids=lambda kind: kind.name)
@given(
    value=values, start=st.sampled_from([{}, json.loads(_json()), json.loads(_hl7({"period": 4}, {"unit": "mV"})), json.loads(_sampled())])
)
def test_no_document_is_an_exception(kind: Device, value: Any, start: dict[str, Any]) -> None:
    for wiring in (BARE, Wiring(("I", "II"), 250.0, 200.0)):
        decoder = kind.decoder(wiring)
        document = start | value if isinstance(value, dict) else value
        assert len([*decoder.feed(json.dumps(document).encode()), *decoder.flush()]) + decoder.tally.broken == 1


@pytest.mark.parametrize("kind", MESSAGE_DEVICES, ids=lambda kind: kind.name)
@given(st.binary(max_size=300))
def test_no_bytes_are_an_exception(kind: Device, data: bytes) -> None:
    decoder = kind.decoder(BARE)
    for message in (data, b"\xecgl" + data, b"[" * 200_000, b'{"a":' * 100_000, b'{"mv":[[' + b"9" * 5000 + b"]]}", b"{}", b""):
        assert [*decoder.feed(message), *decoder.flush()] == []
    assert decoder.tally.broken == 7


@pytest.mark.parametrize("kind", MESSAGE_DEVICES, ids=lambda kind: kind.name)
@given(leads=st.permutations(LEADS), signals=st.integers(1, 12), samples=st.integers(1, 50), rate_hz=st.sampled_from([125.0, 360.0, 500.0]))
def test_encoded_samples_come_back(kind: Device, leads: list[str], signals: int, samples: int, rate_hz: float) -> None:
    wiring = kind.wire(leads=leads[:signals], rate_hz=rate_hz)
    mv = np.random.default_rng(samples).normal(0, 2, (signals, 3 * samples)).astype(np.float32)
    encoder, decoder = kind.encoder(wiring), kind.decoder(BARE)
    chunks = [c for at in range(3) for c in decoder.feed(encoder.feed(mv[:, at * samples : (at + 1) * samples]))]
    assert [c.start for c in chunks] == [0, samples, 2 * samples]
    assert all((c.leads, c.rate_hz) == (tuple(leads[:signals]), rate_hz) for c in chunks)
    assert np.abs(np.concatenate([c.samples_mv for c in chunks], axis=1) - mv).max() <= (0.000501 if kind.name == "fhir" else 0)


def test_auto_reads_each_message_as_what_it_is_and_keeps_one_count() -> None:
    wiring = Wiring(("I", "II"), 100.0, 1000.0)
    mv = np.zeros((2, 10), np.float32)
    binary = FrameEncoder(wiring)
    twice = binary.feed(mv) + binary.feed(mv)
    decoder = DEVICES["auto"].decoder(BARE)
    messages = [twice, _json(seq=2, t=None, hz=100, mv=[[0] * 10] * 2), _hl7({"period": 10}, {"unit": "mV"}), twice[:-1]]
    chunks = [c for message in messages for c in decoder.feed(message)]
    assert [c.start for c in chunks] == [0, 10, 20, 30]
    assert decoder.tally.broken == 1


@pytest.mark.parametrize("name", DEVICES)
def test_every_device_has_its_name_and_can_be_wired(name: str) -> None:
    kind = device(name)
    assert kind.name == name
    wiring = kind.wire(leads=() if kind.wiring.leads else ("I",), rate_hz=250)
    data = kind.encoder(wiring).feed(np.zeros((len(wiring.leads), 40), np.float32))
    decoder = kind.decoder(wiring)
    chunks = [*decoder.feed(data), *decoder.flush()]
    assert {c.leads for c in chunks} == {wiring.kept}
    assert chunks[-1].end == decoder.tally.samples > 0


def test_an_unknown_device_is_told_the_nearest_and_all() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'cyton'.*olimex.*auto"):
        device("Cytonn")
