"""A recording and embedded texts in; how well it agrees with each, against how well many other recordings do, out."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

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

BATCH = 32
"""Windows in one call of the engine."""

RARE_SHARE = 0.01
MOST_LEAD_SETS = 16
"""Windows are left out whose leads no larger share of the windows has, or so many other combinations more windows.

Each combination costs the engine a whole reference, so that noise which comes and goes in twelve leads would cost hours.
"""

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
    """Of the finding or the statement, as the bundle's card has it for the leads that most windows have."""


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


@dataclass(frozen=True, slots=True)
class Looks:
    """The windows of a recording that were compared, in order."""

    windows: tuple[Look, ...]
    left_out: int
    """Windows whose leads are too rare a combination to make a reference of."""


def look(recording: RecordingFile, engine: Engine, asked: Asked, options: Options, from_s: float | None = None) -> Looks:
    """The windows of a recording, with bad leads masked as the live monitor does; only the first from a time on, if one is given.

    Raises ConfigError where the recording is damaged, or has no window with a usable lead.
    """
    drafts = _Drafts(recording, engine, options, from_s)
    windows = [seen for batch in _batches(drafts) for seen in _scored(batch, engine, asked)]
    if not windows:
        raise ConfigError(f"{drafts.why}, so there is nothing to compare; give another recording, or other seconds of it")
    return _compare(windows, engine, asked)


class _Drafts:
    """The masked windows of a recording that are asked for; afterwards also why there were none."""

    def __init__(self, recording: RecordingFile, engine: Engine, options: Options, from_s: float | None) -> None:
        self._recording, self._options, self._from_s = recording, options, from_s
        self._engine = ByWindow(engine)
        self._window_s = engine.bundle.card.window_s
        self._end_s = 0.0
        self._fault = f"no stretch of {self._window_s:g} s without a gap"

    @property
    def why(self) -> str:
        """What was wrong with the windows that were asked for."""
        if self._from_s is None:
            return f"{self._recording.name}: {self._fault}"
        if self._from_s > self._end_s - self._window_s:
            return f"{self._recording.name} lasts only {self._end_s:g} s, and from {self._from_s:g} s on no {self._window_s:g} s are left"
        return f"{self._recording.name} from {self._from_s:g} s on: {self._fault}"

    def __iter__(self) -> Iterator[Draft]:
        for draft in self._all():
            if self._from_s is not None and draft.scores.at_s - self._window_s < self._from_s - 1e-6:
                continue
            self._fault = draft.scores.abstained or self._fault
            if draft.job:
                yield draft
            if self._from_s is not None:
                return

    def _all(self) -> Iterator[Draft]:
        play = Play(self._recording, self._recording.chunks(), self._engine, self._options)
        while step := play.next():
            if step.chunk:
                self._end_s = step.chunk.end / step.chunk.rate_hz
            yield from (item for item, _ in step.pending.known if isinstance(item, Draft))


def _batches(drafts: Iterable[Draft]) -> Iterator[list[Draft]]:
    waiting = iter(drafts)
    while batch := list(islice(waiting, BATCH)):
        yield batch


def _scored(batch: Sequence[Draft], engine: Engine, asked: Asked) -> Iterator[Look]:
    """Not compared yet."""
    result = engine.run(np.stack([draft.job.ecg for draft in batch if draft.job]))
    similarity = cosine(result.embedding, asked)
    for draft, similar, probability in zip(batch, similarity, result.probability, strict=True):
        yield Look(draft.scores.at_s, draft.present, similar, np.full_like(similar, np.nan), probability)


def _compare(windows: Sequence[Look], engine: Engine, asked: Asked) -> Looks:
    baseline, enough = Baseline(engine, asked), _frequent(windows)
    compared = [replace(seen, percentile=baseline.percentile(seen.similarity, seen.leads)) for seen in windows if seen.leads in enough]
    return Looks(tuple(compared), len(windows) - len(compared))


def _frequent(windows: Sequence[Look]) -> set[Leads]:
    """The combinations of leads that are compared; the most frequent is always one."""
    most, *others = Counter(seen.leads for seen in windows).most_common(MOST_LEAD_SETS)
    return {most[0], *(leads for leads, n in others if n > RARE_SHARE * len(windows))}


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
        measured_auroc(card, known, usual_leads(looks)),
    )


def usual_leads(looks: Iterable[Look]) -> Leads:
    """Those that most windows have."""
    return Counter(seen.leads for seen in looks).most_common(1)[0][0]


def _probabilities(looks: Iterable[Look], finding: Finding | None, card: Card) -> list[float]:
    if finding is None:
        return []
    column = card.findings.index(finding)
    return [float(seen.probability[column]) for seen in looks if finding.observable(seen.leads)]
