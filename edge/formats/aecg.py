"""An HL7 Annotated ECG in; the recording of its rhythm series, with its annotations, out.

Source: ANSI/HL7 V3 ECG, R1-2004 (aECG), and its implementation guide of 2005-03-21; codes of ISO/IEEE 11073-10102. A sample
is origin + scale * digit. Derived series, as a representative beat, are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from xml.etree.ElementTree import Element

from kernels.findings import ConfigError
from kernels.signal import standard_lead

from ..decode.csv import Columns
from ..decode.row_clock import CUSTOMARY_HZ
from ..decode.wfdb import mv_scale
from .recording import Annotation, RecordingFile
from .xml import Block, Digits, digits, inner, join, number, positive, read_xml

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "\N{MICRO SIGN}s": 1e-6, "\N{GREEK SMALL LETTER MU}s": 1e-6, "ns": 1e-9, "min": 60.0}
"""UCUM codes."""
_NEARLY = 1e-4
"""A time step that was rounded tells the rate no better: 2.778 ms are 360 Hz."""
_SIGNIFICANT = re.compile(r"0*\.?0*([1-9][\d.]*)")
_BEATS = ("REPRESENTATIVE_BEAT", "MEDIAN_BEAT", "AVERAGE_BEAT")
_TELLING_DIGITS = 3
_MOMENT = re.compile(r"(\d{4})(\d\d)(\d\d)(\d\d)?(\d\d)?(\d\d)?(\.\d{1,9})?([+-]\d{4})?")
_REGION = "support/supportingROI/component/boundary"

_WORDS = {
    "WAVC_PWAVE": "P wave",
    "WAVC_QWAVE": "Q wave",
    "WAVC_RWAVE": "R wave",
    "WAVC_SWAVE": "S wave",
    "WAVC_QRSWAVE": "QRS complex",
    "WAVC_QRSTWAVE": "QRS complex and T wave",
    "WAVC_PQRSTWAVE": "whole beat",
    "WAVC_TWAVE": "T wave",
    "WAVC_UWAVE": "U wave",
    "WAVC_DELTA": "delta wave",
    "WAVC_PRSEG": "PR segment",
    "WAVC_STSEG": "ST segment",
    "WAVC_STJ": "J point",
    "WAVC_AFLWAVE": "atrial flutter wave",
    "WAVC_VFLWAVE": "ventricular flutter wave",
    "WAVC_ARFCT": "isolated QRS-like artefact",
    "WAVC_CALP": "calibration pulse",
    "BEAT_NORMAL": "normal beat",
    "BEAT_ABNORMAL": "abnormal beat",
    "BEAT_DOMINANT": "dominant beat",
    "BEAT_SV_P_C": "supraventricular premature beat",
    "BEAT_ATR_P_C": "atrial premature beat",
    "BEAT_ATR_P_C_ABERR": "aberrated atrial premature beat",
    "BEAT_JUNC_P_C": "junctional premature beat",
    "BEAT_V_P_C": "ventricular premature beat",
    "BEAT_V_P_C_FUSION": "fusion of ventricular and normal beat",
    "BEAT_V_P_C_RONT": "R-on-T ventricular premature beat",
    "BEAT_ATR_PWAVE_BLK": "non-conducted P wave",
    "BEAT_SV_ESC": "supraventricular escape beat",
    "BEAT_ATR_ESC": "atrial escape beat",
    "BEAT_JUNC_ESC": "junctional escape beat",
    "BEAT_V_ESC": "ventricular escape beat",
    "BEAT_LBB_BLK_COMP": "left bundle branch block beat",
    "BEAT_RBB_BLK_COMP": "right bundle branch block beat",
    "BEAT_PREX": "pre-excited beat",
    "BEAT_PACED": "paced beat",
    "BEAT_PACED_FUS": "fusion of paced and normal beat",
    "BEAT_UNKNOWN": "unclassifiable beat",
    "NOISE_MODERATE": "moderate noise",
    "NOISE_SEVERE": "severe noise",
    "NOISE_NOSIGNAL": "no signal",
}
"""Of the reference identifiers behind MDC_ECG_."""
_SHORT = {
    "RHY": "rhythm",
    "ARRHY": "arrhythmia",
    "TACHY": "tachycardia",
    "BRADY": "bradycardia",
    "FIB": "fibrillation",
    "FLUT": "flutter",
    "ATR": "atrial",
    "AV": "AV",
    "SV": "supraventricular",
    "V": "ventricular",
    "VENT": "ventricular",
    "JUNC": "junctional",
    "IDIO": "idioventricular",
    "ACC": "accelerated",
    "ESC": "escape",
    "BLK": "block",
    "BIGEM": "bigeminy",
    "TRIGEM": "trigeminy",
    "MULTI": "multifocal",
    "PAROX": "paroxysmal",
}
"""Parts of other reference identifiers, as MDC_ECG_RHY_SINUS_RHY."""
_SILENT = ("WAVC_PEAK", "NOISE_CLEAN")
"""What the annotation around it, or nothing, says as well."""


def open_aecg(path: Path, columns: Columns) -> RecordingFile:
    """Its sequence sets in their times. Raises ConfigError for a damaged file, or one without rhythm leads."""
    root = read_xml(path)
    series = [each for each in root.findall("component/series") if _code(each).strip().upper().replace(" ", "_") not in _BEATS]
    found = [list(_blocks(each, alone=len(series) == 1)) for each in series]
    begun = [min((block.start_s for block in blocks if block.start_s is not None), default=None) for blocks in found]
    begin_s = min((start_s for start_s in begun if start_s is not None), default=None)
    notes = [note for each, start_s in zip(series, begun, strict=True) for note in _notes(each, begin_s, start_s)]
    blocks = [block for each in found for block in each]
    return join(path.stem, blocks, columns, sorted(notes, key=lambda note: note.at_s))


def _code(element: Element) -> str:
    return _attribute(element.find("code"), "code")


def _attribute(element: Element | None, name: str) -> str:
    return "" if element is None else element.get(name, "")


def _blocks(series: Element, alone: bool) -> Iterator[Block]:
    sets = series.findall("component/sequenceSet")
    for each in sets:
        sequences = each.findall("component/sequence")
        leads = [sequence for sequence in sequences if not _code(sequence).startswith("TIME_")]
        times = [sequence for sequence in sequences if _code(sequence).startswith("TIME_")]
        if leads and not times:
            raise ConfigError("has a sequence set without a time sequence, so that its rate is unknown; export it again")
        if leads:
            start_s = _start_s(times[0], _begin_s(series), alone, len(sets) == 1)
            yield Block(_rate_hz(times[0]), [_name(lead) for lead in leads], [_signal_mv(lead) for lead in leads], start_s)


def _rate_hz(time: Element) -> float:
    increment = time.find("value/increment")
    if increment is None:
        raise ConfigError("has a time sequence without an increment, so that its rate is unknown; export it with evenly spaced samples")
    unit = increment.get("unit", "")
    if unit not in _SECONDS:
        raise ConfigError(f"gives its time step in {unit[:20]!r}; it must be one of {' '.join(_SECONDS)}; export it again")
    rate_hz = 1 / (positive(increment.get("value", ""), "its time step") * _SECONDS[unit])
    return _unrounded(rate_hz, increment.get("value", ""))


def _unrounded(rate_hz: float, step: str) -> float:
    """The rate that was meant by a time step as it is written: 0.00333 s are 300 Hz, and 0.003 s nothing better."""
    if abs(round(rate_hz) / rate_hz - 1) < _NEARLY:
        return float(round(rate_hz))
    found = _SIGNIFICANT.fullmatch(step.strip())
    digits_held = found[1].replace(".", "") if found else ""
    half = 0.5 / int(digits_held) if len(digits_held) >= _TELLING_DIGITS else 0.0
    return next((float(hz) for hz in CUSTOMARY_HZ if abs(hz / rate_hz - 1) < half), rate_hz)


def _start_s(time: Element, begin_s: float | None, alone: bool, alone_in_series: bool) -> float | None:
    """On the clock of the day, or from the beginning of the only series; None where nothing tells."""
    head = time.find("value/head")
    value = _attribute(head, "value")
    if _code(time) == "TIME_ABSOLUTE" and value:
        return _moment(value)
    unknown = (not value and not alone_in_series) or (begin_s is None and not alone)
    return None if unknown else (begin_s or 0.0) + (_quantity_s(head) or 0.0)


def _begin_s(series: Element) -> float | None:
    stamps = (_attribute(series.find(f"effectiveTime/{end}"), "value") for end in ("low", "center"))
    return next((_moment(stamp) for stamp in stamps if stamp), None)


def _moment(text: str) -> float | None:
    """Seconds since 1970 of an HL7 time stamp, YYYYMMDDHHMMSS.UUUU+ZZZZ; without a zone in that of the other stamps."""
    stamp = _MOMENT.fullmatch(text.strip())
    if stamp is None:
        return None
    *fields, fraction, zone = stamp.groups()
    ahead = timedelta(hours=int(zone[:3]), minutes=int(zone[0] + zone[3:])) if zone else timedelta()
    try:
        whole = datetime(*(int(field or 0) for field in fields), tzinfo=timezone.utc)  # type: ignore[misc, arg-type]
    except ValueError:
        return None
    return whole.timestamp() - ahead.total_seconds() + float(fraction or 0)


def _quantity_s(element: Element | None) -> float | None:
    """A time with its unit."""
    if element is None or element.get("unit", "") not in _SECONDS:
        return None
    return number(element.get("value", ""), "a time") * _SECONDS[element.get("unit", "")]


def _name(sequence: Element) -> str:
    """The lead's code, of MDC or of a maker's own that ends the same; else its display name, if that says more."""
    code = _code(sequence)
    known = code.rpartition("_LEAD_")[2]
    shown = _attribute(sequence.find("code"), "displayName")
    return next((name for name in (known, shown) if standard_lead(name)), code or shown)


def _signal_mv(sequence: Element) -> Digits | None:
    """None for what has no unit of voltage."""
    scale, origin = sequence.find("value/scale"), sequence.find("value/origin")
    units_in_a_mv = None if scale is None else mv_scale(scale.get("unit", ""))
    if scale is None or units_in_a_mv is None:
        return None
    what = _code(sequence)
    gain = number(scale.get("value", ""), f"the scale of {what}")
    if gain == 0:
        raise ConfigError(f"gives the scale of {what} as 0; export it again")
    return (digits(sequence.findtext("value/digits") or "", what) * gain) / units_in_a_mv + _origin_mv(origin, units_in_a_mv)


def _origin_mv(origin: Element | None, units_in_a_mv: float) -> float:
    if origin is None:
        return 0.0
    return number(origin.get("value") or "0", "an origin") / (mv_scale(origin.get("unit", "")) or units_in_a_mv)


def _notes(series: Element, begin_s: float | None, start_s: float | None) -> Iterator[Annotation]:
    """Of the annotation sets of a series that begins at `start_s`, in seconds of the recording, which begins at `begin_s`."""
    ahead_s = 0.0 if start_s is None or begin_s is None else start_s - begin_s
    for each in series.findall("subjectOf/annotationSet"):
        for annotation in each.iter("annotation"):
            text = _text(annotation)
            times = [time_s for edge in _regions(annotation) for time_s in _times_s(edge, begin_s, ahead_s)]
            if text:
                low_s, high_s = min(times, default=ahead_s), max(times, default=ahead_s)
                yield Annotation(round(low_s, 6), text, round(high_s, 6) if high_s > low_s else None)


def _text(annotation: Element) -> str:
    """In words; empty for a measurement, which is a quantity, and for what only holds others."""
    value = annotation.find("value")
    if value is None:
        return ""
    reference = value.get("code", "").upper().removeprefix("MDC_ECG_")
    if reference in _SILENT:
        return ""
    spelled = " ".join(_SHORT.get(word, word.lower()) for word in reference.partition("_")[2].split("_")) or reference.lower()
    return inner(value) or _WORDS.get(reference) or value.get("displayName", "") or spelled


def _regions(annotation: Element) -> Sequence[Element]:
    """What bounds it in time, or the parts of it."""
    return annotation.findall(_REGION) or annotation.findall(f"component/annotation/{_REGION}")


def _times_s(boundary: Element, begin_s: float | None, ahead_s: float) -> Iterator[float]:
    value = boundary.find("value")
    edges = [] if value is None else [value, *value.findall("low"), *value.findall("high")]
    for edge in edges:
        time_s = _moment(edge.get("value", "")) if _code(boundary) == "TIME_ABSOLUTE" else None
        if time_s is not None and begin_s is not None:
            yield time_s - begin_s
        elif _code(boundary) == "TIME_RELATIVE" and edge.get("value"):
            yield ahead_s + (_quantity_s(edge) or 0.0)
