"""Streams in the steps of their next samples, or whole windows, in; probabilities out, by ONNX Runtime on the CPU."""

from __future__ import annotations

import numpy as np

from .bundle import Bundle, BundleError
from .engine import Result, StreamEngine, check_shape
from .engine_onnx import OnnxEngine
from .signal import LEADS, Samples

_OUTPUTS = ["probability", "embedding", "next_state"]


class OnnxStreamEngine(StreamEngine):
    """A bundle that takes streams. A window is a stream of which it is all that was seen."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        assert bundle.card.stride is not None
        self.bundle, self.stride = bundle, bundle.card.stride
        self._session = OnnxEngine(bundle, threads)._session
        self._blank: Samples = np.zeros(self._session.get_inputs()[1].shape[1], np.float32)

    def begin(self) -> Samples:
        return self._blank.copy()

    def step(self, ecg: Samples, states: Samples) -> tuple[Result, Samples]:
        if ecg.ndim != 3 or ecg.shape[1] != len(LEADS) or ecg.shape[2] % self.stride or not ecg.shape[2]:
            raise BundleError(f"this bundle takes steps of shape (batch, {len(LEADS)}, a multiple of {self.stride}), not {ecg.shape}")
        probability, embedding, after = self._session.run(_OUTPUTS, {"ecg": ecg, "state": states})
        return Result(probability, embedding), after

    def run(self, ecg: Samples) -> Result:
        check_shape(self.bundle, ecg)
        whole = ecg.shape[2] // self.stride * self.stride
        states = np.broadcast_to(self._blank, (len(ecg), len(self._blank)))
        return self.step(np.ascontiguousarray(ecg[:, :, :whole], np.float32), np.ascontiguousarray(states))[0]

    def close(self) -> None:
        del self._session


def open_bundle(bundle: Bundle, threads: int) -> OnnxStreamEngine:
    """What `open_engine` calls."""
    return OnnxStreamEngine(bundle, threads)
