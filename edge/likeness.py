"""A recording and embedded texts in; how well it agrees with each, against how well many other recordings do, out."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kernels.bundle import Card
from kernels.engine import Engine, Result
from kernels.findings import ConfigError, Finding
from kernels.reference import Reference
from kernels.signal import Samples

from .formats.recording import RecordingFile
from .pipeline import Options
from .play import Play
from .score import Draft
from .wording import Known, measured_auroc

STRIKING = 95.0
"""A percentile that one recording in twenty reaches by chance."""

Floats = npt.NDArray[np.float64]
Leads = frozenset[str]


@dataclass(frozen=True, slots=True)
class Asked:
    """What texts are compared with."""

    texts: tuple[str, ...]
    embedded: Samples
    """[texts, d] of unit norm, where windows are embedded."""
    reference: Reference


@dataclass(frozen=True, slots=True)
class Look:
    """One window of the recording."""

    at_s: float
    """Stream time of its end."""
    leads: Leads
    similarity: Floats
    """[texts]: cosines."""
    percentile: Floats
    """[texts]: of the reference, how many in a hundred are less similar."""
    probability: Samples
    """[findings of the bundle], calibrated."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How well a recording agrees with one text."""

    text: str
    percentile: float
    """The median over the windows."""
    highest: float
    highest_at_s: float
    """Where that window ends."""
    striking: float
    """Share of windows at `STRIKING` or above."""
    known: Known
    probability: float | None
    """The median of the bundle's own finding, over the windows whose leads can show it; None where it knows none, or no lead can."""
    highest_probability: float | None
    auroc: float | None
    """Of the finding or the statement, as the bundle's card has it."""


class ByWindow(Engine):
    """An engine that sees each window by itself, also of a bundle that takes streams."""

    def __init__(self, engine: Engine) -> None:
        self.bundle = engine.bundle
        self._engine = engine

    def run(self, ecg: Samples) -> Result:
        return self._engine.run(ecg)

    def close(self) -> None:
        self._engine.close()


class Baseline:
    """How similar the recordings of a reference are to each text, when seen in the same leads as a window."""

    def __init__(self, engine: Engine, asked: Asked) -> None:
        self._engine, self._asked = engine, asked
        self._similarity: dict[Leads, Floats] = {}

    def percentile(self, similarity: Floats, leads: Leads) -> Floats:
        """[texts] -> [texts]"""
        if leads not in self._similarity:
            embedding = self._engine.run(self._asked.reference.seen_in(leads)).embedding
            self._similarity[leads] = cosine(embedding, self._asked)
        return percentile_of(similarity, self._similarity[leads])


def percentile_of(values: Floats, others: Floats) -> Floats:
    """Of each value [k] among others [n, k]: how many in a hundred lie below it, of its equals half."""
    return 50.0 * ((others < values).mean(axis=0) + (others <= values).mean(axis=0))


def cosine(embedding: Samples, asked: Asked) -> Floats:
    """[windows, d] -> [windows, texts]"""
    similar: Floats = (embedding @ asked.embedded.T).astype(np.float64)
    return similar


def look(recording: RecordingFile, engine: Engine, asked: Asked, options: Options, from_s: float | None = None) -> Iterator[Look]:
    """The windows of a recording, with bad leads masked as the live monitor does; only the first from a time on, if one is given.

    Raises ConfigError where the recording is damaged, or has no window with a usable lead.
    """
    baseline, window_s = Baseline(engine, asked), engine.bundle.card.window_s
    why, found = f"no stretch of {window_s:g} s without a gap", False
    for draft in _drafts(recording, ByWindow(engine), options):
        if from_s is not None and draft.scores.at_s - window_s < from_s - 1e-6:
            continue
        if draft.job:
            found = True
            yield _look(draft, draft.job.ecg, engine, asked, baseline)
        why = draft.scores.abstained or why
        if from_s is not None:
            break
    if not found:
        where = "" if from_s is None else f" from {from_s:g} s on"
        raise ConfigError(f"{recording.name}{where}: {why}, so there is nothing to compare; give another recording, or other seconds of it")


def _drafts(recording: RecordingFile, engine: Engine, options: Options) -> Iterator[Draft]:
    play = Play(recording, recording.chunks(), engine, options)
    while step := play.next():
        yield from (item for item, _ in step.pending.known if isinstance(item, Draft))


def _look(draft: Draft, ecg: Samples, engine: Engine, asked: Asked, baseline: Baseline) -> Look:
    result = engine.run(ecg[None])
    similarity = cosine(result.embedding, asked)[0]
    return Look(draft.scores.at_s, draft.present, similarity, baseline.percentile(similarity, draft.present), result.probability[0])


def answers(looks: Sequence[Look], asked: Asked, known: Sequence[Known], card: Card) -> list[Answer]:
    """One a text, in their order."""
    return [_answer(looks, i, text, k, card) for i, (text, k) in enumerate(zip(asked.texts, known, strict=True))]


def _answer(looks: Sequence[Look], column: int, text: str, known: Known, card: Card) -> Answer:
    percentiles = [float(seen.percentile[column]) for seen in looks]
    top = int(np.argmax(percentiles))
    told = _probabilities(looks, known.finding, card)
    return Answer(
        text,
        statistics.median(percentiles),
        percentiles[top],
        looks[top].at_s,
        sum(p >= STRIKING for p in percentiles) / len(percentiles),
        known,
        statistics.median(told) if told else None,
        max(told, default=None),
        measured_auroc(card, known),
    )


def _probabilities(looks: Iterable[Look], finding: Finding | None, card: Card) -> list[float]:
    if finding is None:
        return []
    column = card.findings.index(finding)
    return [float(seen.probability[column]) for seen in looks if finding.observable(seen.leads)]
