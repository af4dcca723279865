"""LoOp: two images of one class span an arc, and the nearest points of two classes' arcs are the negatives.

Instead of searching a class for its hardest image, or generating one, the least distance between the
curves through pairs of images replaces the anchor-negative distance of a known loss (Vasudeva et al.
2021). Pairs a are consecutive images of a class (with K images a class, K / 2 pairs); D_ab is the least
distance of two great-circle arcs, in closed form (`bench.arcs`); N_a are the pairs of other classes; and
d_a is the largest distance from either image of pair a to an image of its class. `base` chooses among

    hphn              sum_a [ d_a - min_{b in N_a} D_ab + m ]_+        (softplus without m if `soft`)
    lifted            sum_a [ d_a + log sum_{b in N_a} exp(-D_ab) + m ]_+
    multi_similarity  sum_a { 1/s log[1 + sum_p exp(-s (S_ap - l))] + 1/t log[1 + sum_b exp(t (S_ab - l))] }
    triplet           sum_a [ |x_a - y_a| - D_ab + m ]_+,  pair a of the batch's first half, b of its second
    n_pair            sum_a log[1 + sum_{b in N_a} exp(max x.x' - x_a.y_a)],  on embeddings before normalisation

with S = 1 - D^2 / 2 (or of the distance to a positive p of either image of a), s = 2, t = 50, l = 0.5,
and of a's entries only S_ap < max_b S_ab + e and S_ab > min_p S_ap - e, e = 0.1. For n_pair the dot product
of points on two straight segments is largest at two of their ends x, x': it is linear in each point.
Like the authors' code this sums over pairs. m = 1e-5 is its command line's, in the classes it is 0.2 for
hphn and lifted and 0.1 for triplet. l and e are those of an earlier revision and of the multi-similarity
loss itself; the released one has l = 0.4 and e = -0.02, with which a batch whose cosines all lie within
0.02 keeps no entry: from random weights that ended training on glyphs, from pretrained ones it need not.

As there, pairs with an angle of at most 0.001 rad span no arc and are left out; if that leaves a single
class (for triplet: no match), all pairs stay and distances between their first images are used.

Different: gradients are those of the formulas, where the authors' framework passes the whole gradient to
each of several tied maxima. A pair without a negative adds 0, and matches of one class are left out in
triplet; the authors' code fails on the first and ignores labels in the second. Its lifted loss cannot run
as published; the above is its evident intent. Below 1e-4 arcs count as meeting, without gradient.

Not reproduced: trunk, crops and schedule belong to the protocol. Not read: the paper's text, whose losses
may be written differently (an average over pairs), and which may combine others.

Against stored numbers: float64 values agree to rounding, gradients to 3e-7, because the stored rows have unit length
to float32 only and the official gradient off the sphere also follows the angles of the nearest points.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from bench import arcs, miners, pairs, positive_pairs
from bench.method import Batch, Method, hyper

STRAIGHT = math.cos(1e-3)  # cosine of the smallest angle between images that span an arc


class LoOp(Method):
    """A loss whose negatives are the nearest points of arcs between images of one class."""

    name = "loop"
    paper = "vasudeva2021loop"
    by_default = False
    order_matters = True
    base: str = hyper(
        "hphn", choices=("hphn", "lifted", "multi_similarity", "triplet", "n_pair"), help="loss to put the arcs into"
    )
    margin: float = hyper(1e-5, low=1e-6, high=1.0, scale="log", help="margin m of hphn, lifted and triplet, distance")
    soft: bool = hyper(False, help="hphn: softplus instead of margin and hinge")
    alpha: float = hyper(2.0, low=0.1, high=20.0, scale="log", help="multi_similarity: sharpness s over positives")
    beta: float = hyper(50.0, low=5.0, high=150.0, scale="log", help="multi_similarity: sharpness t over negatives")
    threshold: float = hyper(0.5, low=0.0, high=1.0, help="multi_similarity: cosine l between positives and negatives")
    epsilon: float = hyper(0.1, low=-0.2, high=0.5, help="multi_similarity: mining slack, cosine")

    def loss(self, batch: Batch) -> Tensor:
        """Pair up the images, then apply the chosen loss."""
        first, second = positive_pairs.consecutive(batch.labels).unbind(1)
        if len(first) == 0:
            return batch.embeddings.sum() * 0
        if self.base == "n_pair":
            return self._n_pair(batch.raw_embeddings, batch.labels, first, second)
        x, y = batch.embeddings[first], batch.embeddings[second]
        negative = batch.labels[first][:, None] != batch.labels[first]
        curved = (x * y).sum(1) < STRAIGHT
        if self.base == "triplet":
            return self._triplet(x, y, negative, curved)
        admitted = negative & curved[:, None] & curved
        if admitted.any():
            distance = arcs.distances((x, y), (x, y))
        else:
            admitted, distance = negative, pairs.distances(x)
        positive = pairs.pair_masks(batch.labels)[0]
        near = _positive_distances(batch.embeddings, positive)
        if self.base == "multi_similarity":
            twins = torch.zeros_like(positive).index_put((second, first), torch.ones_like(curved))
            rows = torch.cat([positive[first], (positive & ~twins)[second]], 1)  # the distance of x and y once
            return self._multi_similarity(torch.cat([near[first], near[second]], 1), rows, distance, admitted)
        farthest = near.amax(1)
        farthest = torch.maximum(farthest[first], farthest[second])
        if self.base == "lifted":
            return F.relu(farthest + pairs.masked_logsumexp(-distance, admitted, 1) + self.margin).sum()
        gap = farthest - distance.masked_fill(~admitted, math.inf).amin(1)
        return (F.softplus(gap) if self.soft else F.relu(gap + self.margin)).sum()

    def _multi_similarity(self, near: Tensor, positive: Tensor, far: Tensor, negative: Tensor) -> Tensor:
        s = 1 - torch.cat([near, far], 1).square() / 2  # (T, 2 B + T)
        positive = F.pad(positive, (0, far.shape[1])) & (s < 1 - 1e-8)
        negative = F.pad(negative, (near.shape[1], 0))
        positive, negative = miners.multi_similarity(s, positive, negative, self.epsilon)
        pull = pairs.log1p_sum_exp(-self.alpha * (s - self.threshold), positive, 1) / self.alpha
        push = pairs.log1p_sum_exp(self.beta * (s - self.threshold), negative, 1) / self.beta
        return (pull + push).sum()

    def _triplet(self, x: Tensor, y: Tensor, negative: Tensor, curved: Tensor) -> Tensor:
        half = len(x) // 2
        a, b = slice(0, half), slice(half, 2 * half)
        admitted = negative[a, b].diagonal() & curved[a] & curved[b]
        if admitted.any():
            far = arcs.distances((x[a], y[a]), (x[b], y[b])).diagonal()
        else:
            admitted, far = negative[a, b].diagonal(), _lengths(x[a] - x[b])
        return (F.relu(_lengths(x[a] - y[a]) - far + self.margin) * admitted).sum()

    def _n_pair(self, x: Tensor, labels: Tensor, first: Tensor, second: Tensor) -> Tensor:
        ends = torch.stack([x[first], x[second]], 1)  # (T, 2, D)
        nearest = torch.einsum("aid,bjd->abij", ends, ends).amax((2, 3))
        own = (x[first] * x[second]).sum(1, keepdim=True)
        return pairs.log1p_sum_exp(nearest - own, labels[first][:, None] != labels[first], 1).sum()


def _lengths(differences: Tensor) -> Tensor:
    """Lengths of rows, with gradient 0 where they are 0."""
    return (differences.square().sum(1) + 1e-20).sqrt()


def _positive_distances(embeddings: Tensor, positive: Tensor) -> Tensor:
    """Distances of the positive pairs, exact for duplicates; 0 elsewhere, (B, B)."""
    i, j = positive.nonzero(as_tuple=True)
    return embeddings.new_zeros(positive.shape).index_put((i, j), _lengths(embeddings[i] - embeddings[j]))
