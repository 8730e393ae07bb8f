from __future__ import annotations

import pickle
import tracemalloc
import zipfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.decode.csv import Columns
from edge.transport.file import open_recording
from kernels.findings import ConfigError
from kernels.signal import LEADS

from .test_formats_edf import fails, laid, wave

SAID = Columns(("I", "V1"), 250.0)


def waves(leads: int = 2, samples: int = 1000) -> np.ndarray:
    return np.stack([wave(samples, seed) for seed in range(leads)])


def saved(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


def stacked(found: dict[str, np.ndarray]) -> np.ndarray:
    return np.stack(list(found.values()))


# NumPy


@given(
    kind=st.sampled_from(["<f4", ">f8", "<i2", ">i4", "<f2"]),
    layout=st.sampled_from(["leads first", "samples first", "fortran"]),
    block=st.integers(40, 9000),
)
def test_an_array_reads_the_same_however_it_lies(tmp_path_factory: pytest.TempPathFactory, kind: str, layout: str, block: int) -> None:
    held = (waves() * 100).astype(kind)
    array = {"leads first": held, "samples first": np.ascontiguousarray(held.T), "fortran": np.asfortranarray(held.T)}[layout]
    path = saved(tmp_path_factory.mktemp("npy") / "a.npy", array)
    found = laid(open_recording(path, Columns(("I", "V1"), 250.0, 0.01)), block)
    assert list(found) == ["I", "V1"]
    np.testing.assert_allclose(stacked(found), held.astype(float) / 100, atol=1e-6)


def test_a_flat_array_is_one_lead_and_a_dash_leaves_one_out(tmp_path: Path) -> None:
    flat = saved(tmp_path / "a.npy", waves()[0])
    assert list(laid(open_recording(flat, Columns(("II",), 250.0)))) == ["II"]
    two = saved(tmp_path / "b.npy", waves())
    found = laid(open_recording(two, Columns(("-", "II"), 250.0)))
    assert list(found) == ["II"]
    np.testing.assert_allclose(found["II"], waves()[1], atol=1e-6)


def test_the_names_tell_the_leads_from_the_samples_where_there_are_few(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy", waves(3, 2))
    assert stacked(laid(open_recording(path, Columns(("I", "II", "V1"), 250.0)))).shape == (3, 2)


def test_an_archive_says_its_leads_and_rate(tmp_path: Path) -> None:
    for save, key, rate in ((np.savez, "samples_mv", "rate_hz"), (np.savez_compressed, "ecg", "fs")):
        save(tmp_path / "a.npz", **{key: waves().T, rate: 500, "leads": np.array(["MLII", "V5"])})
        recording = open_recording(tmp_path / "a.npz")
        assert recording.duration_s == 2.0 and list(laid(recording)) == ["II", "V5"]
        np.testing.assert_allclose(stacked(laid(recording)), waves(), atol=1e-6)


@pytest.mark.parametrize(
    ("array", "columns", "what"),
    [
        (waves(12), Columns(rate_hz=250.0), r"12 leads; name them in order, for example --leads " + ",".join(LEADS)),
        (waves(1), Columns(("I",)), "--rate 250"),
        (waves(3), SAID, "names 2 leads, but there are 3"),
        (waves(), Columns(("I", "I"), 250.0), "stands twice"),
        (np.zeros((12, 12)), Columns(("I", "II"), 250.0), "square"),
        (np.zeros((3, 2, 100)), SAID, "one recording"),
        (np.zeros((0, 2)), SAID, "one recording"),
        (np.zeros(100, complex), SAID, "plain numbers"),
        (np.zeros(100, [("I", "f4")]), SAID, "plain numbers"),
        (np.full((2, 5000), np.nan), SAID, "no valid sample"),
    ],
)
def test_a_wrong_array_says_how_to_mend_it(tmp_path: Path, array: np.ndarray, columns: Columns, what: str) -> None:
    fails(saved(tmp_path / "a.npy", array), what, columns)


class _Trap:
    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _spring, ()


def _spring() -> None:
    _Trap.sprung = True


def test_python_objects_are_never_read(tmp_path: Path) -> None:
    trap = np.array([_Trap(), _Trap()], object)
    np.savez(tmp_path / "a.npz", samples_mv=waves(), rate_hz=250, leads=trap)
    np.savez(tmp_path / "b.npz", ecg=trap, rate_hz=250)
    for path in (saved(tmp_path / "a.npy", trap), tmp_path / "a.npz", tmp_path / "b.npz"):
        fails(path, "Python objects", SAID)
    (tmp_path / "c.npy").write_bytes(pickle.dumps(_Trap()))
    fails(tmp_path / "c.npy", "is no recording", SAID)
    assert not _Trap.sprung


def test_an_archive_is_not_unpacked_beyond_what_is_needed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("ecg.npy", "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (1 << 25, 1)})
        for _ in range(256):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    fails(tmp_path / "a.npz", "256 MB unpacked", SAID)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


def test_contradictions_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", samples_mv=waves(), rate_hz=500, leads=["I", "II"])
    fails(tmp_path / "a.npz", "leave --rate out", Columns(rate_hz=250.0))
    fails(tmp_path / "a.npz", "leave --unit out", Columns(mv_per_unit=0.001))
    np.savez(tmp_path / "b.npz", heights=waves())
    fails(tmp_path / "b.npz", "holds heights; call the samples one of samples_mv")


def test_a_truncated_array_says_how_much_it_holds(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npy", waves(2, 1000))
    path.write_bytes(path.read_bytes()[:-8000])
    fails(path, r"holds 2\.00 of 4\.00 s; copy it again", SAID)


def test_what_is_left_of_a_truncated_array_reads_if_that_is_wanted(tmp_path: Path) -> None:
    held = waves(2, 1000)
    for name, array in (("rows", np.ascontiguousarray(held.T)), ("leads", held)):
        path = saved(tmp_path / f"{name}.npy", array)
        path.write_bytes(path.read_bytes()[:-4008])
        fails(path, "--partial", SAID)
    found = laid(open_recording(tmp_path / "rows.npy", SAID, partial=True))
    np.testing.assert_allclose(stacked(found), held[:, :749], atol=1e-6)
    found = laid(open_recording(tmp_path / "leads.npy", SAID, partial=True))
    assert list(found) == ["I"]
    np.testing.assert_allclose(found["I"], held[0], atol=1e-6)


def test_an_array_of_one_recording_and_other_names_of_the_rate_are_known(tmp_path: Path) -> None:
    one = saved(tmp_path / "a.npy", waves(12, 500)[None])
    np.testing.assert_allclose(stacked(laid(open_recording(one, Columns(LEADS, 250.0)))), waves(12, 500), atol=1e-6)
    np.savez(tmp_path / "b.npz", ecg=waves(), sampling_rate=500, leads=["I", "II"])
    assert open_recording(tmp_path / "b.npz").duration_s == 2.0


def test_pairs_name_the_columns_of_a_table(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", {"EKG2": waves()[0], "heart": waves()[1], "II": waves()[1]})
    found = laid(open_recording(path, Columns(("heart=I", "EKG2=V5"), 250.0)))
    assert sorted(found) == ["I", "V5"]
    np.testing.assert_allclose(found["V5"], waves()[0], atol=1e-6)


# Parquet


def table(path: Path, columns: dict[str, Any], metadata: dict[str, str] | None = None, **more: Any) -> Path:
    made = pa.table(columns)
    pq.write_table(made.replace_schema_metadata(metadata) if metadata else made, path, **more)
    return path


@given(block=st.integers(40, 9000), group=st.integers(1, 1200), kind=st.sampled_from(["f4", "f8", "i2"]))
def test_a_table_reads_the_same_in_any_block(tmp_path_factory: pytest.TempPathFactory, block: int, group: int, kind: str) -> None:
    held = (waves() * 100).astype(kind)
    columns = {"Lead I": held[0], "beat": np.arange(1000), "avr": held[1], "text": ["x"] * 1000}
    path = table(tmp_path_factory.mktemp("parquet") / "a.parquet", columns, row_group_size=group)
    found = laid(open_recording(path, Columns((), 250.0, 0.01)), block)
    assert list(found) == ["I", "aVR"]
    np.testing.assert_allclose(stacked(found), held.astype(float) / 100, atol=1e-6)


def test_the_schema_may_say_rate_and_unit(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", {"II": waves()[0] * 1000}, {"rate_hz": "500", "unit": "uV"})
    recording = open_recording(path)
    assert recording.duration_s == 2.0
    np.testing.assert_allclose(laid(recording)["II"], waves()[0], atol=1e-6)
    fails(path, "leave --rate out", Columns(rate_hz=250.0))


@given(
    lost=st.lists(st.integers(1, 999), max_size=20),
    kind=st.sampled_from(["seconds", "ms", "timestamp", "duration"]),
    rate=st.sampled_from([100, 250, 360, 500]),
    block=st.integers(40, 5000),
)
def test_lost_rows_are_a_gap(tmp_path_factory: pytest.TempPathFactory, lost: list[int], kind: str, rate: int, block: int) -> None:
    kept = np.setdiff1d(np.arange(1000), lost)
    seconds = kept / rate
    times: dict[str, tuple[str, Any]] = {
        "seconds": ("time", seconds + 1.7e9),
        "ms": ("time_ms", np.round(seconds * 1e3).astype(int)),
        "timestamp": ("measured", [datetime(2024, 2, 29) + timedelta(seconds=at) for at in seconds]),
        "duration": ("t", pa.array((seconds * 1e9).astype(int), pa.duration("ns"))),
    }
    name, column = times[kind]
    path = table(tmp_path_factory.mktemp("parquet") / "a.parquet", {name: column, "II": waves()[0][kept]})
    recording = open_recording(path)
    expected = waves()[0].copy()
    expected[lost] = np.nan
    assert next(iter(recording.chunks())).rate_hz == rate
    np.testing.assert_allclose(laid(recording, block)["II"], expected[: kept[-1] + 1], atol=1e-6)


@given(
    seed=st.integers(0, 99),
    jitter=st.sampled_from([0, 0.1, 0.3]),
    lost=st.lists(st.integers(1, 1199), max_size=9),
    block=st.integers(40, 5000),
)
def test_a_table_and_a_text_of_the_same_rows_have_the_same_samples(
    tmp_path_factory: pytest.TempPathFactory, seed: int, jitter: float, lost: list[int], block: int
) -> None:
    folder, rows = tmp_path_factory.mktemp("rows"), np.setdiff1d(np.arange(1200), lost)
    time = np.round((rows + np.random.default_rng(seed).uniform(-jitter, jitter, len(rows))) / 250, 6)
    rows_as_text = [f"{at:.6f},{row}" for at, row in zip(time, rows, strict=True)]
    (folder / "a.csv").write_text("\n".join(["time,II", *rows_as_text]))
    text, held = open_recording(folder / "a.csv"), open_recording(table(folder / "a.parquet", {"time": time, "II": rows}))
    np.testing.assert_array_equal(laid(held, block)["II"], laid(text)["II"])
    assert next(iter(held.chunks())).rate_hz == next(iter(text.chunks())).rate_hz


@pytest.mark.parametrize(("name", "tick_s"), [("time_ms", 1e-3), ("time_us", 1e-6), ("time_ns", 1e-9), ("elapsed [ms]", 1e-3)])
def test_the_name_of_a_column_of_whole_numbers_says_what_they_count(tmp_path: Path, name: str, tick_s: float) -> None:
    counted = np.round(np.arange(1000) / 250 / tick_s).astype(np.int64)
    recording = open_recording(table(tmp_path / "a.parquet", {name: counted, "II": waves()[0]}))
    np.testing.assert_allclose(laid(recording)["II"], waves()[0], atol=1e-6)
    assert next(iter(recording.chunks())).rate_hz == 250


@pytest.mark.parametrize("origin", [0, 1_700_000_000_000_000_000])
def test_whole_nanoseconds_without_a_name_are_no_traceback(tmp_path: Path, origin: int) -> None:
    counted = origin + np.arange(1000) * 4_000_000
    fails(table(tmp_path / "a.parquet", {"time": counted, "II": waves()[0]}), "call it time_ms|does not rise in seconds or ms")


def test_a_table_that_claims_a_pause_of_years_is_named(tmp_path: Path) -> None:
    time = np.arange(1200) / 250 + np.where(np.arange(1200) < 700, 0, 1e9)
    with pytest.raises(ConfigError, match="claims a gap of 11574 days; mend its time"):
        list(open_recording(table(tmp_path / "a.parquet", {"time": time, "II": np.arange(1200)})).chunks())


def test_one_row_of_lists_is_a_recording(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", {"patient": [7], "I": [waves()[0].tolist()], "II": [waves()[1].tolist()]})
    np.testing.assert_allclose(stacked(laid(open_recording(path, Columns(rate_hz=250.0)))), waves(), atol=1e-6)


def test_null_is_no_sample(tmp_path: Path) -> None:
    path = table(tmp_path / "a.parquet", {"II": pa.array([1, None, 3]), "V1": pa.array([None, 1.5, np.nan])})
    found = stacked(laid(open_recording(path, Columns(rate_hz=250.0))))
    np.testing.assert_array_equal(found, [[1, np.nan, 3], [np.nan, 1.5, np.nan]])


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"II": [1.0, 2.0]}, "--rate 250"),
        ({"ecg": [1.0, 2.0]}, "--leads I"),
        ({"II": ["a", "b"]}, "no column holds numbers"),
        ({"II": [1.0], "MLII": [2.0]}, "stands twice"),
        ({"time": [0.0, 0.01, 0.01, 0.02], "II": [1.0] * 4}, "rows share a time"),
        ({"time": [0.03, 0.02, 0.01, 0.02], "II": [1.0] * 4}, "sort the rows"),
        ({"time": [0.0], "II": [1.0]}, "leave it out"),
        ({"time": [0.0, 0.01, 0.02], "II": [None, None, np.nan]}, "no valid sample|no column"),
        ({"I": [[1.0], [2.0]]}, "2 recordings, one a row"),
        ({"I": [[1.0, 2.0]]}, "--rate 250"),
    ],
)
def test_a_wrong_table_says_how_to_mend_it(tmp_path: Path, columns: dict[str, Any], what: str) -> None:
    fails(table(tmp_path / "a.parquet", columns), what)


def test_lists_that_differ_in_length_are_an_error(tmp_path: Path) -> None:
    fails(table(tmp_path / "a.parquet", {"I": [[1.0, 2.0]], "II": [[1.0]]}), "differ in length", Columns(rate_hz=250.0))


def test_memory_does_not_grow_with_length(tmp_path: Path) -> None:
    held = dict(zip(("I", "II"), np.random.default_rng(0).standard_normal((2, 2_000_000)).astype("f4"), strict=True))
    arrays = saved(tmp_path / "a.npy", np.stack(list(held.values())))
    rows = table(tmp_path / "a.parquet", held, row_group_size=1 << 16)
    del held
    for path, columns in ((arrays, Columns(("I", "II"), 250.0)), (rows, Columns(rate_hz=250.0))):
        before = pa.default_memory_pool().bytes_allocated()
        tracemalloc.start()
        most = 0
        for _ in open_recording(path, columns).chunks():
            most = max(most, pa.default_memory_pool().bytes_allocated() - before)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2e6 and most < 4e6 < path.stat().st_size


# Damage


def _examples(folder: Path) -> dict[str, bytes]:
    saved(folder / "a.npy", waves(2, 40))
    np.savez(folder / "a.npz", samples_mv=waves(2, 40), rate_hz=250, leads=["I", "II"])
    np.savez_compressed(folder / "b.npz", samples_mv=waves(2, 40), rate_hz=250, leads=["I", "II"])
    table(folder / "a.parquet", {"time": np.arange(40) / 250, "I": waves(1, 40)[0]}, row_group_size=20)
    return {path.name: path.read_bytes() for path in sorted(folder.glob("?.*"))}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return _examples(tmp_path_factory.mktemp("examples"))


NAMES = st.sampled_from(["a.npy", "a.npz", "b.npz", "a.parquet"])


@given(name=NAMES, share=st.floats(0, 1))
def test_a_file_cut_anywhere_is_named_or_read(
    tmp_path_factory: pytest.TempPathFactory, examples: dict[str, bytes], name: str, share: float
) -> None:
    _survives(tmp_path_factory, name, examples[name][: max(round(share * len(examples[name])), 8)])


@given(name=NAMES, share=st.floats(0, 1), byte=st.integers(0, 255))
def test_any_damaged_byte_is_named_or_read(
    tmp_path_factory: pytest.TempPathFactory, examples: dict[str, bytes], name: str, share: float, byte: int
) -> None:
    data = bytearray(examples[name])
    data[min(8 + round(share * (len(data) - 8)), len(data) - 1)] = byte
    _survives(tmp_path_factory, name, bytes(data))


@given(magic=st.sampled_from([b"\x93NUMPY\1\0", b"\x93NUMPY", b"PK\3\4 .npy", b"PAR1"]), garbage=st.binary(max_size=300))
def test_garbage_after_the_magic_is_named(tmp_path_factory: pytest.TempPathFactory, magic: bytes, garbage: bytes) -> None:
    _survives(tmp_path_factory, "a", magic + garbage)


def _survives(tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes) -> None:
    path = tmp_path_factory.mktemp("damage") / name
    path.write_bytes(data)
    columns = Columns(("I", "II"), 250.0) if name == "a.npy" else Columns()
    try:
        assert list(open_recording(path, columns).chunks())
    except ConfigError as error:
        assert len(str(error)) < 600
