from __future__ import annotations

import io
import itertools
import math
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import edfio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.decode.csv import Columns
from edge.formats.rates import Series, at_rate, merge
from edge.formats.recording import BLOCK, Annotation, RecordingFile, annotations_of
from edge.transport.file import open_recording
from kernels.findings import ConfigError
from kernels.signal import resample

from .conftest import ARCHIVE

GENERATOR = ARCHIVE / "formats" / "test_generator_2.edf"


def laid(recording: RecordingFile, block: int = BLOCK) -> dict[str, np.ndarray]:
    """Each lead from its beginning, NaN in gaps."""
    chunks = list(recording.chunks(block))
    leads = {lead: np.full(chunks[-1].end, np.nan, np.float32) for lead in chunks[0].leads}
    end = 0
    for chunk in chunks:
        assert chunk.start >= end
        end = chunk.end
        for lead, samples in zip(chunk.leads, chunk.samples_mv, strict=True):
            leads[lead][chunk.start : end] = samples
    return leads


def wave(samples: int, seed: int = 0, size: float = 1.0) -> np.ndarray:
    return np.clip(np.cumsum(np.random.default_rng(seed).standard_normal(samples)) * size / 20, -4.9 * size, 4.9 * size)


def signal(label: str, rate_hz: float, seconds: float = 12, unit: str = "mV", kind: type = edfio.EdfSignal) -> edfio.EdfSignal:
    size = {"mV": 1.0, "uV": 1e3, "V": 1e-3, "nV": 1e6}.get(unit, 1.0)
    data = wave(round(rate_hz * seconds), seed=sum(label.encode()), size=size)
    return kind(data, rate_hz, label=label, physical_dimension=unit, physical_range=(-5 * size, 5 * size))


def written(path: Path, signals: Sequence[edfio.EdfSignal], notes: Sequence[edfio.EdfAnnotation] | None = None) -> Path:
    edfio.Edf(signals, annotations=notes, data_record_duration=1).write(path)
    return path


def header_field(path: Path, at: int, text: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + len(text)] = text
    path.write_bytes(data)


def discontinuous(path: Path, onsets: Sequence[float], rates: Sequence[float] = (100,)) -> Path:
    """As EDF+C by edfio, of which each record then says another onset."""
    names = ("II", "V1", "V2")[: len(rates)]
    signals = [signal(name, rate, len(onsets)) for name, rate in zip(names, rates, strict=True)]
    written(path, signals, [edfio.EdfAnnotation(0, None, "room for long moments to be written into")])
    file = edfio.read_edf(path)
    data, head = bytearray(path.read_bytes()), file.bytes_in_header_record
    before = 2 * sum(int(rate) for rate in rates)
    size = (len(data) - head) // len(onsets)
    for number, onset in enumerate(onsets):
        begin = head + number * size + before
        data[begin : head + (number + 1) * size] = f"+{onset}\x14\x14\0".encode().ljust(size - before, b"\0")
    data[192:197] = b"EDF+D"
    path.write_bytes(data)
    return path


def fails(path: Path, what: str, columns: Columns = Columns()) -> None:
    with pytest.raises(ConfigError, match=what):
        list(open_recording(path, columns).chunks())


# Values


@pytest.mark.parametrize("unit", ["mV", "uV", "V", "nV", "\N{MICRO SIGN}V"])
def test_a_unit_of_voltage_counts_as_it_is_spelt(tmp_path: Path, unit: str) -> None:
    path = written(tmp_path / "a.edf", [signal("ECG II", 200, unit="uV" if unit.endswith("\N{MICRO SIGN}V") else unit)])
    if unit.startswith("\N{MICRO SIGN}"):
        header_field(path, 256 + 16 + 80, unit.encode("latin-1").ljust(8))
    data = edfio.read_edf(path, header_encoding="latin-1").signals[0].data / {"mV": 1, "uV": 1e3, "V": 1e-3, "nV": 1e6}.get(unit, 1e3)
    assert np.abs(laid(open_recording(path))["II"] - data).max() < 1e-6


def test_micro_is_read_in_utf_8_too(tmp_path: Path) -> None:
    path = written(tmp_path / "a.edf", [signal("II", 200, unit="uV")])
    header_field(path, 256 + 16 + 80, "\N{MICRO SIGN}V".encode().ljust(8))
    assert np.abs(laid(open_recording(path))["II"]).max() > 1


def test_bdf_equals_edfios_own_full_read(tmp_path: Path) -> None:
    path = tmp_path / "a.bdf"
    edfio.Bdf([signal(name, 250, kind=edfio.BdfSignal, unit="uV") for name in ("I", "II", "V6")], annotations=()).write(path)
    found, whole = laid(open_recording(path)), edfio.read_bdf(path)
    for lead in found:
        assert np.abs(found[lead] - whole.get_signal(lead).data / 1e3).max() < 1e-6


@given(block=st.integers(1, 1 << 16), seconds=st.integers(1, 12))
def test_any_block_gives_the_same_samples(tmp_path_factory: pytest.TempPathFactory, block: int, seconds: int) -> None:
    path = tmp_path_factory.mktemp("edf") / "a.edf"
    written(path, [signal("I", 200, seconds), signal("II", 100, seconds), signal("SpO2", 1, seconds, "%")])
    recording = open_recording(path)
    whole = laid(recording, 1 << 20)
    for lead, samples in laid(recording, max(block, seconds * 40)).items():
        np.testing.assert_array_equal(samples, whole[lead])


def test_many_records_are_read_in_groups_without_a_seam(tmp_path: Path) -> None:
    path = written(tmp_path / "a.edf", [signal("I", 500, 900), signal("V1", 250, 900)])
    found = laid(open_recording(path), 12345)
    assert np.abs(found["I"] - edfio.read_edf(path).signals[0].data).max() < 1e-6
    np.testing.assert_array_equal(found["V1"], resample(_float32(path, 1), 250, 500)[0])


def _float32(path: Path, number: int) -> np.ndarray:
    return edfio.read_edf(path).signals[number].data[None].astype(np.float32)


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    peaks = []
    for seconds in (600, 6000):
        path = written(tmp_path / f"{seconds}.edf", [signal("I", 250, seconds), signal("II", 250, seconds)])
        list(open_recording(path).chunks())  # what is imported and cached once
        tracemalloc.start()
        for _ in open_recording(path).chunks():
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 8e6 < 6000 * 250 * 2 * 8


@pytest.mark.skipif(not GENERATOR.exists(), reason="the data pack is not unpacked")
def test_a_real_file_equals_edfios_own_full_read() -> None:
    given = tuple("II" if number == 3 else "-" for number in range(11))
    recording = open_recording(GENERATOR, Columns(given))
    assert np.abs(laid(recording)["II"] - edfio.read_edf(GENERATOR).signals[3].data / 1e3).max() < 1e-6
    assert annotations_of(recording) == [Annotation(0.0, "RECORD START"), Annotation(600.0, "REC STOP")]


# Leads


def test_what_is_no_voltage_or_no_lead_is_left_out(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.edf", [signal("I", 100, unit="mmHg"), signal("EKG II", 200), signal("Resp", 25), signal("Flow", 10, unit="")]
    )
    recording = open_recording(path)
    assert list(laid(recording)) == ["II"]
    assert next(iter(recording.chunks())).rate_hz == 200


def test_a_record_without_a_unit_says_so(tmp_path: Path) -> None:
    fails(written(tmp_path / "a.edf", [signal("II", 200, unit="")]), "unit of voltage")


def test_c3_is_no_chest_lead_beside_electrodes_on_the_scalp(tmp_path: Path) -> None:
    asleep = written(tmp_path / "a.edf", [signal("C3", 100), signal("Fp1", 100), signal("ECG II", 100)])
    awake = written(tmp_path / "b.edf", [signal("C3", 100), signal("II", 100)])
    assert list(laid(open_recording(asleep))) == ["II"]
    assert list(laid(open_recording(awake))) == ["V3", "II"]


def test_leads_that_nobody_names_are_an_error_until_they_are_given(tmp_path: Path) -> None:
    path = written(tmp_path / "a.edf", [signal("ECG", 200), signal("Marker", 1)], [])
    fails(path, "--leads")
    assert list(laid(open_recording(path, Columns(("II", "-"))))) == ["II"]


def test_a_lead_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    fails(written(tmp_path / "a.edf", [signal("MLII", 200), signal("ECG II", 200)]), "stands twice")


def test_annotations_alone_are_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "a.edf"
    edfio.Edf([], annotations=[edfio.EdfAnnotation(1, None, "x")]).write(path)
    fails(path, "annotations only")


@pytest.mark.parametrize("unit", ["microV", "mVolt"])
def test_units_in_words_are_understood(tmp_path: Path, unit: str) -> None:
    path = written(tmp_path / "a.edf", [signal("II", 200)])
    header_field(path, 256 + 96, unit.encode().ljust(8))
    size = {"microV": 1e-3, "mVolt": 1}[unit]
    assert np.abs(laid(open_recording(path))["II"] - edfio.read_edf(path).signals[0].data * size).max() < 1e-6


def test_a_signal_that_is_named_by_a_pair_is_read_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "a.edf", [signal("EEG C3", 100), signal("ECG", 200), signal("II", 100)])
    found = laid(open_recording(path, Columns(("ECG=V5",))))
    assert list(found) == ["V5"]
    assert np.abs(found["V5"] - edfio.read_edf(path).signals[1].data).max() < 1e-6


# Rates


@given(
    rate_hz=st.sampled_from([50, 100, 125, 128, 200]),
    to_hz=st.sampled_from([250, 360, 500]),
    cuts=st.lists(st.integers(1, 900), max_size=6),
)
def test_a_slower_lead_is_resampled_from_anywhere_as_from_the_beginning(rate_hz: float, to_hz: float, cuts: list[int]) -> None:
    samples = wave(4 * int(rate_hz)).astype(np.float32)[None]
    read = at_rate(Series(("I",), rate_hz, samples.shape[1], lambda begin, end: samples[:, begin:end]), to_hz)
    whole = resample(samples, rate_hz, to_hz)
    edges = sorted({0, whole.shape[1], *cuts} & set(range(whole.shape[1] + 1)))
    parts = [read(begin, end) for begin, end in itertools.pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


@pytest.mark.parametrize("rate_hz", [100, 125, 250])
def test_leads_of_several_rates_stay_aligned(tmp_path: Path, rate_hz: int) -> None:
    sine = [np.sin(2 * math.pi * 7 * np.arange(12 * hz) / hz) for hz in (500, rate_hz)]
    signals = [
        edfio.EdfSignal(data, hz, label=name, physical_dimension="mV", physical_range=(-2, 2))
        for data, hz, name in zip(sine, (500, rate_hz), ("I", "II"), strict=True)
    ]
    found = laid(open_recording(written(tmp_path / "a.edf", signals)))
    inner = slice(500, -500)
    assert np.abs(found["I"] - found["II"])[inner].max() < 0.02


def test_of_two_series_with_the_same_lead_the_longer_counts() -> None:
    short, long = (lambda b, e, v=v: np.full((1, e - b), v, np.float32) for v in (1.0, 2.0))
    merged = merge("x", [Series(("II",), 100, 300, long), Series(("II",), 100, 100, short)])
    assert set(laid(merged)["II"]) == {2.0}


# Gaps


@given(
    missing=st.lists(st.sampled_from([0, 0, 0, 0.37, 1, 2.5, 3600]), min_size=1, max_size=12),
    rates=st.sampled_from([(100,), (100, 100), (200, 50)]),
    block=st.sampled_from([1 << 8, 1 << 14]),
)
def test_what_is_missing_between_records_is_a_gap(
    tmp_path_factory: pytest.TempPathFactory, missing: list[float], rates: tuple[int, ...], block: int
) -> None:
    onsets = np.round(np.cumsum([5.25, *(1 + gap for gap in missing)]), 2).tolist()
    path = discontinuous(tmp_path_factory.mktemp("edf") / "a.edf", onsets, rates)
    recording, rate = open_recording(path), rates[0]
    held = edfio.read_edf(path).signals[0].data.reshape(len(onsets), rate)
    expected = np.full(round((onsets[-1] - onsets[0]) * rate) + rate, np.nan)
    for onset, samples in zip(onsets, held, strict=True):
        begin = round((onset - onsets[0]) * rate)
        expected[begin : begin + rate] = samples
    np.testing.assert_allclose(laid(recording, block)["II"], expected, atol=1e-6)
    starts = [chunk.start for chunk in recording.chunks(1 << 20)]
    assert len(starts) == 1 + sum(gap > 0 for gap in missing)


@given(
    drift=st.floats(-0.015, 0.015),
    late=st.lists(st.floats(-0.004, 0.004), min_size=60, max_size=60),
    missing=st.integers(1, 59),
    rate=st.sampled_from([50, 200, 500]),
)
def test_a_clock_that_drifts_or_jitters_is_no_gap_and_no_overlap(
    tmp_path_factory: pytest.TempPathFactory, drift: float, late: list[float], missing: int, rate: int
) -> None:
    """Of records that lose nothing but one pause of 5 s."""
    onsets = [round(1 + i * (1 + drift) + late[i] + (5 if i >= missing else 0), 4) for i in range(60)]
    chunks = list(open_recording(discontinuous(tmp_path_factory.mktemp("edf") / "a.edf", onsets, (rate,))).chunks(1 << 20))
    assert [chunk.samples_mv.shape[1] for chunk in chunks] == [missing * rate, (60 - missing) * rate]
    assert chunks[1].start - chunks[0].end == pytest.approx(5 * rate, abs=0.025 * rate + 1)


def test_annotations_follow_the_clock_of_the_records(tmp_path: Path) -> None:
    """A note at the begin of the last record stays there, however the clock drifts."""
    onsets = [round(i * 1.006, 3) for i in range(60)]
    path = discontinuous(tmp_path / "a.edf", onsets)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"+59.354\x14\x14\0", b"+59.354\x14\x14\0+59.354\x14x\x14\0")[: len(data)])
    assert annotations_of(open_recording(path)) == [Annotation(59.0, "x")]


@pytest.mark.parametrize("onset", [1e9, 1e14])
def test_a_gap_of_years_is_named(tmp_path: Path, onset: float) -> None:
    fails(discontinuous(tmp_path / "a.edf", [0, 1, int(onset)]), f"claims a gap of {(onset - 2) / 86400:.0f} days; mend its time")


def test_records_out_of_order_are_an_error(tmp_path: Path) -> None:
    fails(discontinuous(tmp_path / "a.edf", [0, 1, 0.5]), "record 3 begins before")


def test_a_discontinuous_file_without_times_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path / "a.edf", [signal("II", 100)])
    header_field(path, 192, b"EDF+D")
    fails(path, "EDF\\+C")


def test_annotations_are_counted_from_the_first_sample(tmp_path: Path) -> None:
    notes = [edfio.EdfAnnotation(9.5, None, "QRS"), edfio.EdfAnnotation(2, 3.5, "AFIB \N{LATIN SMALL LETTER E WITH ACUTE}")]
    path = written(tmp_path / "a.edf", [signal("II", 100)], notes)
    assert annotations_of(open_recording(path)) == [Annotation(2.0, notes[1].text, 5.5), Annotation(9.5, "QRS")]


def noted(path: Path, tals: Sequence[bytes]) -> Path:
    """One list of annotations a record, behind the one that keeps its time."""
    written(path, [signal("II", 100, len(tals))], [edfio.EdfAnnotation(0, None, "room for long moments to be written into")])
    file, data = edfio.read_edf(path), bytearray(path.read_bytes())
    size = (len(data) - file.bytes_in_header_record) // len(tals)
    for number, tal in enumerate(tals):
        begin = file.bytes_in_header_record + number * size + 200
        data[begin : begin + size - 200] = (b"+%d\x14\x14\0" % number + tal).ljust(size - 200, b"\0")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "tal", [b"+nan\x14x\x14\0", b"+inf\x14x\x14\0", b"+1\x15nan\x14x\x14\0", b"+1\x15-9\x14x\x14\0", b"\xff\xfe garbage\0"]
)
def test_a_damaged_annotation_costs_no_other(tmp_path: Path, tal: bytes) -> None:
    path = noted(tmp_path / "a.edf", [b"+0.5\x14first\x14\0", tal, b"+2\x150.5\x14last\x14\0"])
    assert annotations_of(open_recording(path)) == [Annotation(0.5, "first"), Annotation(2.0, "last", 2.5)]


# Damage


def test_a_truncated_file_says_how_much_it_holds(tmp_path: Path) -> None:
    path = written(tmp_path / "a.edf", [signal("II", 100)])
    path.write_bytes(path.read_bytes()[:-1])
    fails(path, r"holds 11\.00 of 12\.00 s; copy it again")
    whole = edfio.read_edf(written(tmp_path / "b.edf", [signal("II", 100)])).signals[0].data
    np.testing.assert_allclose(laid(open_recording(path, partial=True))["II"], whole[:1100], atol=1e-6)


@pytest.mark.parametrize("promised", [b"0       ", b"-1      ", b"12      "])
def test_a_file_without_a_record_says_so(tmp_path: Path, promised: bytes) -> None:
    path = written(tmp_path / "a.edf", [signal("II", 100)])
    header_field(path, 236, promised)
    if promised != b"0       ":
        path.write_bytes(path.read_bytes()[: edfio.read_edf(path).bytes_in_header_record])
    with pytest.raises(ConfigError, match="holds no record"):
        open_recording(path, partial=True)


def test_a_recorder_that_was_cut_off_leaves_what_there_is(tmp_path: Path) -> None:
    path = written(tmp_path / "a.edf", [signal("II", 100)])
    header_field(path, 236, b"-1      ")
    assert open_recording(path).duration_s == 12


@pytest.mark.parametrize(
    "fields", [{104: b"3       ", 112: b"3       "}, {120: b"9       ", 128: b"9       "}, {120: b"32767   ", 128: b"-32768  "}]
)
def test_a_lead_without_a_gain_is_an_error(tmp_path: Path, fields: dict[int, bytes]) -> None:
    path = written(tmp_path / "a.edf", [signal("II", 100)])
    for at, field in fields.items():
        header_field(path, 256 + at, field)
    fails(path, "lead II has no gain: .*; mend the header or export it again")


def _example() -> bytes:
    file = io.BytesIO()
    edfio.Edf([signal("I", 50, 3), signal("II", 25, 3)], annotations=[edfio.EdfAnnotation(1, None, "x")], data_record_duration=1).write(
        file
    )
    return file.getvalue()


EXAMPLE = _example()


@given(cut=st.integers(8, len(EXAMPLE)))
def test_a_file_cut_anywhere_is_named_or_read(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    _survives(tmp_path_factory, EXAMPLE[:cut])


@given(at=st.integers(8, 4 * 256 + 40), byte=st.integers(0, 255), discontinuous=st.booleans())
def test_any_damaged_byte_of_the_header_is_named_or_read(
    tmp_path_factory: pytest.TempPathFactory, at: int, byte: int, discontinuous: bool
) -> None:
    data = bytearray(EXAMPLE)
    if discontinuous:
        data[192:197] = b"EDF+D"
    data[at] = byte
    _survives(tmp_path_factory, bytes(data))


@given(garbage=st.binary(max_size=2000), magic=st.sampled_from([b"0       ", b"\xffBIOSEMI"]))
def test_garbage_after_the_magic_is_named(tmp_path_factory: pytest.TempPathFactory, garbage: bytes, magic: bytes) -> None:
    _survives(tmp_path_factory, magic + garbage)


def _survives(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("edf") / "a.edf"
    path.write_bytes(data)
    try:
        recording = open_recording(path)
        assert list(recording.chunks())
        annotations_of(recording)
    except ConfigError as error:
        assert len(str(error)) < 600
