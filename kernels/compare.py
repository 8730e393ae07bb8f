"""Two engines, or the same model in two forms, and windows in; the differences between what they answer out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .bundle import Bundle, golden_windows
from .engine import Result, open_engine
from .findings import ConfigError
from .gate import Labels, Verdict, judge
from .signal import Samples


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest absolute differences over all windows, and the answers themselves."""

    probability: float
    embedding: float
    golden: float
    """Of the engine's answer to the golden windows from the one that stands in the bundle."""
    candidate: Samples
    """[windows, findings]: probabilities, those of the golden windows first."""
    reference: Samples
    given: int
    """Windows beside the golden ones."""

    @property
    def windows(self) -> int:
        """How many were compared."""
        return len(self.candidate)

    @property
    def worst(self) -> float:
        return float(np.max([self.probability, self.embedding, self.golden]))  # NaN stays NaN


def compare(bundle: Bundle, engine: str, ecg: Samples, with_engine: str = "reference", with_bundle: Bundle | None = None) -> Difference:
    """Run the golden windows and `ecg` [n, 12, samples] through this engine and another one.

    `with_bundle` is another form of the same model, the bundle itself by default. Raises ConfigError where its
    findings or the shape of its windows differ.
    """
    other = with_bundle or bundle
    _check_alike(bundle, other)
    golden = golden_windows(bundle.card.samples)
    ecg = np.concatenate([golden, ecg])
    ours, theirs = _run(bundle, engine, ecg), _run(other, with_engine, ecg)
    return Difference(
        probability=_worst(ours.probability, theirs.probability),
        embedding=_worst(ours.embedding, theirs.embedding),
        golden=_worst(ours.probability[: len(golden)], np.array(bundle.card.golden, np.float32)),
        candidate=ours.probability,
        reference=theirs.probability,
        given=len(ecg) - len(golden),
    )


def verdict_on(bundle: Bundle, difference: Difference, labels: Labels | None = None) -> Verdict:
    """On the windows that were given, by their labels [n, findings] where there are any; without windows, on the golden ones."""
    findings = bundle.card.findings
    judged = slice(difference.windows - difference.given if difference.given else 0, None)
    names, raise_at = [f.name for f in findings], [f.raise_at for f in findings]
    return judge(names, difference.reference[judged], difference.candidate[judged], labels, raise_at)


def _check_alike(bundle: Bundle, other: Bundle) -> None:
    ours, theirs = ([f.name for f in b.card.findings] for b in (bundle, other))
    if ours != theirs:
        raise ConfigError("the two bundles have different findings; compare bundles that were made from one another")
    if bundle.card.samples != other.card.samples or bundle.card.rate_hz != other.card.rate_hz:
        raise ConfigError("the two bundles take windows of different length or rate; compare bundles that were made from one another")


def _run(bundle: Bundle, engine: str, ecg: Samples) -> Result:
    with open_engine(bundle, engine) as running:
        return running.run(ecg)


def _worst(a: Samples, b: Samples) -> float:
    return float(np.abs(a - b).max()) if a.shape == b.shape else float("inf")
