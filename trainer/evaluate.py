"""A bundle and a dataset in; what it says of every recording, and the rows of figures with intervals, out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from kernels.bundle import Bundle
from kernels.engine import Engine, StreamEngine, open_engine
from kernels.export import Head, head_of
from kernels.findings import ConfigError
from kernels.signal import Samples

from .datasets import Task
from .embed import Embedded, Past, View, embed
from .metrics import draw_patients
from .options import parse_folds
from .probe import BUDGETS, Budget, Split, probe_rows, random_encoder, training_folds
from .rows import Row, rows_of
from .source import Source
from .zero_shot import FINDINGS, Answers, Question, answer, answer_findings, ask

ZERO_SHOT = "zero-shot"
CALIBRATED = frozenset({"ece", "brier"})
"""The metrics that judge a calibration."""

LeadSet = tuple[str, ...]
"""Empty for all leads."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The whole of what was measured."""

    name: str
    """Of the bundle's file."""
    bundle: Bundle
    source: Source
    embedded: tuple[Embedded, ...]
    """One a set of leads."""
    answers: tuple[Answers, ...]
    """Zero-shot: each task, then the findings, of each set of leads."""
    rows: tuple[Row, ...]
    past: bool = False
    """Whether recordings that go on from one another were seen as parts of one stream."""

    @property
    def cautions(self) -> list[str]:
        """What makes these figures better than they are."""
        learnt = sorted(set(learnt_folds(self.bundle, self.source.name)) & set(self.source.folds))
        folds = ", ".join(map(str, learnt))
        cautions = [f"CAUTION: the model was trained on fold {folds} of these recordings; give other --folds."] if learnt else []
        here = fitted_here(self.bundle, self.source)
        return cautions + (["ECE and Brier flatter: the bundle was calibrated on these very recordings."] if here else [])

    @property
    def title(self) -> str:
        """`cardiogloss c7dda513ea28 on ptb-xl, folds 9, 335 recordings`"""
        recordings = max(len(e.recordings) for e in self.embedded)
        model, data = f"{self.name} {self.bundle.card.sha256[:12]}", f"{self.source.name}, folds {self.source.told_folds}"
        return f"{model} on {data}, {recordings} recordings{', with their past' * self.past}"


def embed_bundle(bundle: Bundle, source: Source, lead_sets: Sequence[LeadSet] = ((),), past: bool = False) -> list[Embedded]:
    """The recordings as the bundle sees them, one `Embedded` a set of leads; with their `past`, as parts of a stream."""
    with open_engine(bundle, threads=torch.get_num_threads()) as engine:
        return _embed(bundle, source, [View(partial(_encode, engine), leads, _past(engine) if past else None) for leads in lead_sets])


def _past(engine: Engine) -> Past:
    if not isinstance(engine, StreamEngine):
        raise ConfigError("--past is for bundles that take streams; make one with `cardiogloss-kernels stream`")
    return Past(engine)


def _encode(engine: Engine, ecg: Samples) -> Samples:
    return engine.run(ecg).embedding


def _embed(bundle: Bundle, source: Source, views: Sequence[View]) -> list[Embedded]:
    return embed(source.read(), views, bundle.card.rate_hz, bundle.card.samples)


def of_source(embedded: Embedded, source: Source) -> Embedded:
    """The recordings of the source's folds. Raises ConfigError where there are none."""
    chosen = embedded.of_folds(source.folds)
    if not chosen.recordings:
        shown = "" if embedded.leads == "all" else f" with any of the leads {embedded.leads}"
        raise ConfigError(f"{source.root} holds no recording in mV of fold {source.told_folds}{shown}; give other --folds or --leads")
    return chosen


def answer_all(bundle: Bundle, head: Head, questions: Sequence[Question], source: Source, embedded: Embedded) -> list[Answers]:
    """Each task of the dataset by its words, and the bundle's own findings; `head` is that of the bundle."""
    tasks = [answer(question, head, bundle.card.pooled_calibration, embedded) for question in questions]
    return [*tasks, answer_findings(bundle, head, embedded, source.concepts)]


def thresholds_of(bundle: Bundle, source: Source, task: str) -> Mapping[str, float] | None:
    """Those that `calibrate` fitted for a task of this dataset, None where it did not, or did on a fold that is evaluated."""
    metrics = bundle.card.metrics
    fitted: Mapping[str, float] | None = metrics.get("thresholds", {}).get(f"{source.name}/{task}")
    if fitted is None or fitted_here(bundle, source):
        return None
    if task == FINDINGS:  # a finding that was baked in anew may bear an old name
        return {name: at for name, at in fitted.items() if name in bundle.card.calibrated}
    return fitted


def zero_shot_rows(bundle: Bundle, source: Source, answers: Sequence[Answers]) -> list[Row]:
    """All metrics of answers to the same recordings."""
    counts = draw_patients(answers[0].patients)
    calibration = "fitted here" if fitted_here(bundle, source) else "bundle"
    return [
        replace(row, calibration=calibration if row.metric in CALIBRATED else "")
        for a in answers for row in rows_of(source.name, ZERO_SHOT, [a], counts, thresholds_of(bundle, source, a.task))
    ]  # fmt: skip


def fitted_here(bundle: Bundle, source: Source) -> bool:
    """Whether the bundle was calibrated on a fold of this source."""
    metrics = bundle.card.metrics
    same = metrics.get("dataset") == source.name
    return same and not set(parse_folds(metrics["folds"])).isdisjoint(source.folds)


def learnt_folds(bundle: Bundle, name: str) -> tuple[int, ...]:
    """The folds of a dataset that the model was trained on."""
    sources: Mapping[str, Sequence[int]] = bundle.card.training.get("sources", {})
    return tuple(sources.get(name, ()))


def evaluate(
    bundle: Bundle,
    source: Source,
    lead_sets: Sequence[LeadSet] = ((),),
    probe: bool = False,
    name: str = "cardiogloss",
    past: bool = False,
) -> Evaluation:
    """Every task of the dataset and the bundle's findings under each set of leads, and linear probes where asked for.

    Of a recording nothing is kept but its codes and embeddings. Raises ConfigError where there is nothing to evaluate.
    """
    tasks = source.tasks
    questions = ask(tasks, bundle)
    taught = training_folds(source.name, source.folds) if probe else ()
    everything = replace(source, folds=(*taught, *source.folds))
    read = embed_bundle(bundle, everything, lead_sets, past)
    evaluated = [of_source(embedded, source) for embedded in read]
    head = head_of(bundle)
    answers = [answer_all(bundle, head, questions, source, embedded) for embedded in evaluated]
    rows = [row for of_leads in answers for row in zero_shot_rows(bundle, source, of_leads)]
    if probe:
        rows += _probes(source, tasks, [Split.of(e, taught, source.folds) for e in read])
        random = _embed_at_random(bundle, everything, lead_sets)
        rows += _probes(source, tasks, [Split.of(e, taught, source.folds) for e in random], BUDGETS[-1:], ", random encoder")
    return Evaluation(name, bundle, source, tuple(evaluated), tuple(a for of_leads in answers for a in of_leads), tuple(rows), past)


def _probes(
    source: Source, tasks: Sequence[Task], splits: Sequence[Split], budgets: Sequence[Budget] = BUDGETS, suffix: str = ""
) -> list[Row]:
    return [row for split in splits for row in probe_rows(source.name, tasks, split, budgets, suffix)]


def _embed_at_random(bundle: Bundle, source: Source, lead_sets: Sequence[LeadSet]) -> list[Embedded]:
    encode = random_encoder(bundle.card.training.get("recipe", {}))
    return _embed(bundle, source, [View(encode, leads) for leads in lead_sets])
