"""HL7 FHIR messages, a bare SampledData or an Observation with one SampledData a lead, in; the `Chunk`s that they hold, out.

Source: HL7 FHIR R4 (4.0.1) and R5 (5.0.0), datatypes SampledData and Quantity; lead codes of ISO/IEEE 11073-10102. A sample
is origin + factor * data. E, U and L are invalid samples.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples, standard_lead

from .device import Device, Encoder, Wiring, of_twelve
from .json_frame import MOST_SIGNALS, MessageDecoder, Refused, build, number, parse, rate, show
from .sequence import Frame
from .wfdb import FASTEST_HZ, mv_scale

MDC = "urn:oid:2.16.840.1.113883.6.24"
"""The code system of ISO/IEEE 11073-10101."""

_MDC_OF_ALL_LEADS = 131328
_MDC_CODES = dict(zip(LEADS, (131329, 131330, 131389, 131390, 131391, 131392, *range(131331, 131337)), strict=True))
"""MDC_ECG_ELEC_POTL_I and so on."""
_LEAD_OF_CODE = {str(code): lead for lead, code in _MDC_CODES.items()}
_MDC_NAME = re.compile(r"MDC_ECG_(ELEC_POTL|LEAD)_(?P<lead>\w+)")

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0}
"""UCUM codes."""
_NEARLY = 1e-4
"""A period that was rounded tells its rate no better: 2.778 ms are 360 Hz."""
_INVALID = {"E": math.nan, "U": math.nan, "L": math.nan}
_FRACTION = re.compile(r"\.(\d+)")


class FhirDecoder(MessageDecoder):
    """Observations and SampledData as JSON."""

    def read(self, message: bytes) -> Iterable[Frame]:
        """The one frame of one message. Raises Refused."""
        return (to_frame(parse(message), self._wiring),)


def is_fhir(document: Mapping[str, Any]) -> bool:
    """Whether an object is a resource or a bare SampledData."""
    return "resourceType" in document or {"origin", "data"} <= document.keys()


def to_frame(document: Mapping[str, Any], wiring: Wiring) -> Frame:
    """The frame that an Observation or a SampledData describes. Raises Refused."""
    if "resourceType" not in document:
        return _build(None, [(None, document)], wiring)
    if document["resourceType"] != "Observation":
        raise Refused(f"the message is a FHIR {show(document['resourceType'])}; send an Observation or a SampledData")
    return _build(_time(document), list(_series(document)), wiring)


def _series(document: Mapping[str, Any]) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
    """Each SampledData of an Observation, with the lead that its code names."""
    components = document.get("component")
    for part in (document, *(components if isinstance(components, list) else ())):
        sampled = part.get("valueSampledData") if isinstance(part, dict) else None
        if isinstance(sampled, dict):
            yield _lead(part.get("code")), sampled


def _build(t_s: float | None, series: Sequence[tuple[str | None, Mapping[str, Any]]], wiring: Wiring) -> Frame:
    if not 0 < len(series) <= MOST_SIGNALS:
        raise Refused(f"the Observation holds {len(series)} valueSampledData; send from 1 to {MOST_SIGNALS}, one a lead")
    rates = {_rate(sampled, wiring) for _, sampled in series}
    if len(rates) > 1:
        raise Refused("the components differ in interval; send all leads at one rate")
    blocks = [_samples(sampled, wiring) for _, sampled in series]
    if len({block.shape[1] for block in blocks}) > 1:
        raise Refused("the components differ in length; send as many samples for each lead")
    return build(None, t_s, rates.pop(), _names(series, blocks), np.concatenate(blocks), (), wiring)


def _names(series: Sequence[tuple[str | None, object]], blocks: Sequence[npt.NDArray[np.float64]]) -> list[str] | None:
    """A name for each row; None where no code says anything, as in a bare SampledData."""
    if all(lead is None for lead, _ in series):
        return None
    return [lead or "unknown" for (lead, _), block in zip(series, blocks, strict=True) for _ in block]


def _lead(code: Any) -> str | None:
    """The lead of a CodeableConcept: by its MDC code, which counts more than words, else by display or text."""
    codings = code.get("coding") if isinstance(code, dict) else None
    codings = [each for each in codings if isinstance(each, dict)] if isinstance(codings, list) else []
    codes = [each.get("code") for each in codings]
    by_code = [_LEAD_OF_CODE[each] for each in codes if isinstance(each, str) and each in _LEAD_OF_CODE]
    words = [*(each.get("display") for each in codings), code.get("text") if isinstance(code, dict) else None]
    by_word = [lead for word in words if isinstance(word, str) and (lead := _lead_of_word(word))]
    return next(iter([*by_code, *by_word]), None)


def _lead_of_word(word: str) -> str | None:
    named = _MDC_NAME.fullmatch(word.strip())
    return standard_lead(named["lead"] if named else word)


def _rate(sampled: Mapping[str, Any], wiring: Wiring) -> float:
    """From `period` in ms (R4) or `interval` and `intervalUnit` (R5)."""
    unit = sampled.get("intervalUnit", "ms") if "interval" in sampled else "ms"
    if not isinstance(unit, str) or unit not in _SECONDS:
        raise Refused(f"intervalUnit is {show(unit)}; send one of {' '.join(_SECONDS)}")
    value = sampled.get("interval", sampled.get("period"))
    if value is None:
        return rate("interval (R5) or period (R4)", None, wiring)
    interval_s = number("interval or period", value) * _SECONDS[unit]
    if not 1 / FASTEST_HZ <= interval_s <= 1:
        raise Refused(f"the interval is {interval_s:g} s; send the time from one sample to the next, at most 1 s")
    rate_hz = 1 / interval_s
    return rate("the rate of interval or period", round(rate_hz) if abs(round(rate_hz) / rate_hz - 1) < _NEARLY else rate_hz, wiring)


def _samples(sampled: Mapping[str, Any], wiring: Wiring) -> npt.NDArray[np.float64]:
    """[dimensions, n] in mV."""
    if sampled.get("offsets"):
        raise Refused("the SampledData has offsets, so its samples are not evenly spaced; send a fixed interval")
    dimensions = number("dimensions", sampled.get("dimensions", 1))
    if dimensions not in range(1, MOST_SIGNALS + 1):
        raise Refused(f"dimensions is {dimensions:g}; send a whole number from 1 to {MOST_SIGNALS}")
    units = _digits(sampled.get("data"))
    if len(units) % int(dimensions):
        raise Refused(f"data holds {len(units)} values, which {dimensions:g} dimensions do not divide; send all of each sample")
    origin = sampled.get("origin")
    origin = origin if isinstance(origin, dict) else {}
    value = number("origin.value", origin.get("value", 0)) + units * number("factor", sampled.get("factor", 1))
    return _to_mv(value, origin, wiring).reshape(-1, int(dimensions)).T


def _to_mv(value: npt.NDArray[np.float64], origin: Mapping[str, Any], wiring: Wiring) -> npt.NDArray[np.float64]:
    unit = origin.get("code", origin.get("unit"))
    if unit is None and wiring.units_per_mv:
        return (value - wiring.zero) / wiring.units_per_mv
    scale = mv_scale(unit) if isinstance(unit, str) else None
    if scale is None:
        raise Refused(f"the unit of origin is {show(unit)}; send mV, uV or V, or leave it out and give `units_per_mv` in the configuration")
    return value / scale


def _digits(data: Any) -> npt.NDArray[np.float64]:
    """Decimals between blanks."""
    if not isinstance(data, str) or "_" in data:
        raise Refused("data must be a text of numbers between blanks, with E, U or L for an invalid sample")
    try:
        return np.array([_INVALID[word] if word in _INVALID else float(word) for word in data.split()], np.float64)
    except ValueError as error:
        raise Refused(f"data holds a word that is no number ({str(error)[-40:]}); send numbers, E, U or L") from None


def _time(document: Mapping[str, Any]) -> float | None:
    """When the first sample was taken; None for a date without a time or a zone."""
    period = document.get("effectivePeriod")
    start = period.get("start") if isinstance(period, dict) else None
    text = document.get("effectiveDateTime", document.get("effectiveInstant", start))
    if not isinstance(text, str) or len(text) > 64:
        return None
    text = _FRACTION.sub(lambda digits: "." + digits[1][:6].ljust(6, "0"), text.replace("Z", "+00:00"))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return max(moment.timestamp(), 0.0) or None if moment.tzinfo else None


class FhirEncoder(Encoder):
    """One R4 Observation for each call, a component a lead, in steps of 1 / units_per_mv mV; an electrode off is a lead of E."""

    def __init__(self, wiring: Wiring, begin_s: float | None = None) -> None:
        """`begin_s` is the time of the first sample since 1970, without which no loss is noticed. Raises ConfigError without a rate."""
        if not wiring.rate_hz:
            raise ConfigError("rate_hz must be given, so that the messages can say it")
        self._wiring = of_twelve(wiring)
        self._factor = 1 / (wiring.units_per_mv or 1000.0)
        self._begin_s = begin_s
        self._sent = 0

    def feed(self, samples_mv: Samples, lead_off: tuple[str, ...] = ()) -> bytes:
        """Samples [signals, n] of the wiring's leads, or of all twelve where it names none."""
        leads, kept = self._wiring.kept, self._wiring.keep(samples_mv)
        document: dict[str, Any] = {"resourceType": "Observation", "status": "preliminary", "code": _concept(_MDC_OF_ALL_LEADS, "")}
        if self._begin_s is not None:
            moment = datetime.fromtimestamp(self._begin_s + self._sent / self._wiring.rate_hz, timezone.utc)
            document["effectiveInstant"] = moment.isoformat(timespec="microseconds")
        values = [self._sampled(row, lead in lead_off) for lead, row in zip(leads, kept, strict=True)]
        document["component"] = [
            {"code": _concept(_MDC_CODES[lead], f"_{lead.upper()}"), "valueSampledData": value}
            for lead, value in zip(leads, values, strict=True)
        ]
        self._sent += samples_mv.shape[1]
        return json.dumps(document, separators=(",", ":")).encode()

    def _sampled(self, lead_mv: npt.NDArray[np.float32], off: bool) -> dict[str, Any]:
        units = np.rint(lead_mv.astype(np.float64) / self._factor).tolist()
        return {
            "origin": {"value": 0, "unit": "mV", "system": "http://unitsofmeasure.org", "code": "mV"},
            "period": 1000 / self._wiring.rate_hz,
            "factor": self._factor,
            "dimensions": 1,
            "data": " ".join("E" if off or math.isnan(unit) else str(int(unit)) for unit in units),
        }


def _concept(code: int, lead: str) -> dict[str, Any]:
    return {"coding": [{"system": MDC, "code": str(code), "display": f"MDC_ECG_ELEC_POTL{lead}"}]}


DEVICE = Device(
    name="fhir",
    title="HL7 FHIR Observations",
    wiring=Wiring(leads=(), rate_hz=0.0, units_per_mv=0.0),
    decoder=FhirDecoder,
    encoder=FhirEncoder,
    signals=range(1, MOST_SIGNALS + 1),
    by_message=True,
)
