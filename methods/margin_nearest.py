"""Margin loss on the nearest negatives beyond a cut-off: the deterministic variant that Divide and Conquer ships.

The margin loss with a boundary b that is not learned (Wu et al. 2017, equation 4), and a fixed rule for the
triplets T in place of distance-weighted draws:

    L = ( sum_T [d_ip - b + a]_+ + sum_T [b - d_ik + a]_+ ) / #active terms,    b = 1.2, a = 0.2

Distances are sqrt(|x - y|^2 + 1e-8). An anchor's positives are taken in the order of the batch; its negatives are
the m nearest ones that are at least 0.5 away, m = positive pairs of the batch over its size, rounded down (3 for
four images a class). Both lists are cut to the shorter.

Different from the released code: where fewer than m negatives lie beyond the cut-off, it fills up with whatever has
the smallest of its penalised keys, images of the anchor's own class included; here with the nearest of the remaining
negatives, never with a positive. Active terms are counted as integers: the released text adds boolean masks, which
on today's PyTorch counts a triplet with two active terms once. The released options of a boundary per class and of a
penalty on it are left to `margin`, which learns its boundary; the released training never does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench import pairs
from bench.margin_loss import margin_loss
from bench.method import Batch, Method, hyper

FLOOR = 1e-2  # distances below it are not told apart: squared ones are clamped at 1e-4


@torch.no_grad()
def nearest_beyond(embeddings: Tensor, labels: Tensor, cutoff: float) -> Tensor:
    """Triplets of each anchor's positives and of its nearest negatives beyond the cut-off.

    Returns:
        int64 (T, 3) rows (anchor, positive, negative), by anchor, then by position in the batch.
    """
    positive, negative = pairs.pair_masks(labels)
    wanted = int(positive.sum()) // len(labels)
    d = pairs.distances(embeddings, FLOOR)
    key = torch.where(d < cutoff, d + d.amax(), d).masked_fill(~negative, torch.inf)  # within the cut-off: last
    nearest = key.topk(wanted, largest=False).indices
    chosen = torch.zeros_like(negative).scatter_(1, nearest, value=True) & negative
    rank, room = positive.cumsum(1), chosen.sum(1, keepdim=True)
    anchor, first = (positive & (rank <= room)).nonzero(as_tuple=True)
    second = (chosen & (chosen.cumsum(1) <= rank[:, -1:])).nonzero()[:, 1]
    return torch.stack([anchor, first, second], 1)


class MarginNearest(Method):
    """Margin loss, fixed boundary, nearest negatives beyond a cut-off."""

    name = "margin_nearest"
    paper = "sanakoyeu2019divide"
    by_default = False
    margin: float = hyper(0.2, low=0.02, high=0.5, help="half width of the band around the boundary")
    beta: float = hyper(1.2, low=0.5, high=1.4, help="the boundary, Euclidean distance of unit vectors")
    cutoff: float = hyper(0.5, low=0.0, high=1.0, help="nearer negatives are taken only where others are lacking")

    def loss(self, batch: Batch) -> Tensor:
        """Penalise positives outside and negatives inside the boundary, per active term."""
        triplets = nearest_beyond(batch.embeddings.detach(), batch.labels, self.cutoff)
        beta = batch.embeddings.new_full((len(triplets),), self.beta)
        return margin_loss(batch.embeddings, triplets, beta, self.margin)
