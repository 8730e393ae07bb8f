"""Windows in; probabilities out, by the ONNX project's own reference evaluator: slow, and the oracle of `compare`."""

from __future__ import annotations

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from .bundle import Bundle
from .engine import Engine, Result, check_shape
from .signal import Samples


class ReferenceEngine(Engine):
    """A bundle in plain NumPy, operator by operator as the ONNX standard defines them."""

    def __init__(self, bundle: Bundle) -> None:
        self._evaluator = ReferenceEvaluator(onnx.load_model_from_string(bundle.onnx))
        self.bundle = bundle

    def run(self, ecg: Samples) -> Result:
        check_shape(self.bundle, ecg)
        probability, embedding = self._evaluator.run(["probability", "embedding"], {"ecg": ecg.astype(np.float32)})
        return Result(probability, embedding)

    def close(self) -> None:
        del self._evaluator


def open_bundle(bundle: Bundle, threads: int) -> ReferenceEngine:
    """What `open_engine` calls; the reference has no threads."""
    return ReferenceEngine(bundle)
