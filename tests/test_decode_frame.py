"""The binary frame: its published vector, any cut, any garbage, every flipped bit, and the bits of a WFDB record."""

from __future__ import annotations

import itertools
import struct
import zlib

import numpy as np
import pytest
import wfdb
from hypothesis import given
from hypothesis import strategies as st

import edge.decode.frame as frame_module
from edge.decode.chunk import Chunk
from edge.decode.device import Wiring
from edge.decode.frame import LONGEST, MAGIC, Frame, FrameDecoder, FrameEncoder, pack, unpack
from kernels.findings import ConfigError
from kernels.signal import LEADS
from tests.conftest import EXCERPT

WIRING = Wiring(("I", "V1"), 250.0, 200.0)


def _by_hand(
    seq: int = 7, t0: int = 1_767_225_600_000_000, mask: int = 0b1000001, off: int = 0b1000000, n: int = 2,
    units: tuple[int, ...] = (200, -100, -32768, 32767), scale: float = 200.0, flags: int = 1, version: int = 1, rate_mhz: int = 250_000,
) -> bytes:  # fmt: skip
    """The documented table, written with struct and zlib alone."""
    length = 38 + 2 * len(units)
    head = bytes([0xEC, 0x67, 0x6C, version]) + struct.pack("<HHQIIfHHH", length, flags, t0, seq, rate_mhz, scale, mask, off, n)
    body = head + struct.pack(f"<{len(units)}h", *units)
    return body + struct.pack("<I", zlib.crc32(body))


def _decode(data: bytes, cuts: list[int] = []) -> tuple[FrameDecoder, list[Chunk]]:  # noqa: B006
    decoder = FrameDecoder(WIRING)
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    chunks = [c for a, b in itertools.pairwise(edges) for c in decoder.feed(data[a:b])] + list(decoder.flush())
    return decoder, chunks


def _stream(frames: int = 12, samples: int = 10) -> tuple[bytes, list[bytes]]:
    rng = np.random.default_rng(1)
    encoder = FrameEncoder(WIRING, begin_s=1e9)
    pieces = [encoder.feed(rng.normal(0, 1, (2, samples)).astype(np.float32)) for _ in range(frames)]
    return b"".join(pieces), pieces


def test_the_published_vector_is_what_the_table_says() -> None:
    words = (frame_module.__doc__ or "").split()
    at = next(i for i, word in enumerate(words) if word.startswith("ec676c01"))
    published = bytes.fromhex(words[at] + words[at + 1])
    assert published == _by_hand()
    frame = unpack(published)
    assert frame is not None
    assert (frame.seq, frame.t_s, frame.rate_hz, frame.leads, frame.lead_off) == (7, 1_767_225_600.0, 250.0, ("I", "V1"), ("V1",))
    wanted = np.float32([[200 / 200, np.nan], [-100 / 200, 32767 / 200]])
    assert np.array_equal(frame.samples_mv, wanted, equal_nan=True)
    assert pack(frame, 200.0) == published


def test_every_flipped_bit_of_a_frame_is_refused() -> None:
    data = bytearray(_by_hand())
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        assert unpack(bytes(data)) is None
        assert _decode(bytes(data))[1] == []
        data[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 2}, {"flags": 2}, {"mask": 0}, {"mask": 1 << 12 | 1}, {"n": 0}, {"n": 3}, {"scale": 0.0}, {"scale": float("nan")},
        {"rate_mhz": 0}, {"rate_mhz": 100_000_001},
    ],
)  # fmt: skip
def test_a_sound_checksum_does_not_excuse_a_senseless_header(wrong: dict[str, int]) -> None:
    assert unpack(_by_hand(**wrong)) is None  # type: ignore[arg-type]
    assert _decode(_by_hand(**wrong))[1] == []  # type: ignore[arg-type]


def test_no_clock_and_no_counter_are_none() -> None:
    frame = unpack(_by_hand(t0=0, flags=0))
    assert frame is not None
    assert (frame.t_s, frame.seq) == (None, None)


def test_samples_have_the_bits_that_wfdb_reads() -> None:
    record = wfdb.rdrecord(str(EXCERPT), sampto=2700, physical=False)
    units = record.d_signal.astype(int) - 1024
    frame = unpack(_by_hand(mask=0b1000010, off=0, n=2700, units=tuple(units.ravel().tolist())))
    wanted = wfdb.rdrecord(str(EXCERPT), sampto=2700).p_signal.T.astype(np.float32)
    assert frame is not None
    assert frame.samples_mv.tobytes() == wanted.tobytes()


@given(cuts=st.lists(st.integers(0, 1000), max_size=20))
def test_any_cut_gives_the_same_chunks(cuts: list[int]) -> None:
    data, _ = _stream()
    (one, whole), (other, cut) = _decode(data), _decode(data, cuts)
    assert [(c.start, c.leads) for c in cut] == [(c.start, c.leads) for c in whole]
    assert all(np.array_equal(a.samples_mv, b.samples_mv) for a, b in zip(cut, whole, strict=True))
    assert one.tally == other.tally


@given(garbage=st.lists(st.binary(max_size=60) | st.just(MAGIC + b"\x01\xff\xff"), min_size=13, max_size=13))
def test_garbage_between_frames_costs_no_frame(garbage: list[bytes]) -> None:
    _, pieces = _stream()
    data = b"".join(g + piece for g, piece in itertools.zip_longest(garbage, pieces, fillvalue=b""))
    decoder, chunks = _decode(data)
    assert [c.start for c in chunks] == [10 * i for i in range(12)]
    assert decoder.tally.garbage == sum(map(len, garbage))


@given(st.binary(max_size=3000))
def test_no_bytes_are_an_exception(data: bytes) -> None:
    assert _decode(data + MAGIC + data)[1] == []


@given(gone=st.sets(st.integers(1, 10)))
def test_lost_frames_are_counted(gone: set[int]) -> None:
    _, pieces = _stream()
    decoder, chunks = _decode(b"".join(piece for i, piece in enumerate(pieces) if i not in gone))
    assert [c.start for c in chunks] == [10 * i for i in range(12) if i not in gone]
    assert decoder.tally.lost == 10 * len(gone)


@pytest.mark.parametrize("data", [MAGIC * 350_000, _by_hand()[:30] * 30_000, bytes(1_000_000)], ids=["sync", "heads", "zeros"])
def test_memory_is_bounded(data: bytes) -> None:
    decoder = FrameDecoder(WIRING)
    for at in range(0, len(data), 4096):
        assert list(decoder.feed(data[at : at + 4096])) == []
        assert decoder._framer.held < 2 * LONGEST + 4096


@given(
    leads=st.permutations(LEADS).flatmap(lambda leads: st.integers(1, 12).map(lambda n: tuple(leads[:n]))),
    samples=st.integers(1, 40),
    off=st.sets(st.sampled_from(LEADS)),
)
def test_encoded_samples_come_back_within_half_a_unit(leads: tuple[str, ...], samples: int, off: set[str]) -> None:
    wiring = Wiring(leads, 500.0, 1000.0)
    mv = np.random.default_rng(samples).normal(0, 2, (len(leads), samples)).astype(np.float32)
    mv[0, 0] = np.nan
    (chunk,) = [*FrameDecoder(wiring).feed(FrameEncoder(wiring).feed(mv, tuple(off)))]
    order = [leads.index(lead) for lead in chunk.leads]
    assert chunk.leads == tuple(lead for lead in LEADS if lead in leads)
    assert chunk.lead_off == tuple(lead for lead in chunk.leads if lead in off)
    assert np.array_equal(np.isnan(chunk.samples_mv), np.isnan(mv[order]))
    assert np.nanmax(np.abs(chunk.samples_mv - mv[order]), initial=0) <= 0.000501


def test_a_long_call_is_several_frames_and_clips_at_16_bits() -> None:
    wiring = Wiring((), 500.0, 1000.0)
    mv = np.full((12, 6000), 40, np.float32)
    chunks = list(FrameDecoder(wiring).feed(FrameEncoder(wiring).feed(mv)))
    assert [c.start for c in chunks] == [0, 2729, 5458]
    assert all((c.samples_mv == np.float32(32.767)).all() for c in chunks)
    with pytest.raises(ValueError, match="too many"):
        pack(Frame(0, None, 500.0, LEADS, mv), 1000.0)


def test_a_sender_without_a_rate_is_the_operators_mistake() -> None:
    with pytest.raises(ConfigError, match="rate_hz must be given"):
        FrameEncoder(Wiring((), 0.0, 1000.0))
