"""The framer: whole frames from any cut of the bytes, none from garbage, in bounded memory and linear time."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.decode.device import Tally
from edge.decode.framing import Framer, Shape, fixed

SYNC = b"\xaa\x55"
LONGEST = 40


def _checked(payload: bytes) -> bytes:
    """A toy protocol: sync, length of all, payload, CRC32."""
    body = SYNC + bytes((7 + len(payload),)) + payload
    return body + zlib.crc32(body).to_bytes(4, "little")


CHECKED = Shape(
    SYNC,
    3,
    LONGEST,
    measure=lambda head: head[2] if head[2] >= 7 else 0,
    sound=lambda frame: zlib.crc32(frame[:-4]).to_bytes(4, "little") == frame[-4:],
    checked=True,
)
PLAIN = fixed(SYNC, 8, lambda frame: frame[-1] == 0x0D)
"""Frames of 8 bytes that end in 0D, and nothing else to check."""


def _plain(number: int) -> bytes:
    return SYNC + number.to_bytes(5, "big") + b"\x0d"


def _run(shape: Shape, data: bytes, cuts: Sequence[int] = ()) -> tuple[list[bytes], Tally]:
    tally = Tally()
    framer = Framer(shape, tally)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    frames = [frame for a, b in itertools.pairwise(edges) for frame in framer.feed(data[a:b])]
    frames += framer.flush()
    assert framer.held == 0
    return frames, tally


def test_frames_in_step_come_out_as_soon_as_they_are_whole() -> None:
    framer = Framer(PLAIN, Tally())
    assert list(framer.feed(_plain(0) + SYNC)) == [_plain(0)]
    for i in range(1, 5):
        assert list(framer.feed(_plain(i)[2:])) == [_plain(i)], "nothing of the next frame was needed"
        assert list(framer.feed(SYNC)) == []


def test_out_of_step_a_plain_frame_waits_for_the_head_of_the_next() -> None:
    framer = Framer(PLAIN, Tally())
    assert list(framer.feed(_plain(0))) == []
    assert list(framer.feed(SYNC[:1])) == []
    assert list(framer.feed(SYNC[1:])) == [_plain(0)]


def test_a_plain_frame_that_nothing_follows_is_garbage_and_a_checked_one_is_believed() -> None:
    frames, tally = _run(PLAIN, b"\x01" + _plain(3))
    assert frames == [] and tally.garbage == 9 and tally.broken == 0
    frames, tally = _run(CHECKED, b"\x01" + _checked(b"hello"))
    assert frames == [_checked(b"hello")] and tally.garbage == 1


def test_a_frame_spliced_into_another_costs_only_the_broken_one() -> None:
    frames, tally = _run(PLAIN, _plain(0) + _plain(1) + _plain(2)[:4] + _plain(3) + _plain(4))
    assert frames == [_plain(0), _plain(1), _plain(3), _plain(4)]
    assert (tally.broken, tally.garbage) == (1, 4)


def test_the_end_reveals_frames_behind_the_head_of_one_that_never_became_whole() -> None:
    head = SYNC + bytes((LONGEST,))
    frames, tally = _run(CHECKED, head + _checked(b"x"))
    assert frames == [_checked(b"x")] and tally.garbage == len(head)


def test_a_length_longer_than_the_longest_frame_is_no_frame() -> None:
    framer = Framer(CHECKED, Tally())
    assert list(framer.feed(SYNC + b"\xff" + _checked(b"x"))) == [_checked(b"x")], "it does not wait for 255 bytes"


def test_skipped_says_how_many_bytes_of_garbage_lie_before_a_frame() -> None:
    framer = Framer(CHECKED, Tally())
    skipped = [framer.skipped for _ in framer.feed(b"abc" + _checked(b"1") + _checked(b"2") + b"zz" + _checked(b"3"))]
    assert skipped == [3, 0, 2]


pieces = st.lists(st.one_of(st.binary(max_size=12), st.just(SYNC), st.binary(max_size=20).map(_checked)), max_size=12)


@given(pieces=pieces, cuts=st.lists(st.integers(0, 400), max_size=12))
def test_any_cut_gives_the_same_frames_and_counts(pieces: list[bytes], cuts: list[int]) -> None:
    data = b"".join(pieces)
    for shape in (CHECKED, PLAIN):
        assert _run(shape, data, cuts) == _run(shape, data)
        assert _run(shape, data, list(range(len(data)))) == _run(shape, data)


@given(pieces=pieces)
def test_every_byte_is_in_a_frame_or_garbage(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    frames, tally = _run(CHECKED, data)
    assert sum(map(len, frames)) + tally.garbage == len(data)
    assert frames == [p for p in pieces if p[:2] == SYNC and len(p) > 6], "a checksum of 32 bits lets nothing else through"


@given(where=st.integers(0, 19), flip=st.integers(0, 63))
def test_a_flipped_bit_costs_its_own_frame_and_a_first_or_last_one_that_has_no_other_beside_it(where: int, flip: int) -> None:
    data = bytearray(b"".join(map(_plain, range(20))))
    data[8 * where + flip // 8] ^= 1 << flip % 8
    frames, _ = _run(PLAIN, bytes(data))
    lonely = {1: [0], 18: [19]}.get(where, [])
    assert {_plain(i) for i in range(20)} - set(frames) <= {_plain(i) for i in [where, *lonely]}


@pytest.mark.parametrize("filler", [SYNC, SYNC[:1], b"\0", SYNC + b"\x28"])
def test_a_megabyte_of_anything_takes_linear_time_and_little_memory(filler: bytes) -> None:
    """Time is counted in calls of the checks, so that the law does not depend on the machine."""
    calls = 0

    def sound(frame: bytes) -> bool:
        nonlocal calls
        calls += 1
        return False

    framer = Framer(Shape(SYNC, 3, LONGEST, lambda head: LONGEST, sound), Tally())
    data = filler * (1_000_000 // len(filler))
    for at in range(0, len(data), 65536):
        assert list(framer.feed(data[at : at + 65536])) == []
        assert framer.held <= 2 * LONGEST
    assert calls <= len(data)


def test_random_bytes_hold_no_more_than_two_of_the_longest_frames() -> None:
    framer = Framer(CHECKED, Tally())
    data = np.random.default_rng(0).choice(np.frombuffer(SYNC + b"\x07\x20\x28", np.uint8), 50_000).tobytes()
    for at in range(0, len(data), 7):
        assert not list(framer.feed(data[at : at + 7]))
        assert framer.held <= 2 * LONGEST
