from __future__ import annotations

import base64
import binascii
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.decode.csv import Columns
from edge.formats.recording import Annotation, annotations_of
from edge.transport.file import open_recording
from kernels.findings import ConfigError

from .test_formats_edf import fails, laid

VECTOR = zlib.decompress(
    base64.b64decode(
        "eNrzDPbwczXUM7h5QIqBgYEdiLmYGBhUgJiRgb5AloGJ4QW7KAM3wyt2cQZrBisGZgZWBh6gO77/R4eMDIxYxY9wvmD+wogpzsCQkpmeWZKYQ9AVWxhG"
        "KijJKEpNVchJTUwp1lEoTi1LzVMoTswtyEktvsfiwRj8p+3n2R/rfv39teLnX6bHvxP+rmJm/f3l36YfW1meMH77eYR1zX+H/wBzy2ds"
    )
)
"""Written by ishneholterlib 2020.5.29: leads I, V2 and generic of 2500, 1000 and 500 nV at 180 Hz."""
DIGITS = np.array([[1246, -1658, -1283, -1053, -1275, 1205, 1476], [328, -1843, -1624, -672, -268, 484, -84]])


def written(
    path: Path, digits: np.ndarray, codes: tuple[int, ...], nv: int = 1000, rate: int = 250, promised: int | None = None, text: bytes = b""
) -> Path:
    """By the table of the standard, field by field."""
    samples, leads = digits.shape
    absent = [-9] * (12 - leads)

    def short(*values: int) -> bytes:
        return b"".join(value.to_bytes(2, "little", signed=True) for value in values)

    def long(value: int) -> bytes:
        return value.to_bytes(4, "little", signed=True)

    head = long(len(text)) + long(samples if promised is None else promised) + long(522) + long(522 + len(text)) + short(1)
    head += bytes(40 + 40 + 20) + short(1, 1) + short(29, 2, 1960) + short(1, 3, 2024) + short(2, 3, 2024) + short(23, 59, 30)
    head += short(leads, *codes, *absent, *[1] * leads, *absent, *[nv] * leads, *absent) + short(0)
    head += b"digital".ljust(40, b"\0") + short(rate) + bytes(80 + 80 + 88) + text
    assert len(head) == 512 + len(text)
    path.write_bytes(b"ISHNE1.0" + binascii.crc_hqx(head, 0xFFFF).to_bytes(2, "little") + head + digits.astype("<i2").tobytes())
    return path


def noted(path: Path, first: int, beats: list[tuple[bytes, int]]) -> None:
    head = bytearray(path.read_bytes()[:522])
    head[:14] = b"ANN  1.0" + bytes(6)
    body = b"".join(label + b" " + samples.to_bytes(2, "little") for label, samples in beats)
    path.with_suffix(".ann").write_bytes(bytes(head) + first.to_bytes(4, "little") + body)


def digits(samples: int, leads: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-5000, 5000, (samples, leads))


def test_what_another_program_wrote_reads_as_it_did_there(tmp_path: Path) -> None:
    path = tmp_path / "a.ecg"
    path.write_bytes(VECTOR)
    recording = open_recording(path)
    found = laid(recording)
    assert list(found) == ["I", "V2"] and recording.duration_s == 7 / 180
    np.testing.assert_allclose(found["I"], DIGITS[0] * 0.0025, atol=1e-6)
    np.testing.assert_allclose(found["V2"], DIGITS[1] * 0.001, atol=1e-6)


@given(samples=st.integers(1, 900), leads=st.integers(1, 12), block=st.integers(1, 4096), text=st.binary(max_size=30))
def test_any_block_gives_the_samples_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, samples: int, leads: int, block: int, text: bytes
) -> None:
    frames = digits(samples, leads, samples)
    names = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")[:leads]
    path = written(tmp_path_factory.mktemp("ishne") / "a.ecg", frames, tuple(range(5, 5 + leads)), text=text)
    found = laid(open_recording(path), max(block, 2 * leads))
    assert tuple(found) == names
    np.testing.assert_allclose(np.stack(list(found.values())), frames.T / 1000, atol=1e-6)


def test_a_count_of_the_samples_of_all_leads_is_understood(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ecg", digits(500, 3), (5, 6, 11), promised=1500)
    assert open_recording(path).duration_s == 2.0


def test_a_byte_behind_the_last_sample_does_not_turn_a_count_of_all_into_one_of_each(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ecg", digits(500, 3), (5, 6, 11), promised=1500)
    path.write_bytes(path.read_bytes() + b"\0\0")
    assert open_recording(path).duration_s == 2.0


def test_what_is_left_of_a_truncated_file_reads_if_that_is_wanted(tmp_path: Path) -> None:
    frames = digits(500, 2)
    path = written(tmp_path / "a.ecg", frames, (5, 6))
    path.write_bytes(path.read_bytes()[:-500])
    fails(path, "--partial")
    found = laid(open_recording(path, partial=True))
    np.testing.assert_allclose(np.stack(list(found.values())), frames[:375].T / 1000, atol=1e-6)


def test_unknown_leads_are_an_error_until_they_are_given(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ecg", digits(500, 2), (0, 1))
    fails(path, "unknown, bipolar; name them in order, for example --leads I")
    assert list(laid(open_recording(path, Columns(("II", "V5"))))) == ["II", "V5"]


def test_a_lead_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    fails(written(tmp_path / "a.ecg", digits(500, 2), (6, 6)), "stands twice")


def test_a_lead_without_a_gain_is_an_error(tmp_path: Path) -> None:
    fails(written(tmp_path / "a.ecg", digits(500, 2), (5, 6), nv=0), "lead I has no gain")


def test_a_truncated_file_says_how_much_it_holds(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ecg", digits(500, 2), (5, 6))
    path.write_bytes(path.read_bytes()[:-500])
    fails(path, r"holds 1\.50 of up to 2\.00 s; copy it again")


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ecg", digits(1_000_000, 3), (5, 6, 11))
    tracemalloc.start()
    for _ in open_recording(path).chunks():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6 < path.stat().st_size


def test_beats_are_told_up_to_a_pause(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ecg", digits(5000, 1), (6,))
    noted(path, 100, [(b"N", 250), (b"V", 150), (b"N", 40_000), (b"!", 9), (b"N", 250)])
    assert annotations_of(open_recording(path)) == [Annotation(1.4, "N"), Annotation(2.0, "V"), Annotation(162.0, "N")]


@pytest.mark.parametrize("body", [b"", b"ANN", b"ANN  1.0" + bytes(514), b"ANN  1.0" + b"\xff" * 700])
def test_a_damaged_annotation_file_leaves_the_recording_readable(tmp_path: Path, body: bytes) -> None:
    path = written(tmp_path / "a.ecg", digits(500, 1), (6,))
    path.with_suffix(".ann").write_bytes(body)
    recording = open_recording(path)
    assert len(laid(recording)["II"]) == 500
    annotations_of(recording)


@given(at=st.integers(8, 521), bit=st.integers(0, 7))
def test_any_flipped_bit_of_the_header_is_found(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    path = tmp_path_factory.mktemp("ishne") / "a.ecg"
    data = bytearray(VECTOR)
    data[at] ^= 1 << bit
    path.write_bytes(data)
    fails(path, "checksum")


@given(cut=st.integers(8, len(VECTOR) - 1))
def test_a_file_cut_anywhere_is_named(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("ishne") / "a.ecg"
    path.write_bytes(VECTOR[:cut])
    with pytest.raises(ConfigError, match=r"copy it again|export it again"):
        open_recording(path)


@given(field=st.sampled_from([(14, 4), (22, 4), (156, 2), (158, 2), (206, 2), (272, 2)]), value=st.integers(-(2**31), 2**31 - 1))
def test_a_header_that_is_wrong_but_summed_up_right_is_named_or_read(
    tmp_path_factory: pytest.TempPathFactory, field: tuple[int, int], value: int
) -> None:
    data, (at, size) = bytearray(VECTOR), field
    data[at : at + size] = (value % 256**size).to_bytes(size, "little")
    offset = int.from_bytes(data[22:26], "little", signed=True)
    data[8:10] = binascii.crc_hqx(bytes(data[10 : max(offset, 522)]), 0xFFFF).to_bytes(2, "little")
    path = tmp_path_factory.mktemp("ishne") / "a.ecg"
    path.write_bytes(data)
    try:
        assert list(open_recording(path).chunks())
    except ConfigError as error:
        assert len(str(error)) < 600
