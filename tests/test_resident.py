"""The device-resident windows: the twin against kernels.signal, and the kernel, on the CPU and on a driver, against the twin."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import wfdb
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly
from structlog.testing import capture_logs

from edge.decode.chunk import Chunk
from kernels import resident
from kernels.device import Device
from kernels.findings import ConfigError
from kernels.resident import KERNEL_SOURCE, Resident, compiled, measure
from kernels.resident_twin import Source, Streams, Twin
from kernels.signal import LEADS, phase_taps, ratio, resample, to_standard_leads

from .conftest import ARCHIVE, heart

pytest_plugins = ["tests.fake_cuda.fixtures"]

TO_HZ = 100.0
TOLERANCE_MV = 1e-5
HOLTER, PATCH, TWELVE = Source(("II", "V1", "I"), 360.0), Source(("II",), 128.0), Source(LEADS, 500.0)
ODD, NAMELESS = Source(("I", "II", "aVF"), 130.061), Source(("resp", "II", "V5"), 250.0)
SOURCES = [HOLTER, PATCH, TWELVE, ODD, NAMELESS]


def _recording(source: Source, seconds: float = 9.0, seed: int = 0) -> np.ndarray:
    """With a lead that is off for a while."""
    names = {lead: i for i, lead in enumerate(LEADS)}
    rows = [names.get(lead, 0) for lead in source.leads]
    samples = heart(80, seconds, source.rate_hz, seed)[rows] + np.float32(0.3 * seed)
    samples[-1, round(4 * source.rate_hz) : round(4.3 * source.rate_hz)] = np.nan
    return samples


def _standard(source: Source, samples: np.ndarray) -> np.ndarray:
    """Oracle: the whole recording through kernels.signal, with its end."""
    return to_standard_leads(resample(samples, source.rate_hz, TO_HZ), source.leads)


def _same(ours: np.ndarray, theirs: np.ndarray, tolerance: float = TOLERANCE_MV) -> bool:
    return bool(np.allclose(ours, theirs, rtol=0, atol=tolerance, equal_nan=True))


def _gather(streams: Streams, due: Sequence[tuple[int, int]]) -> np.ndarray:
    return cast(Any, streams).gather(due)


# A turn: of which source how many samples come, and which of the windows that are ready are gathered then.
TURNS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1500), st.lists(st.integers(0, 120), max_size=3)), max_size=25)


def _play(streams: Streams, recordings: list[np.ndarray], turns: list[tuple[int, int, list[int]]]) -> Iterator[tuple[int, int, np.ndarray]]:
    """Feed as the turns say; every window that was gathered, with its source and its end."""
    given = [0] * len(recordings)
    for number, count, back in turns:
        streams.feed(number, recordings[number][:, given[number] : given[number] + count])
        given[number] = min(given[number] + count, recordings[number].shape[1])
        ready = streams.ready()
        due = [(n, int(ready[n]) - b) for b in back for n in (number, 0) if ready[n] - b >= streams.samples]
        for (source, end), window in zip(due, _gather(streams, due), strict=True):
            yield source, end, window


RECORDINGS = [_recording(source, seed=seed) for seed, source in enumerate(SOURCES)]
WHOLE = [_standard(source, recording) for source, recording in zip(SOURCES, RECORDINGS, strict=True)]


def _check(streams: Streams, turns: list[tuple[int, int, list[int]]]) -> None:
    for source, end, window in _play(streams, RECORDINGS, turns):
        assert _same(window, WHOLE[source][:, end - streams.samples : end])


# The twin


@given(turns=TURNS)
def test_any_cut_order_and_due_set_gives_the_windows_of_the_whole(turns: list[tuple[int, int, list[int]]]) -> None:
    _check(Twin(SOURCES, TO_HZ, 100), turns)


@pytest.mark.parametrize("samples", [1, 7, 60])
def test_a_ring_that_wraps_many_times_forgets_nothing_that_is_due(samples: int) -> None:
    """Every window of nine seconds through rings of a little more than one window."""
    twin = Twin(SOURCES, TO_HZ, samples, slack_s=0.05)
    turns = [(n, round(0.05 * source.rate_hz), list(range(6))) for _ in range(175) for n, source in enumerate(SOURCES)]
    seen = 0
    for source, end, window in _play(twin, RECORDINGS, turns):
        assert _same(window, WHOLE[source][:, end - samples : end])
        seen += 1
    assert seen > 4000


def test_real_two_lead_recording_at_360_hz(excerpt: Chunk) -> None:
    source = Source(excerpt.leads, 360.0)
    twin = Twin([source], TO_HZ, 1000)
    whole = _standard(source, excerpt.samples_mv[:, : 360 * 60])
    for second in range(60):
        twin.feed(0, excerpt.samples_mv[:, 360 * second : 360 * (second + 1)])
        end = int(twin.ready()[0])
        if end >= 1000:
            assert _same(_gather(twin, [(0, end)])[0], whole[:, end - 1000 : end])


def _twelve_leads() -> np.ndarray:
    """A PTB-XL record at 100 Hz where there is one, else a heart as plain."""
    found = next(iter(sorted((ARCHIVE / "ptb-xl" / "records100").rglob("*.hea"))), None)
    if found is None:
        return heart(70, 10, 100)
    return np.asarray(wfdb.rdrecord(str(found.with_suffix(""))).p_signal, np.float32).T


@pytest.mark.parametrize("rate_hz", [250.0, 500.0])
def test_real_twelve_leads_at_other_rates(rate_hz: float) -> None:
    samples = resample_poly(_twelve_leads(), round(rate_hz), 100, axis=1).astype(np.float32)
    for leads in (LEADS, LEADS[:2] + LEADS[6:]):
        source = Source(leads, rate_hz)
        rows = samples[[LEADS.index(lead) for lead in leads]]
        twin = Twin([source], TO_HZ, 900)
        for part in np.array_split(rows, 23, axis=1):
            twin.feed(0, part)
        end = int(twin.ready()[0])
        assert _same(_gather(twin, [(0, end)])[0], _standard(source, rows)[:, end - 900 : end])


def test_float32_taps_err_by_less_than_a_millionth_of_the_largest_sample() -> None:
    """An electrode's offset of 300 mV under every lead; oracle: kernels.signal in float64."""
    recording = (_recording(TWELVE, 5) + 300).astype(np.float32)
    twin = Twin([TWELVE], TO_HZ, 400)
    twin.feed(0, recording)
    measured = np.abs(_gather(twin, [(0, 440)])[0] - _standard(TWELVE, recording)[:, 40:440])
    assert np.nanmax(measured) < 300e-6


def test_the_end_of_a_stream_gives_what_was_inside_the_filter() -> None:
    for number, (source, recording) in enumerate(zip(SOURCES, RECORDINGS, strict=True)):
        twin = Twin(SOURCES, TO_HZ, 200)
        twin.feed(number, recording)
        before = int(twin.ready()[number])
        twin.flush(number)
        end = int(twin.ready()[number])
        assert end == WHOLE[number].shape[1] > before, source
        assert _same(_gather(twin, [(number, end)])[0], WHOLE[number][:, end - 200 :])


@given(gap=st.integers(0, 3000))
def test_after_a_restart_nothing_of_the_old_stream_is_left(gap: int) -> None:
    _check_restart(Twin([HOLTER], TO_HZ, 100), gap)


def _check_restart(streams: Streams, gap: int) -> None:
    streams.feed(0, np.full((3, gap), 1e6, np.float32))
    _gather(streams, [])
    streams.feed(0, np.full((3, 10), 1e6, np.float32))
    streams.restart(0)
    streams.feed(0, RECORDINGS[0][:, :600])
    end = int(streams.ready()[0])
    assert _same(_gather(streams, [(0, end)])[0], WHOLE[0][:, end - 100 : end])


@pytest.mark.parametrize("times", [0, 10**6, 3 * 10**9, 123_456_789_012])
def test_a_stream_of_years_is_as_exact_as_one_of_seconds(times: int) -> None:
    """Whole turns of the phases later the same samples give the same windows; the most turns are more than 2^40 samples."""
    _check_years(Twin([HOLTER], TO_HZ, 100), times)


def _check_years(streams: Streams, times: int) -> None:
    step = ratio(360.0, TO_HZ)
    streams._fed[:] = streams._before[:] = times * step.numerator
    streams.feed(0, RECORDINGS[0][:, :800])
    end = 150
    assert _same(_gather(streams, [(0, times * step.denominator + end)])[0], WHOLE[0][:, end - 100 : end])


def test_what_is_not_there_is_refused_in_words() -> None:
    twin = Twin([HOLTER, PATCH], TO_HZ, 100, slack_s=1.0)
    twin.feed(0, RECORDINGS[0][:, :360])
    with pytest.raises(ValueError, match="source 0 that ends at 100 is not complete"):
        _gather(twin, [(0, 100)])
    with pytest.raises(ValueError, match="begins before its stream"):
        _gather(twin, [(0, 60)])
    with pytest.raises(ValueError, match="3 leads, not 2"):
        twin.feed(0, RECORDINGS[0][:2])
    twin.feed(0, RECORDINGS[0][:, 360:2000])
    with pytest.raises(ValueError, match="no longer held"):
        _gather(twin, [(0, 100)])
    twin.flush(0)
    with pytest.raises(ValueError, match="restart"):
        twin.feed(0, RECORDINGS[0])


def test_a_refused_tick_loses_no_sample() -> None:
    twin = Twin([HOLTER], TO_HZ, 100)
    twin.feed(0, RECORDINGS[0][:, :600])
    with pytest.raises(ValueError):
        _gather(twin, [(0, 10**6)])
    assert _same(_gather(twin, [(0, 150)])[0], WHOLE[0][:, 50:150])


def test_a_source_without_a_known_lead_gives_windows_without_signal() -> None:
    twin = Twin([Source(("resp", "x"), 250.0), HOLTER], TO_HZ, 100)
    twin.feed(0, np.ones((2, 600), np.float32))
    twin.feed(1, RECORDINGS[0][:, :800])
    nothing, window = _gather(twin, [(0, 150), (1, 150)])
    assert np.isnan(nothing).all()
    assert _same(window, WHOLE[0][:, 50:150])


def test_no_due_window_is_a_tick_all_the_same() -> None:
    assert _gather(Twin(SOURCES, TO_HZ, 100), []).shape == (0, 12, 100)


# The kernel, compiled for the CPU


class HostMemory:
    def __init__(self, array: np.ndarray) -> None:
        self.host = array
        self.gpu = array.copy()
        self.address = self.gpu.ctypes.data

    def upload(self, rows: int | None = None) -> None:
        self.gpu[:rows] = self.host[:rows]


class HostDevice:
    """A device that is the CPU; `library` holds the kernel."""

    compute_capability = "0.0"

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def pair(self, shape: tuple[int, ...], dtype: Any) -> HostMemory:
        return HostMemory(np.zeros(shape, dtype))

    zeros = pair

    def module(self, _: bytes) -> HostDevice:
        return self

    def kernel(self, name: str) -> Any:
        return getattr(self._library, f"cpu_{name}")

    def launch(self, kernel: Any, grid: tuple[int], block: tuple[int], *args: Any) -> None:
        values = [arg.address if isinstance(arg, HostMemory) else int(arg) for arg in args]
        packed = struct.pack("".join("i" if isinstance(arg, np.int32) else "P" for arg in args), *values)
        kernel((ctypes.c_uint * 3)(*grid, 1, 1), (ctypes.c_uint * 3)(*block, 1, 1), packed)

    def wait(self) -> None:
        pass


class OnHost(Resident):
    """The very kernel, and its windows on the host."""

    def __init__(self, library: ctypes.CDLL, sources: list[Source], samples: int, **more: Any) -> None:
        super().__init__(cast(Device, HostDevice(library)), sources, TO_HZ, samples, batch=8, **more)

    def gather(self, due: Sequence[tuple[int, int]], into: int = 0) -> Any:
        windows = np.zeros((len(due), 12, self.samples), np.float32)
        super().gather(due, windows.ctypes.data)
        return windows


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ctypes.CDLL]:
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler, with which the kernel is compiled for the CPU")
    built = tmp_path_factory.mktemp("kernels") / "kernels.so"
    source = Path(__file__).parent / "fake_cuda" / "kernels.cpp"
    subprocess.run([compiler, "-O2", "-std=c++17", "-shared", "-fPIC", "-o", built, source], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resident, "compiled", lambda *_: b"")
        yield ctypes.CDLL(str(built))


@given(turns=TURNS, backwards=st.booleans())
@settings(max_examples=40)
def test_the_kernel_equals_its_twin_whatever_the_order_of_its_blocks(
    library: ctypes.CDLL, turns: list[tuple[int, int, list[int]]], backwards: bool
) -> None:
    library.cpu_backwards(int(backwards))
    twin = _play(Twin(SOURCES, TO_HZ, 100), RECORDINGS, turns)
    for ours, theirs in zip(_play(OnHost(library, SOURCES, 100), RECORDINGS, turns), twin, strict=True):
        assert ours[:2] == theirs[:2]
        assert _same(ours[2], theirs[2])


def test_the_kernel_forgets_nothing_either(library: ctypes.CDLL) -> None:
    kernel = OnHost(library, SOURCES, 250, slack_s=0.05)
    _check(kernel, [(n, round(0.05 * source.rate_hz), [0, 3]) for _ in range(175) for n, source in enumerate(SOURCES)])


@given(gap=st.integers(0, 3000))
@settings(max_examples=20)
def test_the_kernel_keeps_nothing_of_an_old_stream(library: ctypes.CDLL, gap: int) -> None:
    _check_restart(OnHost(library, [HOLTER], 100), gap)


@pytest.mark.parametrize("times", [0, 3 * 10**9, 123_456_789_012])
def test_the_kernel_counts_in_64_bits(library: ctypes.CDLL, times: int) -> None:
    _check_years(OnHost(library, [HOLTER], 100), times)


def test_the_kernel_ends_a_stream_as_the_twin_does(library: ctypes.CDLL) -> None:
    kernel = OnHost(library, SOURCES, 200)
    for number, recording in enumerate(RECORDINGS):
        kernel.feed(number, recording)
        kernel.flush(number)
        end = int(kernel.ready()[number])
        assert _same(_gather(kernel, [(number, end)])[0], WHOLE[number][:, end - 200 :])


def test_only_new_samples_are_uploaded(library: ctypes.CDLL) -> None:
    kernel = OnHost(library, [HOLTER, NAMELESS], 100)
    kernel.feed(0, RECORDINGS[0][:, :700])
    kernel.feed(1, RECORDINGS[4][:, :300])
    kernel.gather([(0, 150)])
    assert kernel.uploaded_bytes == 4 * (3 * 700 + 2 * 300) + 40 * 3
    kernel.gather([(0, 150), (0, 149), (1, 100)])
    assert kernel.uploaded_bytes == 40 * 3


def test_more_windows_than_the_batch_are_refused(library: ctypes.CDLL) -> None:
    kernel = OnHost(library, [HOLTER], 100)
    with pytest.raises(ValueError, match="9 windows are due, and the batch is 8"):
        kernel.gather([(0, 100)] * 9)


# The compilers


class _Compiler:
    """Stands in for nvcc, and counts."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.runs = folder / "kernels", 0
        monkeypatch.setenv("CARDIOGLOSS_CACHE", str(folder))
        monkeypatch.setattr(resident, "_compile", self._compile)

    def _compile(self, text: bytes, architecture: str) -> bytes:
        self.runs += 1
        return f"cubin for {architecture}".encode()


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Compiler:
    return _Compiler(tmp_path, monkeypatch)


def test_a_kernel_is_compiled_once_for_each_gpu(compiler: _Compiler) -> None:
    for architecture in ("8.7", "9.0", "8.7", "9.0"):
        assert compiled(KERNEL_SOURCE, architecture) == b"cubin for sm_" + architecture.replace(".", "").encode()
    assert compiler.runs == 2


@pytest.mark.parametrize("damage", [lambda _: b"", lambda kept: kept[:-1], lambda kept: kept[:-1] + b"!"], ids=["empty", "torn", "other"])
def test_a_damaged_kernel_is_compiled_anew(compiler: _Compiler, damage: Callable[[bytes], bytes]) -> None:
    compiled(KERNEL_SOURCE, "8.7")
    (kept,) = compiler.folder.iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    assert [compiled(KERNEL_SOURCE, "8.7") for _ in range(2)] == [b"cubin for sm_87"] * 2
    assert compiler.runs == 2


def test_a_full_disk_ends_nothing_and_leaves_nothing(compiler: _Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with capture_logs() as lines:
        assert compiled(KERNEL_SOURCE, "8.7") == b"cubin for sm_87"
    assert [line["event"] for line in lines] == ["kernel_not_kept"]
    assert not list(compiler.folder.iterdir())


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
@pytest.mark.parametrize("compute_capability", ["7.5", "8.7", "9.0"])
def test_nvcc_compiles_the_kernel_once_for_each_gpu(compute_capability: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARDIOGLOSS_CACHE", str(tmp_path))
    cubin = compiled(KERNEL_SOURCE, compute_capability)
    assert cubin.startswith(b"\x7fELF")
    assert b"slide" in cubin
    _take_compilers_away(monkeypatch)
    assert compiled(KERNEL_SOURCE, compute_capability) == cubin


def test_nvrtc_compiles_the_kernel_too() -> None:
    text = KERNEL_SOURCE.read_bytes()
    try:
        cubin = resident._by_nvrtc(text, "sm_87")
    except OSError as error:
        assert str(error) == "NVRTC: absent"
        pytest.skip("no NVRTC")
    assert cubin.startswith(b"\x7fELF")
    assert b"slide" in cubin


def _take_compilers_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(resident, "_OFF_PATH", "")
    monkeypatch.setattr(resident, "find_library", lambda _: None)
    monkeypatch.setattr("sys.path", [])


def test_without_a_compiler_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARDIOGLOSS_CACHE", str(tmp_path))
    _take_compilers_away(monkeypatch)
    with pytest.raises(ConfigError, match=r"nvcc: absent; NVRTC: absent.*install nvcc") as raised:
        compiled(KERNEL_SOURCE, "8.7")
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_what_the_compiler_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARDIOGLOSS_CACHE", str(tmp_path))
    monkeypatch.setattr(resident, "find_library", lambda _: None)
    wrong = tmp_path / "wrong.cu"
    wrong.write_text('extern "C" __global__ void wrong() { nonsense; }')
    with pytest.raises(ConfigError, match="nonsense"):
        compiled(wrong, "8.7")


# The kernel on a driver, a real one or the fake


class OnDevice(Resident):
    """Its windows brought back."""

    def __init__(self, device: Device, sources: list[Source], samples: int, batch: int = 8) -> None:
        super().__init__(device, sources, TO_HZ, samples, batch=batch)
        self._windows = device.pair((batch, 12, samples), np.float32)

    def gather(self, due: Sequence[tuple[int, int]], into: int = 0) -> Any:
        super().gather(due, self._windows.address)
        self._windows.download(len(due))
        self._device.wait()
        return self._windows.host[: len(due)].copy()


EVERY_SECOND = [(n, round(source.rate_hz), [0, 33]) for _ in range(9) for n, source in enumerate(SOURCES)]


@pytest.mark.device
def test_the_gpu_equals_the_twin(device: Device) -> None:
    twin = _play(Twin(SOURCES, TO_HZ, 100), RECORDINGS, EVERY_SECOND)
    for ours, theirs in zip(_play(OnDevice(device, SOURCES, 100), RECORDINGS, EVERY_SECOND), twin, strict=True):
        assert _same(ours[2], theirs[2])


@pytest.mark.device
def test_a_late_stream_gives_the_same_windows(device: Device, fake: ctypes.CDLL) -> None:
    """Page-locked memory that is written again before it was read would show."""
    fake.fake_late(1)
    try:
        _check(OnDevice(device, SOURCES, 100), [(n, 5000, [0, 5]) for n in range(len(SOURCES))])
    finally:
        fake.fake_late(0)


@pytest.mark.device
def test_nothing_is_allocated_after_the_first_tick(device: Device, fake: ctypes.CDLL) -> None:
    kernel = OnDevice(device, SOURCES, 100)
    kernel.gather([])
    made = [fake.fake_made(what) for what in (b"device", b"host", b"stream", b"event", b"module")]
    _check(kernel, EVERY_SECOND)
    assert [fake.fake_made(what) for what in (b"device", b"host", b"stream", b"event", b"module")] == made


@pytest.mark.device
def test_a_thousand_sources_are_measured(device: Device, capsys: pytest.CaptureFixture[str]) -> None:
    sources = 1000 if not hasattr(device._native, "fake_live") else 3
    figures = measure(device, sources)
    with capsys.disabled():
        sys.stdout.write(f"\n{device.name}: {figures}\n")
    assert figures.uploaded_bytes == sources * (12 * 500 * 4 + 2 * 40)
    assert figures.cpu_bytes == sources * 12 * 1000 * 4
    assert min(figures.feed_ms, figures.tick_ms, figures.cpu_ms) > 0


def test_the_tables_are_those_of_the_sources() -> None:
    """Oracle: phase_taps of each rate, where the table says that it begins."""
    twin = Twin(SOURCES, TO_HZ, 100)
    for entry, source in zip(twin._table, SOURCES, strict=True):
        taps = phase_taps(source.rate_hz, TO_HZ)
        assert np.array_equal(twin._taps[entry["taps_at"] :][: taps.size], taps.astype(np.float32).ravel())
        assert (entry["phases"], 2 * entry["half"] + 1) == taps.shape
