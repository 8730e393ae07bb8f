"""A Philips Sierra XML in; its recording, with the statements of its analysis, out.

Source: files of versions 1.03 and 1.04, and the sierraecg package, which decompresses XLI. A digit is `resolution` uV; one
at the end that all leads share, 1 mV for 0.2 s, is the calibration mark and no heart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError
from kernels.signal import LEADS, standard_lead

from ..decode.csv import Columns
from .recording import Annotation, RecordingFile, damaged, library
from .xml import MOST_SIGNALS, Block, Digits, digits, inner, integers, join, number, payload, positive, read_xml

VERSIONS = ("1.03", "1.04", "1.04.01", "1.04.02")

_CHARACTERISTICS = "dataacquisition/signalcharacteristics/"
_TWELVE = ("STD-12", "10-WIRE")
"""Acquisitions whose leads are in the standard order where the file does not name them."""
_LIMBS = LEADS[:6]
_BITS = 10
_HEADER = 8
_LONGEST = 1 << 20
"""Samples that one block of XLI may hold, half an hour: a few bytes of it can stand for any number."""
_SHORTEST_MARK_S = 0.2


def open_sierra(path: Path, columns: Columns) -> RecordingFile:
    """Raises ConfigError for a damaged file, an unknown version, or one whose samples end before they should."""
    root = read_xml(path)
    version = inner(root, "documentinfo/documentversion")
    if version not in VERSIONS:
        raise ConfigError(f"is Philips XML of version {version[:20]!r}; export it as one of {', '.join(VERSIONS)}")
    waveforms = root.find(".//parsedwaveforms")
    if waveforms is None:
        raise ConfigError("holds no parsed waveforms; export it again with them")
    rate_hz = positive(waveforms.get("samplespersecond") or inner(root, _CHARACTERISTICS + "samplingrate"), "its rate")
    uv_per_digit = positive(_resolution(root, waveforms), "its resolution")
    zero = number(waveforms.get("signaloffset") or inner(root, _CHARACTERISTICS + "signaloffset") or "0", "its offset")
    names = _names(root, waveforms)
    units = np.array(_whole(_read(waveforms, names), _promised(waveforms, rate_hz), rate_hz))
    signals_mv = _before_mark((units - zero) * (uv_per_digit / 1000), rate_hz)
    return join(path.stem, [Block(rate_hz, names, list(signals_mv))], columns, list(_statements(root)))


def _resolution(root: Element, waveforms: Element) -> str:
    """In uV; version 1.03 calls it otherwise."""
    said = (inner(root, _CHARACTERISTICS + name) for name in ("resolution", "signalresolution"))
    return waveforms.get("resolution") or next((text for text in said if text), "")


def _names(root: Element, waveforms: Element) -> Sequence[str]:
    named = waveforms.get("leadlabels", "").split()
    count = waveforms.get("numberofleads") or inner(root, _CHARACTERISTICS + "numberchannelsallocated") or str(len(named) or len(LEADS))
    leads = round(positive(count, "its number of leads"))
    if not 0 < leads <= MOST_SIGNALS:
        raise ConfigError(f"holds {leads} leads; export it with 1 to {MOST_SIGNALS}")
    if named:
        return named[:leads]
    kinds = [inner(root, _CHARACTERISTICS + name) for name in ("acquisitiontype", "leadset")]
    if leads > len(LEADS) or not any(kind in _TWELVE for kind in kinds):
        raise ConfigError(f"does not name its {leads} leads, and {kinds[0][:20]!r} is no known set; export it again with lead labels")
    return LEADS[:leads]


def _promised(waveforms: Element, rate_hz: float) -> int | None:
    """Samples of each lead; None where the file does not say."""
    duration_ms = waveforms.get("durationperchannel")
    return None if duration_ms is None else round(positive(duration_ms, "its duration") * rate_hz / 1000)


def _whole(units: Sequence[Digits], promised: int | None, rate_hz: float) -> list[Digits]:
    held = min(map(len, units))
    if promised is not None and held < promised:
        raise ConfigError(f"is truncated: it holds {held / rate_hz:.2f} of {promised / rate_hz:.2f} s; export it again")
    return [lead[: promised or held] for lead in units]


def _read(waveforms: Element, names: Sequence[str]) -> Sequence[Digits]:
    """The digits of each lead, one lead after another in the file."""
    what, text, encoding, method = "the leads", waveforms.text or "", waveforms.get("dataencoding"), _compression(waveforms)
    if encoding == "Plain" and method == "Uncompressed":
        return _split(digits(text, what), len(names))
    if encoding != "Base64" or method not in ("XLI", "Uncompressed"):
        raise ConfigError(f"holds samples as {encoding} {method}; export it as Base64, compressed by XLI or not at all")
    data = payload(text, what)
    if method == "Uncompressed":
        return _split(integers(data, "<i2", what), len(names))
    units = list(_decompress(data, len(names)))
    stored = [standard_lead(name) for name in names[: len(_LIMBS)]] == list(_LIMBS)
    return [lead.astype(np.float64) for lead in (_restore(units) if stored else units)]


def _compression(waveforms: Element) -> str:
    """A flag without a method means the only one there is."""
    flag = waveforms.get("compressflag", "").casefold()
    method = waveforms.get("compression") or waveforms.get("compressmethod") or ("XLI" if flag == "true" else "Uncompressed")
    return "Uncompressed" if flag == "false" else method


def _split(units: Digits, leads: int) -> Sequence[Digits]:
    return list(units[: len(units) // leads * leads].reshape(leads, -1))


def _decompress(data: bytes, leads: int) -> Iterator[npt.NDArray[np.int64]]:
    """A block a lead: its length, the first difference of differences, then LZW codes."""
    for _ in range(leads):
        size, first = int.from_bytes(data[:4], "little", signed=True), int.from_bytes(data[6:_HEADER], "little", signed=True)
        codes, data = data[_HEADER : _HEADER + size], data[_HEADER + size :]
        if len(codes) != size or not size:
            raise ConfigError("is truncated within its compressed samples; copy it again")
        with damaged("the sierraecg package"):
            decoder = library("sierraecg.lzw").LzwDecoder(codes, bits=_BITS)
            packed = bytes(islice(iter(decoder.read, -1), 2 * _LONGEST + 1))
        if len(packed) > 2 * _LONGEST or len(packed) < 4:
            raise ConfigError("is damaged within its compressed samples; copy it again")
        yield _integrate(packed, first)


def _integrate(packed: bytes, first: int) -> npt.NDArray[np.int64]:
    """All high bytes stand before all low ones. Two values are samples; each further one, less 64, bends the slope a sample later."""
    high, low = np.frombuffer(packed + bytes(len(packed) % 2), np.uint8).reshape(2, -1)
    values = (high.astype(np.uint16) << 8 | low).astype(np.int16).astype(np.int64)
    turns = np.concatenate([[first], values[2:-1] - 64])[: max(len(values) - 2, 0)]
    slopes = np.concatenate([[values[1] - values[0]], -turns]).cumsum()
    return np.concatenate([values[:1], values[0] + slopes.cumsum()])


def _restore(units: Sequence[npt.NDArray[np.int64]]) -> Sequence[npt.NDArray[np.int64]]:
    """III to aVF are stored as what they differ by from their sum of I and II."""
    samples = min(map(len, units))
    lead_i, lead_ii, off_iii, off_avr, off_avl, off_avf = (lead[:samples] for lead in units[: len(_LIMBS)])
    lead_iii = lead_ii - lead_i - off_iii
    lead_avr = -off_avr - (lead_i + lead_ii) // 2
    lead_avl = (lead_i - lead_iii) // 2 - off_avl
    lead_avf = (lead_ii + lead_iii) // 2 - off_avf
    return [lead_i, lead_ii, lead_iii, lead_avr, lead_avl, lead_avf, *units[len(_LIMBS) :]]


def _before_mark(signals_mv: npt.NDArray[np.float64], rate_hz: float) -> npt.NDArray[np.float64]:
    """[leads, n] without the calibration mark, a rectangle that stands at the end of all leads."""
    differ = np.flatnonzero((signals_mv != signals_mv[0]).any(axis=0))
    begin = differ[-1] + 1 if differ.size else 0
    tail = signals_mv[0, begin:]
    high = np.isclose(tail, 1.0, atol=0.01)
    is_mark = bool(begin) and high.sum() >= _SHORTEST_MARK_S * rate_hz and bool((high | (tail == 0)).all())
    return signals_mv[:, :begin] if is_mark and len(signals_mv) > 1 else signals_mv


def _statements(root: Element) -> Iterator[Annotation]:
    """What the analysis says, and why; then how severe it is."""
    for interpretation in root.findall("interpretations/interpretation"):
        for statement in interpretation.findall("statement"):
            left, right = inner(statement, "leftstatement"), inner(statement, "rightstatement")
            yield from _note(f"{left} ({right})" if right else left)
        yield from _note(inner(interpretation, "severity").strip("- "))


def _note(text: str) -> Iterator[Annotation]:
    if text:
        yield Annotation(0.0, text)
