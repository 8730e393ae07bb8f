"""The Bluetooth packets of a Shimmer3 that streams its two ExG chips and nothing else in; `Chunk`s out, and the packets for given samples.

Source: Shimmer's LogAndStream firmware (`EXG_readData`) and Java driver; the ADS1292R data sheet.
"""

from __future__ import annotations

import struct
from functools import partial

from kernels.signal import Samples

from .chunk import LEFT_OUT
from .device import Device, Wiring
from .framing import CountedEncoder, FramedDecoder, Shape, join_24

CLOCK_HZ = 32768
UNITS_PER_MV = 6 * (2**23 - 1) / 2420
"""An ADS1292R at Shimmer's gain of 6 for an ECG, with a reference of 2.42 V."""

_TURN = 1 << 24
_FRAME = struct.Struct("<xHB")
_CHIPS = struct.Struct(">4xBbHbHBbHbH")
_STATUS = (4, 11)
_UNUSED = 0x60
_FRESH = 0x80
_FULL_SCALE = 2**23


def _ticks(frame: bytes) -> int:
    low, high = _FRAME.unpack_from(frame)
    return high << 16 | low


def _measure(head: bytes) -> int:
    return 0 if head[_STATUS[0]] & _UNUSED else _CHIPS.size


def _is_sound(frame: bytes) -> bool:
    return not (frame[_STATUS[0]] | frame[_STATUS[1]]) & _UNUSED


class ShimmerDecoder(FramedDecoder):
    """Packets of 18 bytes: 00, a clock of 24 bits at 32768 Hz, and for each chip a status and two signals of 24 bits big-endian.

    There is neither sync nor checksum, so the clock has to carry the framing: a packet is believed at
    once if its clock is one sample after that of the packet before; otherwise, after a loss, once the
    next packet goes on from it. Losses count by the clock, which begins anew after 512 s.

    The signals are LL-RA, LA-RA, one without a name, and Vx-RL. The status has a bit for each input whose
    electrode is off, if that was switched on.
    """

    def __init__(self, wiring: Wiring) -> None:
        self._period = CLOCK_HZ / wiring.rate_hz
        super().__init__(wiring, Shape(b"\0", _STATUS[0] + 1, _CHIPS.size, _measure, _is_sound, follows=self._follows))
        self._wiring = wiring
        self._last: int | None = None
        self.turn = round(_TURN / self._period)

    def _follows(self, frame: bytes, head: bytes) -> bool:
        periods = (_ticks(head) - _ticks(frame)) % _TURN / self._period
        return 0.5 < periods < 1.5

    def _read(self, frame: bytes) -> None:
        first, *left, second, a, b, c, d = _CHIPS.unpack(frame)
        ticks = _ticks(frame)
        self._stretches.add(join_24((*left, a, b, c, d)), self._lost(ticks), self._find_off(first & 0xF | (second & 0xF) << 4))
        self._last = ticks

    def _lost(self, ticks: int) -> int:
        if self._last is None:
            return 0
        return max(round((ticks - self._last) % _TURN / self._period) - 1, 0)

    def _find_off(self, inputs: int) -> tuple[str, ...]:
        """The leads of which one of two inputs, a bit for each, has no electrode."""
        if not inputs:
            return ()
        return tuple(lead for i, lead in enumerate(self._wiring.leads) if lead != LEFT_OUT and inputs >> 2 * i & 3)


class ShimmerEncoder(CountedEncoder):
    """The packets that the unit sends."""

    def __init__(self, wiring: Wiring) -> None:
        super().__init__(wiring)
        self._period = CLOCK_HZ / wiring.rate_hz

    def feed(self, samples_mv: Samples, lead_off: tuple[str, ...] = ()) -> bytes:
        """A packet a sample. A lead that is off shows at both its inputs."""
        inputs = sum(3 << 2 * i for i, lead in enumerate(self._wiring.leads) if lead in lead_off)
        return self._number(self._wiring.to_units(samples_mv, -_FULL_SCALE, _FULL_SCALE - 1).tolist(), partial(self._pack, inputs))

    def _pack(self, inputs: int, number: int, row: list[int]) -> bytes:
        ticks = round(number * self._period) % _TURN
        a, b, c, d = (unit.to_bytes(3, "big", signed=True) for unit in row)
        chips = bytes((_FRESH | inputs & 0xF,)) + a + b + bytes((_FRESH | inputs >> 4,)) + c + d
        return b"\0" + ticks.to_bytes(3, "little") + chips


DEVICE = Device(
    name="shimmer3",
    title="Shimmer3 ExG",
    wiring=Wiring(("II", "I", LEFT_OUT, LEFT_OUT), 512.0, UNITS_PER_MV),
    decoder=ShimmerDecoder,
    encoder=ShimmerEncoder,
    baud=115200,
    wake=b"\x07",
    sleep=b"\x20",
)
