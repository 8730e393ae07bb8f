"""A GE XML, of MUSE or of CardioSoft, in; its rhythm recording, with the statements of its analysis, out.

Source: files that MUSE 7 to 9 (root RestingECG) and CardioSoft 6 (root CardiologyXML) export. Median beats are not read.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from kernels.findings import ConfigError

from ..decode.csv import Columns
from .recording import Annotation, RecordingFile
from .xml import Block, Digits, digits, inner, integers, join, number, payload, positive, read_xml

_MV = {"MICROVOLTS": 1e-3, "MICROVOLT": 1e-3, "UV": 1e-3, "MILLIVOLTS": 1.0, "MILLIVOLT": 1.0, "MV": 1.0, "NANOVOLTS": 1e-6, "VOLTS": 1e3}
_KINDS = {1: "<i1", 2: "<i2", 4: "<i4"}
"""Of a sample, by its bytes."""
_LARGEST_EXPONENT = 6
_OFFSETS = ("LeadOffsetFirstSample", "LeadTimeOffset")
_END_OF_LINE = "ENDSLINE"


def open_muse(path: Path, columns: Columns) -> RecordingFile:
    """The leads that were measured, most often I, II and V1 to V6. Raises ConfigError for a damaged file, or one without a rhythm."""
    root = read_xml(path)
    waveforms = [each for each in root.findall("Waveform") if inner(each, "WaveformType").casefold() in ("rhythm", "")]
    notes = [*_statements(root), *_complexes(root)]
    return join(path.stem, [_block(each) for each in waveforms], columns, notes)


def _block(waveform: Element) -> Block:
    exponent = number(inner(waveform, "SampleExponent") or "0", "its sample exponent")
    if abs(exponent) > _LARGEST_EXPONENT:
        raise ConfigError(f"gives its sample exponent as {exponent:g}, which cannot be; export it again")
    leads = waveform.findall("LeadData")
    for name in _OFFSETS:
        if len({inner(lead, name) or "0" for lead in leads}) > 1:
            raise ConfigError(f"holds leads that do not begin at the same time ({name}); export it again")
    rate_hz = positive(inner(waveform, "SampleBase"), "its rate") * 10.0**exponent
    return Block(rate_hz, [inner(lead, "LeadID") for lead in leads], [_signal_mv(lead) for lead in leads])


def _signal_mv(lead: Element) -> Digits | None:
    """None without a unit of voltage; NaN where the electrode was off."""
    name = inner(lead, "LeadID")
    unit_mv = _MV.get(inner(lead, "LeadAmplitudeUnits").upper())
    if unit_mv is None:
        return None
    gain = positive(inner(lead, "LeadAmplitudeUnitsPerBit"), f"the gain of lead {name}") * unit_mv
    units = _units(lead, name)
    return np.full_like(units, np.nan) if inner(lead, "LeadOff").upper() == "TRUE" else units * gain


def _units(lead: Element, name: str) -> Digits:
    data = payload(lead.findtext("WaveFormData") or "", f"lead {name}")
    size = number(inner(lead, "LeadSampleSize") or "2", f"the sample size of lead {name}")
    if size not in _KINDS:
        raise ConfigError(f"holds samples of {size:g} bytes in lead {name}; export it with 2")
    units = integers(data, _KINDS[int(size)], f"lead {name}")
    promised = number(inner(lead, "LeadSampleCountTotal") or str(len(units)), f"the length of lead {name}")
    if len(units) != promised:
        raise ConfigError(f"holds {len(units)} of {promised:.0f} samples in lead {name}; copy it again")
    checksum = inner(lead, "LeadDataCRC32")
    if checksum.isdecimal() and int(checksum[:20]) != zlib.crc32(data):
        raise ConfigError(f"is damaged: the checksum of lead {name} is wrong; copy it again")
    return units


def _statements(root: Element) -> Iterator[Annotation]:
    """The lines of the diagnosis, as a physician left it; each is cut into pieces, the last of which says so."""
    line: list[str] = []
    for statement in root.findall("Diagnosis/DiagnosisStatement") or root.findall("OriginalDiagnosis/DiagnosisStatement"):
        line += [inner(statement, "StmtText")]
        if _END_OF_LINE in (inner(flag).upper() for flag in statement.findall("StmtFlag")):
            yield from _note(line)
            line = []
    yield from _note(line)


def _note(line: list[str]) -> Iterator[Annotation]:
    text = " ".join(piece for piece in line if piece)
    if text:
        yield Annotation(0.0, text)


def _complexes(root: Element) -> Iterator[Annotation]:
    """The QRS complexes that were found, in ms."""
    for complex_ in root.findall("QRSTimesTypes/QRS"):
        time = inner(complex_, "Time")
        if time.isdecimal():
            yield Annotation(number(time, "the time of a QRS complex") / 1000, "QRS complex")


def open_cardiosoft(path: Path, columns: Columns) -> RecordingFile:
    """Its strips, one after another where there are several. Raises ConfigError for a damaged file, or one without a strip."""
    root = read_xml(path)
    strips = [each for each in (*root.findall("StripData"), *root.findall("Strip/StripData")) if each.find("WaveformData") is not None]
    said = (note for tag in ("Diagnosis/DiagnosisText", "Conclusion/ConclusionText") for note in root.findall(f"Interpretation/{tag}"))
    notes = [note for each in said for note in _note([inner(each)])]
    return join(path.stem, [_strip(each) for each in strips], columns, notes)


def _strip(strip: Element) -> Block:
    resolution = strip.find("Resolution")
    unit = "" if resolution is None else resolution.get("units", "")
    if unit.casefold() != "uvperlsb":
        raise ConfigError(f"gives its resolution in {unit[:20]!r}; it must be uVperLsb; export it again")
    gain = positive(inner(strip, "Resolution"), "its resolution") / 1000
    leads = [(each.get("lead", ""), each.text or "") for each in strip.findall("WaveformData")]
    rate_hz = positive(inner(strip, "SampleRate"), "its rate")
    return Block(rate_hz, [name for name, _ in leads], [digits(text, f"lead {name}") * gain for name, text in leads])
