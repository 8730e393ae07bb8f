"""A GPU in; memory that both sides see, kernels and captured work on one stream of it out, by pycuda."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from .findings import ConfigError

Array = npt.NDArray[Any]

_INSTEAD = "or use the engine onnx, which needs no GPU"
_CAPTURE_OF_THIS_THREAD = 1
_NO_WAITING_FOR_THE_DEFAULT_STREAM = 1
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")


class Memory:
    """Memory of the GPU, zeros at first. Given back when the device is closed."""

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.nbytes = int(np.prod(shape)) * self.dtype.itemsize
        self.address: int = device._allocate(self.nbytes)


class Pair(Memory):
    """The same array twice: page-locked in `host`, and on the GPU at `address`. After `Device.close` the host side is empty."""

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        super().__init__(device, shape, dtype)
        self._device = device
        self.host: Array = device._lock(shape, self.dtype)
        device._owned.callback(self._forget)

    def upload(self, rows: int | None = None) -> None:
        """Enqueue the copy of the first rows (all) to the GPU; do not write them before `Device.wait`. Raises OSError."""
        if rows != 0:
            self._device._upload(self.address, self.host[:rows])

    def download(self, rows: int | None = None) -> None:
        """Enqueue the copy of the first rows (all) from the GPU; they are there after `Device.wait`. Raises OSError."""
        if rows != 0:
            self._device._download(self.host[:rows], self.address)

    def _forget(self) -> None:
        self.host = np.empty((0, *self.shape[1:]), self.dtype)


class Module:
    """Compiled CUDA code on the GPU."""

    def __init__(self, device: Device, image: Any) -> None:
        self._device = device
        self._image = image
        self._functions: dict[str, Any] = {}
        device._owned.callback(self._unload)

    def kernel(self, name: str) -> Kernel:
        """The kernel of this name, an `extern "C"` one. Raises OSError where there is none."""
        with self._device.current():
            self._functions[name] = self._image.get_function(name)
        return Kernel(self, name)

    def _unload(self) -> None:
        """It goes when nothing holds it any more."""
        self._functions.clear()
        self._image = None


@dataclass(frozen=True, slots=True)
class Kernel:
    """What `Device.launch` launches."""

    module: Module
    name: str


class Captured:
    """A sequence of work that the GPU keeps as a graph: one call launches all of it, with the addresses of its capture."""

    def __init__(self, device: Device, graph: ctypes.c_void_p) -> None:
        self._device = device
        self._executable = ctypes.c_void_p()
        try:
            device._call("cuGraphInstantiateWithFlags", ctypes.byref(self._executable), graph, ctypes.c_ulonglong(0))
        finally:
            device._call("cuGraphDestroy", graph)
        device._owned.callback(device._native.cuGraphExecDestroy, self._executable)

    def launch(self) -> None:
        """Enqueue it. Raises OSError."""
        with self._device.current():
            self._device._call("cuGraphLaunch", self._executable, ctypes.c_void_p(self._device.stream))


class Device:
    """One GPU and one stream on it; a context manager.

    Any thread may call, one at a time: a call makes the GPU's primary context current for its thread and then takes
    it off again. Who enqueues on `stream` by other means (TensorRT, torch) does so inside `current`. Memory is had by
    `pair` and `zeros` alone, so that nothing is allocated once all of these were called. Everything is given back by
    `close`. Raises ConfigError where pycuda, the driver or the GPU is absent, or its memory does not suffice, OSError
    where the driver reports a failure, and ValueError after `close`. Not yet run on a GPU: the real pycuda has run it
    over a stand-in for the driver.
    """

    def __init__(self, number: int = 0) -> None:
        self._cuda = _pycuda()
        self._native = ctypes.CDLL("libcuda.so.1")
        self._owned = ExitStack()
        self._closed = False
        with _telling(self._cuda, "what is asked for"):
            gpu = _gpu(self._cuda, number)
            self.name: str = gpu.name()
            self.compute_capability: str = "{}.{}".format(*gpu.compute_capability())
            self._context = gpu.retain_primary_context()
        with ExitStack() as until_open:
            until_open.callback(self._detach)
            self.driver: str = _driver_version(self._cuda)
            with self.current():
                self._stream = self._cuda.Stream(_NO_WAITING_FOR_THE_DEFAULT_STREAM)
            self.stream: int = self._stream.handle
            until_open.pop_all()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def current(self) -> Iterator[None]:
        """The context of this GPU, current for the calling thread; what the driver reports comes out as OSError."""
        if self._closed:
            raise ValueError("this device is closed; open it anew")
        with _telling(self._cuda, "what is asked for"):
            self._context.push()
            try:
                yield
            finally:
                self._cuda.Context.pop()

    def zeros(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Memory:
        """Memory of the GPU for an array. Raises ConfigError where there is not so much."""
        return Memory(self, shape, dtype)

    def pair(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Pair:
        """Memory on both sides for an array. Raises ConfigError where there is not so much."""
        return Pair(self, shape, dtype)

    def module(self, ptx_or_cubin: bytes) -> Module:
        """Load compiled CUDA code. Raises OSError where this GPU cannot run it."""
        with self.current():
            return Module(self, self._cuda.module_from_buffer(ptx_or_cubin))

    def launch(self, kernel: Kernel, grid: tuple[int, ...], block: tuple[int, ...], *args: Memory | np.generic) -> None:
        """Enqueue a kernel; the arguments are memory, passed as its address, or NumPy scalars of the parameters' own types."""
        with self.current():
            function = kernel.module._functions[kernel.name]
            values = [np.uintp(arg.address) if isinstance(arg, Memory) else arg for arg in args]
            function(*values, grid=(*grid, 1, 1)[:3], block=(*block, 1, 1)[:3], stream=self._stream)

    def capture(self, enqueue: Callable[[], None]) -> Captured:
        """What `enqueue` enqueues on the stream, not run but kept. It must neither wait nor allocate. Raises OSError."""
        graph = ctypes.c_void_p()
        stream = ctypes.c_void_p(self.stream)
        with self.current():
            self._call("cuStreamBeginCapture_v2", stream, ctypes.c_int(_CAPTURE_OF_THIS_THREAD))
            try:
                enqueue()
            except BaseException:
                if self._native.cuStreamEndCapture(stream, ctypes.byref(graph)) == 0:
                    self._native.cuGraphDestroy(graph)
                raise
            self._call("cuStreamEndCapture", stream, ctypes.byref(graph))
            return Captured(self, graph)

    def wait(self) -> None:
        """Until all that was enqueued is done. Raises OSError where some of it failed."""
        with self.current():
            self._stream.synchronize()

    def close(self) -> None:
        """Wait, then give everything back. A failure of the GPU that this discovers is no longer of interest."""
        if self._closed:
            return
        with self.current():
            self._native.cuStreamSynchronize(ctypes.c_void_p(self.stream))
            self._owned.close()
            del self._stream
        self._detach()
        self._closed = True

    def _detach(self) -> None:
        """Off the driver's stack too, where pycuda leaves a primary context that it detaches from."""
        with _telling(self._cuda, "what is asked for"):
            self._context.push()
            handle = self._context.handle
            self._context.detach()
        top = ctypes.c_void_p()
        self._native.cuCtxGetCurrent(ctypes.byref(top))
        if top.value == handle:
            self._native.cuCtxPopCurrent_v2(ctypes.byref(top))

    def _allocate(self, nbytes: int) -> int:
        with self.current(), _telling(self._cuda, f"{nbytes / 1e6:.1f} MB"):
            allocation = self._cuda.mem_alloc(max(nbytes, 1))
            self._owned.callback(allocation.free)
            self._cuda.memset_d8_async(allocation, 0, max(nbytes, 1), self._stream)
            return int(allocation)

    def _lock(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        nbytes = max(int(np.prod(shape)), 1) * dtype.itemsize
        with self.current(), _telling(self._cuda, f"{nbytes / 1e6:.1f} MB of page-locked memory"):
            locked = self._cuda.pagelocked_zeros(nbytes, np.uint8)
        self._owned.callback(locked.base.free)
        return np.frombuffer(locked, dtype, int(np.prod(shape))).reshape(shape)

    def _upload(self, address: int, host: Array) -> None:
        with self.current():
            self._cuda.memcpy_htod_async(address, host, self._stream)

    def _download(self, host: Array, address: int) -> None:
        with self.current():
            self._cuda.memcpy_dtoh_async(host, address, self._stream)

    def _call(self, function: str, *args: Any) -> None:
        """A function of the driver that pycuda has not, as those of graphs."""
        status = getattr(self._native, function)(*args)
        if status:
            name = ctypes.c_char_p()
            self._native.cuGetErrorName(status, ctypes.byref(name))
            raise OSError(f"the GPU failed: {function}: {(name.value or b'error %d' % status).decode()}")


def _pycuda() -> Any:
    """pycuda's driver module, its driver awake."""
    try:
        cuda = import_module("pycuda.driver")
    except ModuleNotFoundError as error:
        absent = (error.name or "pycuda").split(".")[0]
        raise ConfigError(f"the package {absent} is absent: pip install pycuda==2026.1 (it wants the CUDA toolkit), {_INSTEAD}") from error
    except ImportError as error:
        raise ConfigError(f"pycuda finds no NVIDIA driver of its own CUDA version ({error}): install the driver, {_INSTEAD}") from error
    try:
        cuda.init()
    except cuda.Error as error:
        raise ConfigError(f"no GPU answers ({error}): mend the NVIDIA driver (nvidia-smi tells), {_INSTEAD}") from error
    return cuda


def _gpu(cuda: Any, number: int) -> Any:
    count = cuda.Device.count()
    if number >= count:
        raise ConfigError(f"there is no GPU {number}: the driver knows {count}; {_INSTEAD}")
    return cuda.Device(number)


def _driver_version(cuda: Any) -> str:
    """`CUDA 13.0, 580.65.06`: the interface, and the kernel module where it tells its version (a Jetson's does not)."""
    version = cuda.get_driver_version()
    interface = f"CUDA {version // 1000}.{version % 1000 // 10}"
    told = _KERNEL_MODULE.read_text() if _KERNEL_MODULE.is_file() else ""
    found = re.search(r"\s(\d+\.\d+(\.\d+)?)\s", told)
    return f"{interface}, {found[1]}" if found else interface


@contextmanager
def _telling(cuda: Any, what: str) -> Iterator[None]:
    """pycuda's errors as ours."""
    try:
        yield
    except cuda.MemoryError as error:
        raise ConfigError(f"the GPU's memory does not hold {what} more ({error}): close what else uses the GPU, {_INSTEAD}") from error
    except cuda.Error as error:
        raise OSError(f"the GPU failed: {error}") from error
