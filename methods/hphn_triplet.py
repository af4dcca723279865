"""HPHN triplet loss: an image's farthest positive against its nearest negative (batch-hard triplets).

One triplet an image, the hardest of the batch; the authors of Embedding Expansion call it hardest-positive
hardest-negative and build on it (Ko and Gu 2020). Images i, Euclidean distances D of unit vectors:

    L = sum_i [ max_{p in P_i} D_ip - min_{k in N_i} D_ik + m ]_+,    or with softplus and m = 0 if `soft`

Default m = 1e-5: the authors' commands leave it at that value of their command line; the class says 0.2.
Their code optimises the sum over the batch, not its mean, and so does this.

As there, an image without a positive has itself as one, at distance 0 (1e-6 for the root), and still
pushes its nearest negative away. Different: an image without a negative adds 0; in their code the farthest
image of its own class takes the place of the negative. Distances that occur twice share a gradient, where
the authors' framework gives each the whole.

Not read: the paper's text, whose equation may be an average.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from bench import pairs
from bench.method import hyper
from bench.pair_method import PairMethod

FLOOR = 1e-6  # the root of the authors' least squared distance


class HPHNTriplet(PairMethod):
    """Triplet loss of the farthest positive and the nearest negative."""

    name = "hphn_triplet"
    paper = "ko2020embedding"
    by_default = False
    margin: float = hyper(
        1e-5, low=1e-6, high=1.0, scale="log", help="how much farther the nearest negative must be than any positive"
    )
    soft: bool = hyper(False, help="softplus instead of margin and hinge")

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Sum over anchors of the violation by the hardest triplet."""
        d = pairs.unit_distances(s, FLOOR)
        gap = d.masked_fill(~positive, FLOOR).amax(1) - d.masked_fill(~negative, math.inf).amin(1)
        return (F.softplus(gap) if self.soft else F.relu(gap + self.margin)).sum()
