"""Labels and models that never heard of some of them in; how well each is found by its words alone out."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kernels.language import LanguageModel, embed_prompts
from kernels.signal import Samples

from .datasets import Label, Task
from .embed import View, embed
from .metrics import FEWEST_POSITIVES, Bools, Floats, Interval, auroc, draw_patients, mean_with_interval, over_draws
from .model import Model
from .recipe import Recipe
from .records import Recording
from .text import Hidden
from .train import RATE_HZ, WINDOW_S


@dataclass(frozen=True, slots=True)
class Part:
    """The labels that one training does not hear of."""

    number: int
    labels: tuple[Label, ...]

    @property
    def hidden(self) -> Hidden:
        """Every phrasing of them: a text that holds all words of one is left out, whoever says it."""
        return Hidden.of(text for label in self.labels for way in label.ways for text in way)


TASKS = ("diagnostic", "form", "rhythm")
"""Those of PTB-XL whose labels are single statements."""


def split(tasks: Iterable[Task], parts: int) -> list[Part]:
    """Every statement in one part, in an order that only their names decide."""
    labels = {label.name: label for task in tasks if task.name in TASKS for label in task.labels}
    order = sorted(labels.values(), key=lambda label: (zlib.crc32(label.name.encode()), label.name))
    return [Part(i, tuple(sorted(order[i::parts], key=lambda label: label.name))) for i in range(parts)]


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
    prompts = [[recipe.class_prompt.format(text=text) for text in label.ways[0]] for label in labels]
    model.eval()

    def encode(ecg: Samples) -> Samples:
        with torch.inference_mode():
            return model.encoder(torch.from_numpy(ecg)).numpy()

    (seen,) = embed(recordings, [View(encode)], RATE_HZ, round(RATE_HZ * WINDOW_S))
    with torch.inference_mode():
        words = model.text(torch.from_numpy(embed_prompts(language, prompts))).numpy()
    shown = np.array([[not label.codes.isdisjoint(r.codes) for label in labels] for r in seen.recordings])
    return Found(tuple(labels), seen.by_recording(seen.windows() @ words.T), shown, tuple(seen.patients))
