"""The name of a dataset in; its reader, and what each of its labels is called in words, out."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import wfdb

from kernels.findings import ConfigError
from kernels.signal import standard_lead, to_standard_leads

from .records import Recording, read_ptb_xl, read_statements
from .text import read_prompts

SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")


@dataclass(frozen=True, slots=True)
class Label:
    """A class of a task: which codes mean it, and how to say it."""

    name: str
    codes: frozenset[str]
    ways: tuple[tuple[str, ...], ...]
    """Prompts that are averaged, for each thing that is enough to mean the class (joined by noisy-or)."""


@dataclass(frozen=True, slots=True)
class Task:
    """Labels that are evaluated together."""

    name: str
    labels: tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    """How to read a dataset and what to ask of it."""

    read: Callable[[Path, Sequence[int]], Iterator[Recording]]
    tasks: Callable[[Path], list[Task]]
    scp_codes: bool = False
    """Whether its codes are those that findings name."""


def dataset(name: str) -> Dataset:
    """Raises ConfigError for an unknown name."""
    if name not in DATASETS:
        raise ConfigError(f"unknown dataset {name!r}; allowed are {', '.join(DATASETS)}")
    return DATASETS[name]


def _ptb_xl_tasks(root: Path) -> list[Task]:
    """Superclasses, and every diagnostic, form and rhythm statement by its SCP code."""
    statements, prompts = read_statements(root), read_prompts()
    codes = [code for code in statements if code in prompts]
    tasks = [Task("superclass", tuple(_superclass(name, codes, statements, prompts) for name in SUPERCLASSES))]
    for kind in ("diagnostic", "form", "rhythm"):
        labels = (Label(code, frozenset([code]), (prompts[code],)) for code in codes if statements[code][kind])
        tasks.append(Task(kind, tuple(labels)))
    return tasks


def _superclass(name: str, codes: Sequence[str], statements: dict[str, dict[str, str]], prompts: dict[str, tuple[str, ...]]) -> Label:
    members = [code for code in codes if statements[code]["diagnostic_class"] == name]
    return Label(name, frozenset(members), tuple(prompts[code] for code in members))


def _read_cinc2017(root: Path, folds: Sequence[int]) -> Iterator[Recording]:
    """Single-lead strips (PhysioNet/CinC Challenge 2017): N normal, A fibrillation, O other, ~ noise. It has no folds."""
    reference = root / "REFERENCE.csv"
    if not reference.is_file():
        raise ConfigError(f"{root} holds no {reference.name}; give the folder of the CinC 2017 training set")
    rows = [row for row in csv.reader(reference.read_text().splitlines()) if len(row) == 2 and row[1] in "NAO~"]
    for name, code in rows:
        record = wfdb.rdrecord(str(root / name))
        samples = to_standard_leads(record.p_signal.T.astype(np.float32), ["I"])
        yield Recording(name, samples, float(record.fs), "", (code,), (), name, 0)


def _read_mitdb(root: Path, folds: Sequence[int]) -> Iterator[Recording]:
    """Ten-second windows of the MIT-BIH arrhythmia records, each with the rhythm that fills most of it. It has no folds."""
    headers = sorted(root.glob("*.hea"))
    if not headers:
        raise ConfigError(f"{root} holds no WFDB record; give the folder of the MIT-BIH Arrhythmia Database")
    for header in headers:
        yield from _rhythm_windows(header.with_suffix(""), window_s=10.0)


def _rhythm_windows(path: Path, window_s: float) -> Iterator[Recording]:
    record, notes = wfdb.rdrecord(str(path)), wfdb.rdann(str(path), "atr")
    rhythm = np.full(record.sig_len, "", dtype="<U8")
    for at, text in zip(notes.sample, notes.aux_note, strict=True):
        if text.startswith("("):
            rhythm[at:] = text.strip("(\0")
    samples = to_standard_leads(record.p_signal.T.astype(np.float32), [standard_lead(name) or name for name in record.sig_name])
    step = round(window_s * record.fs)
    for start in range(0, record.sig_len - step + 1, step):
        names, counts = np.unique(rhythm[start : start + step], return_counts=True)
        code = str(names[counts.argmax()])
        part = samples[:, start : start + step]
        yield Recording(f"{path.name}+{start}", part, float(record.fs), "", (code,), (), path.name, 0)


def _rhythm_task(**codes: str) -> Callable[[Path], list[Task]]:
    """A task named rhythm: each label's name is its code in the dataset, its words those of a PTB-XL statement."""

    def tasks(root: Path) -> list[Task]:
        prompts = read_prompts()
        return [Task("rhythm", tuple(Label(code, frozenset([code]), (prompts[scp],)) for code, scp in codes.items()))]

    return tasks


DATASETS = {
    "ptb-xl": Dataset(read_ptb_xl, _ptb_xl_tasks, scp_codes=True),
    "cinc2017": Dataset(_read_cinc2017, _rhythm_task(A="AFIB")),
    "mitdb": Dataset(_read_mitdb, _rhythm_task(AFIB="AFIB", AFL="AFLT", SBR="SBRAD", B="BIGU", T="TRIGU", P="PACE")),
}
