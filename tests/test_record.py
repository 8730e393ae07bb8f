"""The recorder: what the wfdb package and our own reader get back, whatever the cut, the crash or the disk."""

from __future__ import annotations

import itertools
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.decode.chunk import Chunk
from edge.record import Recorder, safe_name
from edge.transport.file import open_recording

from .conftest import EXCERPT, cut

BEGUN_S = datetime(2026, 2, 3, 4, 5, 6, tzinfo=timezone.utc).timestamp()
ROOT = Path(__file__).parent.parent


def _feed(recorder: Recorder, chunks: list[Chunk]) -> None:
    for chunk in chunks:
        recorder.feed(chunk, BEGUN_S + chunk.start / chunk.rate_hz)


def _chunk(
    digits: np.ndarray, units_per_mv: float = 1000.0, start: int = 0, rate_hz: float = 250.0, leads: tuple[str, ...] = ("I",)
) -> Chunk:
    rows = np.atleast_2d(digits).astype(np.float64)
    return Chunk(start, rate_hz, leads, (rows / units_per_mv).astype(np.float32))


def _noise(samples: int, start: int = 0, seed: int = 0, leads: tuple[str, ...] = ("I", "V2")) -> Chunk:
    digits = np.random.default_rng(seed).integers(-3000, 3000, (len(leads), samples))
    return _chunk(digits, start=start, leads=leads)


def _records(folder: Path) -> list[Path]:
    return sorted(path.with_suffix("") for path in folder.rglob("*.hea"))


def _ours(record: Path, partial: bool = False) -> np.ndarray:
    return np.concatenate([chunk.samples_mv for chunk in open_recording(record, partial=partial).chunks()], axis=1)


def _theirs(record: Path) -> np.ndarray:
    return wfdb.rdrecord(str(record)).p_signal.T


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


stretches = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 1, 37, 400, 600, -50]),
        st.integers(1, 120),
        st.sampled_from([100, 32767, 40_000, 2**23 - 1, 2**26]),
        st.sampled_from([(), ("I",), ("I", "V2")]),
        st.sampled_from([("I", "V2"), ("I", "V2"), ("II", "V2")]),
    ),
    min_size=1,
    max_size=6,
)
"""Gap before, samples, largest digit, leads that are off, leads. At 50 Hz the fifth gap is too long to be filled."""


def _script(drawn: list[tuple[int, int, int, tuple[str, ...], tuple[str, ...]]]) -> list[Chunk]:
    rng, start, chunks = np.random.default_rng(1), 1000, []
    for gap, samples, largest, off, leads in drawn:
        start += gap
        digits = rng.integers(-largest, largest, (2, samples)).astype(float)
        digits[rng.random((2, samples)) < 0.1] = np.nan
        chunks.append(Chunk(start, 50.0, leads, (digits / 1000).astype(np.float32), off))
        start += samples
    return chunks


@settings(max_examples=25)
@given(drawn=stretches, at=st.lists(st.integers(0, 120), max_size=8))
def test_any_cut_gives_the_same_bytes_on_disk(tmp_path_factory: pytest.TempPathFactory, drawn: list, at: list[int]) -> None:
    whole, pieces = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("pieces")
    chunks = _script(drawn)
    for folder, fed in ((whole, chunks), (pieces, [piece for chunk in chunks for piece in cut(chunk, at)])):
        recorder = Recorder(folder, "bed-1", rotate_s=3.0)
        _feed(recorder, fed)
        recorder.close()
        assert (recorder.error, recorder.lost) == (None, 0)
    assert _files(whole) == _files(pieces)


@settings(max_examples=25)
@given(drawn=stretches)
def test_what_is_read_is_what_was_fed_within_half_a_unit(tmp_path_factory: pytest.TempPathFactory, drawn: list) -> None:
    """Read by wfdb and by our own reader; in short gaps stand invalid samples."""
    folder = tmp_path_factory.mktemp("fed")
    recorder = Recorder(folder, "bed")
    chunks = _script(drawn)
    for number, chunk in enumerate(chunks):
        recorder.feed(chunk, BEGUN_S + 100 * number)
    recorder.close()
    records = sorted(_records(folder), key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)])
    read = np.concatenate([_theirs(record) for record in records], axis=1)
    assert np.array_equal(read.astype(np.float32), np.concatenate([_ours(record) for record in records], axis=1), equal_nan=True)
    fed = _filled(chunks)
    assert np.array_equal(np.isnan(read), np.isnan(fed))
    assert np.nanmax(np.abs(read - fed), initial=0.0) <= 0.0005 + 1e-9


def _filled(chunks: list[Chunk]) -> np.ndarray:
    """All samples, with as many invalid ones as were lost where it was for at most ten seconds."""
    pieces = [chunks[0].without_loose()]
    for last, chunk in itertools.pairwise(chunks):
        gap = chunk.start - last.end
        if 0 < gap <= 500 and chunk.leads == last.leads:
            pieces.append(np.full((2, gap), np.nan, np.float32))
        pieces.append(chunk.without_loose())
    return np.concatenate(pieces, axis=1)


@pytest.mark.parametrize("units_per_mv", [1000.0, 44.7, 1 / 0.00615, 8388607 * 24 / 4500, 1 / 0.38147e-3, -200.0, 1 / 3, 1e5])
@given(digits=st.lists(st.integers(-(2**23) + 1, 2**23 - 1), min_size=1, max_size=30), largest=st.sampled_from([511, 32767, 2**23 - 1]))
def test_with_the_devices_own_scale_every_bit_comes_back(
    tmp_path_factory: pytest.TempPathFactory, units_per_mv: float, digits: list[int], largest: int
) -> None:
    """Scales of real devices, up to 24 bits."""
    folder = tmp_path_factory.mktemp("bits")
    recorder = Recorder(folder, "s", units_per_mv)
    chunk = _chunk(np.clip(digits, -largest, largest), units_per_mv)
    recorder.feed(chunk, BEGUN_S)
    recorder.close()
    assert np.array_equal(np.concatenate([_ours(record) for record in _records(folder)], axis=1), chunk.samples_mv)


def test_a_record_of_mit_bih_is_written_with_its_own_digits(tmp_path: Path, excerpt: Chunk) -> None:
    recorder = Recorder(tmp_path, "mitdb", units_per_mv=200.0)
    _feed(recorder, cut(excerpt, list(range(0, excerpt.end, 301))))
    recorder.close()
    (record,) = _records(tmp_path)
    original, copy = wfdb.rdrecord(str(EXCERPT), physical=False), wfdb.rdrecord(str(record), physical=False)
    assert np.array_equal(copy.d_signal, original.d_signal - original.baseline)
    assert (copy.fs, copy.sig_name, copy.fmt) == (original.fs, ["II", "V1"], ["16", "16"])


@pytest.mark.parametrize(("largest", "code"), [(32767, "16"), (32768, "24"), (2**23 - 1, "24"), (2**23, "32"), (2**31 - 1, "32")])
def test_the_header_is_whole_and_its_checksums_are_those_of_wfdb(tmp_path: Path, largest: int, code: str) -> None:
    recorder = Recorder(tmp_path, "s", units_per_mv=1.0)
    digits = np.array([[float(largest), 5, -70], [1, 2, np.nan]])
    recorder.feed(Chunk(0, 130.061, ("II", "V6"), digits.astype(np.float64)), BEGUN_S + 0.25)  # type: ignore[arg-type]
    recorder.close()
    (record,) = _records(tmp_path)
    read = wfdb.rdrecord(str(record), physical=False)
    assert read.fmt == [code, code]
    assert read.d_signal[:, 0].tolist() == [largest, 5, -70]
    assert (read.fs, read.sig_len, read.units, read.init_value) == (130.061, 3, ["mV", "mV"], [largest, 1])
    assert [c % 65536 for c in read.checksum] == read.calc_checksum()
    assert read.base_datetime == datetime(2026, 2, 3, 4, 5, 6, 250_000)
    assert record.name == "s_20260203T040506"
    assert _theirs(record)[0, 0] == largest
    assert np.isnan(_theirs(record)[1, 2])


def test_a_sample_too_large_begins_a_wider_record_and_none_is_clipped(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "s", units_per_mv=1.0)
    digits = np.array([1, 32767, 32768, 2, 2**23, 3])
    _feed(recorder, [_chunk(digits, 1.0)])
    recorder.close()
    formats = [wfdb.rdheader(str(record)).fmt[0] for record in _records(tmp_path)]
    assert formats == ["16", "24", "32"]
    assert np.concatenate([_ours(record) for record in _records(tmp_path)], axis=1)[0].tolist() == digits.tolist()


@given(gap=st.integers(1, 3000))
def test_a_gap_up_to_ten_seconds_is_filled_and_a_longer_one_begins_a_record(tmp_path_factory: pytest.TempPathFactory, gap: int) -> None:
    folder = tmp_path_factory.mktemp("gap")
    recorder = Recorder(folder, "s")
    _feed(recorder, [_noise(250), _noise(250, start=250 + gap)])
    recorder.close()
    records = _records(folder)
    if gap > 2500:
        assert [wfdb.rdheader(str(record)).sig_len for record in records] == [250, 250]
        assert wfdb.rdheader(str(records[1])).base_datetime == datetime(2026, 2, 3, 4, 5, 6) + timedelta(seconds=(250 + gap) / 250)
        return
    (record,) = records
    assert np.flatnonzero(np.isnan(_theirs(record)).all(axis=0)).tolist() == list(range(250, 250 + gap))
    assert recorder.lost == 0


def test_other_leads_another_rate_or_a_start_that_goes_back_begin_a_record(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "s")
    chunks = [_noise(250), _noise(250, start=250, leads=("I",)), _noise(250, start=100, leads=("I",))]
    chunks.append(Chunk(350, 125.0, ("I",), chunks[2].samples_mv))
    _feed(recorder, chunks)
    recorder.close()
    heads = [wfdb.rdheader(str(record)) for record in _records(tmp_path)]
    assert sorted((head.fs, len(head.sig_name), head.sig_len) for head in heads) == [
        (125, 1, 250),
        (250, 1, 250),
        (250, 1, 250),
        (250, 2, 250),
    ]


def test_a_lead_that_is_off_is_invalid(tmp_path: Path) -> None:
    chunk = _noise(250)
    recorder = Recorder(tmp_path, "s")
    recorder.feed(Chunk(0, 250.0, chunk.leads, chunk.samples_mv, ("V2",)), BEGUN_S)
    recorder.close()
    (record,) = _records(tmp_path)
    assert np.array_equal(_ours(record)[0], chunk.samples_mv[0])
    assert np.isnan(_theirs(record)[1]).all()


def test_records_follow_each_other_in_time_without_a_hole(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "s", rotate_s=2.5)
    chunk = _noise(2500)
    _feed(recorder, cut(chunk, list(range(0, 2500, 77))))
    recorder.close()
    heads = [wfdb.rdheader(str(record)) for record in _records(tmp_path)]
    assert [head.sig_len for head in heads] == [625] * 4
    begun = [head.base_datetime.replace(tzinfo=timezone.utc).timestamp() - BEGUN_S for head in heads]
    assert begun == pytest.approx([0, 2.5, 5, 7.5], abs=0.0011)
    assert np.array_equal(np.concatenate([_ours(record) for record in _records(tmp_path)], axis=1), chunk.samples_mv)


@settings(max_examples=25)
@given(limit=st.integers(0, 30_000), rotate_s=st.sampled_from([1.0, 2.0, 5.0]), seconds=st.integers(5, 40), runs=st.integers(1, 3))
def test_all_records_stay_below_the_limit_and_one_more(
    tmp_path_factory: pytest.TempPathFactory, limit: int, rotate_s: float, seconds: int, runs: int
) -> None:
    """Also those of earlier runs; the newest sample is always kept, another source's records and strangers never touched."""
    folder = tmp_path_factory.mktemp("limit")
    (folder / "s").mkdir()
    (folder / "s" / "notes.txt").write_text("mine")
    one = round(rotate_s * 250) * 4 + 300
    for run in range(runs):
        recorder = Recorder(folder, "s", rotate_s=rotate_s, limit_bytes=limit)
        for second in range(run * seconds, (run + 1) * seconds):
            recorder.feed(_noise(250, start=250 * second, seed=second), BEGUN_S + second)
            assert sum(path.stat().st_size for path in (folder / "s").iterdir()) - 4 <= limit + one
    assert (folder / "s" / "notes.txt").read_text() == "mine"
    newest = _records(folder)[-1]
    assert np.array_equal(_ours(newest)[:, -250:], _noise(250, seed=runs * seconds - 1).samples_mv)


def test_the_oldest_go_first_and_a_clock_that_repeats_a_second_overwrites_nothing(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "s")
    for seed in range(12):
        recorder.feed(_noise(250, seed=seed), BEGUN_S)
        recorder.close()
    names = {f"s_20260203T040506{'' if number == 1 else f'_{number}'}" for number in range(1, 13)}
    assert {record.name for record in _records(tmp_path)} == names
    assert np.array_equal(_ours(tmp_path / "s" / "s_20260203T040506_10"), _noise(250, seed=9).samples_mv)
    Recorder(tmp_path, "s", limit_bytes=2600).feed(_noise(250), BEGUN_S + 60)
    assert {record.name[1:] for record in _records(tmp_path)} == {"_20260203T040506_11", "_20260203T040506_12", "_20260203T040606"}


@given(source=st.text(max_size=60))
def test_any_source_has_a_name_that_is_safe_and_legal(source: str) -> None:
    """Letters, digits, _ and -, and with time and number at most the 50 characters of the WFDB library."""
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,30}", safe_name(source))


@given(names=st.lists(st.text(alphabet="ab/.-_ é", max_size=40), unique=True, min_size=2, max_size=6))
def test_no_two_sources_share_a_folder(names: list[str]) -> None:
    assert len({safe_name(name) for name in names}) == len(names)


@pytest.mark.parametrize("source", ["../../etc/x", "ward 3/bed\n5", "Krankenhaus/Ä", ""])
def test_a_strange_topic_is_recorded_inside_the_folder(tmp_path: Path, source: str) -> None:
    recorder = Recorder(tmp_path / "kept", source)
    recorder.feed(_chunk(np.arange(250.0)), BEGUN_S)
    recorder.close()
    (record,) = _records(tmp_path)
    assert record.parent.parent == tmp_path / "kept"
    assert np.allclose(_theirs(record)[0], np.arange(250) / 1000)
    assert _ours(record).shape == (1, 250)


@pytest.mark.parametrize("torn", [0, 1, 3])
@pytest.mark.parametrize("largest", [3000, 100_000])
def test_after_a_crash_all_that_was_fed_is_read_and_a_torn_sample_left_out(tmp_path: Path, torn: int, largest: int) -> None:
    recorder = Recorder(tmp_path, "s")
    chunk = _noise(777)
    chunk.samples_mv[:, 0] = largest / 1000
    _feed(recorder, cut(chunk, [100, 130, 600]))
    (record,) = _records(tmp_path)
    with record.with_suffix(".dat").open("ab") as file:
        file.write(b"\1" * torn)
    for read in (_ours(record), _ours(record, partial=True), _theirs(record)):
        assert np.allclose(read, chunk.samples_mv, atol=1e-9)


_CHILD = """
import sys, time, numpy as np
from pathlib import Path
from edge.decode.chunk import Chunk
from edge.record import Recorder
recorder = Recorder(Path(sys.argv[1]), "s", rotate_s=2)
for i in range(100_000):
    samples = (np.arange(25 * i, 25 * i + 25) % 30_000 / 1000).astype(np.float32)[None]
    recorder.feed(Chunk(25 * i, 250.0, ("I",), samples), 1.7e9 + i / 10)
    sys.stdout.write(f"{25 * i + 25}\\n"); sys.stdout.flush()
"""


def test_a_killed_process_loses_at_most_the_last_second(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _CHILD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        told = [int(line) for line in itertools.islice(child.stdout, 87)]
        os.kill(child.pid, signal.SIGKILL)
        told += [int(line) for line in child.stdout if line.endswith("\n")]
    assert child.returncode == -signal.SIGKILL
    for read in (_ours, _theirs):
        whole = [record for record in _records(tmp_path) if record.with_suffix(".dat").stat().st_size]
        samples = np.concatenate([read(record) for record in whole], axis=1)[0]
        assert len(samples) >= told[-1] - 250
        assert np.allclose(samples, np.arange(len(samples)) % 30_000 / 1000)


@contextmanager
def _largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to let a file grow beyond, with EFBIG, as it would with ENOSPC on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_refuses_costs_samples_but_never_an_exception(tmp_path: Path) -> None:
    """Refused after 2.5 s of each record; a new one is tried after 10 s more. Lost and kept are all that was fed."""
    recorder = Recorder(tmp_path, "s")
    errors = []
    with _largest_file(2550):
        for second in range(30):
            _feed(recorder, [_noise(250, start=250 * second, seed=second)])
            errors.append(recorder.error)
    recorder.close()
    assert [error is None for error in errors] == ([True] * 2 + [False] * 11) * 2 + [True] * 2 + [False] * 2
    assert "File too large" in errors[2]
    lengths = [wfdb.rdheader(str(record)).sig_len for record in _records(tmp_path)]
    assert lengths == [500, 500, 500]
    assert recorder.lost == 30 * 250 - sum(lengths)
    assert np.array_equal(_ours(_records(tmp_path)[1])[:, :250], _noise(250, seed=13).samples_mv)


def test_a_disk_without_room_for_a_sample_is_not_littered(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, "s")
    with _largest_file(0):
        for second in range(30):
            _feed(recorder, [_noise(250, start=250 * second)])
            assert recorder.error
    assert (_files(tmp_path), recorder.lost) == ({}, 7500)
    _feed(recorder, [_noise(250, start=250 * second) for second in range(30, 40)])
    assert recorder.error is None


_FULL = """
import sys, os, numpy as np
from pathlib import Path
from edge.decode.chunk import Chunk
from edge.record import Recorder
recorder = Recorder(Path(sys.argv[1]), "s")
zeros = np.zeros((2, 250), np.float32)
def feed(seconds):
    for second in seconds:
        recorder.feed(Chunk(250 * second, 250.0, ("I", "II"), zeros), 1.7e9 + second)
feed(range(100))
assert recorder.error and "No space left" in recorder.error, recorder.error
files = list(Path(sys.argv[1], "s").iterdir())
on_disk = sum(file.stat().st_size // 4 for file in files if file.suffix == ".dat")
assert recorder.lost == 100 * 250 - on_disk, (recorder.lost, on_disk)
assert on_disk > 10 * 250
for file in files:
    file.unlink()
feed(range(100, 112))
assert recorder.error is None, recorder.error
"""


def test_a_full_file_system_is_survived_and_used_again_when_there_is_room(tmp_path: Path) -> None:
    mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=64k none "$1" && shift && exec "$@"', "sh", str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run([*mount, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let a user mount a file system of their own")
    done = subprocess.run([*mount, sys.executable, "-c", _FULL, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_folder_that_was_deleted_is_noticed_and_made_again(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "records", "s")
    _feed(recorder, [_noise(250)])
    shutil.rmtree(tmp_path / "records")
    errors = []
    for second in range(1, 15):
        _feed(recorder, [_noise(250, start=250 * second)])
        errors.append(recorder.error)
    assert "deleted" in (errors[0] or "")
    assert errors[-1] is None
    recorder.close()
    assert len(_records(tmp_path)) == 1


def test_a_folder_that_cannot_be_made_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("a file is in the way")
    recorder = Recorder(tmp_path / "records", "s")
    _feed(recorder, [_noise(250)])
    assert recorder.error is not None
    assert str(tmp_path / "records") in recorder.error
    assert "mend" in recorder.error
    recorder.flush()
    recorder.close()
    assert recorder.lost == 250


@pytest.mark.parametrize("at_s", [float("nan"), float("inf"), -1e30, 1e30])
def test_a_clock_that_talks_nonsense_loses_nothing(tmp_path: Path, at_s: float) -> None:
    recorder = Recorder(tmp_path, "s")
    recorder.feed(_noise(250), at_s)
    recorder.close()
    (record,) = _records(tmp_path)
    assert record.name == "s_19700101T000000"
    assert np.array_equal(_ours(record), _noise(250).samples_mv)


def test_the_disk_is_asked_to_keep_the_samples_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_size))
    recorder = Recorder(tmp_path, "s")
    _feed(recorder, [_noise(25, leads=("I",))])
    synced.clear()
    _feed(recorder, [_noise(25, start=25 * i, leads=("I",)) for i in range(1, 100)])
    assert synced == [500 * second for second in range(1, 11)]
