"""Embeddings and the words for each class in; the probabilities that a bundle gives them, beside the labels, out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from kernels.bundle import Bundle
from kernels.export import Calibration, Head
from kernels.findings import Finding
from kernels.language import LanguageModel, embed_prompts
from kernels.signal import Samples

from .datasets import Task
from .embed import Embedded, Seen
from .metrics import Bools, Floats

FINDINGS = "findings"
"""The task of the bundle's own findings."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What was said of every class of a task, and what is true."""

    task: str
    leads: str
    classes: tuple[str, ...]
    probability: Floats
    """[recordings, classes]"""
    labels: Bools
    patients: Sequence[str]
    unlabelled: tuple[str, ...] = ()
    """Findings of which the dataset says nothing; they have no column."""
    unobservable: tuple[str, ...] = ()
    """Findings that the leads of most recordings cannot show; they have no column."""


@dataclass(frozen=True, slots=True)
class Question:
    """A task with its words embedded."""

    task: Task
    text: Samples
    """[ways of all labels, text_dim]"""


def ask(tasks: Sequence[Task], bundle: Bundle) -> list[Question]:
    """Embed the ways of every label, put as the bundle's recipe puts a class (`class_prompt`)."""
    template = bundle.card.training.get("recipe", {}).get("class_prompt", "{text}")
    language = LanguageModel(bundle.card.text_encoder)
    return [Question(task, embed_prompts(language, put(task, template))) for task in tasks]


def put(task: Task, template: str) -> list[list[str]]:
    """The prompts of each way of each label, put as a recipe puts a class."""
    return [[template.format(text=text) for text in way] for label in task.labels for way in label.ways]


def answer(question: Question, head: Head, pooled: Calibration, embedded: Embedded) -> Answers:
    """Zero-shot probabilities by the labels' own words, of each way by the pooled calibration, joined by noisy-or."""
    task = question.task
    absent = 1 - expit(pooled[0] * logits(head, embedded.windows(), question.text) + pooled[1])
    ends = np.cumsum([len(label.ways) for label in task.labels])
    any_way = np.stack([1 - part.prod(axis=1) for part in np.split(absent, ends[:-1], axis=1)], axis=1)
    names = tuple(label.name for label in task.labels)
    return Answers(task.name, embedded.leads, names, embedded.by_recording(any_way), task_labels(task, embedded), embedded.patients)


def logits(head: Head, embedding: Samples, text: Samples) -> Floats:
    """Uncalibrated logits [n, texts]: the same arithmetic as the graph's head."""
    projected = text @ head.text_weight.T + head.text_bias
    unit = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    return (head.scale * (embedding @ unit.T) + head.bias).astype(np.float64)


def task_labels(task: Task, embedded: Embedded) -> Bools:
    """[recordings, labels]"""
    return np.array([[not label.codes.isdisjoint(r.codes) for label in task.labels] for r in embedded.recordings])


def finding_probability(head: Head, embedded: Embedded) -> Floats:
    """The bundle's own calibrated output [recordings, findings], the mean over windows."""
    return embedded.by_recording(expit(head.slope * logits(head, embedded.windows(), head.text) + head.offset))


def observable(findings: Sequence[Finding], embedded: Embedded) -> Bools:
    """[recordings, findings]: whether the leads that a recording shows can show a finding at all."""
    return np.array([[f.observable(r.present) for f in findings] for r in embedded.recordings])


def finding_labels(findings: Sequence[Finding], recordings: Sequence[Seen], concepts: Mapping[str, str]) -> Bools:
    """[recordings, findings]: whether a concept of a recording's codes is among a finding's SCP codes, or its SNOMED code itself."""
    said = [{concepts[code] for code in r.codes if code in concepts} for r in recordings]
    return np.array([[_shows(f, s, r.codes) for f in findings] for s, r in zip(said, recordings, strict=True)])


def _shows(finding: Finding, said: Collection[str], codes: Collection[str]) -> bool:
    return not set(finding.scp).isdisjoint(said) or bool(finding.snomed and finding.snomed in codes)


def answer_findings(bundle: Bundle, head: Head, embedded: Embedded, concepts: Mapping[str, str]) -> Answers:
    """The bundle's findings, those that have no label or cannot be seen listed apart."""
    findings = bundle.card.findings
    labels = finding_labels(findings, embedded.recordings, concepts)
    codes = {code for r in embedded.recordings for code in r.codes} | set(concepts)
    labelled = np.array([_shows(f, frozenset(concepts.values()), codes) for f in findings])
    seen = observable(findings, embedded).mean(axis=0) > 0.5
    scored = labelled & seen
    return Answers(
        FINDINGS, embedded.leads, _names(findings, scored), finding_probability(head, embedded)[:, scored], labels[:, scored],
        embedded.patients, unlabelled=_names(findings, ~labelled), unobservable=_names(findings, ~seen),
    )  # fmt: skip


def _names(findings: Sequence[Finding], which: Bools) -> tuple[str, ...]:
    return tuple(f.name for f, w in zip(findings, which, strict=True) if w)
