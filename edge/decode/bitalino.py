"""The frames of a BITalino (r)evolution in; `Chunk`s out, and the frames for given samples.

Source: the firmware of the BITalino (r)evolution (`live.c`, `uart.c`) and PLUX's Python interface; the data sheet of its ECG sensor.
"""

from __future__ import annotations

from collections.abc import Iterator

from kernels.signal import Samples

from .chunk import LEFT_OUT, Chunk
from .device import Decoder, Device, Stretches, Tally, Wiring
from .framing import CountedEncoder, count_lost

SIGNALS = 6
TURN = 16
UNITS_PER_MV = 1024 * 1.1 / 3.3
"""A 10-bit ADC of 3.3 V behind a gain of 1100; half of its range is 0 mV."""

RUN = 4
"""So many frames in a row, with right checksums and consecutive numbers, are believed.

One checksum of 4 bits is right by chance once in 16; with the number that has to follow, each further
frame once in 256. Four make that 2**-28: at 8 kB/s of garbage, once in nine hours.
"""
MISSED = 3
"""So many broken frames in a row keep their place, if the next one has the number that is due there."""

_FINE = 4
"""Signals with all 10 bits; the device sends only the upper 6 of any further one."""

_BROKEN = -1
"""In the place of a number, where the checksum is wrong."""


def _crc_step(crc: int) -> int:
    for _ in range(4):
        crc = crc << 1 ^ (0x13 if crc & 8 else 0)
    return crc


_CRC = [_crc_step(_crc_step(crc) ^ byte >> 4) ^ byte & 0xF for crc in range(16) for byte in range(256)]


def crc4(data: bytes | bytearray) -> int:
    """Remainder of the polynomial x^4 + x + 1, the last four bits included: 0 for a whole frame."""
    crc = 0
    for byte in data:
        crc = _CRC[crc << 8 | byte]
    return crc


def frame_length(signals: int) -> int:
    """Bytes of a frame: 12 bits, and 10 for each of four signals, 6 for any further one; whole bytes."""
    bits = 12 + 10 * min(signals, _FINE) + 6 * max(signals - _FINE, 0)
    return -(-bits // 8)


class BitalinoFramer:
    """Finds frames that have no sync, by checksum and number.

    In step, a frame is believed at once if it has the number that is due, also behind a few broken ones;
    out of step, a run of them is. A number that jumps goes out of step, and comes back without a loss.
    """

    def __init__(self, length: int, tally: Tally) -> None:
        self._length = length
        self._tally = tally
        self._held = bytearray()
        self._at = 0
        self._due: int | None = None
        """The number of the next frame, while in step."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that these bytes complete."""
        self._held += data
        while (passed := self._search() if self._due is None else self._step(self._due)) is not None:
            self._at += passed
            self._tally.garbage += passed
            if self._due is not None:
                yield self._take()
        del self._held[: self._at]
        self._at = 0

    def end(self) -> None:
        """At the end of the bytes, what is held is garbage."""
        self._tally.garbage += len(self._held)
        self._held.clear()
        self._due = None

    @property
    def held(self) -> int:
        """Bytes held back."""
        return len(self._held)

    def _step(self, due: int) -> int | None:
        """In step: bytes to pass before the frame that is due; out of step from here where none is; None where it takes more to tell."""
        for missed in range(MISSED + 1):
            number = self._number(missed)
            if number is None:
                return None
            if number == (due + missed) % TURN:
                self._tally.broken += missed
                return missed * self._length
        self._tally.broken += self._number(0) == _BROKEN
        self._due = None
        return 0

    def _search(self) -> int | None:
        """Out of step: 0 and in step where a run begins here, 1 where none does, None where it takes more bytes to tell."""
        first = self._number(0)
        for i in range(RUN):
            number = self._number(i)
            if number is None or first is None:
                return None
            if number == _BROKEN or number != (first + i) % TURN:
                return 1
        self._due = first
        return 0

    def _number(self, ahead: int) -> int | None:
        """The number of the frame so many frames ahead; None where it is not whole yet."""
        begin = self._at + ahead * self._length
        frame = self._held[begin : begin + self._length]
        if len(frame) < self._length:
            return None
        return _BROKEN if crc4(frame) else frame[-1] >> 4

    def _take(self) -> bytes:
        frame = bytes(self._held[self._at : self._at + self._length])
        self._at += self._length
        self._due = ((frame[-1] >> 4) + 1) % TURN
        return frame


class BitalinoDecoder(Decoder):
    """Frames of one to six signals and four digital inputs; the last byte holds a number of 4 bits and a checksum of 4.

    The fifth and sixth signal have 6 bits, and are given in units of 10 bits like the others. A frame
    lost is a jump of the number, but 16 lost in a row leave no trace in it.
    """

    turn = TURN

    def __init__(self, wiring: Wiring) -> None:
        super().__init__()
        self._shifts = _shifts(len(wiring.leads))
        self._framer = BitalinoFramer(frame_length(len(wiring.leads)), self.tally)
        self._stretches = Stretches(wiring, self.tally)
        self._number: int | None = None

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The samples that these bytes complete."""
        for frame in self._framer.feed(data):
            number = frame[-1] >> 4
            self._stretches.add(self._parse(frame), count_lost(self._number, number, TURN))
            self._number = number
        yield from self._stretches.take()

    def flush(self) -> Iterator[Chunk]:
        """Nothing: frames that were not believed by now never will be."""
        self._framer.end()
        yield from ()

    def _parse(self, frame: bytes) -> list[int]:
        bits = int.from_bytes(frame, "little")
        units = [bits >> shift & 0x3FF for shift in self._shifts[:_FINE]]
        return units + [(bits >> shift & 0x3F) << 4 for shift in self._shifts[_FINE:]]


class BitalinoEncoder(CountedEncoder):
    """The frames that the device sends, its digital inputs 0."""

    def __init__(self, wiring: Wiring) -> None:
        super().__init__(wiring)
        self._length = frame_length(len(wiring.leads))
        self._shifts = _shifts(len(wiring.leads))

    def feed(self, samples_mv: Samples, lead_off: tuple[str, ...] = ()) -> bytes:
        """A frame a sample. The device knows of no electrode that is off."""
        return self._number(self._wiring.to_units(samples_mv, 0, 1023).tolist(), self._pack)

    def _pack(self, number: int, row: list[int]) -> bytes:
        bits = (number % TURN) << 8 * self._length - 4
        for i, (unit, shift) in enumerate(zip(row, self._shifts, strict=True)):
            bits |= (unit if i < _FINE else unit >> 4) << shift
        frame = bytearray(bits.to_bytes(self._length, "little"))
        frame[-1] |= crc4(frame)
        return bytes(frame)


def _shifts(signals: int) -> list[int]:
    """The lowest bit of each signal in a frame read as one little-endian number: they lie below the number, checksum and inputs."""
    top = 8 * frame_length(signals) - 12
    return [top - 10 * min(i, _FINE) - 6 * max(i - _FINE, 0) for i in range(1, signals + 1)]


def _device(signals: int) -> Device:
    """The first so many analog inputs, in live mode at 1000 Hz. The boards have their ECG sensor at the second."""
    leads = ("I",) if signals == 1 else (LEFT_OUT, "I", *[LEFT_OUT] * (signals - 2))
    stop, rate_1000_hz, start = 0xFF, 0xC3, (1 << signals) - 1 << 2 | 1
    return Device(
        name="bitalino" if signals == SIGNALS else f"bitalino-{signals}",
        title="BITalino (r)evolution" if signals == SIGNALS else f"BITalino (r)evolution with {signals} of its 6 signals",
        wiring=Wiring(leads, 1000.0, UNITS_PER_MV, zero=512.0),
        decoder=BitalinoDecoder,
        encoder=BitalinoEncoder,
        baud=115200,
        wake=bytes((stop, rate_1000_hz, start)),
        sleep=bytes((stop,)),
    )


DEVICES = tuple(_device(signals) for signals in range(SIGNALS, 0, -1))
