"""Choice of pairs and triplets inside a batch. Everything here is piecewise constant: no gradient flows through it.

Memory is O(B^2), except `semi_hard`, which compares every positive pair with every image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench import pairs


@torch.no_grad()
def multi_similarity(similarity: Tensor, positive: Tensor, negative: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Pairs that carry information relative to the anchor's hardest opposite pair (Wang et al. 2019, eq. 7 and 8).

    A negative is kept if it is more similar than the least similar positive minus `epsilon`, a positive
    if it is less similar than the most similar negative plus `epsilon`. An anchor that lacks either
    kind keeps nothing.

    Args:
        similarity: (B, B).
        positive: bool (B, B).
        negative: bool (B, B).
        epsilon: slack, in units of similarity.

    Returns:
        The kept positives and negatives, bool (B, B).
    """
    hardest_positive = similarity.masked_fill(~positive, math.inf).amin(1, keepdim=True)
    hardest_negative = similarity.masked_fill(~negative, -math.inf).amax(1, keepdim=True)
    kept_positive = positive & (similarity - epsilon < hardest_negative)
    kept_negative = negative & (similarity + epsilon > hardest_positive)
    return kept_positive, kept_negative


@torch.no_grad()
def semi_hard(distance: Tensor, positive: Tensor, negative: Tensor, margin: float) -> tuple[Tensor, Tensor, Tensor]:
    """All semi-hard triplets: the negative is farther than the positive, but by no more than the margin.

    (Schroff et al. 2015, section 3.2: d_ap < d_an, inside the margin.)

    Args:
        distance: (A, R), anchors and references.
        positive: bool (A, R).
        negative: bool (A, R).
        margin: width of the window, in units of `distance`.

    Returns:
        anchor int64 (T,) and reference int64 (T,) of every positive pair, and bool (T, R): which
        references are semi-hard negatives of that pair.
    """
    anchor, reference = positive.nonzero(as_tuple=True)
    gap = distance.index_select(0, anchor) - distance[anchor, reference][:, None]
    return anchor, reference, negative.index_select(0, anchor) & (gap > 0) & (gap <= margin)


@torch.no_grad()
def distance_weights(
    distance: Tensor, negative: Tensor, dim: int, lower: float = 0.5, upper: float = math.inf
) -> Tensor:
    """Probability of each negative under distance-weighted sampling (Wu et al. 2017, section 4.1).

    Proportional to 1 / q(d), where q(d) ~ d^(n-2) (1 - d^2/4)^((n-3)/2) is the density of distances
    between uniform points of the unit sphere in n dimensions: drawn distances spread evenly.

    Args:
        distance: (B, B); the formula supposes unit vectors, larger distances than 2 count as 2.
        negative: bool (B, B).
        dim: embedding size n.
        lower: smaller distances count as this one (the variance of very hard negatives is cut).
        upper: negatives farther than this are drawn only by anchors that have no nearer one.

    Returns:
        (B, B), rows sum to 1, or are 0 where an anchor has no negative.
    """
    d = distance.clamp(min=lower)
    cap = (1 - d.square() / 4).clamp(min=1e-8)
    log_density = (dim - 2) * d.log() + (dim - 3) / 2 * cap.log()
    beyond = negative & (d > upper)
    logits = (-log_density).masked_fill(beyond, -1e6).masked_fill(~negative, torch.finfo(d.dtype).min)
    return logits.softmax(1) * negative


def distance_weighted(embeddings: Tensor, labels: Tensor, lower: float = 0.5, upper: float = math.inf) -> Tensor:
    """One distance-weighted negative for every positive pair; draws from torch's global generator.

    Args:
        embeddings: (B, D).
        labels: int64 (B,).
        lower: see `distance_weights`.
        upper: see `distance_weights`.

    Returns:
        int64 (T, 3) rows (anchor, positive, negative), T = 0 where a batch has no triplet.
    """
    positive_mask, negative_mask = pairs.pair_masks(labels)
    anchor, positive = (positive_mask & negative_mask.any(1, keepdim=True)).nonzero(as_tuple=True)
    if len(anchor) == 0:
        return torch.empty(0, 3, dtype=torch.int64, device=labels.device)
    weights = distance_weights(pairs.distances(embeddings.detach()), negative_mask, embeddings.shape[1], lower, upper)
    weights[~negative_mask.any(1)] = 1  # anchors that form no triplet: multinomial refuses rows of zeros
    drawn = torch.multinomial(weights, int(positive_mask.sum(1).max()), replacement=True)
    turn = positive_mask.cumsum(1)[anchor, positive] - 1
    return torch.stack([anchor, positive, drawn[anchor, turn]], 1)
