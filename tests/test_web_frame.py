"""Binary frames: read here by struct and the layout that the contract gives, not by the code that writes them."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.web.frame import Digits, Frame, decode, to_mask

NONE = -32768


@dataclass(frozen=True)
class Read:
    """A frame as a browser reads it."""

    number: int
    mask: int
    start_s: float
    time_s: float
    rate_hz: float
    uv: list[list[float | None]]


def read(message: bytes) -> list[Read]:
    """Every frame of a binary message, byte by byte."""
    frames = []
    while message:
        version, exponent, number, mask, start_s, time_s, rate_hz, n = struct.unpack("<BBHIddfI", message[:32])
        assert version == 1
        leads = bin(mask).count("1")
        values = struct.unpack(f"<{leads * n}h", message[32 : 32 + 2 * leads * n])
        uv = [None if value == NONE else float(value * 10**exponent) for value in values]
        frames.append(Read(number, mask, start_s, time_s, rate_hz, [uv[i * n : (i + 1) * n] for i in range(leads)]))
        message = message[32 + 2 * leads * n :]
    return frames


def microvolts(sample_mv: float, unit: int = 1) -> float | None:
    """What is to be shown of one sample."""
    return None if math.isnan(sample_mv) else float(round(float(np.float32(sample_mv)) * 1000 / unit) * unit)


def _frames() -> st.SearchStrategy[Frame]:
    def _frame(rows: list[int], n: int, seed: int, number: int, start_s: float, time_s: float) -> Frame:
        samples = np.random.default_rng(seed).normal(0, 2, (len(rows), n)).astype(np.float32)
        return Frame(number, to_mask(rows), start_s, time_s, 250.0, Digits.of(samples))

    rows = st.lists(st.integers(0, 31), min_size=1, unique=True).map(sorted)
    seconds = st.floats(0, 1e10)
    return st.builds(_frame, rows, st.integers(0, 40), st.integers(0, 999), st.integers(0, 65535), seconds, seconds)


@given(st.lists(_frames(), max_size=5))
def test_a_message_of_frames_is_read_as_it_was_written(frames: list[Frame]) -> None:
    message = b"".join(frame.encode() for frame in frames)
    assert [(frame.number, frame.mask, frame.start_s, frame.time_s, frame.rate_hz) for frame in read(message)] == [
        (frame.number, frame.mask, frame.start_s, frame.time_s, frame.rate_hz) for frame in frames
    ]
    for one, other, again in zip(read(message), frames, decode(message), strict=True):
        assert one.uv == other.digits.rows.tolist() == again.digits.rows.tolist()


@given(st.lists(st.floats(-32.75, 32.75, width=32) | st.just(math.nan), min_size=1, max_size=50))
def test_samples_within_32_mv_are_rounded_to_a_microvolt_and_missing_ones_stay_missing(samples_mv: list[float]) -> None:
    digits = Digits.of(np.array([samples_mv], np.float32))
    assert digits.exponent == 0
    assert [None if value == NONE else value for value in digits.rows[0].tolist()] == [microvolts(mv) for mv in samples_mv]


@given(st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=1, max_size=50))
def test_an_offset_of_any_size_costs_digits_and_never_the_shape(samples_mv: list[float]) -> None:
    frame = Frame(0, 1, 0.0, 0.0, 250.0, Digits.of(np.array([samples_mv], np.float32)))
    ((shown,),) = [one.uv for one in read(frame.encode())]
    largest_uv = max((abs(mv) * 1000 for mv in samples_mv if math.isfinite(mv)), default=0.0)
    for mv, uv in zip(samples_mv, shown, strict=True):
        assert (uv is None) == (not math.isfinite(mv))
        assert uv is None or abs(uv - mv * 1000) <= max(largest_uv / 6000, 0.5) * 1.0001


@given(_frames(), st.data())
def test_a_message_that_is_cut_short_is_no_frame(frame: Frame, data: st.DataObject) -> None:
    message = frame.encode()
    with pytest.raises(ValueError):
        list(decode(message[: data.draw(st.integers(1, len(message) - 1))]))


def test_a_frame_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 2"):
        list(decode(b"\2" + bytes(31)))
