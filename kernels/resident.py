"""Samples of many sources in; their sliding windows, resampled and in the standard leads, in the memory of the GPU out."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .device import Array, Device, Memory, Pair
from .engine_cache import cache_folder, replace_file, told_not_raised
from .findings import ConfigError
from .resident_twin import ROW_FIELDS, Due, Source, Streams
from .signal import LEADS, Resampler, Samples, to_standard_leads

KERNEL_SOURCE = Path(__file__).parent / "resident.cu"

_THREADS = 128
_OPTIONS = ("--std=c++17",)
_OFF_PATH = "/usr/local/cuda/bin"


class Resident(Streams):
    """The streams of all sources in the GPU's memory, each at its own rate.

    A tick uploads what came since the last, in one copy, and launches one kernel, which writes the windows that are
    due to where an engine reads them. Arithmetic is float32, the taps rounded to it: it differs from `kernels.signal`
    by at most 1e-6 of the largest value under the taps. `batch` is the most windows of a tick, a window of every
    source if not given. Raises ConfigError where the GPU's memory does not suffice, or nothing compiles the kernel.
    """

    def __init__(
        self, device: Device, sources: Sequence[Source], to_hz: float, samples: int, slack_s: float = 2.0, batch: int | None = None
    ) -> None:
        super().__init__(sources, to_hz, samples, slack_s)
        self.uploaded_bytes = 0
        """By the last tick."""
        self._device = device
        self._batch = len(sources) if batch is None else batch
        self._kernel = device.module(compiled(KERNEL_SOURCE, device.compute_capability)).kernel("slide")
        self._on_gpu = [_uploaded(device, self._table), _uploaded(device, self._taps)]
        self._rings: Memory = device.zeros((max(self._ring_samples, 1),), np.float32)
        self._staged: Pair = device.pair((self._stage_bytes(self._batch),), np.uint8)
        self._tiles = -(-samples // _THREADS)
        self._in_flight = False
        device.wait()

    def gather(self, due: Due, into: int) -> None:
        """Enqueue a tick: the windows [due, 12, samples] to this address of the GPU, float32 mV, NaN where a lead is absent.

        Raises ValueError where a window is not complete, or no longer held, or there are more than `batch`.
        """
        if len(due) > self._batch:
            raise ValueError(f"{len(due)} windows are due, and the batch is {self._batch}")
        self._tick(due, into)

    def _make_room(self) -> None:
        self._tick((), 0)

    def _tick(self, due: Due, into: int) -> None:
        """What the tick before has uploaded must be gone before this one's is laid in its place."""
        if self._in_flight:
            self._device.wait()
        rows, self.uploaded_bytes = self._stage(due, self._staged.host)
        self._staged.upload(self.uploaded_bytes)
        if rows:
            self._launch(rows, into)
        self._in_flight = True

    def _launch(self, rows: int, into: int) -> None:
        table, taps = self._on_gpu
        fresh = np.uintp(self._staged.address + 8 * ROW_FIELDS * rows)
        sizes = np.int32(self.samples), np.int32(self._tiles)
        arguments = (table, self._staged, fresh, self._rings, taps, np.uintp(into), *sizes)
        self._device.launch(self._kernel, (rows * self._tiles,), (_THREADS,), *arguments)


def _uploaded(device: Device, array: Array) -> Pair:
    pair = device.pair(array.shape, array.dtype)
    pair.host[:] = array
    pair.upload()
    return pair


def compiled(source: Path, compute_capability: str) -> bytes:
    """The cubin of a CUDA source for one GPU: from the cache, or by nvcc, or by NVRTC. Raises ConfigError where neither does it."""
    text = source.read_bytes()
    architecture = "sm_" + compute_capability.replace(".", "")
    key = hashlib.sha256(b"\0".join([text, architecture.encode(), *(option.encode() for option in _OPTIONS)])).hexdigest()[:32]
    path = cache_folder() / "kernels" / f"{source.stem}-{architecture}-{key}.cubin"
    if kept := _kept(path):
        return kept
    cubin = _compile(text, architecture)
    with told_not_raised("kernel_not_kept", path):
        replace_file(path, hashlib.sha256(cubin).digest() + cubin)
    return cubin


def _kept(path: Path) -> bytes:
    """The cubin behind its hash; nothing where there is none, or they do not fit."""
    data = b""
    with suppress(OSError):
        data = path.read_bytes()
    digest, cubin = data[:32], data[32:]
    return cubin if hashlib.sha256(cubin).digest() == digest else b""


def _compile(text: bytes, architecture: str) -> bytes:
    failures = []
    for compiler in (_by_nvcc, _by_nvrtc):
        try:
            return compiler(text, architecture)
        except OSError as error:
            failures.append(str(error))
    raise ConfigError(
        f"nothing compiles CUDA code for this GPU ({'; '.join(failures)}): install nvcc (on a Jetson with the CUDA toolkit of its "
        "JetPack) or `pip install nvidia-cuda-nvrtc`, or leave the windows to the CPU"
    )


def _by_nvcc(text: bytes, architecture: str) -> bytes:
    """Raises OSError where nvcc is absent or refuses."""
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path=_OFF_PATH)
    if nvcc is None:
        raise OSError("nvcc: absent")
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "kernel.cu", Path(folder) / "kernel.cubin"
        source.write_bytes(text)
        command: list[str | Path] = [nvcc, "--cubin", f"--gpu-architecture={architecture}", *_OPTIONS, "-o", cubin, source]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"nvcc: {(done.stderr.strip() or 'failed').splitlines()[0]}")
        return cubin.read_bytes()


def _by_nvrtc(text: bytes, architecture: str) -> bytes:
    """Raises OSError where NVRTC is absent or refuses."""
    nvrtc = _nvrtc()
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    options = [option.encode() for option in (f"--gpu-architecture={architecture}", *_OPTIONS)]
    _well(nvrtc, nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, b"kernel.cu", 0, None, None))
    try:
        _well(nvrtc, nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options)))
        _well(nvrtc, nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
        cubin = ctypes.create_string_buffer(size.value)
        _well(nvrtc, nvrtc.nvrtcGetCUBIN(program, cubin))
        return cubin.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _nvrtc() -> ctypes.CDLL:
    """Of the system, or of the package nvidia-cuda-nvrtc, which does not find its other half by itself."""
    if found := find_library("nvrtc"):
        return ctypes.CDLL(found)
    packaged = sorted(path for folder in sys.path for path in Path(folder).glob("nvidia/*/lib/libnvrtc*.so.*") if ".alt." not in path.name)
    if not packaged:
        raise OSError("NVRTC: absent")
    return [ctypes.CDLL(str(path)) for path in packaged][-1]


def _well(nvrtc: ctypes.CDLL, status: int) -> None:
    if status:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise OSError(f"NVRTC: {nvrtc.nvrtcGetErrorString(status).decode()}")


@dataclass(frozen=True, slots=True)
class Gathered:
    """One tick of many sources, by the GPU and by the CPU; medians, in ms of wall time until the windows are on the GPU."""

    sources: int
    uploaded_bytes: int
    feed_ms: float
    """To take the new samples of all sources."""
    tick_ms: float
    """To upload them, to resample and to gather."""
    cpu_bytes: int
    cpu_ms: float
    """The same by `kernels.signal`, and the upload of whole windows."""


def measure(device: Device, sources: int, source: Source = Source(LEADS, 500.0), to_hz: float = 100.0, samples: int = 1000) -> Gathered:
    """So many sources alike, of which each gives a second at a time and has a window due after it. Raises ConfigError."""
    second = np.random.default_rng(0).standard_normal((len(source.leads), round(source.rate_hz))).astype(np.float32)
    batch = device.pair((sources, len(LEADS), samples), np.float32)
    resident = Resident(device, [source] * sources, to_hz, samples)
    begin = range(-(-samples // round(to_hz)) + 1)
    for _ in begin:
        _feed(resident, sources, second)
    timed = [_resident_tick(resident, device, sources, second, batch.address) for _ in range(5)]
    by_cpu = _cpu_ticks(device, batch, source, to_hz, second)
    for _ in begin:
        next(by_cpu)
    cpu_ms = [next(by_cpu) for _ in range(3)]
    feed_ms, tick_ms = np.median(timed, axis=0)
    return Gathered(sources, resident.uploaded_bytes, float(feed_ms), float(tick_ms), batch.nbytes, float(np.median(cpu_ms)))


def _feed(resident: Resident, sources: int, samples_mv: Samples) -> None:
    for number in range(sources):
        resident.feed(number, samples_mv)


def _resident_tick(resident: Resident, device: Device, sources: int, second: Samples, into: int) -> tuple[float, float]:
    def tick() -> None:
        resident.gather(list(enumerate(resident.ready().tolist())), into)
        device.wait()

    return _ms(lambda: _feed(resident, sources, second)), _ms(tick)


def _cpu_ticks(device: Device, batch: Pair, source: Source, to_hz: float, second: Samples) -> Iterator[float]:
    resamplers = [Resampler(source.rate_hz, to_hz) for _ in range(len(batch.host))]

    def tick() -> None:
        for window, resampler in zip(batch.host, resamplers, strict=True):
            new = to_standard_leads(resampler.feed(second), source.leads)
            window[:, : -new.shape[1]] = window[:, new.shape[1] :]
            window[:, -new.shape[1] :] = new
        batch.upload()
        device.wait()

    while True:
        yield _ms(tick)


def _ms(work: Callable[[], None]) -> float:
    begun_s = time.perf_counter()
    work()
    return (time.perf_counter() - begun_s) * 1e3
