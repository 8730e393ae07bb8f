"""The serial packets of ProtoCentral's boards (0A FA, length, type, payload, 00 0B) in; `Chunk`s out, and the packets for given samples.

Source: ProtoCentral's Arduino and Zephyr firmware of each board, and the decoders of OpenView.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from kernels.signal import Samples

from .device import Device, Encoder, Wiring
from .framing import FramedDecoder, Shape

Row = Sequence[int]
Packet = tuple[int, int]
"""Its type and the bytes of its payload."""

_START = b"\x0a\xfa"
_STOP = b"\x00\x0b"
_HEAD = struct.Struct("<2sHB")
_ALL_OFF = 0x0F
"""IN1P, IN1N, IN2P and IN2N in the status register of an ADS1292R."""


@dataclass(frozen=True, slots=True)
class Board:
    """What the packets of one board hold."""

    packets: dict[Packet, Callable[[bytes], list[Row]]]
    """Every packet that it may send: payload -> the samples of its signals."""
    sends: Packet
    """The packet that the encoder writes, a sample in each."""
    write: Callable[[Row, bool], bytes]
    """A sample, and whether an electrode is off -> payload."""
    bits: int
    """Of a sample, its sign included."""
    is_off: Callable[[bytes], bool] = lambda payload: False
    """Whether a payload reports an electrode off."""


def _measure(board: Board, head: bytes) -> int:
    _, length, kind = _HEAD.unpack(head)
    return _HEAD.size + length + len(_STOP) if (kind, length) in board.packets else 0


def _shape(board: Board) -> Shape:
    longest = _HEAD.size + max(length for _, length in board.packets) + len(_STOP)
    return Shape(_START, _HEAD.size, longest, partial(_measure, board), lambda frame: frame.endswith(_STOP))


class ProtoCentralDecoder(FramedDecoder):
    """Packets without counter or checksum: one is believed where its head, type, length and end fit, and the next begins after it.

    Packets that are lost whole leave no trace. Where bytes were skipped, as many samples count as lost as
    would fit there, at least one, so that there is a gap.
    """

    def __init__(self, wiring: Wiring, board: Board) -> None:
        super().__init__(wiring, _shape(board))
        self._board = board
        self._off = wiring.kept
        self._skipped = 0
        self._has_begun = False

    def _read(self, frame: bytes) -> None:
        self._skipped += self._framer.skipped
        payload = frame[_HEAD.size : -len(_STOP)]
        rows = self._board.packets[frame[4], len(payload)](payload)
        if not rows:
            return
        lost = max(round(self._skipped * len(rows) / len(frame)), 1) if self._skipped and self._has_begun else 0
        self._skipped, self._has_begun = 0, True
        for row in rows:
            self._stretches.add(row, lost, self._off if self._board.is_off(payload) else ())
            lost = 0


class ProtoCentralEncoder(Encoder):
    """The packets that the board sends."""

    def __init__(self, wiring: Wiring, board: Board) -> None:
        self._wiring = wiring
        self._board = board

    def feed(self, samples_mv: Samples, lead_off: tuple[str, ...] = ()) -> bytes:
        """A packet a sample. Where a lead is off the ADS1292R firmware forces 0; other boards do not report it."""
        limit = 1 << self._board.bits - 1
        rows: list[list[int]] = self._wiring.to_units(samples_mv, -limit, limit - 1).tolist()
        kind, length = self._board.sends
        head = _HEAD.pack(_START, length, kind)
        return b"".join(head + self._board.write(row, bool(lead_off)) + _STOP for row in rows)


def _short(shift: int, payload: bytes) -> list[Row]:
    return [(int.from_bytes(payload[:2], "little", signed=True) << shift,)]


def _longs(count: int, payload: bytes) -> list[Row]:
    """One sample of so many signals."""
    return [struct.unpack_from(f"<{count}i", payload)]


def _eight_longs(payload: bytes) -> list[Row]:
    """Eight samples of one signal."""
    return [(unit,) for unit in struct.unpack_from("<8i", payload)]


def _max_18(at: int, payload: bytes) -> list[Row]:
    """The 18-bit sample of a MAX3000x.

    ProtoCentral's Arduino libraries put its upper 16 bits into the upper half of 32, and its lower 2 into
    the lowest; OpenView expects plain numbers. The two agree near 0 and elsewhere cannot be taken for
    each other, but for eight numbers around half of full scale.
    """
    (unit,) = struct.unpack_from("<i", payload, at)
    is_plain = -(1 << 17) <= unit < 1 << 17 and unit & 0xFFFF > 3
    return [(unit if is_plain else unit >> 16 << 2 | unit & 3,)]


def _no_samples(payload: bytes) -> list[Row]:
    return []


def _write_ads1292r(row: Row, off: bool) -> bytes:
    return struct.pack("<h6x", 0 if off else row[0])


def _write_healthypi4(row: Row, off: bool) -> bytes:
    return struct.pack("<h17xB", 0 if off else row[0], _ALL_OFF if off else 0)


def _write_healthypi5(row: Row, off: bool) -> bytes:
    return struct.pack("<i18x", row[0])


def _write_ads1293(row: Row, off: bool) -> bytes:
    return struct.pack("<3i", *row)


def _write_max(row: Row, off: bool) -> bytes:
    return struct.pack("<i8x", row[0] >> 2 << 16 | row[0] & 3)


ADS1292R = Board(
    {(2, 8): partial(_short, 0), (2, 9): partial(_short, 2), (2, 20): partial(_short, 4)}, sends=(2, 8), write=_write_ads1292r, bits=16
)
"""Three generations of firmware, which shift the 24-bit sample right by 4, 6 and 8 (a version between the last two sends 9 bytes too,
but shifts by 8: give it a quarter of the scale). While an electrode is off the sample is 0, a flat line without a flag."""
HEALTHYPI4 = Board({(2, 20): partial(_short, 0)}, (2, 20), _write_healthypi4, bits=16, is_off=lambda payload: payload[19] & 0x1F != 0)
"""The last byte is the status of the ADS1292R; 0 is a sample while an electrode is off."""
HEALTHYPI5 = Board({(2, 22): partial(_longs, 1), (3, 50): _eight_longs, (4, 19): _no_samples}, (2, 22), _write_healthypi5, bits=18)
"""Type 3 carries eight samples, type 4 none of an ECG."""
ADS1293 = Board({(2, 12): partial(_longs, 3), (2, 14): partial(_longs, 3)}, (2, 12), _write_ads1293, bits=24)
MAX30003 = Board({(2, 12): partial(_max_18, 0), (2, 17): partial(_max_18, 5)}, (2, 12), _write_max, bits=18)
"""One version of the sketch sends five bytes of nothing before the sample."""
MAX30001 = Board({(2, 12): partial(_max_18, 0)}, (2, 12), _write_max, bits=18)

_ADS1292R_COUNTS_PER_MV = 12 * (2**23 - 1) / 2420
"""Its ECG signal at a gain of 12, as the firmware sets it, with a reference of 2.42 V."""
_ADS1293_COUNTS = 0x800000
"""What the chip reads at its upper limit, at the decimation that the firmware chooses; half of it is 0 mV."""


def _device(name: str, title: str, board: Board, wiring: Wiring, baud: int) -> Device:
    return Device(name, title, wiring, partial(ProtoCentralDecoder, board=board), partial(ProtoCentralEncoder, board=board), baud)


DEVICES = (
    _device("ads1292r", "ProtoCentral ADS1292R", ADS1292R, Wiring(("I",), 125.0, _ADS1292R_COUNTS_PER_MV / 16), 57600),
    _device("healthypi4", "ProtoCentral HealthyPi v4", HEALTHYPI4, Wiring(("I",), 125.0, _ADS1292R_COUNTS_PER_MV / 256), 115200),
    # A MAX30001 at a gain of 20, whose driver passes the 18 bits on.
    _device("healthypi5", "ProtoCentral HealthyPi 5", HEALTHYPI5, Wiring(("I",), 125.0, 2**17 * 20 / 1000), 115200),
    # 3.5 V/V into a reference of 2.4 V both ways.
    _device(
        "ads1293",
        "ProtoCentral ADS1293",
        ADS1293,
        Wiring(("I", "II", "V1"), 100.0, _ADS1293_COUNTS * 3.5 / 4800, zero=_ADS1293_COUNTS / 2),
        57600,
    ),
    # The libraries set a gain of 20 in the one and of 80 in the other; the reference is 1 V.
    _device("max30003", "ProtoCentral MAX30003", MAX30003, Wiring(("I",), 128.0, 2**17 * 20 / 1000), 57600),
    _device("max30001", "ProtoCentral MAX30001", MAX30001, Wiring(("I",), 128.0, 2**17 * 80 / 1000), 57600),
)
