"""Lines of text, a sample each and a column a lead, in any cut of their bytes in; `Chunk`s out.

Columns stand apart by comma, semicolon, tab or blanks. `!` in a column says that its electrode is off, and a line of one
`!` that all are, as in SparkFun's sketch for the AD8232. Nothing in a line tells of lost ones, and a time column is not read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from kernels.signal import Samples, standard_lead

from .chunk import LEFT_OUT, Chunk
from .device import Decoder, Device, Encoder, Stretches, Wiring

LONGEST = 512
"""Bytes; a longer line is garbage."""
MOST_COLUMNS = 16

_ENDS = re.compile(rb"[\r\n]")
_SEPARATOR = re.compile(r"\s*[,;]\s*|\s+")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|nan", re.IGNORECASE)
_OFF = "!"


class LineDecoder(Decoder):
    """A line is believed only after the end of another, so the first, of which the beginning may be missing, is garbage.

    A line of numbers with too few or too many columns is broken; its sample is NaN, so that time goes on. Other words
    are garbage, but for a header that names the leads where the wiring does not.
    """

    def __init__(self, wiring: Wiring) -> None:
        super().__init__()
        self._wiring = wiring
        self._stretches = Stretches(wiring, self.tally)
        self._header: list[str] = []
        self._held = b""
        self._skip = True

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The samples of the lines that these bytes complete."""
        *lines, rest = _ENDS.split(self._held + data)
        for line in lines:
            self._read_whole(line)
        self._hold(rest)
        yield from self._stretches.take()

    def flush(self) -> Iterator[Chunk]:
        """A line without its end may be cut, and is garbage."""
        self.tally.garbage += len(self._held)
        self._held, self._skip = b"", True
        yield from ()

    @property
    def held(self) -> int:
        """Bytes held back."""
        return len(self._held)

    def _hold(self, rest: bytes) -> None:
        """Without more than a line may have."""
        self._skip = self._skip or len(rest) > LONGEST
        self._held = b"" if self._skip else rest
        self.tally.garbage += len(rest) - len(self._held)

    def _read_whole(self, line: bytes) -> None:
        if self._skip or len(line) > LONGEST:
            self.tally.garbage += len(line)
        elif line.strip():
            self._read(line)
        self._skip = False

    def _read(self, line: bytes) -> None:
        cells = _SEPARATOR.split(line.decode("ascii", errors="replace").strip(" \t,;"))
        if all(cell in ("", _OFF) or _NUMBER.fullmatch(cell) for cell in cells):
            self._read_sample(cells)
        elif cells != self._header and not self._read_header(cells):
            self.tally.garbage += len(line)

    def _read_sample(self, cells: Sequence[str]) -> None:
        leads = self._wiring.leads
        cells = [_OFF] * len(leads) if cells == [_OFF] else cells
        if leads and len(cells) == len(leads):
            off = tuple(lead for lead, cell in zip(leads, cells, strict=True) if cell == _OFF and lead != LEFT_OUT)
            self._stretches.add([math.nan if cell in ("", _OFF) else float(cell) for cell in cells], off=off)
        else:
            self._miss(len(cells))

    def _miss(self, columns: int) -> None:
        self.tally.broken += 1
        leads = self._wiring.leads
        if leads:
            self.last_error = f"a line has {columns} columns, but {len(leads)} leads are named; name each column, - for one to leave out"
            self._stretches.add([math.nan] * len(leads))
        else:
            self.last_error = "no header line has named the leads yet; name them by `leads` in the source's configuration"

    def _read_header(self, cells: list[str]) -> bool:
        """Whether the line names the leads, which the wiring did not."""
        known = [lead for lead in map(standard_lead, cells) if lead]
        if self._wiring.leads or not known or len(set(known)) < len(known) or len(cells) > MOST_COLUMNS:
            return False
        self._header = cells
        self._wiring = replace(self._wiring, leads=tuple(standard_lead(cell) or LEFT_OUT for cell in cells))
        self._stretches = Stretches(self._wiring, self.tally)
        return True


class LineEncoder(Encoder):
    """Lines with CR LF, after an empty one, so that the first is whole for whoever listens from the beginning."""

    def __init__(self, wiring: Wiring, highest: int | None = None) -> None:
        """`highest` is the converter's largest number, for whole numbers from 0; None for decimals."""
        self._wiring = wiring
        self._highest = highest
        self._begun = False

    def feed(self, samples_mv: Samples, lead_off: tuple[str, ...] = ()) -> bytes:
        """Samples [signals, n], a line each."""
        units = samples_mv.T.astype(np.float64) * self._wiring.units_per_mv + self._wiring.zero
        if self._highest is not None:
            units = np.clip(np.rint(units), 0, self._highest)
        off = [lead in lead_off for lead in self._wiring.leads] or [False] * samples_mv.shape[0]
        text = "".join(self._line(row, off) for row in units.tolist())
        begin, self._begun = ("" if self._begun else "\r\n"), True
        return (begin + text).encode()

    def _line(self, row: Sequence[float], off: Sequence[bool]) -> str:
        if all(off):
            return f"{_OFF}\r\n"
        return ",".join(_OFF if loose else self._cell(value) for value, loose in zip(row, off, strict=True)) + "\r\n"

    def _cell(self, value: float) -> str:
        return "nan" if math.isnan(value) else f"{value:.9g}" if self._highest is None else str(int(value))


_GAIN = 1100.0
"""Of the AD8232 as a cardiac monitor: 100 in the instrumentation amplifier, 11 in the low-pass filter (data sheet; SparkFun's board)."""
_MID_SUPPLY_V = 1.65
"""The output stands here without a heart: half of the 3.3 V by which the board is fed."""


def _ad8232(name: str, title: str, full_scale_v: float, steps: int, highest: int, baud: int) -> Device:
    """Nominal: the board's resistors and the converter's reference are a few per cent off; check with a pulse of 1 mV."""
    wiring = Wiring(("I",), 0.0, _GAIN * 1e-3 / full_scale_v * steps, zero=_MID_SUPPLY_V / full_scale_v * steps)
    encoder = partial(LineEncoder, highest=highest)
    return Device(name, title, wiring, LineDecoder, encoder, baud, signals=range(1, MOST_COLUMNS + 1))


DEVICES = (
    Device(
        name="lines",
        title="lines of text in mV",
        wiring=Wiring(leads=(), rate_hz=0.0, units_per_mv=1.0),
        decoder=LineDecoder,
        encoder=LineEncoder,
        baud=115200,
        signals=range(1, MOST_COLUMNS + 1),
    ),
    # ATmega328P data sheet: a result is 1024 * V / Vref, and Vref of an Uno is its 5 V supply. SparkFun's sketch sends at 9600 baud.
    _ad8232("ad8232", "AD8232 on an Arduino with 10 bits and 5 V", 5.0, 1024, 1023, 9600),
    # ESP-IDF: V = result / 4095 * Vmax; 3.3 V is nominal for 11 dB of attenuation, which bends above 2.5 V.
    _ad8232("esp32-ad8232", "AD8232 on an ESP32 with 12 bits and 3.3 V", 3.3, 4095, 4095, 115200),
)
