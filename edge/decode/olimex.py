"""The serial frames of an Olimex SHIELD-EKG-EMG (ModularEEG, packet version 2) in; `Chunk`s out, and the frames for given samples.

Source: Olimex's ShieldEkgEmgDemo sketch, and logston's ShieldEkgEmg sketch, which adds the reset signal.
"""

from __future__ import annotations

import struct
from dataclasses import replace

from kernels.signal import Samples

from .chunk import LEFT_OUT
from .device import Device, Wiring
from .framing import CountedEncoder, FramedDecoder, count_lost, fixed

SIGNALS = 6
UNITS_PER_MV = -1024 * 2.848 / 5
"""A 10-bit ADC of 5 V behind a gain of 10 x 80 x 3.56, where 80 is a trimmer's; the shield turns the lead over."""

_LARGEST = 1023
_FRAME = struct.Struct(">2sBB6HB")
_SYNC = b"\xa5\x5a"
_VERSION = 2
_SWITCHES = 1
_RESET = _FRAME.pack(_SYNC, _VERSION, 0, *[512] * SIGNALS, 2)
"""What logston's sketch sends for a second or more after a reset, before it samples."""


def _is_sound(frame: bytes) -> bool:
    return max(frame[4:16:2]) <= _LARGEST >> 8


class OlimexDecoder(FramedDecoder):
    """Frames of 17 bytes: A5 5A 02, a counter, 6 signals of 10 bits in 16 big-endian, the switches.

    Reset signals are no samples: they count as broken, and what follows them as a restart. How long the
    board was away nobody knows, so one sample is counted as lost, which is enough for a gap.
    """

    turn = 256

    def __init__(self, wiring: Wiring) -> None:
        super().__init__(wiring, fixed(_SYNC + bytes((_VERSION,)), _FRAME.size, _is_sound))
        self._count: int | None = None
        self._was_reset = False

    def _read(self, frame: bytes) -> None:
        if frame == _RESET:
            self.tally.broken += 1
            self._was_reset = self._count is not None
            return
        _, _, count, *units, _ = _FRAME.unpack(frame)
        lost = 1 if self._was_reset else count_lost(self._count, count, self.turn)
        self.tally.restarts += self._was_reset
        self._was_reset = False
        self._count = count
        self._stretches.add(units, lost)


def _pack(count: int, row: list[int]) -> bytes:
    return _FRAME.pack(_SYNC, _VERSION, count % 256, *row, _SWITCHES)


class OlimexEncoder(CountedEncoder):
    """The frames that the board sends."""

    def feed(self, samples_mv: Samples, lead_off: tuple[str, ...] = ()) -> bytes:
        """A frame a sample. The board knows of no electrode that is off."""
        return self._number(self._wiring.to_units(samples_mv, 0, _LARGEST).tolist(), _pack)


_OFFICIAL = Device(
    name="olimex",
    title="Olimex SHIELD-EKG-EMG",
    wiring=Wiring(("I", *[LEFT_OUT] * (SIGNALS - 1)), 256.0, UNITS_PER_MV, zero=512.0),
    decoder=OlimexDecoder,
    encoder=OlimexEncoder,
    baud=57600,
)
_LOGSTON = replace(
    _OFFICIAL,
    name="olimex-logston",
    title="Olimex SHIELD-EKG-EMG with logston's sketch",
    wiring=replace(_OFFICIAL.wiring, rate_hz=125.0),
    baud=115200,
)
DEVICES = (_OFFICIAL, _LOGSTON)
