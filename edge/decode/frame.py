"""Bytes of this project's own binary frame, over serial, TCP or MQTT, in; `Frame`s, and the `Chunk`s that they hold, out.

All numbers are little-endian, and nothing is padded:

    offset  type     meaning
    0       3 bytes  EC 67 6C, with which no text begins
    3       u8       version: 1
    4       u16      bytes of the whole frame: 38 + 2 * leads * samples
    6       u16      flags: bit 0 is set where seq counts; a frame with any other bit set is refused
    8       u64      t0: microseconds since 1970 of the first sample; 0 where the device has no clock
    16      u32      seq: one more with every frame; after 4294967295 comes 0
    20      u32      rate in mHz
    24      f32      scale: units per mV, so that a sample is units / scale mV
    28      u16      leads: bit 0 is I, then II III aVR aVL aVF V1 V2 V3 V4 V5 V6
    30      u16      leads whose electrode is off, by the same bits
    32      u16      samples of each lead
    34      i16 ...  units: the first sample of every lead in the order of the bits, then the second; -32768 is an invalid one
    last 4  u32      CRC-32 of everything before (as in zlib, PNG and Ethernet)

One frame in hexadecimal: seq 7, 2026-01-01T00:00:00Z, 250 Hz, 200 units per mV, leads I and V1, of which V1 is off,
and two samples: 200 and -100, then an invalid one and 32767.

    ec676c012e00010000402046484706000700000090d0030000004843410040000200
    c8009cff0080ff7f10268717
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt

from kernels.findings import ConfigError
from kernels.signal import LEADS, Samples

from .chunk import Chunk, finite
from .device import Decoder, Device, Encoder, Wiring, of_twelve
from .framing import Framer, Shape
from .sequence import SEQ_RANGE, Sequencer
from .sequence import Frame as Frame
from .wfdb import FASTEST_HZ

MAGIC = b"\xecgl"
LONGEST = 0xFFFF

_VERSION = 1
_HEADER = struct.Struct("<3sBHHQIIfHHH")
_CRC = struct.Struct("<I")
_COUNTED = 1
_INVALID = -32768
_HIGHEST = 32767
_SMALLEST = 1e-30
"""By a scale above this every unit stays finite."""
_ALL = (1 << len(LEADS)) - 1


def pack(frame: Frame, units_per_mv: float) -> bytes:
    """One frame; what lies beyond 16 bits is clipped. Raises ValueError where the frame has more samples than its length can say."""
    order = sorted(range(len(frame.leads)), key=lambda row: LEADS.index(frame.leads[row]))
    units = np.rint(frame.samples_mv[order].T.astype(np.float64) * np.float32(units_per_mv))
    units = np.where(np.isnan(units), _INVALID, np.clip(units, _INVALID + 1, _HIGHEST))
    length = _HEADER.size + 2 * units.size + _CRC.size
    if length > LONGEST:
        raise ValueError(f"{units.size} samples are too many for one frame; {(LONGEST - 38) // 2} fit")
    head = _HEADER.pack(
        MAGIC, _VERSION, length, _COUNTED * (frame.seq is not None), round((frame.t_s or 0) * 1e6), frame.seq or 0,
        round(frame.rate_hz * 1e3), units_per_mv, _mask(frame.leads), _mask(frame.lead_off), len(units),
    )  # fmt: skip
    body = head + units.astype("<i2").tobytes()
    return body + _CRC.pack(zlib.crc32(body))


def unpack(data: bytes) -> Frame | None:
    """The frame that these bytes are; None where they are not exactly one sound frame."""
    return _read(data) if _is_sound(data) else None


def unpack_all(message: bytes) -> list[Frame] | None:
    """The frames that stand one after another in a message; None where they do not fill it."""
    frames, at = [], 0
    while at < len(message):
        head = message[at : at + _HEADER.size]
        one = message[at : at + (_measure(head) if len(head) == _HEADER.size else 0)]
        if not _is_sound(one):
            return None
        frames.append(_read(one))
        at += len(one)
    return frames


def _is_sound(data: bytes) -> bool:
    if len(data) < _HEADER.size + _CRC.size or _measure(data[: _HEADER.size]) != len(data):
        return False
    return _CRC.unpack_from(data, len(data) - _CRC.size)[0] == zlib.crc32(memoryview(data)[: -_CRC.size])


def _measure(head: bytes) -> int:
    """Bytes of the frame that begins with this header; 0 where it is none, so that chance bytes are seldom waited for."""
    magic, version, length, flags, _, _, rate_mhz, scale, mask, _, samples = _HEADER.unpack(head)
    known = magic == MAGIC and version == _VERSION and flags in (0, _COUNTED) and 0 < mask <= _ALL
    sane = 0 < rate_mhz <= FASTEST_HZ * 1e3 and math.isfinite(scale) and scale != 0 and samples
    sized = length == _HEADER.size + 2 * mask.bit_count() * samples + _CRC.size
    return length if known and sane and sized else 0


def _read(data: bytes) -> Frame:
    _, _, _, flags, t0, seq, rate_mhz, scale, mask, off, samples = _HEADER.unpack_from(data)
    leads = _leads(mask)
    units = np.frombuffer(data, "<i2", len(leads) * samples, _HEADER.size).reshape(samples, len(leads)).T.copy()
    counted = seq if flags & _COUNTED else None
    return Frame(counted, t0 / 1e6 or None, rate_mhz / 1e3, leads, _to_mv(units, scale), _leads(off & mask))


def _to_mv(units: npt.NDArray[np.int16], scale: float) -> Samples:
    """Divided as float64, so that the bits are those of a WFDB record with the same gain."""
    samples_mv = units / np.float64(scale)
    samples = samples_mv.astype(np.float32) if abs(scale) > _SMALLEST else finite(samples_mv)
    samples[units == _INVALID] = np.nan
    return samples


def _mask(leads: tuple[str, ...]) -> int:
    return sum(1 << LEADS.index(lead) for lead in leads)


@cache
def _leads(mask: int) -> tuple[str, ...]:
    return tuple(lead for bit, lead in enumerate(LEADS) if mask >> bit & 1)


SHAPE = Shape(sync=MAGIC, head=_HEADER.size, longest=LONGEST, measure=_measure, sound=_is_sound, checked=True)


class FrameDecoder(Decoder):
    """Frames in any cut of their bytes. They say leads, rate and scale themselves, so the wiring is not asked."""

    def __init__(self, wiring: Wiring) -> None:
        super().__init__()
        self._framer = Framer(SHAPE, self.tally)
        self._sequencer = Sequencer(self.tally)

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The chunks of the frames that these bytes complete."""
        garbage, self.turn = self.tally.garbage, SEQ_RANGE
        for found in self._framer.feed(data):
            yield from self._place(found)
        if self.tally.garbage > garbage:
            self.last_error = "some bytes are in no whole binary frame; check the length, the header and the CRC-32 of the frames"

    def flush(self) -> Iterator[Chunk]:
        """Frames held back until one before them comes."""
        for found in self._framer.flush():
            yield from self._place(found)
        yield from self._sequencer.flush()

    def _place(self, found: bytes) -> Iterator[Chunk]:
        for chunk in self._sequencer.feed(_read(found)):
            self.turn = self.turn and self._sequencer.turn
            yield chunk


class FrameEncoder(Encoder):
    """One frame for each call, or more where one would be too long; seq counts from 0."""

    def __init__(self, wiring: Wiring, begin_s: float | None = None) -> None:
        """`begin_s` is the time of the first sample since 1970; None for a device without a clock."""
        if not round(wiring.rate_hz * 1e3) > 0:
            raise ConfigError("rate_hz must be given, so that the frames can say it")
        self._wiring = of_twelve(wiring)
        self._begin_s = begin_s
        self._seq = 0
        self._sent = 0

    def feed(self, samples_mv: Samples, lead_off: tuple[str, ...] = ()) -> bytes:
        """Samples [signals, n] of the wiring's leads, or of all twelve where it names none."""
        kept = self._wiring.keep(samples_mv)
        most = (LONGEST - 38) // (2 * len(kept))
        return b"".join(self._pack(kept[:, at : at + most], lead_off) for at in range(0, kept.shape[1], most))

    def _pack(self, samples_mv: Samples, lead_off: tuple[str, ...]) -> bytes:
        rate_hz = self._wiring.rate_hz
        t_s = None if self._begin_s is None else self._begin_s + self._sent / rate_hz
        data = pack(Frame(self._seq, t_s, rate_hz, self._wiring.kept, samples_mv, lead_off), self._wiring.units_per_mv)
        self._seq = (self._seq + 1) % SEQ_RANGE
        self._sent += samples_mv.shape[1]
        return data


DEVICE = Device(
    name="frame",
    title="cardiogloss binary frames",
    wiring=Wiring(leads=(), rate_hz=250.0, units_per_mv=1000.0),
    decoder=FrameDecoder,
    encoder=FrameEncoder,
    baud=115200,
    signals=range(1, len(LEADS) + 1),
)
