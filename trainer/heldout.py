"""Labels and models that never heard of some of them in; how well each is found by its words alone out."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kernels.findings import ConfigError, read_toml
from kernels.language import LanguageModel, embed_prompts

from .datasets import Label, Task
from .embed import View, embed, encode_in_torch
from .metrics import FEWEST_POSITIVES, Bools, Floats, Interval, auroc, draw_patients, mean_with_interval, over_draws
from .model import Model
from .recipe import Recipe
from .records import Recording
from .text import Hidden
from .train import RATE_HZ, WINDOW_S
from .zero_shot import put, task_labels

FAMILIES = Path(__file__).with_name("held_out.toml")

TASKS = ("diagnostic", "form", "rhythm")
"""Those of PTB-XL whose labels are single statements."""


@dataclass(frozen=True, slots=True)
class Part:
    """The labels that one training does not hear of."""

    number: int
    labels: tuple[Label, ...]
    words: tuple[str, ...]
    """Every way to name one of them: a text that holds all words of one is left out, whoever says it."""

    @property
    def hidden(self) -> Hidden:
        """By those words, and by each label's own phrasings."""
        return Hidden.of([*self.words, *(text for label in self.labels for way in label.ways for text in way)])


def split(tasks: Iterable[Task], parts: int) -> list[Part]:
    """Every statement in one part, families as a whole, in an order that only their names decide.

    Raises ConfigError where a part would be empty.
    """
    labels = {label.name: label for task in tasks if task.name in TASKS for label in task.labels}
    families = [_family(labels, table["codes"], table["words"]) for table in read_toml(FAMILIES).values()]
    known = {label.name for members, _ in families for label in members}
    families += [([label], []) for name, label in labels.items() if name not in known]
    order = sorted((family for family in families if family[0]), key=lambda family: zlib.crc32(family[0][0].name.encode()))
    if len(order) < parts:
        raise ConfigError(f"--parts {parts} exceeds the {len(order)} families of findings that the first --root names")
    return [_part(number, order[number::parts]) for number in range(parts)]


Family = tuple[list[Label], list[str]]


def _family(labels: Mapping[str, Label], codes: Sequence[str], words: list[str]) -> Family:
    return [labels[code] for code in codes if code in labels], words


def _part(number: int, families: Sequence[Family]) -> Part:
    return Part(number, tuple(label for members, _ in families for label in members), tuple(w for _, words in families for w in words))


@dataclass(frozen=True, slots=True)
class Found:
    """Cosines of recordings with the words of labels, [recordings, labels], beside what is true."""

    labels: tuple[Label, ...]
    cosine: Floats
    shown: Bools
    patients: tuple[str, ...]

    def beside(self, other: Found) -> Found:
        """The same recordings, more labels."""
        cosine = np.concatenate([self.cosine, other.cosine], axis=1)
        return Found(self.labels + other.labels, cosine, np.concatenate([self.shown, other.shown], axis=1), self.patients)

    def macro_auroc(self, names: Iterable[str]) -> tuple[Interval, dict[str, float]]:
        """Over those labels of these names that have enough positives, which are told one by one."""
        wanted = frozenset(names)
        enough = self.shown.sum(axis=0) >= FEWEST_POSITIVES
        columns = [i for i, label in enumerate(self.labels) if label.name in wanted and enough[i]]
        if not columns:
            return Interval(float("nan"), float("nan"), float("nan")), {}
        cosine, shown = self.cosine[:, columns], self.shown[:, columns]
        figures = over_draws(lambda counts: auroc(cosine, shown, counts), draw_patients(self.patients))
        return mean_with_interval(figures), {self.labels[i].name: round(float(a), 4) for i, a in zip(columns, figures[0], strict=True)}


def find(model: Model, recipe: Recipe, language: LanguageModel, labels: Sequence[Label], recordings: Iterable[Recording]) -> Found:
    """Ask a trained model for these labels by their words; of each recording the mean over its windows."""
    task = Task("held-out", tuple(labels))
    model.to("cpu").eval()
    (seen,) = embed(recordings, [View(encode_in_torch(model.encoder))], RATE_HZ, round(RATE_HZ * WINDOW_S))
    with torch.inference_mode():
        words = model.text(torch.from_numpy(embed_prompts(language, put(task, recipe.class_prompt)))).numpy()
    return Found(task.labels, seen.by_recording(seen.windows() @ words.T), task_labels(task, seen), tuple(seen.patients))
