"""Pairwise building blocks of losses: masks, similarities, distances and masked log-sum-exp.

All functions are differentiable where that makes sense, keep the dtype and device they are given,
and stay finite, gradients included, for duplicate rows and for rows without any admitted entry.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pair_masks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positive and negative pairs of a batch.

    The pair of an image with itself is removed by its index, never by a similarity threshold, so
    that exact duplicates remain pairs.

    Args:
        labels: int64 (B,).

    Returns:
        Two bool (B, B) masks: same label but not the same image, and different label.
    """
    same = labels[:, None] == labels[None, :]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return positive, ~same


def similarities(embeddings: Tensor) -> Tensor:
    """Dot products of all pairs of rows, (B, D) -> (B, B); cosines if the rows have unit length."""
    return embeddings @ embeddings.T


def squared_distances(embeddings: Tensor) -> Tensor:
    """Squared Euclidean distances of all pairs of rows, (B, D) -> (B, B), not below zero.

    Computed as |a|^2 + |b|^2 - 2ab: fast, with an absolute error of a few units in the last place
    of |a|^2. Use `row_distances` where tiny distances matter.
    """
    norms = embeddings.square().sum(1)
    return (norms[:, None] + norms[None, :] - 2 * similarities(embeddings)).clamp(min=0)


def distances(embeddings: Tensor, floor: float = 1e-4) -> Tensor:
    """Euclidean distances of all pairs of rows, (B, D) -> (B, B), not below `floor`.

    Pairs at the floor (duplicates) pass no gradient, where the root has none.
    """
    return squared_distances(embeddings).clamp(min=floor**2).sqrt()


def row_distances(embeddings: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Distances sqrt(|a - b|^2 + 1e-8) of T chosen pairs, accurate for near duplicates too.

    Args:
        embeddings: (B, D).
        first: int64 (T,) rows a.
        second: int64 (T,) rows b.
    """
    difference = embeddings.index_select(0, first) - embeddings.index_select(0, second)
    return (difference.square().sum(1) + 1e-8).sqrt()


def unit_distances(s: Tensor, floor: float = 1e-4) -> Tensor:
    """Euclidean distances sqrt(2 - 2s) of unit vectors from their similarities, of any shape, not below `floor`.

    As in `distances`, pairs at the floor pass no gradient.
    """
    return (2 - 2 * s).clamp(min=floor**2).sqrt()


def masked_mean(values: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Mean over the entries admitted by `mask`; 0 where there are none."""
    return (values * mask).sum(dim) / mask.sum(dim).clamp(min=1)


def active_mean(terms: Tensor) -> Tensor:
    """Mean over the terms above zero; 0 if there are none. Of hinges: over the pairs that violate them."""
    return terms.sum() / (terms > 0).sum().clamp(min=1)


def masked_logits(logits: Tensor, mask: Tensor, dim: int) -> Tensor:
    """The logits, those outside `mask` replaced by ones that vanish in a log-sum-exp or softmax along `dim`.

    They lie 60 below the largest admitted one: too little to change a sum, even in float64, but not so little
    that its exponential underflows, which is many times slower. Hugely negative where nothing is admitted.
    """
    largest = logits.detach().masked_fill(~mask, torch.finfo(logits.dtype).min).amax(dim, keepdim=True)
    return torch.where(mask, logits, largest - 60)


def masked_logsumexp(logits: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Log sum exp over the entries admitted by `mask`; hugely negative, but finite, where there are none."""
    return torch.logsumexp(masked_logits(logits, mask, dim), dim)


def log1p_sum_exp(logits: Tensor, mask: Tensor, dim: int) -> Tensor:
    """log(1 + sum exp) over the entries admitted by `mask`, without overflow; 0 where there are none."""
    total = masked_logsumexp(logits, mask, dim)
    return torch.logaddexp(total, torch.zeros_like(total))


def gaps_to_positives(s: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """How much more similar to the anchor each reference is than a positive, for every positive pair.

    Args:
        s: similarities (A, R).
        positive: bool (A, R), T of them true.

    Returns:
        The anchor of each pair, int64 (T,), and the gaps (T, R).
    """
    anchor, item = positive.nonzero(as_tuple=True)
    return anchor, s.index_select(0, anchor) - s[anchor, item][:, None]
