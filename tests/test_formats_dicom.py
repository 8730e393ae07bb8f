from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    AmbulatoryECGWaveformStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    General32bitECGWaveformStorage,
    GeneralECGWaveformStorage,
    HemodynamicWaveformStorage,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    TwelveLeadECGWaveformStorage,
    generate_uid,
)

from edge.decode.csv import Columns
from edge.formats.recording import annotations_of
from edge.transport.file import open_recording
from kernels.findings import ConfigError

from .conftest import ARCHIVE
from .test_formats_edf import fails, laid

MORTARA = ARCHIVE / "formats" / "waveform_ecg.dcm"


def coded(value: str, scheme: str = "MDC", meaning: str = "") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def channel(source: Dataset, unit: str = "uV", sensitivity: float = 5, correction: float = 1, baseline: float = 0) -> Dataset:
    item = Dataset()
    item.ChannelSourceSequence = [source]
    item.ChannelSensitivity, item.ChannelSensitivityCorrectionFactor, item.ChannelBaseline = sensitivity, correction, baseline
    item.ChannelSensitivityUnitsSequence = [coded(unit, "UCUM")]
    item.WaveformBitsStored = 16
    return item


def group(channels: Sequence[Dataset], digits: np.ndarray, rate: float = 500, kind: str = "SS", **more: Any) -> Dataset:
    """Digits [samples, channels]; their type says how many bits are kept."""
    item = Dataset()
    item.WaveformOriginality = "ORIGINAL"
    item.NumberOfWaveformChannels, item.NumberOfWaveformSamples, item.SamplingFrequency = len(channels), len(digits), rate
    item.ChannelDefinitionSequence = list(channels)
    item.WaveformBitsAllocated, item.WaveformSampleInterpretation = 8 * digits.dtype.itemsize, kind
    item.WaveformData = digits.tobytes() + b"\0" * (digits.nbytes % 2)
    item["WaveformData"].VR = "OB" if digits.dtype.itemsize == 1 else "OW"
    for name, value in more.items():
        setattr(item, name, value)
    return item


def written(
    path: Path, groups: Sequence[Dataset] | None, sop: str = TwelveLeadECGWaveformStorage, syntax: str = ExplicitVRLittleEndian, **more: Any
) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = sop, generate_uid(entropy_srcs=["x"]), syntax
    dataset = FileDataset(
        str(path), {}, file_meta=meta, preamble=b"\0" * 128, is_little_endian=syntax != ExplicitVRBigEndian, is_implicit_VR=False
    )
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop, meta.MediaStorageSOPInstanceUID
    if groups is not None:
        dataset.WaveformSequence = list(groups)
    for name, value in more.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def digits(samples: int, channels: int, kind: str = "<i2", seed: int = 0) -> np.ndarray:
    low, high = (0, 100) if np.dtype(kind).kind == "u" else (-100, 100)
    return np.random.default_rng(seed).integers(low, high, (samples, channels)).astype(kind)


LEAD_I, II, V1 = coded("2:1"), coded("5.6.3-9-2", "SCPECG"), coded("x", "99LOCAL", "Lead V1 (Wilson)")


@pytest.mark.skipif(not MORTARA.exists(), reason="the data pack is not unpacked")
def test_a_real_file_equals_pydicoms_own_reading() -> None:
    recording = open_recording(MORTARA)
    whole = pydicom.dcmread(MORTARA).waveform_array(0)
    np.testing.assert_allclose(np.stack(list(laid(recording).values())).T, whole / 1000, atol=1e-6)
    assert recording.duration_s == 10
    assert "ECG NORMALE" in {note.text for note in annotations_of(recording)}
    assert "QRS Duration 75 ms" in {note.text for note in annotations_of(recording)}


@pytest.mark.parametrize(
    "sop", [TwelveLeadECGWaveformStorage, GeneralECGWaveformStorage, AmbulatoryECGWaveformStorage, General32bitECGWaveformStorage]
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_every_class_of_ecg_reads_in_every_syntax(tmp_path: Path, sop: str, syntax: str) -> None:
    kind = "i4" if sop == General32bitECGWaveformStorage else "i2"
    held = digits(700, 3, (">" if syntax == ExplicitVRBigEndian else "<") + kind)
    scales = [("uV", 5.0, 1.02, 3.0), ("mV", 0.005, 1.0, 0.1), ("V", 5e-6, 1.0, 0.0)]
    channels = [channel(lead, *scale) for lead, scale in zip((LEAD_I, II, V1), scales, strict=True)]
    path = written(tmp_path / "a.dcm", [group(channels, held, kind="SL" if kind == "i4" else "SS")], sop, syntax)
    expected = [held[:, 0] * 5.1e-3 + 0.003, held[:, 1] * 0.005 + 0.1, held[:, 2] * 0.005]
    found = laid(open_recording(path))
    assert list(found) == ["I", "II", "V1"]
    np.testing.assert_allclose(np.stack(list(found.values())), expected, atol=1e-6)


@pytest.mark.parametrize(("kind", "dtype"), [("SB", "i1"), ("UB", "u1"), ("SS", "<i2"), ("US", "<u2"), ("SL", "<i4"), ("UL", "<u4")])
def test_every_width_of_digits_equals_pydicoms_own_reading(tmp_path: Path, kind: str, dtype: str) -> None:
    path = written(tmp_path / "a.dcm", [group([channel(LEAD_I), channel(II)], digits(301, 2, dtype), kind=kind)])
    whole = pydicom.dcmread(path).waveform_array(0)
    np.testing.assert_allclose(np.stack(list(laid(open_recording(path)).values())).T, whole / 1000, atol=1e-6)


@given(block=st.integers(1, 9000), samples=st.integers(1, 900))
def test_any_block_gives_the_same_samples(tmp_path_factory: pytest.TempPathFactory, block: int, samples: int) -> None:
    held = digits(samples, 2, seed=samples)
    path = written(tmp_path_factory.mktemp("dicom") / "a.dcm", [group([channel(LEAD_I), channel(II)], held)])
    found = laid(open_recording(path), max(block, 40))
    np.testing.assert_allclose(np.stack(list(found.values())), held.T * 0.005, atol=1e-6)


# Groups


def test_averaged_beats_are_no_recording(tmp_path: Path) -> None:
    beat = group([channel(LEAD_I)], digits(9000, 1), WaveformOriginality="DERIVED")
    path = written(tmp_path / "a.dcm", [beat, group([channel(LEAD_I)], digits(500, 1, seed=1))])
    assert open_recording(path).duration_s == 1.0


@given(order=st.permutations([0, 1, 2]), gap_ms=st.sampled_from([0, 2, 500]))
def test_groups_of_other_times_are_parted_by_gaps(tmp_path_factory: pytest.TempPathFactory, order: list[int], gap_ms: int) -> None:
    held = digits(1500, 1)
    parts = [
        group([channel(II)], held[500 * i : 500 * i + 500], MultiplexGroupTimeOffset=7000 + i * (1000 + gap_ms), MultiplexGroupLabel=str(i))
        for i in order
    ]
    found = laid(open_recording(written(tmp_path_factory.mktemp("dicom") / "a.dcm", parts)))["II"]
    gap = np.full(gap_ms // 2, np.nan)
    expected = np.concatenate([held[:500, 0] * 0.005, gap, held[500:1000, 0] * 0.005, gap, held[1000:, 0] * 0.005])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_groups_of_one_time_and_several_rates_become_one_recording(tmp_path: Path) -> None:
    flat = np.full((500, 1), 100, "<i2")
    parts = [group([channel(LEAD_I)], flat[:250], 250), group([channel(II), channel(coded("2:5"), "mmHg")], np.hstack([flat, flat]), 500)]
    recording = open_recording(written(tmp_path / "a.dcm", parts))
    assert {lead: samples.shape for lead, samples in laid(recording).items()} == {"I": (500,), "II": (500,)}
    np.testing.assert_allclose(laid(recording)["I"], 0.5, atol=1e-6)


def test_a_lead_is_nan_while_only_others_are_recorded(tmp_path: Path) -> None:
    parts = [group([channel(LEAD_I)], digits(500, 1)), group([channel(II)], digits(500, 1), MultiplexGroupTimeOffset=1000)]
    found = laid(open_recording(written(tmp_path / "a.dcm", parts)))
    np.testing.assert_array_equal(np.isnan(found["I"]), np.arange(1000) >= 500)
    np.testing.assert_array_equal(np.isnan(found["II"]), np.arange(1000) < 500)


def test_padding_is_no_sample(tmp_path: Path) -> None:
    held = digits(500, 1)
    held[100:150] = -32768
    more = group([channel(II)], held)
    more.add_new(0x5400100A, "OW", (-32768).to_bytes(2, "little", signed=True))
    found = laid(open_recording(written(tmp_path / "a.dcm", [more])))["II"]
    np.testing.assert_array_equal(np.isnan(found), held[:, 0] == -32768)


# Annotations


def note(text: str, **more: Any) -> Dataset:
    item = Dataset()
    item.UnformattedTextValue = text
    for name, value in more.items():
        setattr(item, name, value)
    return item


def test_annotations_are_placed_by_sample_or_second_from_the_first_sample(tmp_path: Path) -> None:
    late = group([channel(II)], digits(500, 1), MultiplexGroupTimeOffset=3000)
    early = group([channel(II)], digits(250, 1), 250, MultiplexGroupTimeOffset=1000)
    notes = [
        note("beat", TemporalRangeType="MULTIPOINT", ReferencedSamplePositions=[1, 251], ReferencedWaveformChannels=[1, 1]),
        note("run", TemporalRangeType="SEGMENT", ReferencedSamplePositions=[1, 126], ReferencedWaveformChannels=[2, 1]),
        note("pause", TemporalRangeType="POINT", ReferencedTimeOffsets=[0.25], ReferencedWaveformChannels=[2, 1]),
        note("elsewhere", TemporalRangeType="POINT", ReferencedSamplePositions=5, ReferencedWaveformChannels=[3, 1]),
        note("all of it"),
    ]
    path = written(tmp_path / "a.dcm", [late, early], WaveformAnnotationSequence=notes)
    found = [(n.at_s, n.text, n.end_s) for n in annotations_of(open_recording(path))]
    assert found == [(0, "run", 0.5), (0, "all of it", None), (0.25, "pause", None), (2, "beat", None), (2.5, "beat", None)]


def test_an_annotation_by_date_is_placed_from_the_acquisition(tmp_path: Path) -> None:
    notes = [note("dated", TemporalRangeType="SEGMENT", ReferencedDateTime=["20240229235959.5", "20240301000001"])]
    parts = [group([channel(II)], digits(2500, 1), MultiplexGroupTimeOffset=1000)]
    for acquired in ("20240229235958", "20240229235958+0100"):
        path = written(tmp_path / "a.dcm", parts, WaveformAnnotationSequence=notes, AcquisitionDateTime=acquired)
        assert [(n.at_s, n.text, n.end_s) for n in annotations_of(open_recording(path))] == [(0.5, "dated", 2.0)]
    path = written(tmp_path / "b.dcm", parts, WaveformAnnotationSequence=notes)
    assert annotations_of(open_recording(path)) == []


# Damage


def test_what_is_no_ecg_says_what_it_is(tmp_path: Path) -> None:
    fails(written(tmp_path / "a.dcm", None, SecondaryCaptureImageStorage), "Secondary Capture Image Storage and holds no ECG waveform")
    pressure = group([channel(coded("2:1", meaning="Pressure"), "mmHg")], digits(500, 1))
    fails(written(tmp_path / "b.dcm", [pressure], HemodynamicWaveformStorage), "Hemodynamic Waveform Storage and holds no ECG")


def test_unknown_leads_are_an_error_until_they_are_given(tmp_path: Path) -> None:
    channels = [channel(coded("7", "99LOCAL", "Patch A")), channel(coded("8", "99LOCAL", "Patch B"))]
    path = written(tmp_path / "a.dcm", [group(channels, digits(500, 2))])
    fails(path, "Patch A, Patch B; name them in order, for example --leads I")
    assert list(laid(open_recording(path, Columns(("-", "V2"))))) == ["V2"]


@pytest.mark.parametrize("lost", ["ChannelSensitivity", "ChannelSensitivityUnitsSequence"])
def test_averaged_beats_do_not_stand_in_for_a_rhythm_without_a_size(tmp_path: Path, lost: str) -> None:
    rhythm, beat = group([channel(LEAD_I)], digits(500, 1)), group([channel(LEAD_I)], digits(500, 1), WaveformOriginality="DERIVED")
    del rhythm.ChannelDefinitionSequence[0][lost]
    fails(written(tmp_path / "a.dcm", [rhythm, beat]), "its rhythm leads have no sensitivity or unit")
    fails(written(tmp_path / "b.dcm", [rhythm]), "its rhythm leads have no sensitivity or unit")


def test_channels_without_a_name_are_numbered_and_may_be_named_by_it(tmp_path: Path) -> None:
    channels = [channel(LEAD_I), channel(LEAD_I)]
    for each in channels:
        del each.ChannelSourceSequence
    held = digits(500, 2)
    path = written(tmp_path / "a.dcm", [group(channels, held)])
    fails(path, "unnamed 1, unnamed 2; name them in order, for example --leads I")
    found = laid(open_recording(path, Columns(("unnamed 2=V5",))))
    np.testing.assert_allclose(found["V5"], held[:, 1] * 0.005, atol=1e-6)


def test_pairs_name_channels_of_several_groups(tmp_path: Path) -> None:
    patches = [channel(coded(str(n), "99LOCAL", f"Patch {n}")) for n in range(3)]
    path = written(tmp_path / "a.dcm", [group([each], digits(500, 1, seed=n)) for n, each in enumerate(patches)])
    assert sorted(laid(open_recording(path, Columns(("Patch 0=I", "Patch 2=II"))))) == ["I", "II"]
    fails(path, "no signal is called so", Columns(("Patch 7=I",)))


@pytest.mark.parametrize(
    ("groups", "what"),
    [
        ([group([channel(LEAD_I), channel(LEAD_I)], digits(500, 2))], "stands twice"),
        ([group([channel(LEAD_I, sensitivity=0)], digits(500, 1))], "no gain"),
        ([group([channel(LEAD_I)], digits(500, 1), rate=0)], "rate of 0 Hz"),
        ([group([channel(LEAD_I)], digits(500, 1, "u1"), kind="MB")], "companded"),
        ([group([channel(LEAD_I)], digits(500, 1), NumberOfWaveformSamples=501)], "copy it again"),
        ([], "no ECG waveform"),
    ],
)
def test_a_wrong_waveform_says_how_to_mend_it(tmp_path: Path, groups: list[Dataset], what: str) -> None:
    fails(written(tmp_path / "a.dcm", groups), what)


def test_nothing_but_padding_is_an_error(tmp_path: Path) -> None:
    more = group([channel(II)], np.full((500, 1), 7, "<i2"))
    more.add_new(0x5400100A, "OW", b"\7\0")
    fails(written(tmp_path / "a.dcm", [more]), "no valid sample")


def _example() -> bytes:
    file = io.BytesIO()
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = TwelveLeadECGWaveformStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.WaveformSequence = [group([channel(LEAD_I), channel(II)], digits(100, 2), MultiplexGroupTimeOffset=0)]
    dataset.WaveformAnnotationSequence = [note("beat", ReferencedSamplePositions=[1, 25], ReferencedWaveformChannels=[1, 1])]
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


EXAMPLE = _example()


@given(cut=st.integers(132, len(EXAMPLE)))
def test_a_file_cut_anywhere_is_named_or_read(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    _survives(tmp_path_factory, EXAMPLE[:cut])


@given(at=st.integers(132, len(EXAMPLE) - 1), byte=st.integers(0, 255))
def test_any_damaged_byte_is_named_or_read(tmp_path_factory: pytest.TempPathFactory, at: int, byte: int) -> None:
    _survives(tmp_path_factory, EXAMPLE[:at] + bytes([byte]) + EXAMPLE[at + 1 :])


@given(garbage=st.binary(max_size=600))
def test_garbage_after_the_magic_is_named(tmp_path_factory: pytest.TempPathFactory, garbage: bytes) -> None:
    _survives(tmp_path_factory, EXAMPLE[:132] + garbage)


def _survives(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("dicom") / "a.dcm"
    path.write_bytes(data)
    try:
        recording = open_recording(path)
        assert list(recording.chunks())
        annotations_of(recording)
    except ConfigError as error:
        assert len(str(error)) < 600
