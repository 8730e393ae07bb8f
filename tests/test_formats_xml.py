"""Recordings in XML and in binary frames, written here after the standards, and read by our readers and by others."""

from __future__ import annotations

import base64
import itertools
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.decode.chunk import Chunk
from edge.decode.csv import Columns
from edge.decode.frame import pack
from edge.decode.sequence import Frame
from edge.formats.recording import Annotation, RecordingFile, annotations_of
from edge.formats.xml import LARGEST
from edge.transport.file import open_recording
from kernels.findings import ConfigError
from kernels.signal import LEADS

from .conftest import ARCHIVE, heart

pytest.importorskip("defusedxml")
sierraecg = pytest.importorskip("sierraecg")

RATE_HZ = 500
EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
PHILIPS = ARCHIVE / "formats/3191723_ZZDEMOPTONLY_1-04_orig.xml"
needs_philips = pytest.mark.skipif(not PHILIPS.is_file(), reason=f"needs {PHILIPS}")


def _ecg(leads: Sequence[str] = LEADS, seconds: float = 2.0) -> dict[str, list[int]]:
    """Digits of 5 uV."""
    units = dict(zip(LEADS, np.rint(heart(70, seconds, RATE_HZ) * 200).astype(int).tolist(), strict=True))
    return {lead: units[lead] for lead in leads}


def _whole(recording: RecordingFile, block: int = 1 << 14) -> tuple[tuple[str, ...], np.ndarray]:
    """Leads and samples [leads, n] from the beginning on, NaN in gaps."""
    chunks = list(recording.chunks(block))
    samples = np.full((len(chunks[0].leads), max(chunk.end for chunk in chunks)), np.nan, np.float32)
    for chunk in chunks:
        assert chunk.leads == chunks[0].leads
        samples[:, chunk.start : chunk.end] = chunk.samples_mv
    return chunks[0].leads, samples


def _expect(units: dict[str, list[int]], mv: float = 0.005) -> np.ndarray:
    longest = max(map(len, units.values()))
    return np.array([row + [np.nan] * (longest - len(row)) for row in units.values()]) * mv


def _open(folder: Path, text: str | bytes, columns: Columns = Columns()) -> RecordingFile:
    path = folder / "recording.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_recording(path, columns)


# HL7 aECG: ANSI/HL7 V3 ECG R1-2004


def aecg_set(
    units: dict[str, list[int]],
    head: str = '<head value="20240229235958.500"/>',
    time: str = "TIME_ABSOLUTE",
    step: str = 'value="0.002" unit="s"',
    scale: str = 'value="5" unit="uV"',
    origin: str = '<origin value="0" unit="uV"/>',
) -> str:
    leads = "".join(
        f'<component><sequence><code code="{lead if "_" in lead else "MDC_ECG_LEAD_" + lead.upper()}" codeSystem="2.16.840.1.113883.6.24"/>'
        f'<value xsi:type="SLIST_PQ">{origin}<scale {scale}/><digits>{" ".join(map(str, row))}</digits></value></sequence></component>\n'
        for lead, row in units.items()
    )
    clock = f'<component><sequence><code code="{time}"/><value xsi:type="GLIST_TS">{head}<increment {step}/></value></sequence></component>'
    return f"<component><sequenceSet>{clock}{leads}</sequenceSet></component>"


def aecg_series(*sets: str, code: str = "RHYTHM", time: str = "", notes: str = "") -> str:
    return f'<component><series><code code="{code}"/>{time}{"".join(sets)}{notes}</series></component>'


def aecg(*series: str) -> str:
    space = 'xmlns="urn:hl7-org:v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<AnnotatedECG {space}>{"".join(series)}</AnnotatedECG>'


def begun(stamp: str) -> str:
    return f'<effectiveTime><low value="{stamp}"/></effectiveTime>'


@pytest.mark.parametrize(
    ("scale", "mv"),
    [(("5", "uV"), 5e-3), (("0.005", "mV"), 5e-3), (("2.5e-6", "V"), 2.5e-3), (("1250", "nV"), 1.25e-3), (("-5", "uV"), -5e-3)],
)
def test_aecg_samples_are_origin_and_scale_times_digit(tmp_path: Path, scale: tuple[str, str], mv: float) -> None:
    text = aecg(aecg_series(aecg_set(_ecg(), scale=f'value="{scale[0]}" unit="{scale[1]}"', origin='<origin value="0.25" unit="mV"/>')))
    leads, samples = _whole(_open(tmp_path, text))
    assert leads == LEADS
    np.testing.assert_allclose(samples, _expect(_ecg(), mv) + 0.25, atol=1e-6)


@pytest.mark.parametrize(
    ("step", "rate_hz"),
    [
        (("2", "ms"), 500),
        (("4000", "us"), 250),
        (("0.001", "s"), 1000),
        (("2.778", "ms"), 360),
        (("7.8125", "ms"), 128),
        (("0.00333", "s"), 300),
        (("3.33", "ms"), 300),
    ],
)
def test_aecg_rate_is_of_the_time_step(tmp_path: Path, step: tuple[str, str], rate_hz: float) -> None:
    recording = _open(tmp_path, aecg(aecg_series(aecg_set(_ecg(), step=f'value="{step[0]}" unit="{step[1]}"'))))
    assert next(iter(recording.chunks())).rate_hz == rate_hz
    assert recording.duration_s == pytest.approx(1000 / rate_hz)


@given(st.integers(1, 40000))
def test_any_size_of_slices_gives_the_same_samples(tmp_path_factory: pytest.TempPathFactory, block: int) -> None:
    folder = tmp_path_factory.getbasetemp()
    gap = aecg(aecg_series(aecg_set(_ecg()), aecg_set(_ecg(EIGHT), head='<head value="20240301000005"/>')))
    recording = _open(folder, gap)
    np.testing.assert_array_equal(_whole(recording, block)[1], _whole(recording, 1 << 30)[1])
    assert all(chunk.samples_mv.nbytes <= max(2 * block, 4 * len(chunk.leads)) for chunk in recording.chunks(block))


SETS = st.lists(
    st.tuples(st.integers(0, 3000), st.sets(st.sampled_from(LEADS), min_size=1, max_size=3), st.integers(1, 700)), min_size=1, max_size=5
)


@given(SETS, st.randoms())
def test_aecg_sets_lie_where_their_times_say(tmp_path_factory: pytest.TempPathFactory, sets: list, random) -> None:
    """Against one cell at a time; of sets that claim the same lead at the same time the later follows after a second."""
    cells: dict[tuple[str, int], float] = {}
    late, written = [], []
    for at, leads, length in sorted(sets, key=lambda each: each[0]):
        units = {lead: [random.randrange(-300, 300) for _ in range(length)] for lead in sorted(leads, key=LEADS.index)}
        stamp = f"202402292359{58 + at // 500:02}.{at % 500 * 2:03}" if at < 1000 else f"202403010000{at // 500 - 2:02}.{at % 500 * 2:03}"
        written.append((units, f'<head value="{stamp}"/>'))
        first = min(each[0] for each in sets)
        places = [(lead, at - first + i) for lead in units for i in range(length)]
        if cells.keys() & set(places) or any((lead, i) in cells for lead in units for i in range(at - first, 10_000)):
            late.append(units)
        else:
            cells |= {(lead, i): units[lead][i - at + first] * 0.005 for lead, i in places}
    for units in late:
        begin = max(i for _, i in cells) + 1 + RATE_HZ
        cells |= {(lead, begin + i): unit * 0.005 for lead, row in units.items() for i, unit in enumerate(row)}
    text = aecg(aecg_series(*(aecg_set(units, head) for units, head in written)))
    leads, samples = _whole(_open(tmp_path_factory.getbasetemp(), text))
    found = {(leads[row], int(i)): float(samples[row, i]) for row, i in np.argwhere(np.isfinite(samples))}
    assert found == pytest.approx(cells, abs=1e-6)


def test_a_gap_between_sets_is_a_gap_of_samples(tmp_path: Path) -> None:
    text = aecg(aecg_series(aecg_set(_ecg()), aecg_set(_ecg(), head='<head value="20240301000003.500"/>')))
    starts = [(chunk.start, chunk.end) for chunk in _open(tmp_path, text).chunks(1 << 30)]
    assert starts == [(0, 1000), (2500, 3500)]


def test_sets_that_follow_without_a_gap_are_one_stretch(tmp_path: Path) -> None:
    """As a cart writes three leads at a time."""
    text = aecg(aecg_series(aecg_set(_ecg(LEADS[:3])), aecg_set(_ecg(LEADS[3:6]), head='<head value="20240301000000.500"/>')))
    (chunk,) = _open(tmp_path, text).chunks(1 << 30)
    assert chunk.leads == LEADS[:6]
    assert (np.isfinite(chunk.samples_mv) == np.repeat(np.eye(2, dtype=bool), 1000, 1).repeat(3, 0)).all()


def test_sets_without_a_time_follow_each_other_after_a_gap(tmp_path: Path) -> None:
    text = aecg(aecg_series(aecg_set(_ecg(), head=""), aecg_set(_ecg(), head="")))
    assert [chunk.start for chunk in _open(tmp_path, text).chunks(1 << 30)] == [0, 1500]


def test_relative_times_count_from_the_beginning_of_their_series(tmp_path: Path) -> None:
    part = aecg_set(_ecg(), head='<head value="500" unit="ms"/>', time="TIME_RELATIVE")
    text = aecg(aecg_series(part, time=begun("20240229235958.500")), aecg_series(part, time=begun("20240301005958.500+0100")))
    assert [chunk.start for chunk in _open(tmp_path, text).chunks(1 << 30)] == [0, 1500]
    text = aecg(aecg_series(part, time=begun("20240229235958.500")), aecg_series(part, time=begun("20240301000005.500")))
    assert [chunk.start for chunk in _open(tmp_path, text).chunks(1 << 30)] == [0, 3500]


def test_a_wrong_year_does_not_make_a_gap_of_years(tmp_path: Path) -> None:
    text = aecg(aecg_series(aecg_set(_ecg()), aecg_set(_ecg(), head='<head value="20940301000003"/>')))
    assert [chunk.start for chunk in _open(tmp_path, text).chunks(1 << 30)] == [0, 1500]


def test_leads_of_differing_length_end_in_nan(tmp_path: Path) -> None:
    units = {"I": [1, 2, 3], "V2": [4], "aVF": [5, 6]}
    leads, samples = _whole(_open(tmp_path, aecg(aecg_series(aecg_set(units)))))
    assert leads == ("I", "V2", "aVF")
    np.testing.assert_allclose(samples, _expect(units), atol=1e-7)


def test_a_time_step_of_one_digit_tells_no_better_rate(tmp_path: Path) -> None:
    recording = _open(tmp_path, aecg(aecg_series(aecg_set(_ecg(), step='value="0.003" unit="s"'))))
    assert next(iter(recording.chunks())).rate_hz == pytest.approx(1000 / 3)


@pytest.mark.parametrize("code", ["REPRESENTATIVE_BEAT", "MEDIAN_BEAT", "MEDIAN BEAT", " Median Beat "])
def test_a_representative_beat_is_not_read(tmp_path: Path, code: str) -> None:
    beat = aecg_series(aecg_set(_ecg(), head=""), code=code)
    derived = f'<derivation><derivedSeries><code code="REPRESENTATIVE_BEAT"/>{aecg_set(_ecg())}</derivedSeries></derivation>'
    recording = _open(tmp_path, aecg(beat, aecg_series(aecg_set(_ecg(EIGHT)), notes=derived)))
    assert (recording.duration_s, next(iter(recording.chunks())).leads) == (2.0, EIGHT)


def test_other_leads_are_left_out_and_vendors_codes_are_known(tmp_path: Path) -> None:
    units = {
        "MINDRAY_ECG_LEAD_V1": [1],
        "MDC_ECG_LEAD_V3R": [2],
        "MDC_ECG_LEAD_AVRNEG": [3],
        "MDC_ECG_LEAD_X": [4],
        "MDC_ECG_LEAD_AVR": [5],
    }
    leads, samples = _whole(_open(tmp_path, aecg(aecg_series(aecg_set(units)))))
    assert leads == ("V1", "aVR")
    np.testing.assert_allclose(samples[:, 0], [0.005, 0.025], atol=1e-7)


def test_the_operator_may_name_the_leads(tmp_path: Path) -> None:
    text = aecg(aecg_series(aecg_set({"MDC_ECG_LEAD_X": [1], "I": [2], "MDC_ECG_LEAD_ES": [3]})))
    leads, samples = _whole(_open(tmp_path, text, Columns(("II", "-", "V5"))))
    assert leads == ("II", "V5")
    np.testing.assert_allclose(samples[:, 0], [0.005, 0.015], atol=1e-7)


def _boundary(code: str, value: str) -> str:
    return (
        "<support><supportingROI><code code='ROIPS'/><component><boundary>"
        f"<code code='{code}'/>{value}</boundary></component></supportingROI></support>"
    )


def _note(code: str, value: str = "", inside: str = "") -> str:
    return f"<component><annotation><code code='{code}'/>{value}{inside}</annotation></component>"


def test_aecg_annotations_are_words_at_their_times(tmp_path: Path) -> None:
    wave = _note(
        "MDC_ECG_WAVC",
        "<value xsi:type='CE' code='MDC_ECG_WAVC_PWAVE'/>",
        _boundary("TIME_ABSOLUTE", "<value xsi:type='IVL_TS'><low value='20240229235959.500'/><high value='20240229235959.602'/></value>"),
    )
    peak = _note(
        "MDC_ECG_WAVC_TYPE",
        "<value code='MDC_ECG_WAVC_RWAVE'/>",
        _note("MDC_ECG_WAVC_TYPE", "<value code='MDC_ECG_WAVC_PEAK'/>", _boundary("TIME_RELATIVE", "<value value='332' unit='ms'/>")),
    )
    notes = (
        _note("MDC_ECG_BEAT", "<value code='MDC_ECG_BEAT_V_P_C'/>", wave)
        + peak
        + _note("MDC_ECG_TIME_PD_QT", "<value xsi:type='PQ' value='420' unit='ms'/>")
        + _note("MDC_ECG_INTERPRETATION", "", _note("MDC_ECG_INTERPRETATION_STATEMENT", "<value xsi:type='ST'>Sinus  rhythm</value>"))
        + _note("MDC_ECG_RHY", "<value code='VENDOR_NOVEL_RHYTHM' displayName='novel rhythm'/>")
        + _note("MDC_ECG_RHY", "<value code='MDC_ECG_RHY_SLOW_WAVES'/>")
        + _note("MDC_ECG_RHY", "<value code='MDC_ECG_RHY_SINUS_RHY'/>")
        + _note("MDC_ECG_RHY", "<value code='MDC_ECG_RHY_ATR_FIB'/>")
    )
    recording = _open(tmp_path, aecg(aecg_series(aecg_set(_ecg()), notes=f"<subjectOf><annotationSet>{notes}</annotationSet></subjectOf>")))
    assert list(annotations_of(recording)) == [
        Annotation(0.0, "Sinus rhythm"),
        Annotation(0.0, "novel rhythm"),
        Annotation(0.0, "slow waves"),
        Annotation(0.0, "sinus rhythm"),
        Annotation(0.0, "atrial fibrillation"),
        Annotation(0.332, "R wave"),
        Annotation(1.0, "ventricular premature beat", 1.102),
        Annotation(1.0, "P wave", 1.102),
    ]


def test_a_relative_annotation_counts_from_the_beginning_of_its_own_series(tmp_path: Path) -> None:
    note = _note("MDC_ECG_WAVC", "<value code='MDC_ECG_WAVC_PWAVE'/>", _boundary("TIME_RELATIVE", "<value value='0.25' unit='s'/>"))
    notes = f"<subjectOf><annotationSet>{note}</annotationSet></subjectOf>"
    later = aecg_set(_ecg(), head='<head value="20240301000003.500"/>')
    recording = _open(tmp_path, aecg(aecg_series(aecg_set(_ecg()), notes=notes), aecg_series(later, notes=notes)))
    assert [note.at_s for note in annotations_of(recording)] == [0.25, 5.25]


# Philips Sierra


def _lzw(data: bytes, bits: int = 10) -> bytes:
    """Codes of a dictionary that grows until its last code but one, then stays."""
    table = {bytes([byte]): byte for byte in range(256)}
    codes, held = [], b""
    for byte in data:
        longer = held + bytes([byte])
        if longer in table:
            held = longer
            continue
        codes.append(table[held])
        if len(table) <= (1 << bits) - 2:
            table[longer] = len(table)
        held = bytes([byte])
    codes += [table[held]] if held else []
    text = "".join(format(code, f"0{bits}b") for code in [*codes, (1 << bits) - 1])
    return int(text.ljust(-(-len(text) // 8) * 8, "1"), 2).to_bytes(-(-len(text) // 8), "big")


def _xli(samples: Sequence[int]) -> bytes:
    bends = [2 * samples[i - 1] - samples[i - 2] - samples[i] for i in range(2, len(samples))]
    values = [*samples[:2], *(bend + 64 for bend in bends[1:]), 64][: len(samples)]
    packed = bytes(value >> 8 & 255 for value in values) + bytes(value & 255 for value in values)
    codes = _lzw(packed)
    return struct.pack("<ihh", len(codes), 1, bends[0] if bends else 0) + codes


def sierra_payload(units: dict[str, list[int]], compressed: bool = True) -> str:
    rows = dict(units)
    if compressed and len(rows) >= 6:
        i, ii, iii = (np.array(rows[lead]) for lead in LEADS[:3])
        rows["III"] = (ii - i - iii).tolist()
        rows["aVR"] = (-np.array(rows["aVR"]) - (i + ii) // 2).tolist()
        rows["aVL"] = ((i - iii) // 2 - np.array(rows["aVL"])).tolist()
        rows["aVF"] = ((ii + iii) // 2 - np.array(rows["aVF"])).tolist()
    data = b"".join(_xli(row) if compressed else np.array(row, "<i2").tobytes() for row in rows.values())
    return base64.b64encode(data).decode()


def sierra(
    units: dict[str, list[int]], version: str = "1.04", data: str | None = None, extra: str = "", milliseconds: float | None = None
) -> str:
    text = sierra_payload(units) if data is None else data
    duration = round(1000 * max(map(len, units.values())) / RATE_HZ) if milliseconds is None else milliseconds
    if version == "1.03":
        about = "<signalresolution>5</signalresolution><acquisitiontype>STD-12</acquisitiontype>"
        head = f'compressflag="True" compressmethod="XLI" dataencoding="Base64" durationperchannel="{duration}" nbitspersample="16"'
    else:
        about = "<resolution>5</resolution><acquisitiontype>10-WIRE</acquisitiontype>"
        head = (
            f'dataencoding="Base64" compression="XLI" numberofleads="{len(units)}" leadlabels="{" ".join(units)}" '
            f'durationperchannel="{duration}" samplespersecond="500" resolution="5" signaloffset="0"'
        )
    return f"""<?xml version="1.0" encoding="utf-16"?>
<restingecgdata xmlns="http://www3.medical.philips.com">
<documentinfo><documenttype>{"SierraECG" if version == "1.03" else "PhilipsECG"}</documenttype>
<documentversion>{version}</documentversion></documentinfo>
<dataacquisition><signalcharacteristics><samplingrate>500</samplingrate>{about}
<numberchannelsallocated>{len(units)}</numberchannelsallocated></signalcharacteristics></dataacquisition>
{extra}<waveforms><parsedwaveforms {head}>{text}</parsedwaveforms></waveforms></restingecgdata>"""


@pytest.mark.parametrize("version", ["1.03", "1.04", "1.04.01", "1.04.02"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_sierra_samples_are_those_written_and_those_of_the_sierraecg_package(tmp_path: Path, version: str, encoding: str) -> None:
    text = sierra(_ecg(), version)
    leads, samples = _whole(_open(tmp_path, text.encode(encoding)))
    assert leads == LEADS
    np.testing.assert_allclose(samples, _expect(_ecg()), atol=1e-6)
    path = tmp_path / "other.xml"
    path.write_bytes(text.encode("utf-16"))
    np.testing.assert_allclose(samples, [lead.samples * 0.005 for lead in sierraecg.read_file(str(path)).leads], atol=1e-6)


@given(st.lists(st.integers(-400, 400), min_size=3, max_size=60))
def test_xli_of_any_samples_is_undone(tmp_path_factory: pytest.TempPathFactory, samples: list[int]) -> None:
    _, found = _whole(_open(tmp_path_factory.getbasetemp(), sierra({"V1": samples, "V2": samples[::-1]})))
    np.testing.assert_allclose(found, np.array([samples, samples[::-1]]) * 0.005, atol=1e-6)


@pytest.mark.parametrize("said", ["", 'compression="Uncompressed"', 'compressflag="False"', 'compressflag="False" compressmethod="XLI"'])
def test_uncompressed_sierra_leads_are_stored_as_they_are(tmp_path: Path, said: str) -> None:
    text = sierra(_ecg(), data=sierra_payload(_ecg(), compressed=False)).replace('compression="XLI"', said)
    np.testing.assert_allclose(_whole(_open(tmp_path, text))[1], _expect(_ecg()), atol=1e-6)
    plain = " ".join(str(unit) for row in _ecg().values() for unit in row)
    text = sierra(_ecg(), data=plain).replace('compression="XLI"', said).replace("Base64", "Plain")
    np.testing.assert_allclose(_whole(_open(tmp_path, text))[1], _expect(_ecg()), atol=1e-6)


def test_a_flag_without_a_method_means_xli(tmp_path: Path) -> None:
    text = sierra(_ecg(), "1.03").replace('compressmethod="XLI"', "")
    np.testing.assert_allclose(_whole(_open(tmp_path, text))[1], _expect(_ecg()), atol=1e-6)


def test_limb_leads_are_restored_only_where_they_are(tmp_path: Path) -> None:
    leads = ("V1", "V2", "V3", "V4", "V5", "V6", "I", "II")
    data = base64.b64encode(b"".join(_xli(row) for row in _ecg(leads).values())).decode()
    np.testing.assert_allclose(_whole(_open(tmp_path, sierra(_ecg(leads), data=data)))[1], _expect(_ecg(leads)), atol=1e-6)


def test_a_calibration_mark_at_the_end_is_no_part_of_the_recording(tmp_path: Path) -> None:
    mark = [0] * 50 + [200] * 100 + [0] * 50
    marked = {lead: row + mark for lead, row in _ecg().items()}
    assert _open(tmp_path, sierra(marked)).duration_s == 2.0
    one_other = marked | {"V4": [*marked["V4"][:-1], 1]}
    assert _open(tmp_path, sierra(one_other)).duration_s == 2.4
    assert _open(tmp_path, sierra({lead: row + [0] * 200 for lead, row in _ecg().items()})).duration_s == 2.4


@needs_philips
def test_a_real_philips_file_is_read_as_the_sierraecg_package_reads_it() -> None:
    recording = open_recording(PHILIPS)
    theirs = np.array([lead.samples for lead in sierraecg.read_file(str(PHILIPS)).leads]) * 0.005
    leads, samples = _whole(recording)
    assert (leads, recording.duration_s) == (LEADS, 10.6)
    np.testing.assert_allclose(samples, theirs[:, :5300], atol=1e-6)
    assert np.ptp(theirs[:, 5300:], axis=0).max() == 0
    assert np.nanmax(np.abs(samples[1] - samples[0] - samples[2])) < 1e-6
    assert annotations_of(recording)[0] == Annotation(0.0, "SINUS RHYTHM (normal P axis, V-rate 60-99)")
    assert annotations_of(recording)[-1].text == "ABNORMAL ECG"


# GE MUSE and CardioSoft


def muse_lead(name: str, row: Sequence[int], extra: str = "<LeadOff>FALSE</LeadOff>", size: int = 2) -> str:
    data = np.array(row, f"<i{size}").tobytes()
    return f"""<LeadData><LeadByteCountTotal>{len(data)}</LeadByteCountTotal><LeadTimeOffset>0</LeadTimeOffset>
<LeadSampleCountTotal>{len(row)}</LeadSampleCountTotal><LeadAmplitudeUnitsPerBit>4.88</LeadAmplitudeUnitsPerBit>
<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits><LeadID>{name}</LeadID><LeadOffsetFirstSample>0</LeadOffsetFirstSample>
<LeadSampleSize>{size}</LeadSampleSize>{extra}<LeadDataCRC32>{zlib.crc32(data)}</LeadDataCRC32>
<WaveFormData>
{base64.encodebytes(data).decode()}   </WaveFormData></LeadData>"""


def muse(units: dict[str, list[int]], extra: str = "", leads: str | None = None, base: str = "500", exponent: str = "0") -> str:
    rhythm = "".join(itertools.starmap(muse_lead, units.items())) if leads is None else leads
    beat = "".join(muse_lead(name, row[:300]) for name, row in units.items())
    head = f"<SampleBase>{base}</SampleBase><SampleExponent>{exponent}</SampleExponent>"
    return f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<!DOCTYPE RestingECG SYSTEM "restecg.dtd">
<RestingECG>{extra}
<Waveform><WaveformType>Median</WaveformType>{head}{beat}</Waveform>
<Waveform><WaveformType>Rhythm</WaveformType>{head}{rhythm}</Waveform></RestingECG>"""


def cardiosoft(units: dict[str, list[int]], nested: bool = False) -> str:
    leads = "".join(f'<WaveformData lead="{name}">\n\t\t{",".join(map(str, row))}\n\t</WaveformData>' for name, row in units.items())
    strip = f"""<StripData><NumberOfLeads>{len(units)}</NumberOfLeads><SampleRate units="Hz">500</SampleRate>
<Resolution units="uVperLsb">5</Resolution>{leads}</StripData>"""
    return f"""<?xml version="1.0" encoding="ISO-8859-1"?><CardiologyXML>
<Interpretation><Conclusion><ConclusionText>Normaler \u00c4rger</ConclusionText></Conclusion></Interpretation>
<RestingECGMeasurements><MedianSamples><SampleRate>500</SampleRate><WaveformData lead="I">1,2</WaveformData></MedianSamples>
</RestingECGMeasurements>{f"<Strip>{strip}</Strip>" * 2 if nested else strip}</CardiologyXML>"""


def test_muse_gives_the_leads_that_were_measured(tmp_path: Path) -> None:
    leads, samples = _whole(_open(tmp_path, muse(_ecg(EIGHT))))
    assert leads == EIGHT
    np.testing.assert_allclose(samples, _expect(_ecg(EIGHT), 0.00488), atol=1e-6)


@pytest.mark.parametrize(("base", "exponent", "rate_hz"), [("250", "0", 250), ("5", "2", 500), ("2500", "-1", 250), ("1000", "0", 1000)])
def test_muse_rate_is_base_times_a_power_of_ten(tmp_path: Path, base: str, exponent: str, rate_hz: float) -> None:
    assert next(iter(_open(tmp_path, muse(_ecg(EIGHT), base=base, exponent=exponent)).chunks())).rate_hz == rate_hz


def test_muse_statements_are_whole_lines_and_complexes_have_times(tmp_path: Path) -> None:
    pieces = [("Sinus rhythm", ""), ("with PVCs", "<StmtFlag>ENDSLINE</StmtFlag>"), ("Abnormal", "<StmtFlag>ENDSLINE</StmtFlag>")]
    lines = "".join(f"<DiagnosisStatement>{flag}<StmtText>{text}</StmtText></DiagnosisStatement>" for text, flag in pieces)
    beats = "<QRSTimesTypes><QRS><Time>614</Time></QRS><QRS><Time>1914</Time></QRS></QRSTimesTypes>"
    original = "<OriginalDiagnosis><DiagnosisStatement><StmtText>other</StmtText></DiagnosisStatement></OriginalDiagnosis>"
    recording = _open(tmp_path, muse(_ecg(EIGHT), f"<Diagnosis>{lines}</Diagnosis>{original}{beats}"))
    assert [(note.at_s, note.text) for note in annotations_of(recording)] == [
        (0.0, "Sinus rhythm with PVCs"),
        (0.0, "Abnormal"),
        (0.614, "QRS complex"),
        (1.914, "QRS complex"),
    ]


def test_a_muse_lead_whose_electrode_was_off_is_nan(tmp_path: Path) -> None:
    units = _ecg(EIGHT)
    leads = "".join(muse_lead(name, row, f"<LeadOff>{'TRUE' if name == 'V3' else 'FALSE'}</LeadOff>") for name, row in units.items())
    _, samples = _whole(_open(tmp_path, muse(units, leads=leads)))
    assert np.isnan(samples).all(axis=1).tolist() == [name == "V3" for name in EIGHT]


@pytest.mark.parametrize("size", [2, 4])
def test_muse_samples_have_the_size_that_is_said(tmp_path: Path, size: int) -> None:
    leads = "".join(muse_lead(name, row, size=size) for name, row in _ecg(EIGHT).items())
    np.testing.assert_allclose(_whole(_open(tmp_path, muse(_ecg(EIGHT), leads=leads)))[1], _expect(_ecg(EIGHT), 0.00488), atol=1e-6)


def test_cardiosoft_strips_are_read_and_a_second_follows_after_a_gap(tmp_path: Path) -> None:
    recording = _open(tmp_path, cardiosoft(_ecg()).encode("latin-1"))
    leads, samples = _whole(recording)
    assert leads == LEADS
    np.testing.assert_allclose(samples, _expect(_ecg()), atol=1e-6)
    assert list(annotations_of(recording)) == [Annotation(0.0, "Normaler \u00c4rger")]
    two = _open(tmp_path, cardiosoft(_ecg(), nested=True))
    assert [(chunk.start, chunk.end) for chunk in two.chunks(1 << 30)] == [(0, 1000), (1500, 2500)]


# Binary frames


def frames(units: dict[str, list[int]], size: int = 100, left_out: Sequence[int] = (), first: int = 4294967290) -> bytes:
    samples = np.array(list(units.values()), np.float32) / 200
    parts = [samples[:, at : at + size] for at in range(0, samples.shape[1], size)]
    made = [pack(Frame((first + seq) % 2**32, None, RATE_HZ, tuple(units), part), 200.0) for seq, part in enumerate(parts)]
    return b"".join(frame for seq, frame in enumerate(made) if seq not in left_out)


def test_frames_are_joined_and_a_lost_one_is_a_gap(tmp_path: Path) -> None:
    recording = _open(tmp_path, frames(_ecg(), left_out=(3, 4)))
    expected = _expect(_ecg())
    expected[:, 300:500] = np.nan
    leads, samples = _whole(recording, 1000)
    assert leads == LEADS
    np.testing.assert_allclose(samples, expected, atol=1e-6)


def test_garbage_among_frames_is_passed_over_but_not_a_file_of_it(tmp_path: Path) -> None:
    half = len(frames(_ecg())) // 2
    data = frames(_ecg(), size=10)[:half] + b"\xecgl garbage" * 5
    assert max(chunk.end for chunk in _open(tmp_path, data).chunks()) > 400
    with pytest.raises(ConfigError, match=r"recording.xml: holds no whole frame; .*capture it again"):
        list(_open(tmp_path, b"\xecgl" + bytes(500)).chunks())


def test_the_operator_may_name_the_leads_of_frames(tmp_path: Path) -> None:
    leads, samples = _whole(_open(tmp_path, frames(_ecg(("I", "II", "V1"))), Columns(("V5", "-", "II"))))
    assert leads == ("V5", "II")
    np.testing.assert_allclose(samples, _expect(_ecg(("I", "V1"))), atol=1e-6)
    loose = pack(Frame(0, None, RATE_HZ, ("I", "II", "V1"), np.zeros((3, 9), np.float32), lead_off=("II", "V1")), 200.0)
    assert [chunk.lead_off for chunk in _open(tmp_path, loose, Columns(("V5", "-", "II"))).chunks()] == [("II",)]
    with pytest.raises(ConfigError, match=r"recording.xml: --leads names 1 leads, but there are 3"):
        list(_open(tmp_path, frames(_ecg(("I", "II", "V1"))), Columns(("V5",))).chunks())


def test_a_long_capture_of_frames_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    with path.open("wb") as file:
        for minute in range(40):
            file.write(frames(_ecg(seconds=30.0), size=250, first=minute * 60))
    tracemalloc.start()
    samples = sum(chunk.samples_mv.shape[1] for chunk in open_recording(path).chunks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert samples == 40 * 30 * RATE_HZ
    assert peak < 1_000_000 < path.stat().st_size / 10


# All of them

WRITERS: dict[str, Callable[[dict[str, list[int]]], bytes]] = {
    "aecg": lambda units: aecg(aecg_series(aecg_set(units))).encode(),
    "sierra": lambda units: sierra(units).encode("utf-16"),
    "muse": lambda units: muse(units).replace("4.88", "5").encode(),
    "cardiosoft": lambda units: cardiosoft(units).encode("latin-1"),
    "frames": frames,
}


def test_the_same_recording_in_every_format_has_the_same_samples(tmp_path: Path) -> None:
    read = {name: _whole(_open(tmp_path, write(_ecg()))) for name, write in WRITERS.items()}
    assert {leads for leads, _ in read.values()} == {LEADS}
    for _, samples in read.values():
        np.testing.assert_allclose(samples, _expect(_ecg()), atol=1e-6)


REASONS = {
    "no time sequence": (aecg(aecg_series(aecg_set(_ecg()).replace("TIME_ABSOLUTE", "X"))), "without a time sequence"),
    "no increment": (
        aecg(aecg_series(aecg_set(_ecg()).replace("<increment", "<x"))).replace('unit="s"/>', 'unit="s"/>'),
        "without an increment",
    ),
    "step without a unit": (aecg(aecg_series(aecg_set(_ecg(), step='value="2"'))), "time step in ''; it must be one of s ms"),
    "step 0": (aecg(aecg_series(aecg_set(_ecg(), step='value="0" unit="s"'))), "must be above 0"),
    "too fast": (aecg(aecg_series(aecg_set(_ecg(), step='value="1" unit="us"'))), "at most 100000"),
    "scale 0": (aecg(aecg_series(aecg_set(_ecg(), scale='value="0" unit="uV"'))), "scale of MDC_ECG_LEAD_I as 0"),
    "no unit": (aecg(aecg_series(aecg_set(_ecg(), scale='value="5"'))), "unit of voltage"),
    "mmHg": (aecg(aecg_series(aecg_set(_ecg(), scale='value="5" unit="mm[Hg]"'))), "unit of voltage"),
    "no lead": (aecg(aecg_series(aecg_set({"MDC_ECG_LEAD_X": [1]}))), "no known lead among the signals MDC_ECG_LEAD_X; name them"),
    "a lead twice": (aecg(aecg_series(aecg_set({"I": [1], "MINDRAY_ECG_LEAD_I": [2]}))), "lead I stands twice"),
    "two rates": (aecg(aecg_series(aecg_set(_ecg()), aecg_set(_ecg(), step='value="4" unit="ms"'))), "several rates .250, 500 Hz.; export"),
    "a word": (aecg(aecg_series(aecg_set(_ecg()).replace("<digits>", "<digits>12 many "))), "no number .*copy it again"),
    "no digits": (aecg(aecg_series(aecg_set({"I": []}))), "holds no samples"),
    "NaN only": (aecg(aecg_series(aecg_set({"I": [10**12, 10**12]}))), "no valid sample"),
    "a beat alone": (aecg(aecg_series(aecg_set(_ecg()), code="REPRESENTATIVE_BEAT")), "holds no samples; export it again"),
    "Philips of a later version": (sierra(_ecg(), "1.05"), "Philips XML of version '1.05'; export it as one of 1.03"),
    "Philips without leads": (sierra(_ecg(), "1.03").replace("STD-12", "MASON"), "'MASON' is no known set"),
    "Philips without waves": (sierra(_ecg()).replace("parsedwaveforms", "otherwaves"), "no parsed waveforms"),
    "Philips without gain": (sierra(_ecg()).replace('resolution="5"', 'resolution="0"'), "resolution as '0', which must be above 0"),
    "Philips of no lead": (sierra(_ecg()).replace('leads="12"', 'leads="0.2"'), "holds 0 leads; export it with 1 to 64"),
    "Philips cut": (sierra(_ecg(), milliseconds=3000), "truncated: it holds 2.00 of 3.00 s"),
    "Philips odd": (sierra(_ecg(), data="AAAAA"), "damaged Base64"),
    "Philips cut in XLI": (sierra(_ecg(), data=sierra_payload(_ecg())[:4000]), "truncated within"),
    "Philips with a loop in XLI": (sierra(_ecg(), data=base64.b64encode(struct.pack("<ihh", -8, 1, 0) * 9).decode()), "truncated within"),
    "Philips in ZIP": (sierra(_ecg()).replace('"XLI"', '"ZIP"'), "samples as Base64 ZIP; export it as"),
    "MUSE with a wrong checksum": (muse(_ecg(EIGHT)).replace("CRC32>", "CRC32>1", 20), "checksum of lead I is wrong"),
    "MUSE cut": (muse(_ecg(EIGHT)).replace(">1000</LeadSampleCount", ">2000</LeadSampleCount"), "1000 of 2000 samples in lead I"),
    "MUSE of odd bytes": (muse(_ecg(EIGHT), leads=muse_lead("I", [1], size=1).replace("Size>1", "Size>2")), "no whole samples"),
    "MUSE of three bytes": (muse(_ecg(EIGHT), leads=muse_lead("I", [1]).replace("Size>2", "Size>3")), "samples of 3 bytes in lead I"),
    "MUSE without a rhythm": (muse(_ecg(EIGHT)).replace(">Rhythm<", ">Other<"), "holds no samples"),
    "MUSE without a gain": (muse(_ecg(EIGHT)).replace(">4.88<", "><"), "gain of lead I as '', which must be a number"),
    "MUSE without a unit": (muse(_ecg(EIGHT)).replace("MICROVOLTS", ""), "unit of voltage"),
    "MUSE beyond powers": (muse(_ecg(EIGHT), exponent="99999"), "sample exponent as 99999"),
    "MUSE out of step": (
        muse(_ecg(EIGHT), leads=muse_lead("I", [1]) + muse_lead("II", [1]).replace("FirstSample>0", "FirstSample>9")),
        "do not begin at the same time",
    ),
    "CardioSoft in other units": (cardiosoft(_ecg()).replace("uVperLsb", "LsbPermV"), "resolution in 'LsbPermV'; it must be uVperLsb"),
    "CardioSoft without a strip": (cardiosoft(_ecg()).replace("StripData", "FullDisclosure"), "holds no samples"),
    "cut": (aecg(aecg_series(aecg_set(_ecg())))[:-40], "is damaged XML .*; copy it again"),
    "too many signals": (aecg(aecg_series(aecg_set({f"MDC_ECG_LEAD_{n}": [1] for n in range(99)}))), "more than 64 signals"),
}


@pytest.mark.parametrize("what", REASONS)
def test_what_cannot_be_read_says_why_and_what_to_do(tmp_path: Path, what: str) -> None:
    text, reason = REASONS[what]
    with pytest.raises(ConfigError, match=rf"recording.xml: .*{reason}"):
        _open(tmp_path, text)


@pytest.mark.parametrize("write", [write for name, write in WRITERS.items() if name != "frames"])
def test_rate_and_unit_are_not_asked_of_the_operator(tmp_path: Path, write) -> None:
    with pytest.raises(ConfigError, match="leave them out"):
        _open(tmp_path, write(_ecg()), Columns(rate_hz=500.0))


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
TRAPS = {
    "a bomb of entities": f'<!DOCTYPE AnnotatedECG [<!ENTITY l0 "ha">{LAUGHS}]><AnnotatedECG>&l11;</AnnotatedECG>',
    "a quadratic bomb": f'<!DOCTYPE AnnotatedECG [<!ENTITY a "{"a" * 50_000}">]><AnnotatedECG>{"&a;" * 50_000}</AnnotatedECG>',
    "a file of the system": '<!DOCTYPE AnnotatedECG [<!ENTITY f SYSTEM "file:///etc/passwd">]><AnnotatedECG>&f;</AnnotatedECG>',
    "a parameter entity": '<!DOCTYPE AnnotatedECG [<!ENTITY % p SYSTEM "http://127.0.0.1:9/x.dtd"> %p;]><AnnotatedECG/>',
}


@pytest.mark.parametrize("trap", TRAPS)
def test_entities_are_refused_before_they_are_followed(tmp_path: Path, trap: str) -> None:
    with pytest.raises(ConfigError, match="XML parser cannot read it"):
        _open(tmp_path, TRAPS[trap])


def test_elements_within_elements_without_end_are_an_error_or_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        _open(tmp_path, "<AnnotatedECG>" + "<component>" * 200_000 + "</component>" * 200_000 + "</AnnotatedECG>")


def test_xml_that_would_not_fit_the_memory_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "recording.xml"
    with path.open("wb") as file:
        file.write(b"<AnnotatedECG>")
        file.truncate(LARGEST + 1)
    with pytest.raises(ConfigError, match="32 MB of XML, of which at most 32 are read; export so long a recording as EDF"):
        open_recording(path)


def test_a_little_xli_that_stands_for_very_much_is_refused(tmp_path: Path) -> None:
    codes = _lzw(bytes(400_000))
    bomb = codes[:-4] + codes[-40:-4] * 500
    with pytest.raises(ConfigError, match="damaged within its compressed samples"):
        _open(tmp_path, sierra({"V1": [0, 0]}, data=base64.b64encode(struct.pack("<ihh", len(bomb), 1, 0) + bomb).decode()))


DAMAGE = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 1), st.just(b"")),
    st.tuples(st.just("change"), st.floats(0, 1), st.binary(min_size=1, max_size=3)),
    st.tuples(st.just("insert"), st.floats(0, 1), st.sampled_from([b"9" * 400, b"-", b"<", b"&", b"1e308 ", b"\0", b"nan ", b"<a/>"])),
    st.tuples(st.just("number"), st.floats(0, 1), st.sampled_from([b"0", b"-1", b"1e999", b"99999999", b"", b"x", b"nan", b"1e-300"])),
)


def _damage(data: bytes, how: str, where: float, new: bytes) -> bytes:
    at = int(where * len(data))
    if how == "number":
        places = [i for i in range(len(data) - 2) if data[i : i + 1] in b'">' and data[i + 1 : i + 2].isdigit()]
        at = (places[int(where * (len(places) - 1))] + 1) if places else at
        end = next((i for i in range(at, len(data)) if not data[i : i + 1].isalnum()), len(data))
        return data[:at] + new + data[end:]
    return data[:at] + new + (b"" if how == "cut" else data[at:] if how == "insert" else data[at + len(new) :])


def _tolerates(folder: Path, data: bytes) -> None:
    try:
        recording = _open(folder, data)
        chunks = list(itertools.islice(recording.chunks(), 50))
        notes = annotations_of(recording)
    except ConfigError as error:
        assert "recording.xml: " in str(error)
    else:
        assert all(isinstance(chunk, Chunk) and chunk.samples_mv.dtype == np.float32 for chunk in chunks)
        assert not any(np.isinf(chunk.samples_mv).any() for chunk in chunks)
        assert all(isinstance(note.text, str) for note in notes)


NOTED = (
    "<subjectOf><annotationSet>"
    + _note("MDC_ECG_BEAT", "<value code='MDC_ECG_BEAT_NORMAL'/>", _boundary("TIME_RELATIVE", "<value value='332' unit='ms'/>"))
    + _note("MDC_ECG_BEAT", "<value code='X'/>", _boundary("TIME_ABSOLUTE", "<value value='20240229235959.1+0100'/>"))
    + "</annotationSet></subjectOf>"
)
SHORT = {lead: row[:40] for lead, row in _ecg().items()}
DAMAGEABLE = {name: write(SHORT) for name, write in WRITERS.items()}
DAMAGEABLE["aecg"] = aecg(aecg_series(aecg_set(SHORT), aecg_set(SHORT, head='<head value="20240301000003"/>'), notes=NOTED)).encode()
DAMAGEABLE["sierra 1.03"] = sierra(SHORT, "1.03").encode()


@pytest.mark.parametrize("name", DAMAGEABLE)
@given(damage=DAMAGE)
def test_a_damaged_file_gives_samples_or_a_reason(
    tmp_path_factory: pytest.TempPathFactory, name: str, damage: tuple[str, float, bytes]
) -> None:
    _tolerates(tmp_path_factory.getbasetemp(), _damage(DAMAGEABLE[name], *damage))


@needs_philips
@given(damage=DAMAGE)
def test_a_damaged_real_file_gives_samples_or_a_reason(tmp_path_factory: pytest.TempPathFactory, damage: tuple[str, float, bytes]) -> None:
    _tolerates(tmp_path_factory.getbasetemp(), _damage(PHILIPS.read_bytes(), *damage))


@pytest.mark.parametrize("name", DAMAGEABLE)
def test_a_file_cut_anywhere_gives_samples_or_a_reason(tmp_path: Path, name: str) -> None:
    data = DAMAGEABLE[name]
    for end in range(0, len(data), max(len(data) // 150, 1)):
        _tolerates(tmp_path, data[:end])
