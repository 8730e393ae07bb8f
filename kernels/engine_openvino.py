"""Windows in; probabilities out, by OpenVINO on the CPU."""

from __future__ import annotations

import numpy as np

from .bundle import Bundle, BundleError
from .engine import Engine, Result, check_shape
from .findings import ConfigError
from .signal import Samples

try:
    import openvino
except ModuleNotFoundError as error:
    raise ConfigError("engine 'openvino' needs openvino: pip install 'cardiogloss[openvino]', or take --engine onnx") from error


class OpenVinoEngine(Engine):
    """A bundle in OpenVINO, float32 or int8; windows run one by one, so that a batch cannot change the bits of its members."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        core = openvino.Core()
        try:
            model = core.read_model(bundle.onnx)
            model.reshape({"ecg": [1, 12, bundle.card.samples]})
            self._request = core.compile_model(model, "CPU", _settings(threads)).create_infer_request()
        except RuntimeError as error:
            raise BundleError(f"openvino refuses the bundle: {str(error).strip().splitlines()[-1]}") from error
        self.bundle = bundle
        self._widths = [self._request.get_tensor(name).shape[1] for name in ("probability", "embedding")]

    def run(self, ecg: Samples) -> Result:
        check_shape(self.bundle, ecg)
        result = Result(*(np.empty((len(ecg), width), np.float32) for width in self._widths))
        for row, window in enumerate(ecg):
            answers = self._request.infer({"ecg": window[None].astype(np.float32, copy=False)}, share_inputs=True, share_outputs=True)
            result.probability[row], result.embedding[row] = answers["probability"][0], answers["embedding"][0]
        return result

    def close(self) -> None:
        del self._request


def _settings(threads: int) -> dict[str, str | int]:
    """float32 is asked for by name: of itself OpenVINO takes bfloat16 where the processor has it, in which running sums are wrong."""
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }


def open_bundle(bundle: Bundle, threads: int) -> OpenVinoEngine:
    """What `open_engine` calls."""
    return OpenVinoEngine(bundle, threads)
