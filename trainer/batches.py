"""Windows and what is said of them, on disk, in; batches of signal, caption embeddings and concept targets out."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels.findings import ConfigError
from kernels.language import LanguageModel
from kernels.signal import LEADS, Samples, derive_limb_leads

from .datasets.ptb_xl import read_machine_texts
from .loss import UNTOLD
from .ranks import Ranks
from .recipe import Recipe
from .source import Source
from .store import Store
from .text import Concepts, Hidden, Said, collect_concepts, speaker

_CHUNK = 1024
"""Texts whose embeddings are held at a time."""

Rows = npt.NDArray[np.int32]
Targets = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Batch:
    """Row i of each tensor belongs to one window."""

    ecg: Tensor
    """[n, 12, samples] in mV."""
    caption: Tensor
    """[n, text_dim]: of the frozen language model."""
    shown: Tensor
    """[n, concepts]: 1 shown, 0 not, `UNTOLD` where the data set never speaks of it."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """The pairs of a training run, mapped from disk, and each concept's phrasings as embeddings."""

    ecg: Samples
    texts: Samples
    """[distinct captions, text_dim]"""
    captions: Rows
    """[n, ways to say it]: rows of `texts`."""
    shown: Targets
    """[n, concepts]"""
    phrasings: Tensor
    """[concepts, phrasings, text_dim]"""
    concepts: Concepts
    digest: str
    """Of the windows and of what was said and what was hidden: a run goes on with the same only."""

    def batches(self, size: int, generator: torch.Generator, ranks: Ranks) -> Iterator[Batch]:
        """One epoch in random order, without the incomplete last batch; one caption of each recording at random.

        `size` is that of all ranks together; each yields its own share.
        """
        for drawn in draw_batches(len(self.ecg), size, generator):
            saying = torch.randint(self.captions.shape[1], (size,), generator=generator)
            rows, way = (ranks.share(x).numpy() for x in (drawn, saying))
            parts = (self.ecg[rows], self.texts[self.captions[rows, way]], self.shown[rows])
            yield Batch(*(torch.from_numpy(np.ascontiguousarray(part)).to(ranks.device) for part in parts))


def draw_batches(n: int, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Every row number below `n` once, at random, in whole batches; what does not fill one is left out."""
    order = torch.randperm(n, generator=generator)
    return order[: n // size * size].split(size)


def make_training_set(
    store: Store, sources: Sequence[Source], recipe: Recipe, hidden: Hidden, folder: Path, write: bool = True
) -> TrainingSet:
    """Embed what is said of the windows of a store, as the recipe wants it, into files of `folder`.

    Without `write` the files are those that another rank wrote.
    """
    folder.mkdir(parents=True, exist_ok=True)
    machine = {word: text for source in sources for word, text in read_machine_texts(source.root).items()}
    prompts = {name: texts for source in sources for name, texts in source.prompts.items()}
    count, speakers = _listen(store)
    wanted = {name: n for name, n in count.items() if speaker(name) in recipe.concepts}
    concepts = collect_concepts(wanted, prompts, machine, hidden)
    if not concepts.names and (recipe.concept_weight or recipe.soft_targets):
        raise ConfigError("no finding is shown by five recordings of the training folds; give more recordings")
    told = [_told(concepts, source, speakers[i]) for i, source in enumerate(sources)]
    language = LanguageModel(recipe.text_encoder)
    phrasings = _embed_phrasings(language, concepts)
    files = {name: folder / name for name in ("shown.u8", "captions.i32", "texts.f32")}
    if write:
        row: dict[str, int] = {}
        _write(files["shown.u8"], (_target(concepts, told[source], said) for source, said in store.said()))
        _write(files["captions.i32"], (_captions(said.without(hidden), recipe, row) for _, said in store.said()))
        _write(files["texts.f32"], _embed(language, list(row)))
    return TrainingSet(
        ecg=store.ecg,
        texts=np.memmap(files["texts.f32"], np.float32, mode="r").reshape(-1, phrasings.shape[-1]),
        captions=np.memmap(files["captions.i32"], np.int32, mode="r").reshape(-1, len(recipe.captions)),
        shown=np.memmap(files["shown.u8"], np.uint8, mode="r").reshape(len(store.ecg), len(concepts.names)),
        phrasings=phrasings,
        concepts=concepts,
        digest=hashlib.sha256(repr((store.folder.name, concepts, hidden)).encode()).hexdigest(),
    )


def _listen(store: Store) -> tuple[Counter[str], dict[int, set[str]]]:
    """How often each concept is shown, and who is ever heard in each source."""
    count: Counter[str] = Counter()
    speakers: dict[int, set[str]] = defaultdict(set)
    for source, said in store.said():
        count.update(said.concepts)
        speakers[source] |= {speaker(concept) for concept in said.concepts}
    return count, speakers


def _write(path: Path, rows: Iterable[npt.NDArray[Any]]) -> None:
    with path.open("wb") as file:
        for row in rows:
            file.write(row.tobytes())


def _told(concepts: Concepts, source: Source, speakers: Collection[str]) -> Targets:
    """What a recording of a data set shows where nothing is said: 0 for what could have been named there, else `UNTOLD`."""
    target = np.full(len(concepts.names), UNTOLD, np.uint8)
    target[concepts.rows(source.concepts.values())] = 0
    target[concepts.rows(name for name in concepts.names if speaker(name) in set(speakers) - {"codes"})] = 0
    return target


def _target(concepts: Concepts, told: Targets, said: Said) -> Targets:
    target = told.copy()
    target[concepts.rows(said.concepts)] = 1
    return target


def _captions(said: Said, recipe: Recipe, row: dict[str, int]) -> Rows:
    """A row for each way of saying it; a text that is new gets the next one."""
    texts = [recipe.caption_prompt.format(text=said.caption(who)) for who in recipe.captions]
    return np.array([row.setdefault(text, len(row)) for text in texts], np.int32)


def _embed(language: LanguageModel, texts: Sequence[str]) -> Iterator[Samples]:
    for start in range(0, len(texts), _CHUNK):
        yield from language.embed(texts[start : start + _CHUNK])


def _embed_phrasings(language: LanguageModel, concepts: Concepts) -> Tensor:
    """Concepts with fewer phrasings repeat theirs."""
    most = max((len(texts) for texts in concepts.phrasings), default=1)
    padded = [texts[i % len(texts)] for texts in concepts.phrasings for i in range(most)]
    return torch.from_numpy(language.embed(padded)).view(len(concepts.names), most, -1)


def keep_leads(ecg: Tensor, leads: Sequence[str]) -> Tensor:
    """The windows as a device with only these leads would give them: the others NaN, limb leads derived where possible."""
    kept = torch.where(torch.tensor([lead in leads for lead in LEADS])[:, None], ecg, torch.nan)
    return torch.from_numpy(derive_limb_leads(kept.numpy(), measured=leads))
