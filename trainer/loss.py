"""Embeddings of a batch of ECG-text pairs in; the loss that draws matching pairs together out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

UNTOLD = 2
"""The target of a concept that a recording's data set never speaks of: neither shown nor absent."""


def jaccard(shown: Tensor) -> Tensor:
    """Overlap of the concept sets of every two recordings: [n, concepts] of 0, 1 and `UNTOLD` -> [n, n]; one on the diagonal.

    Only concepts that both could have told of count; of two that show none of these nothing tells them apart.
    """
    told, shown = (shown != UNTOLD).float(), (shown == 1).float()
    both = shown @ shown.T
    either = shown @ told.T + told @ shown.T - both
    overlap = torch.where(either > 0, both / either.clamp(min=1), 1.0)
    overlap.fill_diagonal_(1.0)
    return overlap


def soft_sigmoid(logits: Tensor, targets: Tensor) -> Tensor:
    """Pairwise sigmoid loss (SigLIP, Zhai et al. 2023) with soft targets in place of the identity, summed over texts.

    Duplicate and overlapping reports are positives, where InfoNCE would push them apart. `UNTOLD` targets count nothing.
    """
    told = targets != UNTOLD
    loss = F.binary_cross_entropy_with_logits(logits, targets * told, reduction="none")
    return (loss * told).sum() / logits.shape[0]


def info_nce(logits: Tensor, targets: Tensor) -> Tensor:
    """Symmetric InfoNCE (CLIP, Radford et al. 2021): signal to text and text to signal, the mean of both.

    With targets other than the identity, each row's share is spread over what it overlaps.
    """
    to_text = F.cross_entropy(logits, targets / targets.sum(1, keepdim=True))
    to_signal = F.cross_entropy(logits.T, targets.T / targets.T.sum(1, keepdim=True))
    return (to_text + to_signal) / 2
