"""A `Recipe` and dataset folders in; a run folder with the trained towers, their log and a resumable checkpoint out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter

from kernels.findings import ConfigError
from kernels.language import DEFAULT_TEXT_ENCODER, LanguageModel

from .batches import Augment, Pairs, windows
from .loss import jaccard, soft_sigmoid
from .model import Model
from .records import Recording, read_machine_texts, read_ptb_xl
from .text import Concepts, captions, collect_concepts, read_prompts

RATE_HZ = 100.0
WINDOW_S = 10.0
TRAIN_FOLDS = tuple(range(1, 9))


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what is learnt; the seed included, the same recipe gives the same weights."""

    epochs: int = 50
    batch: int = 128
    width: int = 48
    kernel: int = 5
    dim: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 0.3
    caption_weight: float = 0.3
    ema_decay: float = 0.995
    text_encoder: str = DEFAULT_TEXT_ENCODER
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """What training reads: the pairs, and each concept's phrasings as embeddings [concepts, phrasings, text_dim]."""

    pairs: Pairs
    phrasings: Tensor
    concepts: Concepts


def load_training_set(roots: Sequence[Path], recipe: Recipe, folds: Sequence[int] = TRAIN_FOLDS) -> TrainingSet:
    """Read the recordings of these folds and embed what is said of them."""
    recordings = [r for root in roots for r in read_ptb_xl(root, folds)]
    prompts, machine_texts = read_prompts(), read_machine_texts(roots[0])
    concepts = collect_concepts(recordings, prompts, machine_texts)
    language = LanguageModel(recipe.text_encoder)
    said = [captions(r, prompts, machine_texts) for r in recordings]
    pairs = Pairs(
        ecg=windows(recordings, RATE_HZ, WINDOW_S),
        captions=_embed_captions(language, said),
        shown=_concept_targets(recordings, concepts),
    )
    return TrainingSet(pairs, _embed_phrasings(language, concepts), concepts)


def _embed_captions(language: LanguageModel, said: Sequence[tuple[str, ...]]) -> Tensor:
    distinct = sorted({text for texts in said for text in texts})
    embedding = torch.from_numpy(language.embed(distinct))
    row = {text: i for i, text in enumerate(distinct)}
    return embedding[torch.tensor([[row[text] for text in texts] for texts in said])]


def _embed_phrasings(language: LanguageModel, concepts: Concepts) -> Tensor:
    """Concepts with fewer phrasings repeat theirs."""
    most = max(len(texts) for texts in concepts.phrasings)
    padded = [texts[i % len(texts)] for texts in concepts.phrasings for i in range(most)]
    return torch.from_numpy(language.embed(padded)).view(len(concepts.names), most, -1)


def _concept_targets(recordings: Sequence[Recording], concepts: Concepts) -> Tensor:
    shown = torch.zeros(len(recordings), len(concepts.names))
    for row, recording in enumerate(recordings):
        shown[row, sorted(concepts.of(recording))] = 1.0
    return shown


class Training:
    """The state of a run: made anew or taken up from its last checkpoint, advanced an epoch at a time.

    Raises ConfigError for a checkpoint of another recipe, and for a batch larger than the set.
    """

    def __init__(self, recipe: Recipe, data: TrainingSet, folder: Path, noise: Tensor | None = None) -> None:
        if not 1 <= recipe.batch <= len(data.pairs.ecg):
            raise ConfigError(f"--batch {recipe.batch} must lie between 1 and the {len(data.pairs.ecg)} recordings of folds 1-8")
        torch.manual_seed(recipe.seed)
        self.recipe, self.data, self.folder, self.noise = recipe, data, folder, noise
        text_dim = data.phrasings.shape[-1]
        self.model = Model(text_dim, recipe.width, recipe.kernel, recipe.dim)
        self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)
        self.optimizer = torch.optim.AdamW(_parameter_groups(self.model, recipe.weight_decay), lr=recipe.learning_rate)
        steps = recipe.epochs * (len(data.pairs.ecg) // recipe.batch)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, recipe.learning_rate, max(steps, 1), pct_start=0.15)
        self.epoch = 0
        self._resume()

    def _parts(self) -> dict[str, Any]:
        return {"model": self.model, "ema": self.ema, "optimizer": self.optimizer, "schedule": self.schedule}

    @property
    def checkpoint(self) -> Path:
        """Where the run is saved and found again."""
        return self.folder / "checkpoint.pt"

    def _resume(self) -> None:
        if not self.checkpoint.is_file():
            return
        state = self._load()
        if state["recipe"] != asdict(self.recipe):
            changed = [name for name, value in asdict(self.recipe).items() if state["recipe"].get(name) != value]
            raise ConfigError(f"{self.folder} was begun with another {', '.join(changed)}; give the same, or another --out")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.epoch = state["epoch"]
        torch.set_rng_state(state["rng"])

    def _load(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
        except (OSError, RuntimeError, UnpicklingError, EOFError, LookupError) as error:
            raise ConfigError(f"{self.checkpoint} is damaged; delete it to begin anew") from error
        return state

    def save(self) -> None:
        """Replace the checkpoint in one step: a kill at any moment leaves a whole one."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"epoch": self.epoch, "rng": torch.get_rng_state(), "recipe": asdict(self.recipe)}
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.checkpoint)

    def run_epoch(self) -> dict[str, float]:
        """One pass over the pairs; the mean of each part of the loss."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 100_003 + self.epoch)
        augment = Augment(generator, self.noise)
        self.model.train()
        sums: dict[str, float] = {}
        count = 0
        for ecg, caption, shown in self.data.pairs.batches(self.recipe.batch, generator):
            losses = self._step(augment(ecg), caption, shown, self._draw_phrasings(generator))
            count += 1
            sums = {name: sums.get(name, 0.0) + value.item() for name, value in losses.items()}
        self.epoch += 1
        return {name: value / max(count, 1) for name, value in sums.items()}

    def _draw_phrasings(self, generator: torch.Generator) -> Tensor:
        """A random blend of each concept's phrasings, [concepts, text_dim]: no single wording is learnt by heart."""
        weight = torch.rand(self.data.phrasings.shape[:2], generator=generator)
        weight = weight / weight.sum(1, keepdim=True)
        return (weight.unsqueeze(-1) * self.data.phrasings).sum(1)

    def _step(self, ecg: Tensor, caption: Tensor, shown: Tensor, concept: Tensor) -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported()):
            embedding = self.model.encoder(ecg)
        embedding = embedding.float()
        by_caption = self.model.match_caption(embedding, self.model.text(caption))
        by_concept = self.model.match_concept(embedding, self.model.text(concept))
        losses = {"caption": soft_sigmoid(by_caption, jaccard(shown)), "concept": soft_sigmoid(by_concept, shown)}
        loss = self.recipe.caption_weight * losses["caption"] + losses["concept"]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        self.schedule.step()
        self.ema.update_parameters(self.model)
        return {name: value.detach() for name, value in losses.items()}


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; norms, biases and the matchers' scale do not."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def train(training: Training) -> Iterator[dict[str, float]]:
    """Run the epochs that are left, each saved and logged to TensorBoard, then write what `export` reads."""
    log = SummaryWriter(str(training.folder))
    while training.epoch < training.recipe.epochs:
        losses = training.run_epoch()
        training.save()
        for name, value in losses.items():
            log.add_scalar(f"loss/{name}", value, training.epoch)
        yield losses
    log.close()
    write_towers(training.ema.module, training.recipe, training.data, training.folder)


def write_towers(model: nn.Module, recipe: Recipe, data: TrainingSet, folder: Path) -> None:
    """`encoder.pt2` (torch.export), `head.npz` and `training.json`: all that `cardiogloss-kernels export` needs."""
    assert isinstance(model, Model)
    encoder = model.encoder.eval()
    example = torch.zeros(2, 12, round(RATE_HZ * WINDOW_S))
    program = torch.export.export(encoder, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, folder / "encoder.pt2")
    match = model.match_concept
    np.savez(
        folder / "head.npz",
        text_weight=model.text.project.weight.detach().numpy(),
        text_bias=model.text.project.bias.detach().numpy(),
        scale=match.log_scale.exp().detach().numpy(),
        bias=match.bias.detach().numpy(),
    )
    told = {"recipe": asdict(recipe), "recordings": len(data.pairs.ecg), "concepts": list(data.concepts.names)}
    facts = {"rate_hz": RATE_HZ, "window_s": WINDOW_S, "text_encoder": recipe.text_encoder, "training": told}
    (folder / "training.json").write_text(json.dumps(facts, indent=1))
