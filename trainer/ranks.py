"""The processes that `torchrun` started in; what one of them must know and say to the others out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed.nn
from torch import Tensor, distributed, nn

_CPU = torch.device("cpu")
_PATIENCE = timedelta(hours=12)
"""The first rank may read a large archive while the others wait."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among its fellows; alone by default, and then every method hands back what it was given."""

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU

    def share(self, rows: Tensor) -> Tensor:
        """The rows of a batch that this rank works on."""
        return rows[self.rank :: self.size]

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks, [n, ...] -> [ranks * n, ...]; gradients find their way back."""
        if self.size == 1:
            return rows
        return torch.cat(torch.distributed.nn.all_gather(rows.contiguous()))

    def average_gradients(self, model: nn.Module) -> None:
        """Every rank computes the loss of the whole batch, so that the mean over ranks is the gradient of one process."""
        self._average([p.grad for p in model.parameters() if p.grad is not None])

    def average_buffers(self, *models: nn.Module) -> None:
        """Of the statistics that each rank's batch norms gathered from their own rows."""
        self._average([b for model in models for b in model.buffers() if b.is_floating_point()])

    def _average(self, tensors: Iterable[Tensor]) -> None:
        if self.size == 1:
            return
        for tensor in tensors:
            distributed.all_reduce(tensor)
            tensor /= self.size

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first rank goes ahead, the others enter when it is through: what it wrote, they find."""
        if self.rank:
            self.wait()
        yield
        if not self.rank:
            self.wait()

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def ranks() -> Iterator[Ranks]:
    """Join the processes that `torchrun` started, on a GPU each where there are any; without it, one process alone."""
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    if "WORLD_SIZE" not in os.environ:
        yield Ranks(device=device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()
