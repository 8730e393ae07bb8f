"""A DICOM waveform object in; the leads of its original multiplex groups, read by pydicom, and its annotations, out.

Source: DICOM PS3.3, C.10.9 (Waveform Module) and C.10.10 (Waveform Annotation Module); lead codes of PS3.16, CID 3001.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples, standard_lead

from ..decode.chunk import PAIR, finite, name_leads, split_pair
from ..decode.csv import Columns
from ..decode.electrodes import leads_among
from ..decode.wfdb import FASTEST_HZ, mv_scale, voltage_leads
from .rates import Series, merge
from .recording import Annotation, RecordingFile, damaged, library, said

_CODE = re.compile(r"(?:2:|5\.6\.3-9-)(\d+)")
"""Of a lead, as ISO/IEEE 11073 (MDC) and as SCP-ECG write it."""
_BY_CODE = {1: "I", 2: "II", 61: "III", 62: "aVR", 63: "aVL", 64: "aVF"} | {2 + n: f"V{n}" for n in range(1, 7)}
_NO_SENSITIVITY = "its rhythm leads have no sensitivity or unit, so their size in mV is unknown; export it again"
_COMPANDED = ("MB", "AB")
_SEVERAL = "MULTIPOINT"
_STRETCHES = ("SEGMENT", "MULTISEGMENT")


@dataclass(frozen=True, slots=True)
class _Channels:
    """The signals of one multiplex group, an item each."""

    names: tuple[str, ...]
    mv_per_digit: tuple[float, ...]
    """NaN for what is no voltage."""
    baseline_mv: tuple[float, ...]

    without_unit: tuple[bool, ...]

    @property
    def lacks_unit(self) -> bool:
        """Whether it would hold a lead, if its size were known."""
        return any(name in LEADS and lacks for name, lacks in zip(leads_among(self.names), self.without_unit, strict=True))

    @property
    def holds_lead(self) -> bool:
        return any(name in LEADS and np.isfinite(scale) for name, scale in zip(leads_among(self.names), self.mv_per_digit, strict=True))

    def given(self, given: Sequence[str]) -> tuple[str, ...]:
        """Of the leads that the operator names, those of this group: pairs are for all groups together."""
        names = {name.strip().casefold() for name in self.names}
        return tuple(each for each in given if PAIR not in each or split_pair(each)[0] in names)


@dataclass(frozen=True, slots=True)
class _Groups:
    """Those of which the recording is made."""

    series: Mapping[int, Series]
    """By their number in the object, from 1. The first sample of the earliest is at 0 s."""
    begun_s: float
    """Since the acquisition."""


def open_dicom(path: Path, columns: Columns) -> RecordingFile:
    """All ECG waveform objects, with the samples in memory as they lie in the file.

    Groups that the device measured count, averaged beats do not; groups of other times are parted by gaps. Raises
    ConfigError for a damaged file, and for an object without an ECG.
    """
    with _library_errors():
        dataset = library("pydicom").dcmread(path)
        groups = _groups(dataset, columns.leads)
        del dataset.WaveformSequence
    return merge(path.stem, list(groups.series.values()), lambda: _annotations(dataset, groups))


@contextmanager
def _library_errors() -> Iterator[None]:
    """What pydicom raises over a damaged file, also as the system's error, but without its number."""
    errors = library("pydicom.errors")
    own = (EOFError, struct.error, zlib.error, MemoryError, errors.InvalidDicomError, errors.BytesLengthException)
    try:
        with damaged("pydicom"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (OSError, *own) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ConfigError(f"pydicom cannot read it ({said(error)}); copy it again") from error


def _groups(dataset: Any, given: Sequence[str]) -> _Groups:
    items = dict(enumerate(dataset.get("WaveformSequence") or (), 1))
    channels = {number: _channels(item) for number, item in items.items()}
    voltages = [number for number, of in channels.items() if np.isfinite(of.mv_per_digit).any()]
    if not voltages:
        raise _without_voltage(dataset, channels.values())
    kept = [number for number in voltages if (channels[number].given(given) if given else channels[number].holds_lead)]
    original = [number for number in items if items[number].get("WaveformOriginality", "ORIGINAL") == "ORIGINAL"]
    chosen = [number for number in kept if number in original]
    if kept and not chosen and any(channels[number].lacks_unit for number in original):
        raise ConfigError(_NO_SENSITIVITY)
    # Where no group has a lead, the first one's names say what is there instead.
    chosen = chosen or kept or voltages[:1]
    series = {number: _series(dataset, number, channels[number], given) for number in chosen}
    begun_s = min(part.start_s for part in series.values())
    return _Groups({number: replace(part, start_s=part.start_s - begun_s) for number, part in series.items()}, begun_s)


def _without_voltage(dataset: Any, channels: Iterable[_Channels]) -> ConfigError:
    if any(of.lacks_unit for of in channels):
        return ConfigError(_NO_SENSITIVITY)
    uid = dataset.get("SOPClassUID")
    title = uid.name if uid else "object of an unknown class"
    return ConfigError(f"is a DICOM {title} and holds no ECG waveform; export the 12-lead, general or ambulatory ECG")


def _channels(item: Any) -> _Channels:
    definitions = item.get("ChannelDefinitionSequence") or ()
    scales = [_scale(channel) for channel in definitions]
    return _Channels(
        tuple(_name(channel) or f"unnamed {number}" for number, channel in enumerate(definitions, 1)),
        tuple(per_digit for per_digit, _ in scales),
        tuple(baseline for _, baseline in scales),
        tuple(channel.get("ChannelSensitivity") is None or not _unit(channel) for channel in definitions),
    )


def _unit(channel: Any) -> str:
    """Its code, or its meaning where the code is missing; empty where both are."""
    units = channel.get("ChannelSensitivityUnitsSequence") or ()
    return str(units[0].get("CodeValue") or units[0].get("CodeMeaning") or "") if units else ""


def _scale(channel: Any) -> tuple[float, float]:
    """mV of one digit, and of the digit 0."""
    units_in_a_mv = mv_scale(_unit(channel))
    sensitivity = channel.get("ChannelSensitivity")
    if units_in_a_mv is None or sensitivity is None:
        return np.nan, np.nan
    correction, baseline = channel.get("ChannelSensitivityCorrectionFactor"), channel.get("ChannelBaseline")
    per_digit = float(sensitivity) * (1.0 if correction is None else float(correction))
    return per_digit / units_in_a_mv, float(baseline or 0.0) / units_in_a_mv


def _name(channel: Any) -> str:
    """The lead by its code, its meaning or its label; else one of these, to show; empty where it has none."""
    sources = channel.get("ChannelSourceSequence") or ()
    code = _CODE.fullmatch(str(sources[0].get("CodeValue", ""))) if sources else None
    coded = _BY_CODE.get(int(code[1])) if code else None
    meaning = str(sources[0].get("CodeMeaning", "")).partition("(")[0].strip() if sources else ""
    label = str(channel.get("ChannelLabel") or "")
    return coded or next((text for text in (meaning, label) if standard_lead(text)), meaning or label)


def _series(dataset: Any, number: int, channels: _Channels, given: Sequence[str]) -> Series:
    item = dataset.WaveformSequence[number - 1]
    is_voltage = [bool(np.isfinite(scale)) for scale in channels.mv_per_digit]
    names = voltage_leads(name_leads(channels.names, channels.given(given) or given), is_voltage)
    rows = [row for row, name in enumerate(names) if name in LEADS]
    for row in rows:
        if channels.mv_per_digit[row] == 0:
            raise ConfigError(f"lead {names[row]} has no gain: its sensitivity is 0; export it again")
    rate_hz = float(item.SamplingFrequency)
    if not 0 < rate_hz <= FASTEST_HZ:
        raise ConfigError(f"it has a rate of {rate_hz:g} Hz; it must be positive and at most {FASTEST_HZ:g} Hz")
    raw = _raw(dataset, number)
    padding = _padding(item, raw.dtype)
    scale = np.array([channels.mv_per_digit[row] for row in rows])[:, None]
    baseline = np.array([channels.baseline_mv[row] for row in rows])[:, None]

    def read(begin: int, end: int) -> Samples:
        digits = raw[begin:end, rows].T
        samples = finite(digits * scale + baseline)
        return samples if padding is None else np.where(digits == padding, np.float32(np.nan), samples)

    start_s = float(item.get("MultiplexGroupTimeOffset") or 0.0) / 1000
    return Series(tuple(names[row] for row in rows), rate_hz, len(raw), read, start_s)


def _raw(dataset: Any, number: int) -> npt.NDArray[np.integer[Any]]:
    """The digits [samples, channels] of a group."""
    item = dataset.WaveformSequence[number - 1]
    if item.WaveformSampleInterpretation in _COMPANDED:
        raise ConfigError("its samples are companded as those of a voice (mu-law or A-law); export them as 16-bit numbers")
    raw: npt.NDArray[np.integer[Any]] = library("pydicom.waveforms").multiplex_array(dataset, number - 1, as_raw=True)
    return raw if dataset.original_encoding[1] else raw.byteswap()


def _padding(item: Any, kind: np.dtype[Any]) -> int | None:
    """The digit that stands for no sample."""
    value = item.get("WaveformPaddingValue")
    if isinstance(value, bytes):
        return int(np.frombuffer(value, kind, 1)[0]) if len(value) >= kind.itemsize else None
    return None if value is None else int(value)


def _annotations(dataset: Any, groups: _Groups) -> Sequence[Annotation]:
    """What concerns the whole recording stands at its beginning."""
    try:
        with _library_errors():
            acquired = next(iter(_moments(dataset.get("AcquisitionDateTime"))), None)
            notes = [note for item in dataset.get("WaveformAnnotationSequence") or () for note in _placed(item, groups, acquired)]
    except ConfigError:
        return ()
    return sorted(notes, key=lambda note: note.at_s)


def _placed(item: Any, groups: _Groups, acquired: datetime | None) -> Iterator[Annotation]:
    """One annotation, or one for each of its moments."""
    text, times_s = _words(item), _times_s(item, groups, acquired)
    reach = item.get("TemporalRangeType")
    if not text or not times_s:
        return
    if reach in _STRETCHES and len(times_s) > 1:
        yield from (Annotation(begin, text, end) for begin, end in zip(times_s[::2], times_s[1::2], strict=False))
    else:
        yield from (Annotation(at_s, text) for at_s in (times_s if reach == _SEVERAL else times_s[:1]))


def _words(item: Any) -> str:
    """`ECG NORMALE`, or `QRS Duration 75 ms`."""
    concept, units = item.get("ConceptNameCodeSequence") or (), item.get("MeasurementUnitsCodeSequence") or ()
    value = item.get("NumericValue")
    parts = [item.get("UnformattedTextValue"), concept[0].get("CodeMeaning") if concept else None, value]
    parts += [units[0].get("CodeValue")] if units and value is not None else []
    return " ".join(str(part).strip() for part in parts if part is not None)


def _times_s(item: Any, groups: _Groups, acquired: datetime | None) -> list[float]:
    """The moments that it names, 0 s if none; empty for a place in a group that is left out, and for a date without a clock."""
    offsets, positions = _numbers(item.get("ReferencedTimeOffsets")), _numbers(item.get("ReferencedSamplePositions"))
    dated = _moments(item.get("ReferencedDateTime"))
    if positions:
        group = groups.series.get(int((_numbers(item.get("ReferencedWaveformChannels")) or [1])[0]))
        return [group.start_s + (position - 1) / group.rate_hz for position in positions] if group else []
    if dated and not offsets:
        return [_between_s(acquired, moment) - groups.begun_s for moment in dated] if acquired else []
    return offsets or [0.0]


def _moments(value: Any) -> list[datetime]:
    """Of an element of dates, as text or as pydicom's own kind."""
    several = [] if value is None else [value] if isinstance(value, (str, datetime)) else list(value)
    return [library("pydicom.valuerep").DT(each) for each in several if each]


def _between_s(earlier: datetime, later: datetime) -> float:
    """By the zone that both have, or else as the clocks show."""
    if (earlier.tzinfo is None) != (later.tzinfo is None):
        earlier, later = earlier.replace(tzinfo=None), later.replace(tzinfo=None)
    return (later - earlier).total_seconds()


def _numbers(value: Any) -> list[float]:
    """Of an element that has one value, several or none."""
    if value is None:
        return []
    return [float(one) for one in value] if hasattr(value, "__iter__") else [float(value)]
