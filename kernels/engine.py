"""Windows in mV [batch, 12, samples] in; calibrated probabilities and embeddings out, whichever engine runs them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module
from types import TracebackType
from typing import cast

from .bundle import Bundle, BundleError
from .findings import ConfigError
from .signal import LEADS, Samples

ENGINES = {
    "onnx": "engine_onnx",
    "openvino": "engine_openvino",
    "reference": "engine_reference",
    "tensorrt": "engine_tensorrt",
    "torch": "engine_torch",
}
"""By name, the module of each: imported when it is asked for, since few machines have all."""


@dataclass(frozen=True, slots=True)
class Result:
    """One row a window: `probability` [batch, findings] in 0..1, `embedding` [batch, d] of unit norm."""

    probability: Samples
    embedding: Samples


class Engine(ABC):
    """A compiled bundle, a context manager.

    Deterministic: a window gives the same bits, alone or in any batch; the one engine that cannot promise this says so.
    """

    bundle: Bundle

    @abstractmethod
    def run(self, ecg: Samples) -> Result:
        """Score windows [batch, 12, samples], NaN where there is no signal. Raises BundleError for any other shape."""

    def warm(self) -> None:  # noqa: B027 - most engines need none
        """Do what keeps the next window quick after a pause; whoever waits for windows may call it meanwhile."""

    @abstractmethod
    def close(self) -> None:
        """Give back what the engine holds."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class StreamEngine(Engine):
    """An engine that also takes streams as they come: of each sample everything is computed once.

    A stream is a row of `states`; what it has seen lies in there, and nowhere else. So any streams may share a
    call, and none changes the bits of another.
    """

    stride: int
    """Samples are taken in multiples of this; the result stands for the `window_s` before the last of them."""

    @abstractmethod
    def begin(self) -> Samples:
        """The state [d] of a stream of which nothing was seen yet."""

    @abstractmethod
    def step(self, ecg: Samples, states: Samples) -> tuple[Result, Samples]:
        """The next samples [batch, 12, n] of streams in `states` [batch, d]: their results, and what to give next time.

        A result says nothing before a whole window was seen. Raises BundleError where n is no multiple of `stride`,
        or is longer than a window and a stride.
        """


def open_engine(bundle: Bundle, name: str = "onnx", threads: int = 1) -> Engine:
    """Load a bundle into the engine of this name. Raises ConfigError for an unknown name, BundleError for a bad bundle."""
    if name not in ENGINES:
        raise ConfigError(f"unknown engine {name!r}; allowed are {', '.join(sorted(ENGINES))}")
    if bundle.card.stride and name != "onnx":
        raise ConfigError(f"engine {name!r} takes no bundle made for streams; use engine 'onnx', or the bundle that it was made from")
    module = import_module(".engine_stream" if bundle.card.stride else f".{ENGINES[name]}", __package__)
    return cast(Engine, module.open_bundle(bundle, threads))


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_shape(bundle: Bundle, ecg: Samples) -> None:
    """Raises BundleError unless `ecg` is [batch, 12, samples] of this bundle."""
    wanted = (len(LEADS), bundle.card.samples)
    if ecg.ndim != 3 or ecg.shape[1:] != wanted:
        raise BundleError(f"this bundle takes windows of shape (batch, {wanted[0]}, {wanted[1]}), not {ecg.shape}")
