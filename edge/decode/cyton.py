"""The radio frames of an OpenBCI Cyton board, alone or with a Daisy, in; `Chunk`s out, and the frames for given samples.

Source: OpenBCI's Cyton Data Format page; where it is silent on the Daisy, BrainFlow's decoder.
"""

from __future__ import annotations

import math
import struct

from kernels.signal import Samples

from .chunk import LEFT_OUT
from .device import Device, Wiring
from .framing import CountedEncoder, FramedDecoder, count_lost, fixed, join_24

SIGNALS = 8
UNITS_PER_MV = (2**23 - 1) * 24 / 4500
"""An ADS1299 at its default gain of 24, with a reference of 4.5 V."""

_LENGTH = 33
_FULL_SCALE = 2**23 - 1
_FRAME = struct.Struct(">xB" + "bH" * SIGNALS + "7x")
_SHAPE = fixed(b"\xa0", _LENGTH, lambda frame: 0xC0 <= frame[-1] <= 0xC6)


def _parse(frame: bytes) -> tuple[int, list[float]]:
    """The counter and the units of a frame; NaN at full scale, where the amplifier is railed and says nothing of the heart."""
    count, *fields = _FRAME.unpack(frame)
    units = join_24(tuple(fields))
    return count, [math.nan if abs(unit) >= _FULL_SCALE else unit for unit in units]


def _pack(count: int, units: list[int]) -> bytes:
    return bytes((0xA0, count % 256)) + b"".join(unit.to_bytes(3, "big", signed=True) for unit in units) + bytes(6) + b"\xc0"


class CytonDecoder(FramedDecoder):
    """Frames of 33 bytes: A0, a counter, 8 signals of 24 bits big-endian, 6 bytes of other use, C0 to C6.

    A lead at full scale is railed, as it is with its electrode off: its sample is NaN. A frame lost is a
    jump of the counter, but 256 lost in a row leave no trace in it.
    """

    turn = 256

    def __init__(self, wiring: Wiring) -> None:
        super().__init__(wiring, _SHAPE)
        self._count: int | None = None

    def _read(self, frame: bytes) -> None:
        count, units = _parse(frame)
        self._stretches.add(units, count_lost(self._count, count, self.turn))
        self._count = count


class DaisyDecoder(FramedDecoder):
    """Two frames a sample: an even counter with the Daisy's signals 9 to 16, then an odd one with the Cyton's 1 to 8.

    A pair of which one frame is lost is lost as a whole.
    """

    turn = 128

    def __init__(self, wiring: Wiring) -> None:
        super().__init__(wiring, _SHAPE)
        self._pair: int | None = None
        self._daisy: tuple[int, list[float]] | None = None

    def _read(self, frame: bytes) -> None:
        count, units = _parse(frame)
        daisy, self._daisy = self._daisy, None
        if count % 2 == 0:
            self._daisy = count, units
        elif daisy is not None and daisy[0] == count - 1:
            self._stretches.add(units + daisy[1], count_lost(self._pair, count // 2, self.turn))
            self._pair = count // 2


class CytonEncoder(CountedEncoder):
    """The frames that the board sends, its other bytes 0."""

    def feed(self, samples_mv: Samples, lead_off: tuple[str, ...] = ()) -> bytes:
        """A frame a sample. A lead that is off is railed."""
        return self._number(_railed(self._wiring, samples_mv, lead_off), _pack)


class DaisyEncoder(CountedEncoder):
    """The frames that both boards send, two a sample."""

    def feed(self, samples_mv: Samples, lead_off: tuple[str, ...] = ()) -> bytes:
        """Two frames a sample. A lead that is off is railed."""
        rows = _railed(self._wiring, samples_mv, lead_off)
        return self._number([half for row in rows for half in (row[SIGNALS:], row[:SIGNALS])], _pack)


def _railed(wiring: Wiring, samples_mv: Samples, lead_off: tuple[str, ...]) -> list[list[int]]:
    units = wiring.to_units(samples_mv, -_FULL_SCALE, _FULL_SCALE)
    units[:, [lead in lead_off for lead in wiring.leads]] = _FULL_SCALE
    rows: list[list[int]] = units.tolist()
    return rows


DEVICES = (
    Device(
        name="cyton",
        title="OpenBCI Cyton",
        wiring=Wiring(("I", *[LEFT_OUT] * (SIGNALS - 1)), 250.0, UNITS_PER_MV),
        decoder=CytonDecoder,
        encoder=CytonEncoder,
        baud=115200,
        wake=b"b",
        sleep=b"s",
    ),
    Device(
        name="cyton-daisy",
        title="OpenBCI Cyton with Daisy",
        wiring=Wiring(("I", *[LEFT_OUT] * (2 * SIGNALS - 1)), 125.0, UNITS_PER_MV),
        decoder=DaisyDecoder,
        encoder=DaisyEncoder,
        baud=115200,
        wake=b"b",
        sleep=b"s",
    ),
)
