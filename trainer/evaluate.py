"""A bundle and a dataset in; zero-shot figures by task, with intervals, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from kernels.bundle import Bundle
from kernels.engine import open_engine
from kernels.export import Head, head_of
from kernels.findings import ConfigError, Finding
from kernels.language import LanguageModel, embed_prompts
from kernels.signal import Samples, resample

from .batches import keep_leads
from .datasets import Task, dataset
from .metrics import FEWEST_POSITIVES, Bools, Floats, auroc, expected_calibration_error, macro_auroc, mean_calibration_error
from .records import Recording

HOP_SHARE = 0.5
"""Recordings longer than a window are scored in windows that overlap by this share, and their scores averaged."""


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of the table."""

    task: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    """Recordings."""
    leads: str
    per_class: dict[str, float]
    too_few: tuple[str, ...] = ()
    """Classes with fewer than `FEWEST_POSITIVES` positives: in `per_class`, not in `value`."""

    def as_json(self) -> dict[str, object]:
        """For the file that `--json` writes; null where too few recordings give no figure."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Scored:
    """What a bundle says of recordings, window by window."""

    embedding: Samples
    """[windows, d]"""
    probability: Samples
    """[windows, findings]"""
    starts: tuple[int, ...]
    """The first window of each recording."""

    def by_recording(self, probability: Floats) -> Floats:
        """The mean over the windows of each recording, [windows, classes] -> [recordings, classes]."""
        ends = np.append(self.starts[1:], len(probability))
        sums: Floats = np.add.reduceat(probability, self.starts, axis=0)
        return sums / (ends - np.array(self.starts))[:, None]


def read_recordings(name: str, root: Path, folds: Sequence[int]) -> list[Recording]:
    """The recordings of these folds whose amplitude is known. Raises ConfigError where there are none."""
    recordings = [r for r in dataset(name).read(root, folds) if r.amplitude_known]
    if not recordings:
        raise ConfigError(f"{root} holds no recording in mV of fold {', '.join(map(str, folds))}; give another --folds")
    return recordings


def run_bundle(bundle: Bundle, recordings: Sequence[Recording], leads: Sequence[str] = ()) -> Scored:
    """What the bundle itself says of each recording, as a device with these leads would show it."""
    cut = [_windows(r, bundle.card.rate_hz, bundle.card.samples) for r in recordings]
    ecg = np.concatenate(cut)
    if leads:
        ecg = keep_leads(torch.from_numpy(ecg), leads).numpy()
    with open_engine(bundle, threads=torch.get_num_threads()) as engine:
        result = engine.run(ecg)
    starts = np.cumsum([0] + [len(windows) for windows in cut[:-1]])
    return Scored(result.embedding, result.probability, tuple(starts.tolist()))


def _windows(recording: Recording, rate_hz: float, samples: int) -> Samples:
    """[windows, 12, samples]; a recording shorter than one window ends in NaN."""
    ecg = resample(recording.samples_mv, recording.rate_hz, rate_hz)
    ecg = np.pad(ecg, ((0, 0), (0, max(samples - ecg.shape[1], 0))), constant_values=np.nan)
    starts = range(0, ecg.shape[1] - samples + 1, round(samples * HOP_SHARE))
    return np.stack([ecg[:, start : start + samples] for start in starts])


def evaluate(bundle: Bundle, name: str, root: Path, recordings: Sequence[Recording], leads: Sequence[str] = ()) -> list[Row]:
    """Macro AUROC of each task of the dataset by its prompts, and of the bundle's own findings where the labels are SCP codes."""
    scored = run_bundle(bundle, recordings, leads)
    shown = ",".join(leads) or "all"
    tasks = dataset(name).tasks(root)
    head, language = head_of(bundle), LanguageModel(bundle.card.text_encoder)
    rows = [_task_row(task, score_task(head, language, scored, task), recordings, shown) for task in tasks]
    return rows + (_finding_rows(bundle, recordings, scored, shown) if dataset(name).scp_codes else [])


def score_task(head: Head, language: LanguageModel, scored: Scored, task: Task) -> Floats:
    """Zero-shot probabilities [recordings, labels] from the embeddings and the bundle's own head, by the labels' prompts."""
    ways = [prompts for label in task.labels for prompts in label.ways]
    text = embed_prompts(language, ways)
    absent = 1 - match(head, scored.embedding, text)
    ends = np.cumsum([len(label.ways) for label in task.labels])
    any_way = [1 - part.prod(axis=1) for part in np.split(absent, ends[:-1], axis=1)]
    return scored.by_recording(np.stack(any_way, axis=1))


def match(head: Head, embedding: Samples, text: Samples) -> Floats:
    """Uncalibrated probabilities [n, texts]: the same arithmetic as the graph's head."""
    projected = text @ head.text_weight.T + head.text_bias
    unit = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    logit = head.scale * (embedding @ unit.T) + head.bias
    probability: Floats = 1 / (1 + np.exp(-logit.astype(np.float64)))
    return probability


def finding_labels(findings: Sequence[Finding], recordings: Sequence[Recording]) -> Bools:
    """[n, findings]: whether a recording carries one of the SCP codes of a finding."""
    return np.array([[not set(f.scp).isdisjoint(r.codes) for f in findings] for r in recordings])


def _task_row(task: Task, probability: Floats, recordings: Sequence[Recording], leads: str) -> Row:
    labels = np.array([[not label.codes.isdisjoint(r.codes) for label in task.labels] for r in recordings])
    return _row(task.name, [label.name for label in task.labels], probability, labels, recordings, leads)


def _row(task: str, classes: Sequence[str], probability: Floats, labels: Bools, recordings: Sequence[Recording], leads: str) -> Row:
    area = auroc(probability, labels)
    interval = macro_auroc(probability, labels, [r.patient for r in recordings])
    positives = labels.sum(axis=0)
    per_class = {name: round(float(a), 4) for name, a, p in zip(classes, area, positives, strict=True) if 0 < p < len(labels)}
    too_few = tuple(name for name, p in zip(classes, positives, strict=True) if 0 < p < FEWEST_POSITIVES)
    return Row(task, "auroc_macro", **asdict(interval), n=len(labels), leads=leads, per_class=per_class, too_few=too_few)


def _finding_rows(bundle: Bundle, recordings: Sequence[Recording], scored: Scored, leads: str) -> list[Row]:
    """AUROC and calibration error of the bundle's own findings."""
    findings = bundle.card.findings
    labels = finding_labels(findings, recordings)
    probability = scored.by_recording(scored.probability.astype(np.float64))
    names = [f.name for f in findings]
    ece = {n: round(expected_calibration_error(probability[:, i], labels[:, i]), 4) for i, n in enumerate(names)}
    mean = mean_calibration_error(probability, labels, [r.patient for r in recordings])
    calibration = Row("findings", "ece", **asdict(mean), n=len(labels), leads=leads, per_class=ece)
    return [_row("findings", names, probability, labels, recordings, leads), calibration]
