"""ECG windows in mV [batch, 12, samples] in; unit-norm embeddings [batch, d] out, beside the text projection they meet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.signal import BASELINE_SAMPLES, GAIN_PER_MV, LEADS, LIMIT

LEAD_COUNT = len(LEADS)


class FrontEnd(nn.Module):
    """mV with NaN -> scaled samples without baseline, zero where there is no signal, and where there is one."""

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self._ahead = 0 if causal else BASELINE_SAMPLES // 2

    def forward(self, ecg: Tensor) -> tuple[Tensor, Tensor]:
        absent = torch.isnan(ecg)
        present = 1.0 - absent.to(torch.float32)
        filled = torch.where(absent, torch.zeros_like(ecg), ecg)
        baseline = self._sum_around(filled) / self._sum_around(present).clamp(min=1.0)
        return ((filled - baseline) * GAIN_PER_MV).clamp(-LIMIT, LIMIT) * present, present

    def _sum_around(self, x: Tensor) -> Tensor:
        """The moving sum over `BASELINE_SAMPLES`, by differences of the running sum: pooling costs as much as half of the network."""
        running = F.pad(x, (BASELINE_SAMPLES - self._ahead, self._ahead)).cumsum(dim=-1)
        return running[..., BASELINE_SAMPLES:] - running[..., :-BASELINE_SAMPLES]


class CausalConv1d(nn.Conv1d):
    """A convolution whose every output ends with the last of the `stride` samples that it stands for: nothing later is seen."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, (self.kernel_size[0] - self.stride[0], 0)))


def _conv(inputs: int, outputs: int, kernel: int, stride: int, causal: bool) -> nn.Conv1d:
    """Without a bias: a norm follows."""
    if causal:
        return CausalConv1d(inputs, outputs, kernel, stride, bias=False)
    return nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """A basic residual block (He et al. 2016) in one dimension, halving the length where `stride` is 2."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int, causal: bool = False) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, kernel, stride, causal)
        self.norm1 = nn.BatchNorm1d(outputs)
        self.conv2 = _conv(outputs, outputs, kernel, 1, causal)
        self.norm2 = nn.BatchNorm1d(outputs)
        self.shortcut = nn.Sequential() if stride == 1 and inputs == outputs else self._project(inputs, outputs, stride, causal)

    @staticmethod
    def _project(inputs: int, outputs: int, stride: int, causal: bool) -> nn.Sequential:
        return nn.Sequential(_conv(inputs, outputs, 1, stride, causal), nn.BatchNorm1d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(hidden)) + self.shortcut(x))


class Encoder(nn.Module):
    """A 1-D ResNet-18; what it pools over time is projected to the text space.

    `lead_aware` tells it which leads it sees, `pooling` adds the maximum over time to the mean. A `causal`
    one sees nothing later than the `STRIDE` samples that a position stands for, so that a stream may
    keep what it has computed.
    """

    def __init__(
        self,
        width: int = 48,
        kernel: int = 5,
        dim: int = 256,
        dropout: float = 0.2,
        pooling: str = "mean-max",
        lead_aware: bool = True,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.causal = causal
        self.front_end = FrontEnd(causal)
        self.stem = _conv(LEAD_COUNT, width, 15, 2, causal)
        self.lead_bias = nn.Linear(LEAD_COUNT, width) if lead_aware else None
        self.stem_norm = nn.BatchNorm1d(width)
        self.blocks = nn.Sequential(*_stages(width, kernel, causal))
        self.with_maximum = pooling == "mean-max"
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear((1 + self.with_maximum) * 8 * width, dim)

    def forward(self, ecg: Tensor) -> Tensor:
        samples, present = self.front_end(ecg)
        hidden = self.stem(samples)
        if self.lead_bias is not None:
            hidden = hidden + self._lead_bias(present)
        hidden = self.blocks(self._halve(F.relu(self.stem_norm(hidden)))).float()
        return F.normalize(self.project(self.dropout(self._pool(hidden))), dim=-1)

    def _lead_bias(self, present: Tensor) -> Tensor:
        """Of the window, or at each position where that must not look ahead."""
        assert self.lead_bias is not None
        if self.causal:
            return F.conv1d(present[..., 1::2], self.lead_bias.weight.unsqueeze(-1), self.lead_bias.bias)
        return self.lead_bias(present.mean(dim=-1)).unsqueeze(-1)

    def _halve(self, hidden: Tensor) -> Tensor:
        """The greatest of three about every second sample; zero is the least that a ReLU gives."""
        return F.max_pool1d(F.pad(hidden, (1, 0)), 3, 2) if self.causal else F.max_pool1d(hidden, 3, 2, 1)

    def _pool(self, hidden: Tensor) -> Tensor:
        mean = hidden.mean(-1)
        if self.causal and self.training:
            hidden, kept = _forget_start(hidden)
            mean = hidden.mean(-1) / kept
        return torch.cat([mean, hidden.amax(-1)], dim=-1) if self.with_maximum else mean


def _forget_start(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Of half of the windows, up to half of the positions [batch, d, n] as zeros, and the share [batch, 1] that is left of each.

    In a stream what is pooled has a past, in a recording that begins with the window it has none: the encoder learns both.
    """
    batch, _, length = hidden.shape
    first = torch.randint(0, max(length // 2, 1), (batch, 1), device=hidden.device) * (torch.rand(batch, 1, device=hidden.device) < 0.5)
    kept = (torch.arange(length, device=hidden.device) >= first).to(hidden.dtype)
    return hidden * kept.unsqueeze(1), kept.mean(-1, keepdim=True)


def encoder_of(recipe: Mapping[str, Any]) -> Encoder:
    """An untrained encoder of the shape that a recipe's fields describe; other fields, and those an old recipe lacks, do not matter."""
    return Encoder(**{name: recipe[name] for name in ENCODER_FIELDS if name in recipe})


ENCODER_FIELDS = ("width", "kernel", "dim", "dropout", "pooling", "lead_aware", "causal")


def _stages(width: int, kernel: int, causal: bool) -> list[Block]:
    plan = [(1, 1, 1), (1, 1, 1), (1, 2, 2), (2, 2, 1), (2, 4, 2), (4, 4, 1), (4, 8, 2), (8, 8, 1)]
    return [Block(width * inputs, width * outputs, stride, kernel, causal) for inputs, outputs, stride in plan]


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
