"""Windows without any text in; an encoder that tells one window from another, however its electrodes were worn, out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .augment import Augment
from .batches import draw_batches
from .loss import info_nce
from .model import Encoder, Matcher
from .ranks import Ranks
from .recipe import Recipe
from .store import Store
from .train import RATE_HZ, Descent, epoch_generators, half_precision, load_checkpoint, save_checkpoint


class WarmUp:
    """SimCLR (Chen et al. 2020): two views of a window, on other leads with other noise, must find each other in the batch.

    Taken up from its last checkpoint; `encoder` holds the weights.
    """

    def __init__(self, recipe: Recipe, encoder: Encoder, store: Store, folder: Path, noise: Tensor | None, ranks: Ranks) -> None:
        ecg, self.data = store.ecg, store.folder.name
        self.recipe, self.ecg, self.noise, self.ranks = recipe, ecg, noise, ranks
        self.encoder, self.match = encoder, Matcher(scale=10.0).to(ranks.device)
        self.both = torch.nn.ModuleList([self.encoder, self.match])
        steps = recipe.warmup_epochs * (len(ecg) // recipe.batch)
        self.descent = Descent(self.both, recipe.learning_rate / 2, recipe.weight_decay, steps, ranks)
        self.checkpoint = folder / "warmup.pt"
        self.epoch = 0
        if self.checkpoint.is_file():
            state = load_checkpoint(self.checkpoint, recipe, self.data)
            self.epoch = state["epoch"]
            for name, part in self._parts().items():
                part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        return {"both": self.both, "optimizer": self.descent.optimizer, "schedule": self.descent.schedule}

    def run(self) -> Iterator[float]:
        """The epochs that are left; the mean loss of each."""
        while self.epoch < self.recipe.warmup_epochs:
            loss = self._run_epoch()
            self.epoch += 1
            self.ranks.average_buffers(self.encoder)
            if self.ranks.rank == 0:
                self._save()
            self.ranks.wait()
            yield loss

    def _save(self) -> None:
        state = {name: part.state_dict() for name, part in self._parts().items()}
        save_checkpoint(self.checkpoint, state | {"epoch": self.epoch, "recipe": self.recipe.model_dump(mode="json"), "data": self.data})

    def _run_epoch(self) -> float:
        order, augment = epoch_generators(self.recipe.seed + 1, self.epoch, self.ranks, self.noise, self.recipe)
        self.both.train()
        losses = [self._step(self._windows(rows), augment) for rows in draw_batches(len(self.ecg), self.recipe.batch, order)]
        return float(np.mean(losses)) if losses else float("nan")

    def _windows(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(self.ecg[self.ranks.share(rows).numpy()]).to(self.ranks.device)

    def _step(self, ecg: Tensor, augment: Augment) -> float:
        seen = torch.cat([augment(ecg), augment(ecg)])
        if self.recipe.short_epochs:
            seen = augment.cut(seen, round(self.recipe.short_s * RATE_HZ))
        with half_precision(ecg.device):
            views = self.encoder(seen).float()
        one, other = (self.ranks.gather(view) for view in views.chunk(2))
        logits = self.match(one, other)
        loss = info_nce(logits, torch.eye(len(logits), device=logits.device))
        self.descent.step(loss)
        return loss.item()
