"""A bundle and a dataset in; zero-shot figures by task, with intervals, out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from kernels.bundle import Bundle
from kernels.engine import Result, open_engine
from kernels.export import Head, read_head
from kernels.findings import ConfigError, Finding
from kernels.language import LanguageModel, embed_prompts

from .batches import keep_leads, windows
from .metrics import FEWEST_POSITIVES, Bools, Floats, auroc, expected_calibration_error, macro_auroc
from .records import Recording, read_ptb_xl, read_statements
from .text import read_prompts

SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
TASKS = ("diagnostic", "form", "rhythm")
DATASETS = ("ptb-xl",)


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
        return asdict(self)


def read_fold(dataset: str, root: Path, folds: Sequence[int]) -> list[Recording]:
    """The raw-mV recordings of these folds. Raises ConfigError for an unknown dataset or one without them."""
    if dataset not in DATASETS:
        raise ConfigError(f"unknown dataset {dataset!r}; allowed are {', '.join(DATASETS)}")
    recordings = [r for r in read_ptb_xl(root, folds) if r.amplitude_known]
    if not recordings:
        raise ConfigError(f"{root} holds no recording in mV of fold {', '.join(map(str, folds))}; give another --folds")
    return recordings


def run_bundle(bundle: Bundle, recordings: Sequence[Recording], leads: Sequence[str] = ()) -> Result:
    """What the bundle itself says of the first window of each recording, as a device with these leads would show it."""
    ecg = windows(recordings, bundle.card.rate_hz, bundle.card.window_s)
    if leads:
        ecg = keep_leads(ecg, leads)
    with open_engine(bundle, threads=torch.get_num_threads()) as engine:
        return engine.run(ecg.numpy())


def evaluate(bundle: Bundle, root: Path, recordings: Sequence[Recording], leads: Sequence[str] = ()) -> list[Row]:
    """Macro AUROC of superclasses and of each kind of statement by their prompts, and how the shipped findings fare."""
    result = run_bundle(bundle, recordings, leads)
    statements = read_statements(root)
    codes = [code for code in statements if code in read_prompts()]
    probability = score_codes(bundle, result, codes)
    labels = np.array([[code in r.codes for code in codes] for r in recordings])
    shown = ",".join(leads) or "all"
    rows = [_superclass_row(statements, codes, probability, labels, shown)]
    for task in TASKS:
        chosen = [i for i, code in enumerate(codes) if statements[code][task]]
        rows.append(_row(task, [codes[i] for i in chosen], probability[:, chosen], labels[:, chosen], shown))
    return rows + _finding_rows(bundle, recordings, result.probability.astype(np.float64), shown)


def score_codes(bundle: Bundle, result: Result, codes: Sequence[str]) -> Floats:
    """Zero-shot probabilities [n, codes] of SCP codes by their prompts, from the embeddings and the bundle's own head."""
    head = read_head(onnx.load_model_from_string(bundle.onnx))
    prompts = read_prompts()
    text = embed_prompts(LanguageModel(bundle.card.text_encoder), [prompts[code] for code in codes])
    return match(head, result.embedding, text)


def match(head: Head, embedding: np.ndarray, text: np.ndarray) -> Floats:
    """Uncalibrated probabilities [n, texts]: the same arithmetic as the graph's head."""
    projected = text @ head.text_weight.T + head.text_bias
    unit = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    logit = head.scale * (embedding @ unit.T) + head.bias
    probability: Floats = 1 / (1 + np.exp(-logit.astype(np.float64)))
    return probability


def finding_labels(findings: Sequence[Finding], recordings: Sequence[Recording]) -> Bools:
    """[n, findings]: whether a recording carries one of the SCP codes of a finding."""
    return np.array([[not set(f.scp).isdisjoint(r.codes) for f in findings] for r in recordings])


def _superclass_row(statements: dict[str, dict[str, str]], codes: Sequence[str], probability: Floats, labels: Bools, leads: str) -> Row:
    """A superclass is there if any of its statements is: the noisy-or of their probabilities."""
    members = [[i for i, code in enumerate(codes) if statements[code]["diagnostic_class"] == name] for name in SUPERCLASSES]
    any_of = np.stack([1 - np.prod(1 - probability[:, m], axis=1) for m in members], axis=1)
    truth = np.stack([labels[:, m].any(axis=1) for m in members], axis=1)
    return _row("superclass", SUPERCLASSES, any_of, truth, leads)


def _row(task: str, classes: Sequence[str], probability: Floats, labels: Bools, leads: str) -> Row:
    area = auroc(probability, labels)
    interval = macro_auroc(probability, labels)
    positives = labels.sum(axis=0)
    per_class = {name: round(float(a), 4) for name, a, p in zip(classes, area, positives, strict=True) if p}
    too_few = tuple(name for name, p in zip(classes, positives, strict=True) if 0 < p < FEWEST_POSITIVES)
    return Row(task, "auroc_macro", **asdict(interval), n=len(labels), leads=leads, per_class=per_class, too_few=too_few)


def _finding_rows(bundle: Bundle, recordings: Sequence[Recording], probability: Floats, leads: str) -> list[Row]:
    findings = bundle.card.findings
    labels = finding_labels(findings, recordings)
    names = [f.name for f in findings]
    ece = {n: expected_calibration_error(probability[:, i], labels[:, i]) for i, n in enumerate(names)}
    mean = float(np.mean(list(ece.values())))
    calibration = Row("findings", "ece", mean, min(ece.values()), max(ece.values()), len(labels), leads, ece)
    return [_row("findings", names, probability, labels, leads), calibration]
