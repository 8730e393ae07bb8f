"""Streams in the steps of their next samples, or whole windows, in; probabilities out, by ONNX Runtime on the CPU."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from .bundle import Bundle, BundleError, golden_windows
from .engine import Result, StreamEngine, check_shape
from .engine_onnx import TOGETHER, open_session
from .signal import LEADS, Samples

_OUTPUTS = ["probability", "embedding", "next_state"]

_TRIAL = (2, 3, 17)
"""Sizes of a batch: those about which matrix products are cut differently, if at all."""


class OnnxStreamEngine(StreamEngine):
    """A bundle that takes streams, in ONNX Runtime. A window is a stream of which it is all that was seen.

    Streams share a call where a trial before the first such call shows that this changes no bit on this processor;
    elsewhere they go one by one.
    """

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        assert bundle.card.stride is not None
        self.bundle, self.stride = bundle, bundle.card.stride
        self._steps = range(self.stride, bundle.card.samples + self.stride, self.stride)
        self._session = open_session(bundle, threads)
        shapes = {output.name: output.shape for output in self._session.get_outputs()}
        self._widths = [shapes[name][1] for name in _OUTPUTS]
        self._blank: Samples = np.zeros(self._session.get_inputs()[1].shape[1], np.float32)

    def begin(self) -> Samples:
        return self._blank.copy()

    def step(self, ecg: Samples, states: Samples) -> tuple[Result, Samples]:
        if ecg.ndim != 3 or ecg.shape[1] != len(LEADS) or ecg.shape[2] not in self._steps:
            allowed = f"a multiple of {self.stride} up to {self._steps[-1]}"
            raise BundleError(f"this bundle takes steps of shape (batch, {len(LEADS)}, {allowed}), not {ecg.shape}")
        if states.shape != (len(ecg), len(self._blank)):
            raise BundleError(f"{len(ecg)} streams have states of shape {(len(ecg), len(self._blank))}, not {states.shape}")
        call = self._call if len(ecg) == 1 or self._may_share else self._call_apart
        answers = call(ecg.astype(np.float32, copy=False), states.astype(np.float32, copy=False)) if len(ecg) else self._empty(0)
        return Result(*answers[:2]), answers[2]

    def run(self, ecg: Samples) -> Result:
        check_shape(self.bundle, ecg)
        whole = ecg.shape[2] // self.stride * self.stride
        result = Result(*self._empty(len(ecg))[:2])
        for start in range(0, len(ecg), TOGETHER):
            rows = slice(start, start + TOGETHER)
            part = ecg[rows, :, :whole]
            found, _ = self.step(part, np.tile(self._blank, (len(part), 1)))
            result.probability[rows], result.embedding[rows] = found.probability, found.embedding
        return result

    def close(self) -> None:
        del self._session

    def _empty(self, count: int) -> list[Samples]:
        return [np.empty((count, width), np.float32) for width in self._widths]

    def _call(self, ecg: Samples, states: Samples) -> list[Samples]:
        answers: list[Samples] = self._session.run(_OUTPUTS, {"ecg": ecg, "state": states})
        return answers

    def _call_apart(self, ecg: Samples, states: Samples) -> list[Samples]:
        answers = [self._call(x[None], state[None]) for x, state in zip(ecg, states, strict=True)]
        return [np.concatenate(rows) for rows in zip(*answers, strict=True)]

    @cached_property
    def _may_share(self) -> bool:
        return all(self._is_indifferent_to(size) for size in _TRIAL)

    def _is_indifferent_to(self, size: int) -> bool:
        """Whether so many streams in one call get the bits that each gets alone, at their beginning and later."""
        golden = golden_windows(self.bundle.card.samples)
        ecg = np.stack([np.roll(golden[i % len(golden)], 37 * i, axis=1) for i in range(size)])
        states = np.tile(self._blank, (size, 1))
        for length in (self._steps[-2], 3 * self.stride):
            together, apart = (call(ecg[:, :, :length], states) for call in (self._call, self._call_apart))
            if not all(np.array_equal(ours, theirs) for ours, theirs in zip(together, apart, strict=True)):
                return False
            states = together[2]
        return True


def open_bundle(bundle: Bundle, threads: int) -> OnnxStreamEngine:
    """What `open_engine` calls."""
    return OnnxStreamEngine(bundle, threads)
