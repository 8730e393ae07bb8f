"""ECG windows in mV [batch, 12, samples] in; unit-norm embeddings [batch, d] out, beside the text projection they meet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAD_COUNT = 12
BASELINE_SAMPLES = 201
"""Two seconds at 100 Hz: the moving average that is taken off as baseline."""

GAIN_PER_MV = 4.0
LIMIT = 20.0
"""An artefact counts as 5 mV at most, so that one spike cannot drown the window."""


class FrontEnd(nn.Module):
    """mV with NaN -> scaled samples without baseline, zero where there is no signal, and the lead mask [batch, 12]."""

    def forward(self, ecg: Tensor) -> tuple[Tensor, Tensor]:
        absent = torch.isnan(ecg)
        present = 1.0 - absent.to(torch.float32)
        filled = torch.where(absent, torch.zeros_like(ecg), ecg)
        baseline = self._sum_around(filled) / self._sum_around(present).clamp(min=1.0)
        scaled = ((filled - baseline) * GAIN_PER_MV).clamp(-LIMIT, LIMIT) * present
        return scaled, present.mean(dim=-1)

    @staticmethod
    def _sum_around(x: Tensor) -> Tensor:
        """The moving sum over `BASELINE_SAMPLES`, by differences of the running sum: pooling costs as much as half of the network."""
        half = BASELINE_SAMPLES // 2
        running = F.pad(x, (half + 1, half)).cumsum(dim=-1)
        return running[..., BASELINE_SAMPLES:] - running[..., :-BASELINE_SAMPLES]


class Block(nn.Module):
    """A basic residual block (He et al. 2016) in one dimension, halving the length where `stride` is 2."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm1 = nn.BatchNorm1d(outputs)
        self.conv2 = nn.Conv1d(outputs, outputs, kernel, 1, kernel // 2, bias=False)
        self.norm2 = nn.BatchNorm1d(outputs)
        self.shortcut = nn.Sequential() if stride == 1 and inputs == outputs else self._project(inputs, outputs, stride)

    @staticmethod
    def _project(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        conv = nn.Conv1d(inputs, outputs, 1, stride, bias=False)
        return nn.Sequential(conv, nn.BatchNorm1d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(hidden)) + self.shortcut(x))


class Encoder(nn.Module):
    """A 1-D ResNet-18; what it pools over time is projected to the text space.

    `lead_aware` tells it which leads it sees, `pooling` adds the maximum over time to the mean.
    """

    def __init__(
        self, width: int = 48, kernel: int = 5, dim: int = 256, dropout: float = 0.2, pooling: str = "mean-max", lead_aware: bool = True
    ) -> None:
        super().__init__()
        self.front_end = FrontEnd()
        self.stem = nn.Conv1d(LEAD_COUNT, width, 15, 2, 7, bias=False)
        self.lead_bias = nn.Linear(LEAD_COUNT, width) if lead_aware else None
        self.stem_norm = nn.BatchNorm1d(width)
        self.blocks = nn.Sequential(*_stages(width, kernel))
        self.with_maximum = pooling == "mean-max"
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear((1 + self.with_maximum) * 8 * width, dim)

    def forward(self, ecg: Tensor) -> Tensor:
        samples, leads = self.front_end(ecg)
        hidden = self.stem(samples)
        if self.lead_bias is not None:
            hidden = hidden + self.lead_bias(leads).unsqueeze(-1)
        hidden = self.blocks(F.max_pool1d(F.relu(self.stem_norm(hidden)), 3, 2, 1)).float()
        return F.normalize(self.project(self.dropout(self._pool(hidden))), dim=-1)

    def _pool(self, hidden: Tensor) -> Tensor:
        mean = hidden.mean(-1)
        return torch.cat([mean, hidden.amax(-1)], dim=-1) if self.with_maximum else mean


def encoder_of(recipe: Mapping[str, Any]) -> Encoder:
    """An untrained encoder of the shape that a recipe's fields describe; other fields, and those an old recipe lacks, do not matter."""
    return Encoder(**{name: recipe[name] for name in ENCODER_FIELDS if name in recipe})


ENCODER_FIELDS = ("width", "kernel", "dim", "dropout", "pooling", "lead_aware")


def _stages(width: int, kernel: int) -> list[Block]:
    plan = [(1, 1, 1), (1, 1, 1), (1, 2, 2), (2, 2, 1), (2, 4, 2), (4, 4, 1), (4, 8, 2), (8, 8, 1)]
    return [Block(width * inputs, width * outputs, stride, kernel) for inputs, outputs, stride in plan]


class TextProjection(nn.Module):
    """Frozen language model embeddings [n, text_dim] -> unit norm [n, d]: one linear map, so that prompts average before it."""

    def __init__(self, text_dim: int, dim: int = 256) -> None:
        super().__init__()
        self.project = nn.Linear(text_dim, dim)

    def forward(self, text: Tensor) -> Tensor:
        return F.normalize(self.project(text), dim=-1)


class Matcher(nn.Module):
    """Cosines -> logits, with a learnt scale and bias (SigLIP, Zhai et al. 2023)."""

    def __init__(self, scale: float = 10.0, bias: float = -5.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(scale).log())
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, ecg: Tensor, text: Tensor) -> Tensor:
        return self.log_scale.exp() * (ecg @ text.T) + self.bias


class Model(nn.Module):
    """Both towers: captions and single concepts are matched with a scale and bias of their own."""

    def __init__(self, text_dim: int, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.text = TextProjection(text_dim, encoder.project.out_features)
        self.match_caption = Matcher()
        self.match_concept = Matcher()
