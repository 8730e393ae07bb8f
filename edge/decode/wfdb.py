"""The header text and the signal bytes of a WFDB record in; `Chunk`s out (formats 16, 24, 32, 61, 80 and 212).

Source: the WFDB Applications Guide, header(5) and signal(5).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError

from .chunk import Chunk, name_leads

Digits = npt.NDArray[np.int32]

_RECORD = re.compile(r"(?P<name>[^\s/]+)(?P<segments>/\d+)?\s+(?P<signals>\d+)(?:\s+(?P<rate>[\d.eE+]+))?(?:\S*)?(?:\s+(?P<samples>\d+))?")
_FORMAT = re.compile(r"(?P<code>\d+)(?:x(?P<per_frame>\d+))?(?::(?P<skew>\d+))?(?:\+(?P<offset>\d+))?$")
_GAIN = re.compile(r"(?P<gain>[-\d.eE+]+)(?:\((?P<baseline>-?\d+)\))?(?:/(?P<unit>\S+))?$")
_PER_MV = {"mV": 1.0, "uV": 1e3, "V": 1e-3, "nV": 1e6}
_DEFAULT_RATE_HZ = 250.0
_DEFAULT_GAIN = 200.0


@dataclass(frozen=True, slots=True)
class Signal:
    """One signal line of a header."""

    file: str
    code: int
    offset: int
    gain: float
    """Digits per mV."""
    baseline: int
    name: str


@dataclass(frozen=True, slots=True)
class Header:
    """What a `.hea` file says, as far as it is needed to read the signals."""

    name: str
    rate_hz: float
    samples: int | None
    """For each signal; None where the header leaves it out."""
    signals: tuple[Signal, ...]


class UnsupportedFormat(ConfigError):
    """The record is well formed, but stored in a way that only the wfdb package reads."""


def parse_header(text: str) -> Header:
    """Raises ConfigError for text that is no header, UnsupportedFormat for one that the wfdb package may read."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    first = _RECORD.match(lines[0]) if lines else None
    if first is None:
        raise ConfigError("not a WFDB header: its first line must read `name signals rate samples`")
    if first["segments"]:
        raise UnsupportedFormat("it has several segments")
    count = int(first["signals"])
    if count == 0 or len(lines) < 1 + count:
        raise ConfigError(f"the header promises {count} signals and describes {len(lines) - 1}; the record has no signal to read")
    signals = tuple(_parse_signal(line) for line in lines[1 : 1 + count])
    samples = int(first["samples"]) if first["samples"] else None
    rate_hz = float(first["rate"]) if first["rate"] else _DEFAULT_RATE_HZ
    if rate_hz <= 0:
        raise ConfigError(f"the header gives a rate of {rate_hz} Hz; it must be positive")
    return Header(first["name"], rate_hz, samples or None, signals)


def _parse_signal(line: str) -> Signal:
    fields = line.split(maxsplit=8)
    form = _FORMAT.match(fields[1]) if len(fields) > 1 else None
    if form is None:
        raise ConfigError(f"not a WFDB signal line: {line!r}")
    if int(form["per_frame"] or 1) != 1 or int(form["skew"] or 0):
        raise UnsupportedFormat("its signals differ in rate or are skewed")
    gain, baseline = _parse_gain(fields)
    return Signal(fields[0], int(form["code"]), int(form["offset"] or 0), gain, baseline, fields[8] if len(fields) > 8 else "ECG")


def _parse_gain(fields: Sequence[str]) -> tuple[float, int]:
    """Digits per mV, and the digit of 0 mV (the ADC zero where the header gives no baseline)."""
    field = _GAIN.match(fields[2]) if len(fields) > 2 else None
    adc_zero = int(fields[4]) if len(fields) > 4 else 0
    if field is None:
        return _DEFAULT_GAIN, adc_zero
    unit = field["unit"] or "mV"
    if unit not in _PER_MV:
        raise ConfigError(f"signal unit {unit!r} is no voltage; allowed are {', '.join(_PER_MV)}")
    gain = (float(field["gain"]) or _DEFAULT_GAIN) * _PER_MV[unit]
    return gain, adc_zero if field["baseline"] is None else int(field["baseline"])


def _whole(data: bytes, kind: str, signals: int) -> tuple[Digits, int]:
    """Whole frames of plain integers, and how many bytes they took."""
    size = np.dtype(kind).itemsize * signals
    frames = len(data) // size
    return np.frombuffer(data, kind, frames * signals).astype(np.int32).reshape(frames, signals), frames * size


def _read_80(data: bytes, signals: int) -> tuple[Digits, int]:
    digits, used = _whole(data, "u1", signals)
    return digits - 128, used


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


_READERS: dict[int, tuple[Callable[[bytes, int], tuple[Digits, int]], int | None]] = {
    16: (lambda data, signals: _whole(data, "<i2", signals), -32768),
    61: (lambda data, signals: _whole(data, ">i2", signals), -32768),
    32: (lambda data, signals: _whole(data, "<i4", signals), -(2**31)),
    24: (_read_24, -(2**23)),
    80: (_read_80, -128),
    212: (_read_212, -2048),
}
"""Format code -> how to read it, and the digit that means an invalid sample."""


_BITS = {16: 16, 61: 16, 32: 32, 24: 24, 80: 8, 212: 12}


def frame_bytes(header: Header) -> float:
    """Bytes of one sample of every signal, for a header that `WfdbDecoder` takes."""
    return _BITS[header.signals[0].code] * len(header.signals) / 8


class WfdbDecoder:
    """The signal file of one record, in any cut. All its signals lie in one file, frame by frame."""

    def __init__(self, header: Header, leads: Sequence[str] = ()) -> None:
        """Raises UnsupportedFormat where the signals need the wfdb package, ConfigError where no lead is known."""
        codes = {signal.code for signal in header.signals}
        if len({signal.file for signal in header.signals}) > 1 or len(codes) > 1 or not codes <= _READERS.keys():
            raise UnsupportedFormat(f"its signals are stored in format {', '.join(map(str, sorted(codes)))} or in several files")
        self._read, self._invalid = _READERS[codes.pop()]
        self._gain = np.array([signal.gain for signal in header.signals])[:, None]
        self._baseline = np.array([signal.baseline for signal in header.signals])[:, None]
        self._skip = header.signals[0].offset
        self._left = header.samples
        self._rate_hz = header.rate_hz
        self._leads = name_leads([signal.name for signal in header.signals], leads)
        self._held = b""
        self._next = 0

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The samples that these bytes complete."""
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        self._held += data[skipped:]
        digits, used = self._read(self._held, len(self._leads))
        self._held = self._held[used:]
        yield from self._emit(digits)

    def flush(self) -> Iterator[Chunk]:
        """A last frame of an odd number of 12-bit samples, which leaves a triplet open."""
        digits, _ = self._read(self._held + bytes(3 * len(self._leads)), len(self._leads))
        if self._read is _read_212 and len(self._held) * 2 // 3 >= len(self._leads):
            yield from self._emit(digits[:1])

    def _emit(self, digits: Digits) -> Iterator[Chunk]:
        digits = digits[: self._left].T
        if digits.shape[1]:
            samples = np.where(digits == self._invalid, np.nan, (digits - self._baseline) / self._gain)
            yield Chunk(self._next, self._rate_hz, self._leads, samples.astype(np.float32))
        self._next += digits.shape[1]
        self._left = None if self._left is None else self._left - digits.shape[1]

    @property
    def decoded(self) -> int:
        """Samples of each signal so far."""
        return self._next
