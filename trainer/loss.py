"""Embeddings of a batch of ECG-text pairs in; the loss that draws matching pairs together out."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def jaccard(shown: Tensor) -> Tensor:
    """Overlap of the concept sets of every two recordings: [n, concepts] of 0 and 1 -> [n, n]; one on the diagonal."""
    both = shown @ shown.T
    size = shown.sum(-1)
    either = size[:, None] + size[None, :] - both
    overlap = both / either.clamp(min=1)
    overlap.fill_diagonal_(1.0)
    return overlap


def soft_sigmoid(logits: Tensor, targets: Tensor) -> Tensor:
    """Pairwise sigmoid loss (SigLIP, Zhai et al. 2023) with soft targets in place of the identity, summed over texts.

    Duplicate and overlapping reports are positives, where InfoNCE would push them apart.
    """
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / logits.shape[0]
