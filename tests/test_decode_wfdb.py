"""The WFDB decoder: what the wfdb package reads, in any cut, and never an exception from the bytes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import given
from hypothesis import strategies as st

from edge.decode.wfdb import UnsupportedFormat, WfdbDecoder, frame_bytes, parse_header
from edge.transport.file import open_recording
from kernels.findings import ConfigError
from kernels.signal import standard_lead

from .conftest import EXCERPT

BITS = {"16": 15, "61": 15, "80": 7, "212": 11, "24": 23, "32": 31}


def _write(folder: Path, code: str, signals: int, samples: int = 501) -> Path:
    """A record with every digit the format has, and an invalid sample in each signal."""
    limit = 2 ** BITS[code] - 1
    digits = np.random.default_rng(7).integers(-limit, limit, (samples, signals), dtype=np.int64, endpoint=True)
    digits[5] = -limit - 1
    names = ["I", "II", "V1", "V2", "V5"][:signals]
    if code == "61":
        return _byte_swapped(_write(folder, "16", signals, samples))
    wfdb.wrsamp(
        f"r{code}", 250, ["mV"] * signals, names, d_signal=digits, fmt=[code] * signals, adc_gain=[200.0] * signals,
        baseline=[3] * signals, write_dir=str(folder),
    )  # fmt: skip
    return folder / f"r{code}"


def _byte_swapped(record: Path) -> Path:
    """Format 61 is format 16 with its bytes the other way round; the wfdb package reads it but does not write it."""
    np.frombuffer(record.with_suffix(".dat").read_bytes(), "<i2").astype(">i2").tofile(record.with_suffix(".dat"))
    header = record.with_suffix(".hea")
    header.write_text(header.read_text().replace(".dat 16 ", ".dat 61 "))
    return record


def _decode(header: str, data: bytes, cuts: list[int]) -> np.ndarray:
    decoder = WfdbDecoder(parse_header(header))
    edges = [0, *sorted(min(c, len(data)) for c in cuts), len(data)]
    chunks = [chunk for a, b in itertools.pairwise(edges) for chunk in decoder.feed(data[a:b])] + list(decoder.flush())
    starts = np.cumsum([0] + [chunk.samples_mv.shape[1] for chunk in chunks])
    assert [chunk.start for chunk in chunks] == starts[:-1].tolist()
    return np.concatenate([chunk.samples_mv for chunk in chunks], axis=1)


@pytest.mark.parametrize("signals", [1, 2, 3, 5])
@pytest.mark.parametrize("code", BITS)
def test_reads_what_wfdb_reads(tmp_path: Path, code: str, signals: int) -> None:
    record = _write(tmp_path, code, signals)
    wanted = wfdb.rdrecord(str(record)).p_signal.T
    ours = np.concatenate([chunk.samples_mv for chunk in open_recording(record).chunks(block=97)], axis=1)
    assert ours.shape == wanted.shape
    assert np.array_equal(np.isnan(ours), np.isnan(wanted))
    assert np.allclose(ours, wanted, rtol=1e-6, equal_nan=True)


@given(cuts=st.lists(st.integers(0, 3000), max_size=20), code=st.sampled_from(sorted(BITS)), signals=st.sampled_from([1, 2, 3]))
def test_any_cut_gives_the_same_samples(tmp_path_factory: pytest.TempPathFactory, cuts: list[int], code: str, signals: int) -> None:
    record = _write(tmp_path_factory.mktemp("wfdb"), code, signals)
    header, data = record.with_suffix(".hea").read_text(), record.with_suffix(".dat").read_bytes()
    assert np.array_equal(_decode(header, data, cuts), _decode(header, data, []), equal_nan=True)


@given(garbage=st.binary(max_size=4000), code=st.sampled_from([16, 24, 32, 61, 80, 212]), signals=st.integers(1, 4))
def test_no_bytes_are_an_exception(garbage: bytes, code: int, signals: int) -> None:
    header = f"r {signals} 250\n" + "\n".join(f"r.dat {code} 200 12 0 0 0 0 {lead}" for lead in ("I", "II", "V1", "V5")[:signals])
    decoder = WfdbDecoder(parse_header(header))
    decoded = sum(chunk.samples_mv.shape[1] for chunk in [*decoder.feed(garbage), *decoder.flush()])
    assert decoded == decoder.decoded == int(len(garbage) / frame_bytes(parse_header(header)))


def test_a_matlab_record_skips_its_prefix(tmp_path: Path) -> None:
    """The CinC 2017 layout: format 16 behind 24 bytes of MATLAB header."""
    digits = np.arange(-50, 50, dtype="<i2")
    (tmp_path / "A1.mat").write_bytes(b"\0" * 24 + digits.tobytes())
    (tmp_path / "A1.hea").write_text("A1 1 300 100 12:03:38 1/03/2000 \nA1.mat 16+24 1000/mV 16 0 -81 0 0 I \n")
    (chunk,) = open_recording(tmp_path / "A1").chunks()
    assert np.allclose(chunk.samples_mv[0], digits / 1000)
    assert chunk.rate_hz == 300


def test_units_other_than_mV_are_scaled() -> None:
    for unit, mv in (("mV", 1.0), ("uV", 1e-3), ("\N{MICRO SIGN}V", 1e-3), ("V", 1e3)):
        decoder = WfdbDecoder(parse_header(f"r 1 250 2\nr.dat 16 10/{unit} 16 0 0 0 0 II"))
        (chunk,) = decoder.feed(np.array([10, 20], "<i2").tobytes())
        assert np.allclose(chunk.samples_mv[0], [mv, 2 * mv])


def test_the_excerpt_has_lead_II_under_its_mit_bih_name() -> None:
    (first, *_) = open_recording(EXCERPT).chunks()
    assert first.leads == ("II", "V1")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a WFDB header"),
        ("no numbers here", "not a WFDB header"),
        ("r 2 250\nr.dat 16 200 12 0 0 0 0 I", "promises 2 signals"),
        ("r 1 250\nnonsense", "not a WFDB signal line"),
        ("r 1 0\nr.dat 16 200 12 0 0 0 0 I", "must be positive"),
        ("r 1 -360\nr.dat 16 200 12 0 0 0 0 I", "must be positive"),
        ("r 1 250abc\nr.dat 16 200 12 0 0 0 0 I", "sampling rate of '250abc'"),
        ("r 1 nan\nr.dat 16 200 12 0 0 0 0 I", "sampling rate of 'nan'"),
        ("r 1 1e400\nr.dat 16 200 12 0 0 0 0 I", "sampling rate of '1e400'"),
        ("r 1 250 " + "9" * 5000 + "\nr.dat 16 200 12 0 0 0 0 I", "number of samples"),
        ("r 1 250 1e3\nr.dat 16 200 12 0 0 0 0 I", "number of samples of '1e3'"),
        ("r 1 250\nr.dat 16 abc 12 0 0 0 0 I", "gain of 'abc'"),
        ("r 1 250\nr.dat 16 200(x)/mV 12 0 0 0 0 I", "baseline of 'x'"),
        ("r 1 250\nr.dat 16 200 12 1e20 0 0 0 I", "ADC zero of '1e20'"),
        ("r 1 250\n../r.dat 16 200 12 0 0 0 0 I", "with a folder"),
    ],
)
def test_a_header_that_is_none_says_so(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_header(text)


def test_unknown_leads_ask_for_their_names() -> None:
    with pytest.raises(ConfigError, match="--leads I"):
        WfdbDecoder(parse_header("r 1 250\nr.dat 16 200 12 0 0 0 0 ECG"))


def test_a_pressure_beside_an_ecg_is_left_out() -> None:
    decoder = WfdbDecoder(parse_header("r 2 250 2\nr.dat 16 200/mmHg 16 0 0 0 0 ABP\nr.dat 16 200/mV 16 0 0 0 0 II"))
    (chunk,) = decoder.feed(np.zeros(4, "<i2").tobytes())
    assert chunk.leads[1] == "II"
    assert standard_lead(chunk.leads[0]) is None


@pytest.mark.parametrize("leads", [(), ("I",)])
def test_samples_without_a_unit_are_refused_even_when_named(leads: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"I in NU|unit of voltage"):
        WfdbDecoder(parse_header("r 1 250 2\nr.dat 16 200/NU 16 0 0 0 0 I"), leads)


@pytest.mark.parametrize("damage", ["segment", "format", "length", "file"])
def test_what_the_library_cannot_read_is_one_line(tmp_path: Path, damage: str) -> None:
    texts = {
        "segment": "r/2 1 250 1000\na 500\nnonsense\n",
        "format": "r 1 250 1000\nr.dat 99 200 12 0 0 0 0 I\n",
        "length": "r 1 250\nr.dat 508 200 12 0 0 0 0 I\n",
        "file": "r 1 250 1000\ngone.dat 508 200 12 0 0 0 0 I\n",
    }
    (tmp_path / "r.hea").write_text(texts[damage])
    (tmp_path / "r.dat").write_bytes(b"no FLAC")
    with pytest.raises(ConfigError, match="the wfdb package cannot read it"):
        list(open_recording(tmp_path / "r").chunks())


def test_formats_for_the_library_are_told_apart_from_errors() -> None:
    with pytest.raises(UnsupportedFormat):
        WfdbDecoder(parse_header("r 1 250\nr.dat 508 200 12 0 0 0 0 I"))
    with pytest.raises(UnsupportedFormat):
        parse_header("r/3 2 250 1000")


def test_what_we_do_not_read_the_library_reads(tmp_path: Path) -> None:
    """Two signal files in one record."""
    samples = np.random.default_rng(0).normal(size=(1000, 2))
    wfdb.wrsamp("two", 250, ["mV"] * 2, ["I", "V2"], samples, fmt=["16", "16"], write_dir=str(tmp_path))
    header = tmp_path / "two.hea"
    data = np.frombuffer((tmp_path / "two.dat").read_bytes(), "<i2").reshape(-1, 2)
    for i, name in enumerate(("a.dat", "b.dat")):
        (tmp_path / name).write_bytes(data[:, i].tobytes())
    lines = header.read_text().splitlines()
    lines[1], samples[:, 0] = lines[1].replace("/mV", "/uV"), samples[:, 0] / 1000
    header.write_text("\n".join([lines[0], lines[1].replace("two.dat", "a.dat"), lines[2].replace("two.dat", "b.dat")]) + "\n")
    (chunk,) = open_recording(header).chunks()
    assert chunk.leads == ("I", "V2")
    assert np.allclose(chunk.samples_mv.T, samples, atol=1e-3)
