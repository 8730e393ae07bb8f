"""Windows in; probabilities out, by ONNX Runtime on the CPU."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from .bundle import Bundle, BundleError, golden_windows
from .engine import Engine, Result, check_shape
from .signal import Samples

_REFUSALS = (native.Fail, native.InvalidGraph, native.InvalidProtobuf, native.NotImplemented, native.RuntimeException)
_OUTPUTS = ["probability", "embedding"]

TOGETHER = 8
"""Windows of a call: more are no faster, and only take memory."""


class OnnxEngine(Engine):
    """A bundle in ONNX Runtime.

    Windows run in groups, which is a tenth faster than one by one, where a trial before the first of them shows that
    this changes no bit on this processor; elsewhere one by one.
    """

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self._session = open_session(bundle, threads)
        self.bundle = bundle
        shapes = {output.name: output.shape for output in self._session.get_outputs()}
        self._widths = [shapes[name][1] for name in _OUTPUTS]

    def run(self, ecg: Samples) -> Result:
        check_shape(self.bundle, ecg)
        ecg = ecg.astype(np.float32, copy=False)
        result = Result(*(np.empty((len(ecg), width), np.float32) for width in self._widths))
        together = self._together if len(ecg) > 1 else 1
        for start in range(0, len(ecg), together):
            rows = slice(start, start + together)
            result.probability[rows], result.embedding[rows] = self._call(ecg[rows])
        return result

    def close(self) -> None:
        del self._session

    def _call(self, ecg: Samples) -> list[Samples]:
        answers: list[Samples] = self._session.run(_OUTPUTS, {"ecg": ecg})
        return answers

    @cached_property
    def _together(self) -> int:
        """Tried when first it matters: who scores one window after the other need not wait for it."""
        return TOGETHER if self._is_indifferent_to_company() else 1

    def _is_indifferent_to_company(self) -> bool:
        golden = golden_windows(self.bundle.card.samples)
        company = [np.resize(golden, (size, *golden.shape[1:])) for size in (len(golden), TOGETHER)]
        alone = [np.concatenate(rows) for rows in zip(*(self._call(window[None]) for window in golden), strict=True)]
        return all(
            np.array_equal(rows, np.resize(expected, rows.shape))
            for windows in company for rows, expected in zip(self._call(windows), alone, strict=True)
        )  # fmt: skip


def open_session(bundle: Bundle, threads: int) -> onnxruntime.InferenceSession:
    """Raises BundleError for a graph that ONNX Runtime does not run."""
    try:
        return onnxruntime.InferenceSession(bundle.onnx, _options(threads), providers=["CPUExecutionProvider"])
    except _REFUSALS as error:
        raise BundleError(f"onnxruntime refuses the bundle: {error}") from error


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # between windows a daemon sleeps
    return options


def open_bundle(bundle: Bundle, threads: int) -> OnnxEngine:
    """What `open_engine` calls."""
    return OnnxEngine(bundle, threads)
