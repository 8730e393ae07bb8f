"""Samples in millivolts in; the binary frames that browsers are sent, whole microvolts, out.

One message holds one frame or more, one after another. A frame is, little-endian, u8 version, u8 exponent, u16 number of the
source, u32 mask of the leads, f64 seconds of the stream at its first sample, f64 the same since 1970, f32 samples a second, u32 n,
and then int16 [leads, n] in the order of the mask's bits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from kernels.signal import Samples

from ..page import NONE

VERSION = 1
MOST_LEADS = 32
"""As many as the mask has bits."""
MOST_SOURCES = 1 << 16

_HEAD = struct.Struct("<BBHIddfI")
_LARGEST = 32767


@dataclass(frozen=True, slots=True)
class Digits:
    """Samples in whole microvolts, or in a power of ten of them."""

    exponent: int
    """0, but where an amplifier's offset lets the samples reach beyond 32 mV."""
    rows: npt.NDArray[np.int16]
    """[leads, n]; `NONE` where there is no signal."""

    @classmethod
    def of(cls, samples_mv: Samples) -> Digits:
        """Rounded. The unit is the smallest in which the largest sample fits."""
        uv = np.where(np.isfinite(samples_mv), samples_mv * np.float64(1000), np.nan)
        largest = float(np.nanmax(np.abs(uv), initial=0.0))
        exponent = next(k for k in count() if round(largest / 10**k) <= _LARGEST)
        return cls(exponent, np.where(np.isnan(uv), NONE, np.rint(uv / 10**exponent)).astype("<i2"))


def to_mask(rows: Sequence[int]) -> int:
    """With the bit of each row set."""
    return sum(1 << row for row in rows)


@dataclass(frozen=True, slots=True)
class Frame:
    """A stretch of one source without a gap."""

    number: int
    """Of the source, as its message tells."""
    mask: int
    """Bit i stands for the i-th lead of the source."""
    start_s: float
    """Seconds of the stream at the first sample."""
    time_s: float
    """The same since 1970."""
    rate_hz: float
    digits: Digits
    """The leads in the order of the mask's bits."""

    def encode(self) -> bytes:
        """32 bytes of head, then the digits."""
        rows, exponent = self.digits.rows, self.digits.exponent
        head = _HEAD.pack(VERSION, exponent, self.number, self.mask, self.start_s, self.time_s, self.rate_hz, rows.shape[1])
        return head + rows.tobytes()


def decode(data: bytes) -> Iterator[Frame]:
    """The frames of a message. Raises ValueError for one that is cut short, or of another version."""
    at = 0
    while at < len(data):
        frame, at = _decode(data, at)
        yield frame


def _decode(data: bytes, at: int) -> tuple[Frame, int]:
    if len(data) - at < _HEAD.size:
        raise ValueError(f"a frame needs {_HEAD.size} bytes of head; {len(data) - at} are left")
    version, exponent, number, mask, start_s, time_s, rate_hz, n = _HEAD.unpack_from(data, at)
    at, leads = at + _HEAD.size, mask.bit_count()
    end = at + 2 * leads * n
    if version != VERSION or end > len(data):
        raise ValueError(f"a frame of version {version} that ends at byte {end} of {len(data)}; version {VERSION} is known")
    rows = np.frombuffer(data[at:end], "<i2").reshape(leads, n)
    return Frame(number, mask, start_s, time_s, rate_hz, Digits(exponent, rows)), end
