"""The GPU's memory, stream, graphs and kernels: without pycuda, over a fake driver with the real pycuda, and on a real GPU."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from kernels.device import Device, Kernel, Pair
from kernels.findings import ConfigError
from kernels.resident import compiled

pytest_plugins = ["tests.fake_cuda.fixtures"]

HERE = Path(__file__).parent
FAKE = HERE / "fake_cuda"
CUDA = Path(os.environ.get("CUDA_ROOT", "/usr/local/cuda"))
T = TypeVar("T")
KINDS = (b"device", b"host", b"stream", b"event", b"module", b"graph", b"executable", b"context")

SCALE = (
    'extern "C" __global__ void scale(float *x, float by, int n) { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) x[i] *= by; }'
)


@pytest.fixture(scope="module")
def cubin(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Device], bytes]:
    source = tmp_path_factory.mktemp("scale") / "scale.cu"
    source.write_text(SCALE)
    return lambda device: compiled(source, device.compute_capability)


@pytest.fixture
def scale(device: Device, cubin: Callable[[Device], bytes]) -> Kernel:
    return device.module(cubin(device)).kernel("scale")


# Without pycuda, a driver or a GPU


def _stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, driver: str) -> None:
    """A package pycuda whose driver module is this text."""
    (folder / "pycuda").mkdir()
    (folder / "pycuda" / "__init__.py").touch()
    (folder / "pycuda" / "driver.py").write_text(driver)
    for name in [name for name in sys.modules if name.split(".")[0] == "pycuda"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(folder))


def _refusal() -> str:
    with pytest.raises(ConfigError) as raised:
        Device()
    assert "\n" not in str(raised.value)
    assert "engine onnx" in str(raised.value)
    for name in [name for name in sys.modules if name.split(".")[0] == "pycuda"]:
        del sys.modules[name]
    return str(raised.value)


def test_without_pycuda_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    assert "the package pycuda is absent: pip install pycuda==2026.1" in _refusal()


def test_without_a_driver_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(monkeypatch, tmp_path, "raise ImportError('libcuda.so.1: cannot open shared object file')")
    assert re.search(r"no NVIDIA driver.*libcuda\.so\.1.*install the driver", _refusal())


def test_without_a_gpu_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(monkeypatch, tmp_path, "class Error(Exception): pass\ndef init(): raise Error('cuInit failed: no CUDA-capable device')")
    assert re.search(r"no GPU answers.*no CUDA-capable device", _refusal())


# Over a driver, real or fake


@pytest.mark.device
def test_a_device_says_what_it_is(device: Device) -> None:
    assert device.name
    assert re.fullmatch(r"\d+\.\d", device.compute_capability)
    assert re.fullmatch(r"CUDA \d+\.\d+(, [\d.]+)?", device.driver)
    assert isinstance(device.stream, int)
    assert device.stream


@pytest.mark.device
def test_memory_begins_as_zeros_on_both_sides(device: Device) -> None:
    pair = device.pair((3, 4), np.float32)
    assert not pair.host.any()
    pair.host[:] = 7
    pair.download()
    device.wait()
    assert not pair.host.any()


@pytest.mark.device
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8])
def test_what_goes_up_comes_down(device: Device, dtype: type) -> None:
    pair = device.pair((5, 2, 3), dtype)
    pair.host[:] = np.arange(30).reshape(5, 2, 3)
    pair.upload()
    device.wait()
    pair.host[:] = 0
    pair.download()
    device.wait()
    assert np.array_equal(pair.host, np.arange(30).reshape(5, 2, 3))


@pytest.mark.device
def test_rows_bound_what_is_copied(device: Device) -> None:
    pair = device.pair((4, 2), np.float32)
    pair.host[:] = 1
    pair.upload(2)
    pair.upload(0)
    device.wait()
    pair.host[:] = 5
    pair.download(0)
    pair.download(3)
    device.wait()
    assert pair.host[:, 0].tolist() == [1, 1, 0, 5]


def _scale(device: Device, scale: Kernel, pair: Pair, by: float) -> None:
    count = pair.host.size
    device.launch(scale, (-(-count // 64),), (64,), pair, np.float32(by), np.int32(count))


@pytest.mark.device
def test_work_on_the_stream_is_done_in_order(device: Device, scale: Kernel) -> None:
    pair = device.pair((1000,), np.float32)
    pair.host[:] = np.arange(1000)
    pair.upload()
    for by in (2, 3, 0.5):
        _scale(device, scale, pair, by)
    pair.download()
    device.wait()
    assert np.array_equal(pair.host, 3 * np.arange(1000))


@pytest.mark.device
def test_a_kernel_takes_memory_that_is_on_the_gpu_alone(device: Device, scale: Kernel) -> None:
    memory = device.zeros((8,), np.float32)
    device.launch(scale, (1,), (8,), memory, np.float32(2), np.int32(8))
    device.launch(scale, (1,), (8,), np.uintp(memory.address), np.float32(2), np.int32(8))
    device.wait()


@pytest.mark.device
def test_captured_work_runs_at_each_launch_and_not_before(device: Device, scale: Kernel) -> None:
    pair = device.pair((100,), np.float32)

    def enqueue() -> None:
        pair.upload()
        _scale(device, scale, pair, 10)
        pair.download()

    pair.host[:] = 1
    captured = device.capture(enqueue)
    device.wait()
    assert (pair.host == 1).all()
    for value in (2, 3):
        pair.host[:] = value
        captured.launch()
        device.wait()
        assert (pair.host == 10 * value).all()


@pytest.mark.device
def test_a_capture_that_fails_leaves_the_stream_as_it_was(device: Device, scale: Kernel) -> None:
    with pytest.raises(KeyError):
        device.capture(lambda: {}["absent"])
    pair = device.pair((10,), np.float32)
    pair.host[:] = 4
    pair.upload()
    _scale(device, scale, pair, 0.5)
    pair.download()
    device.wait()
    assert (pair.host == 2).all()


def _in_thread(work: Callable[[], T]) -> T:
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


@pytest.mark.device
def test_any_thread_may_use_and_close_it(device: Device, cubin: Callable[[Device], bytes]) -> None:
    other = _in_thread(type(device))
    pair = other.pair((64,), np.float32)
    scale = _in_thread(lambda: other.module(cubin(other)).kernel("scale"))

    def use() -> None:
        pair.host[:] = 3
        pair.upload()
        _scale(other, scale, pair, 2)
        pair.download()
        other.wait()

    _in_thread(use)
    assert (pair.host == 6).all()
    captured = other.capture(lambda: _scale(other, scale, pair, 2))
    _in_thread(captured.launch)
    _in_thread(other.close)


@pytest.mark.device
def test_two_devices_live_side_by_side(device: Device) -> None:
    with Device() as other, other.current():
        inner = other.pair((4,), np.float32)
        inner.upload()
    pair = device.pair((4,), np.float32)
    pair.host[:] = 1
    pair.upload()
    pair.host[:] = 0
    pair.download()
    device.wait()
    assert (pair.host == 1).all()


@pytest.mark.device
def test_after_close_it_says_so(device: Device) -> None:
    pair = device.pair((4,), np.float32)
    device.close()
    device.close()
    assert pair.host.shape == (0,)
    with pytest.raises(ValueError, match="closed"):
        device.wait()
    with pytest.raises(ValueError, match="closed"):
        pair.upload(1)


@pytest.mark.device
def test_a_gpu_or_a_kernel_that_is_not_there_is_named(device: Device, cubin: Callable[[Device], bytes]) -> None:
    with pytest.raises(ConfigError, match="no GPU 99"):
        Device(99)
    with pytest.raises(OSError, match="cuModuleGetFunction"):
        device.module(cubin(device)).kernel("absent")
    with pytest.raises(OSError, match="the GPU failed"):
        device.module(b"no code at all")


# Over the fake driver alone


@pytest.mark.device
def test_everything_is_given_back(device: Device, fake: ctypes.CDLL, scale: Kernel) -> None:
    pair = device.pair((16,), np.float32)
    held = pair.host
    device.zeros((3, 3), np.int32)
    device.capture(lambda: _scale(device, scale, pair, 2)).launch()
    assert all(fake.fake_live(kind) for kind in (b"device", b"host", b"stream", b"module", b"executable", b"context"))
    device.close()
    assert held.shape == (16,)
    assert [fake.fake_live(kind) for kind in KINDS] == [0] * len(KINDS)
    assert fake.fake_depth() == 0


@pytest.mark.device
def test_after_warm_up_nothing_is_allocated(device: Device, fake: ctypes.CDLL, scale: Kernel) -> None:
    pair = device.pair((16,), np.float32)
    captured = device.capture(lambda: _scale(device, scale, pair, 2))
    made = [fake.fake_made(kind) for kind in KINDS]
    for _ in range(20):
        pair.upload()
        captured.launch()
        _scale(device, scale, pair, 2)
        pair.download()
        device.wait()
    assert [fake.fake_made(kind) for kind in KINDS] == made


@pytest.mark.device
@pytest.mark.parametrize(("status", "kind"), [(2, ConfigError), (719, OSError)])
def test_a_device_that_does_not_open_leaves_nothing(fake: ctypes.CDLL, status: int, kind: type[Exception]) -> None:
    fake.fake_fail(b"cuStreamCreate", status)
    with pytest.raises(kind):
        Device()
    fake.fake_fail(b"", 0)
    assert [fake.fake_live(kind) for kind in KINDS] == [0] * len(KINDS)
    assert fake.fake_depth() == 0


@pytest.mark.device
@pytest.mark.parametrize("function", [b"cuMemAlloc_v2", b"cuMemHostAlloc"])
def test_memory_that_does_not_suffice_is_told_in_one_sentence(device: Device, fake: ctypes.CDLL, function: bytes) -> None:
    fake.fake_fail(function, 2)
    with pytest.raises(ConfigError, match=r"memory does not hold 4\.0 MB.*close what else uses the GPU, or use the engine onnx") as raised:
        device.pair((1000, 1000), np.float32)
    fake.fake_fail(b"", 0)
    assert "\n" not in str(raised.value)
    device.close()
    assert [fake.fake_live(kind) for kind in KINDS] == [0] * len(KINDS)


@pytest.mark.device
@pytest.mark.parametrize(
    "function",
    [
        b"cuLaunchKernel",
        b"cuMemcpyHtoDAsync_v2",
        b"cuMemcpyDtoHAsync_v2",
        b"cuStreamSynchronize",
        b"cuGraphLaunch",
        b"cuStreamBeginCapture_v2",
        b"cuStreamEndCapture",
        b"cuGraphInstantiateWithFlags",
    ],
)
def test_a_failure_of_the_gpu_names_what_failed(device: Device, fake: ctypes.CDLL, scale: Kernel, function: bytes) -> None:
    pair = device.pair((16,), np.float32)
    captured = device.capture(lambda: _scale(device, scale, pair, 2))
    fake.fake_fail(function, 719)
    with pytest.raises(OSError, match=f"the GPU failed: {function.decode().removesuffix('_v2')}"):
        pair.upload()
        _scale(device, scale, pair, 2)
        captured.launch()
        pair.download()
        device.wait()
        device.capture(lambda: _scale(device, scale, pair, 2))
    fake.fake_fail(b"", 0)
    device.close()
    assert fake.fake_live(b"context") == 0


@pytest.mark.device
def test_what_is_not_waited_for_is_not_there(device: Device, fake: ctypes.CDLL) -> None:
    """That the fake is late where a test needs it: the law of `wait`."""
    pair = device.pair((2,), np.float32)
    fake.fake_late(1)
    try:
        pair.host[:] = 8
        pair.upload()
        pair.download()
        pair.host[:] = 9
        device.wait()
        assert (pair.host == 9).all()
    finally:
        fake.fake_late(0)


@pytest.mark.device
@pytest.mark.parametrize("forbidden", ["wait", "allocate"])
def test_a_capture_that_waits_or_allocates_fails_and_the_device_goes_on(device: Device, fake: ctypes.CDLL, forbidden: str) -> None:
    def work() -> None:
        device.wait() if forbidden == "wait" else device.zeros((4,), np.float32)

    assert fake
    with pytest.raises(OSError, match="the GPU failed"):
        device.capture(work)
    pair = device.pair((4,), np.float32)
    pair.upload()
    device.wait()


@pytest.mark.device
def test_a_machine_without_gpus_is_told_apart(fake: ctypes.CDLL) -> None:
    fake.fake_devices(0)
    try:
        with pytest.raises(ConfigError, match="no GPU"):
            Device()
    finally:
        fake.fake_devices(1)


# All of the above over the fake driver, in a process of its own


def _built() -> Path:
    """The folder with pycuda and the fake driver, built at most once for each version of either."""
    key = hashlib.sha256(f"{sys.version}{CUDA.resolve()}{(FAKE / 'build.sh').read_text()}".encode()).hexdigest()[:12]
    folder = Path.home() / ".cache" / "cardiogloss" / "fake-cuda" / key
    done = subprocess.run(["bash", FAKE / "build.sh", sys.executable, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return folder


@pytest.mark.skipif(os.environ.get("CARDIOGLOSS_FAKE_CUDA") != "1", reason="builds pycuda for minutes: CARDIOGLOSS_FAKE_CUDA=1 asks for it")
@pytest.mark.skipif(shutil.which("g++") is None or not (CUDA / "include" / "cuda.h").exists(), reason="no g++, or no CUDA toolkit")
def test_real_pycuda_runs_all_of_this_over_the_fake_driver() -> None:
    folder = _built()
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder / "lib"), "PYTHONPATH": str(folder / "site"), "CARDIOGLOSS_FAKE_CUDA": ""}
    files = [HERE / f"test_{part}.py" for part in ("device", "resident", "tensorrt")]
    command = [sys.executable, "-m", "pytest", "-vv", "-m", "device", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, env=environment, cwd=HERE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert re.search(r"[3-9]\d passed", done.stdout)
    assert "skipped" not in done.stdout
    assert "test_the_engine_runs_over_the_real_device_code PASSED" in done.stdout
