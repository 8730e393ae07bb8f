"""Windows in; probabilities out, by ONNX Runtime on the CPU."""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from .bundle import Bundle, BundleError
from .engine import Engine, Result, check_shape
from .signal import Samples

_REFUSALS = (native.Fail, native.InvalidGraph, native.InvalidProtobuf, native.NotImplemented, native.RuntimeException)
_OUTPUTS = ["probability", "embedding"]


class OnnxEngine(Engine):
    """A bundle in ONNX Runtime. Windows run one by one, so that a batch cannot change the bits of its members."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(bundle.onnx, options, providers=["CPUExecutionProvider"])
        except _REFUSALS as error:
            raise BundleError(f"onnxruntime refuses the bundle: {error}") from error
        self.bundle = bundle
        shapes = {output.name: output.shape for output in self._session.get_outputs()}
        self._widths = [shapes[name][1] for name in _OUTPUTS]

    def run(self, ecg: Samples) -> Result:
        check_shape(self.bundle, ecg)
        result = Result(*(np.empty((len(ecg), width), np.float32) for width in self._widths))
        for row, window in enumerate(ecg):
            result.probability[row : row + 1], result.embedding[row : row + 1] = self._session.run(_OUTPUTS, {"ecg": window[None]})
        return result

    def close(self) -> None:
        del self._session


def open_bundle(bundle: Bundle, threads: int) -> OnnxEngine:
    """What `open_engine` calls."""
    return OnnxEngine(bundle, threads)
