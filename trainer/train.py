"""A `Recipe` and a `TrainingSet` in; a run folder with the trained towers, their log and a resumable checkpoint out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter

from kernels.findings import ConfigError

from .augment import Augment
from .batches import Batch, TrainingSet
from .loss import info_nce, jaccard, soft_sigmoid
from .model import Model, encoder_of
from .ranks import Ranks
from .recipe import Recipe

RATE_HZ = 100.0
WINDOW_S = 10.0
TRAIN_FOLDS = tuple(range(1, 9))


class Training:
    """The state of a run: made anew or taken up from its last checkpoint, advanced an epoch at a time.

    Raises ConfigError for a checkpoint of another recipe, and for a batch larger than the set.
    """

    def __init__(self, recipe: Recipe, data: TrainingSet, folder: Path, noise: Tensor | None = None, ranks: Ranks | None = None) -> None:
        if recipe.batch > len(data.ecg):
            raise ConfigError(f"batch {recipe.batch} exceeds the {len(data.ecg)} windows of the training folds; make it smaller")
        if ranks and recipe.batch % ranks.size:
            raise ConfigError(f"batch {recipe.batch} does not divide among {ranks.size} processes; change one of them")
        torch.manual_seed(recipe.seed)
        self.recipe, self.data, self.folder, self.noise, self.ranks = recipe, data, folder, noise, ranks or Ranks()
        self.model = Model(data.phrasings.shape[-1], encoder_of(recipe.model_dump())).to(self.ranks.device)
        self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)
        steps = recipe.epochs * (len(data.ecg) // recipe.batch)
        self.descent = Descent(self.model, recipe.learning_rate, recipe.weight_decay, steps, self.ranks)
        self.epoch = 0
        self.sources: dict[str, list[int]] = {}
        """Dataset -> the folds whose labels were learnt from, for the card."""
        self.unlabelled: list[str] = []
        """The datasets that only the warm-up saw."""
        self._resume()

    def _parts(self) -> dict[str, Any]:
        return {"model": self.model, "ema": self.ema, "optimizer": self.descent.optimizer, "schedule": self.descent.schedule}

    @property
    def shipped(self) -> Model:
        """The moving average of the weights."""
        assert isinstance(self.ema.module, Model)
        return self.ema.module

    @property
    def checkpoint(self) -> Path:
        """Where the run is saved and found again."""
        return self.folder / "checkpoint.pt"

    def _resume(self) -> None:
        if not self.checkpoint.is_file():
            return
        state = load_checkpoint(self.checkpoint, self.recipe, self._data())
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.epoch = state["epoch"]

    def save(self) -> None:
        """Replace the checkpoint in one step: a kill at any moment leaves a whole one."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        told = {"epoch": self.epoch, "recipe": self.recipe.model_dump(mode="json"), "data": self._data()}
        save_checkpoint(self.checkpoint, state | told)

    def _data(self) -> str:
        return f"{self.data.digest} {'with' if self.noise is not None else 'without'} noise"

    def run_epoch(self) -> dict[str, float]:
        """One pass over the pairs; the mean of each part of the loss."""
        order, augment = epoch_generators(self.recipe.seed, self.epoch, self.ranks, self.noise, self.recipe)
        self.model.train()
        sums: dict[str, float] = {}
        count = 0
        for batch in self.data.batches(self.recipe.batch, order, self.ranks):
            losses = self._step(batch, self._seen(batch.ecg, augment), self._draw_phrasings(order))
            count += 1
            sums = {name: sums.get(name, 0.0) + value.item() for name, value in losses.items()}
        self.ranks.average_buffers(self.model, self.ema)
        self.epoch += 1
        return {name: value / max(count, 1) for name, value in sums.items()}

    def _seen(self, ecg: Tensor, augment: Augment) -> Tensor:
        """What the encoder is given of a batch."""
        seen = augment(ecg)
        return augment.cut(seen, round(self.recipe.short_s * RATE_HZ)) if self.epoch < self.recipe.short_epochs else seen

    def _draw_phrasings(self, generator: torch.Generator) -> Tensor:
        """A random blend of each concept's phrasings, [concepts, text_dim]: no single wording is learnt by heart."""
        weight = torch.rand(self.data.phrasings.shape[:2], generator=generator)
        weight = weight / weight.sum(1, keepdim=True)
        return (weight.unsqueeze(-1) * self.data.phrasings).sum(1).to(self.ranks.device)

    def _step(self, batch: Batch, ecg: Tensor, concept: Tensor) -> dict[str, Tensor]:
        with half_precision(ecg.device):
            embedding = self.model.encoder(ecg)
        losses = batch_losses(self.model, self.recipe, self.ranks, embedding.float(), batch, concept)
        loss = self.recipe.caption_weight * losses["caption"] + self.recipe.concept_weight * losses["concept"]
        if not loss.isfinite():
            raise ConfigError(f"the loss is {loss.item()} in epoch {self.epoch + 1}; go on from the last one with a smaller learning_rate")
        self.descent.step(loss)
        self.ema.update_parameters(self.model)
        return {name: value.detach() for name, value in losses.items()}


class Descent:
    """AdamW over one cycle of the learning rate, with gradients averaged over ranks and clipped."""

    def __init__(self, model: nn.Module, learning_rate: float, weight_decay: float, steps: int, ranks: Ranks) -> None:
        self._model, self._ranks = model, ranks
        self.optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay), lr=learning_rate)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, learning_rate, max(steps, 2), pct_start=0.15)

    def step(self, loss: Tensor) -> None:
        """Down the gradient of the loss of the whole batch."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._ranks.average_gradients(self._model)
        nn.utils.clip_grad_norm_(self._model.parameters(), 5.0)
        self.optimizer.step()
        self.schedule.step()


def batch_losses(model: Model, recipe: Recipe, ranks: Ranks, embedding: Tensor, batch: Batch, concept: Tensor) -> dict[str, Tensor]:
    """The loss of the whole batch on every rank: each signal against the captions of all ranks, and against every concept."""
    embedding, caption, shown = ranks.gather(embedding), ranks.gather(batch.caption), ranks.gather(batch.shown)
    target = jaccard(shown) if recipe.soft_targets else torch.eye(len(shown), device=shown.device)
    match = soft_sigmoid if recipe.loss == "sigmoid" else info_nce
    by_caption = model.match_caption(embedding, model.text(caption))
    by_concept = model.match_concept(embedding, model.text(concept))
    return {"caption": match(by_caption, target), "concept": soft_sigmoid(by_concept, shown.float())}


def epoch_generators(seed: int, epoch: int, ranks: Ranks, noise: Tensor | None, recipe: Recipe) -> tuple[torch.Generator, Augment]:
    """Fresh from seed and epoch, so that a resumed run goes on as if never stopped: one all ranks share, one each its own."""
    torch.manual_seed(seed * 100_003 + epoch * 1_009 + ranks.rank)
    order = torch.Generator().manual_seed(seed * 100_003 + epoch)
    own = torch.Generator().manual_seed((seed * 100_003 + epoch) * 1_009 + ranks.rank)
    return order, Augment(own, noise, recipe.lead_subsets, recipe.electrode)


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where the processor or the GPU has it."""
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=native)


def load_checkpoint(path: Path, recipe: Recipe, data: str) -> dict[str, Any]:
    """Raises ConfigError where it is damaged, or of another recipe or other data."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, UnpicklingError, EOFError, LookupError) as error:
        raise ConfigError(f"{path} is damaged; delete it to begin anew") from error
    before, now = state.get("recipe", {}), recipe.model_dump(mode="json")
    changed = [name for name, value in now.items() if before.get(name) != value]
    if changed:
        raise ConfigError(f"{path.parent} was begun with another {', '.join(changed)}; give the same, or another --out")
    if state.get("data") != data:
        raise ConfigError(f"{path.parent} was begun with other recordings, texts or noise; give the same, or another --out")
    return state


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights decay; norms, biases and the matchers' scale do not."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def train(training: Training) -> Iterator[dict[str, float]]:
    """Run the epochs that are left, each saved and logged to TensorBoard, then write what `export` reads."""
    first = training.ranks.rank == 0
    log = SummaryWriter(str(training.folder)) if first else None
    while training.epoch < training.recipe.epochs:
        losses = training.run_epoch()
        if log:
            training.save()
            for name, value in losses.items():
                log.add_scalar(f"loss/{name}", value, training.epoch)
        training.ranks.wait()
        yield losses
    if log:
        log.close()
        write_towers(training)


def write_towers(training: Training) -> None:
    """`encoder.pt2` (torch.export), `head.npz` and `training.json`: all that `cardiogloss-kernels export` needs."""
    model, folder, recipe = training.shipped, training.folder, training.recipe
    encoder = model.to("cpu").encoder.eval()
    example = torch.zeros(2, 12, round(RATE_HZ * WINDOW_S))
    program = torch.export.export(encoder, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, folder / "encoder.pt2")
    match = model.match_concept if recipe.concept_weight else model.match_caption
    np.savez(
        folder / "head.npz",
        text_weight=model.text.project.weight.detach().numpy(),
        text_bias=model.text.project.bias.detach().numpy(),
        scale=match.log_scale.exp().detach().numpy(),
        bias=match.bias.detach().numpy(),
    )
    told = {
        "recipe": recipe.model_dump(mode="json"),
        "sources": training.sources,
        "unlabelled": training.unlabelled,
        "windows": len(training.data.ecg),
        "concepts": list(training.data.concepts.names),
        "parameters": sum(p.numel() for p in encoder.parameters()),
    }
    facts = {"rate_hz": RATE_HZ, "window_s": WINDOW_S, "text_encoder": recipe.text_encoder, "training": told}
    (folder / "training.json").write_text(json.dumps(facts, indent=1))
