"""The header text and the signal bytes of a WFDB record in; `Chunk`s out (formats 16, 24, 32, 61, 80 and 212).

Source: the WFDB Applications Guide, header(5) and signal(5).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples

from .chunk import LEFT_OUT, Chunk, finite, name_leads

Digits = npt.NDArray[np.signedinteger[Any]]
"""[frames, signals]"""

_FORMAT = re.compile(r"(?P<code>\d{1,9})(?:x(?P<per_frame>\d{1,9}))?(?::(?P<skew>\d{1,9}))?(?:\+(?P<offset>\d{1,9}))?")
_GAIN = re.compile(r"(?P<gain>[^(/]+)(?:\((?P<baseline>[^)]*)\))?(?:/(?P<unit>\S+))?")
_UNITS_IN_A_MV = {"mv": 1.0, "uv": 1e3, "\N{GREEK SMALL LETTER MU}v": 1e3, "v": 1e-3, "nv": 1e6}
_PREFIXES = {"milli": "m", "micro": "u", "nano": "n"}
_VOLTS = re.compile("(?:[ -]?volts?|v)$")
_DEFAULT_RATE_HZ = 250.0
_DEFAULT_GAIN = 200.0
FASTEST_HZ = 100_000.0
_LARGEST = 2.0**31
_LEAST_GAIN = 1e-28
"""Above it no digit is beyond what float32 can hold."""


@dataclass(frozen=True, slots=True)
class Signal:
    """One signal line of a header, but for its file."""

    code: int
    offset: int
    gain: float
    """Digits per mV."""
    baseline: int
    name: str
    is_voltage: bool = True
    """False for a pressure, or samples without a unit."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a `.hea` file says, as far as it is needed to read the signals."""

    name: str
    rate_hz: float
    samples: int | None
    """For each signal; None where the header leaves it out."""
    files: tuple[str, ...]
    """That the signals lie in."""
    signals: tuple[Signal, ...]


class UnsupportedFormat(ConfigError):
    """The record is well formed, but stored in a way that only the wfdb package reads."""


def parse_header(text: str) -> Header:
    """Raises ConfigError for text that is no header, UnsupportedFormat for one that the wfdb package may read."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    fields = lines[0].split() if lines else []
    if len(fields) < 2:
        raise ConfigError("not a WFDB header: its first line must read `name signals rate samples`")
    name, _, segments = fields[0].partition("/")
    if segments:
        raise UnsupportedFormat("it has several segments")
    if not fields[1].isdecimal() or len(fields[1]) > 4:
        raise ConfigError("not a WFDB header: its first line must read `name signals rate samples`")
    count = int(fields[1])
    if count == 0 or len(lines) < 1 + count:
        raise ConfigError(f"the header promises {count} signals and describes {len(lines) - 1}; there is no signal to read")
    samples = _whole_number(fields[3], "number of samples") if len(fields) > 3 else None
    files, signals = zip(*(_parse_signal(line) for line in lines[1 : 1 + count]), strict=True)
    rate_hz = _rate(fields[2]) if len(fields) > 2 else _DEFAULT_RATE_HZ
    return Header(name, rate_hz, samples or None, tuple(map(_check_file, dict.fromkeys(files))), signals)


def _rate(field: str) -> float:
    """The frame rate, which a counter rate may follow behind a slash."""
    rate_hz = _decimal(field.partition("/")[0], "sampling rate")
    if not 0 < rate_hz <= FASTEST_HZ:
        raise ConfigError(f"the header gives a rate of {rate_hz:g} Hz; it must be positive and at most {FASTEST_HZ:g} Hz")
    return rate_hz


def _parse_signal(line: str) -> tuple[str, Signal]:
    """The file that it lies in, and how."""
    fields: list[str | None] = [*line.split(maxsplit=8)]
    file, form, gain, _, zero, _, _, _, name = fields + [None] * (9 - len(fields))
    # The records of an archive differ only in the other fields: a checksum, the first sample, the file's name.
    signal = _signal(form or "", gain, zero, name)
    if file is None or signal is None:
        raise ConfigError(f"not a WFDB signal line: {line!r}")
    return file, signal


@lru_cache(maxsize=1024)
def _signal(form: str, gain_field: str | None, zero_field: str | None, name: str | None) -> Signal | None:
    """None where the format is none."""
    stored = _FORMAT.fullmatch(form)
    if stored is None:
        return None
    if int(stored["per_frame"] or 1) != 1 or int(stored["skew"] or 0):
        raise UnsupportedFormat("its signals differ in rate or are skewed")
    gain, baseline, unit = _parse_gain(gain_field, zero_field)
    units_in_a_mv = mv_scale(unit)
    code, offset, name = int(stored["code"]), int(stored["offset"] or 0), name or "ECG"
    if units_in_a_mv is None:
        return Signal(code, offset, gain, baseline, f"{name} in {unit}", is_voltage=False)
    return Signal(code, offset, gain * units_in_a_mv, baseline, name)


def _check_file(file: str) -> str:
    if PurePath(file).name != file:
        raise ConfigError(f"the header names the signal file {file!r} with a folder; put both into one folder")
    return file


def _parse_gain(gain_field: str | None, zero_field: str | None) -> tuple[float, int, str]:
    """Digits per unit, the digit of zero (the ADC zero where the header gives no baseline), and the unit."""
    adc_zero = 0 if zero_field is None else _integer(zero_field, "ADC zero")
    if gain_field is None:
        return _DEFAULT_GAIN, adc_zero, "mV"
    field = _GAIN.fullmatch(gain_field)
    if field is None:
        raise ConfigError(f"the header gives a gain of {gain_field!r}; it must read like 200(1024)/mV")
    gain = _decimal(field["gain"], "gain") or _DEFAULT_GAIN
    baseline = adc_zero if field["baseline"] is None else _integer(field["baseline"], "baseline")
    return gain, baseline, field["unit"] or "mV"


def mv_scale(unit: str) -> float | None:
    """How many of this unit are a millivolt, `uV`, `microV` or `mVolt`; None where it is no voltage."""
    plain = _VOLTS.sub("v", unit.strip().casefold())
    for word, letter in _PREFIXES.items():
        plain = plain.replace(word, letter)
    return _UNITS_IN_A_MV.get(plain)


def _decimal(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < _LARGEST:
        raise ConfigError(f"the header gives a {what} of {text!r}; it must be a number")
    return value


def _integer(text: str, what: str) -> int:
    value = _decimal(text, what)
    if value != int(value):
        raise ConfigError(f"the header gives a {what} of {text!r}; it must be a whole number")
    return int(value)


def _whole_number(text: str, what: str) -> int:
    if not text.isdecimal() or len(text) > 15:
        raise ConfigError(f"the header gives a {what} of {text!r}; it must be a whole number")
    return int(text)


def _whole(data: bytes, kind: str, signals: int) -> tuple[Digits, int]:
    """Whole frames of plain integers, and how many bytes they took."""
    size = np.dtype(kind).itemsize * signals
    frames = len(data) // size
    return np.frombuffer(data, kind, frames * signals).reshape(frames, signals), frames * size


def _read_80(data: bytes, signals: int) -> tuple[Digits, int]:
    digits, used = _whole(data, "u1", signals)
    return digits.astype(np.int16) - 128, used


def _read_24(data: bytes, signals: int) -> tuple[Digits, int]:
    frames = len(data) // (3 * signals)
    raw = np.frombuffer(data, np.uint8, frames * 3 * signals).reshape(-1, 3).astype(np.int32)
    digits = raw[:, 0] | raw[:, 1] << 8 | (raw[:, 2] ^ 0x80) - 0x80 << 16
    return digits.reshape(frames, signals), frames * 3 * signals


def _read_212(data: bytes, signals: int) -> tuple[Digits, int]:
    """Two 12-bit samples in three bytes; an odd number of signals shares its triplets between two frames."""
    frames_at_once = 1 if signals % 2 == 0 else 2
    size = 3 * signals * frames_at_once // 2
    blocks = len(data) // size
    raw = np.frombuffer(data, np.uint8, blocks * size).reshape(-1, 3).astype(np.int32)
    pair = np.stack([raw[:, 0] | (raw[:, 1] & 0x0F) << 8, raw[:, 2] | (raw[:, 1] & 0xF0) << 4], axis=1)
    return ((pair ^ 0x800) - 0x800).reshape(-1, signals), blocks * size


@dataclass(frozen=True, slots=True)
class _Format:
    read: Callable[[bytes, int], tuple[Digits, int]]
    invalid: int
    """The digit that means an invalid sample."""
    bits: int


_FORMATS = {
    16: _Format(lambda data, signals: _whole(data, "<i2", signals), -32768, 16),
    61: _Format(lambda data, signals: _whole(data, ">i2", signals), -32768, 16),
    32: _Format(lambda data, signals: _whole(data, "<i4", signals), -(2**31), 32),
    24: _Format(_read_24, -(2**23), 24),
    80: _Format(_read_80, -128, 8),
    212: _Format(_read_212, -2048, 12),
}


def frame_bytes(header: Header) -> float:
    """Bytes of one sample of every signal, for a header that `WfdbDecoder` takes."""
    return _FORMATS[header.signals[0].code].bits * len(header.signals) / 8


def voltage_leads(leads: Sequence[str], is_voltage: Sequence[bool]) -> tuple[str, ...]:
    """The leads, without signals that are no voltage. Raises ConfigError where none remains."""
    kept = tuple(lead if voltage else LEFT_OUT for lead, voltage in zip(leads, is_voltage, strict=True))
    if not any(lead in LEADS for lead in kept):
        raise ConfigError("none of its leads is in a unit of voltage, so its size in mV is unknown; give a record in mV, uV or V")
    return kept


@dataclass(frozen=True, slots=True)
class _Wiring:
    """How the digits of a frame become the leads of a chunk."""

    form: _Format
    leads: tuple[str, ...]
    baseline: npt.NDArray[np.float64]
    gain: npt.NDArray[np.float64]
    """One of each where all signals share it: then whole blocks are worked on, and not frame by frame."""
    fits_float32: bool

    def to_mv(self, digits: Digits) -> Samples:
        """[frames, signals] -> [signals, frames]; NaN where a sample is invalid."""
        invalid = digits == self.form.invalid
        samples = np.subtract(digits, self.baseline, dtype=np.float64)
        samples /= self.gain
        if invalid.any():
            samples[invalid] = np.nan
        return samples.astype(np.float32).T if self.fits_float32 else finite(samples.T)


@lru_cache(maxsize=64)
def _wire(signals: tuple[Signal, ...], leads: tuple[str, ...]) -> _Wiring:
    codes = {signal.code for signal in signals}
    if len(codes) > 1 or not codes <= _FORMATS.keys():
        raise _stored(codes)
    names = voltage_leads(name_leads([s.name for s in signals], leads), [s.is_voltage for s in signals])
    baseline, gain = _shared([s.baseline for s in signals]), _shared([s.gain for s in signals])
    return _Wiring(_FORMATS[codes.pop()], names, baseline, gain, bool(np.abs(gain).min() > _LEAST_GAIN))


def _shared(values: Sequence[float]) -> npt.NDArray[np.float64]:
    return np.array(values[:1] if len(set(values)) == 1 else values, np.float64)


def _stored(codes: set[int]) -> UnsupportedFormat:
    return UnsupportedFormat(f"its signals are stored in format {', '.join(map(str, sorted(codes)))} or in several files")


class WfdbDecoder:
    """The signal file of one record, in any cut. All its signals lie in one file, frame by frame."""

    def __init__(self, header: Header, leads: Sequence[str] = ()) -> None:
        """Raises UnsupportedFormat where the signals need the wfdb package, ConfigError where no lead is known."""
        if len(header.files) > 1:
            raise _stored({signal.code for signal in header.signals})
        self._wiring = _wire(header.signals, tuple(leads))
        self._skip = header.signals[0].offset
        self._left = header.samples
        self._rate_hz = header.rate_hz
        self._held = b""
        self._next = 0

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The samples that these bytes complete."""
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        self._held += data[skipped:]
        digits, used = self._wiring.form.read(self._held, len(self._wiring.leads))
        self._held = self._held[used:]
        yield from self._emit(digits)

    def flush(self) -> Iterator[Chunk]:
        """A last frame of an odd number of 12-bit samples, which leaves a triplet open."""
        form, signals = self._wiring.form, len(self._wiring.leads)
        if form.read is _read_212 and len(self._held) * 2 // 3 >= signals:
            digits, _ = form.read(self._held + bytes(3 * signals), signals)
            yield from self._emit(digits[:1])

    def _emit(self, digits: Digits) -> Iterator[Chunk]:
        digits = digits[: self._left]
        if len(digits):
            yield Chunk(self._next, self._rate_hz, self._wiring.leads, self._wiring.to_mv(digits))
        self._next += len(digits)
        self._left = None if self._left is None else self._left - len(digits)

    @property
    def decoded(self) -> int:
        """Samples of each signal so far."""
        return self._next
