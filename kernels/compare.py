"""Two engines and windows in; the worst difference between what they answer out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .bundle import Bundle, golden_windows
from .engine import Result, open_engine
from .signal import Samples


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest absolute differences over all windows."""

    probability: float
    embedding: float
    golden: float
    """Of the engine's answer to the golden windows from the one the exporter wrote down."""
    windows: int

    @property
    def worst(self) -> float:
        return max(self.probability, self.embedding, self.golden)


def compare(bundle: Bundle, engine: str, ecg: Samples) -> Difference:
    """Run `ecg` [n, 12, samples] and the golden windows through this engine and the reference."""
    golden = golden_windows(bundle.card.samples)
    ecg = np.concatenate([golden, ecg])
    ours, theirs = _run(bundle, engine, ecg), _run(bundle, "reference", ecg)
    return Difference(
        probability=_worst(ours.probability, theirs.probability),
        embedding=_worst(ours.embedding, theirs.embedding),
        golden=_worst(ours.probability[: len(golden)], np.array(bundle.card.golden, np.float32)),
        windows=len(ecg),
    )


def _run(bundle: Bundle, engine: str, ecg: Samples) -> Result:
    with open_engine(bundle, engine) as running:
        return running.run(ecg)


def _worst(a: Samples, b: Samples) -> float:
    return float(np.abs(a - b).max())
