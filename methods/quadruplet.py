"""Quadruplet loss: positive pairs are closer than negative pairs, also than those that do not share the anchor.

A triplet loss orders distances around each anchor only; the second term compares a positive pair with two
images of two other classes, so that all classes get tight relative to all gaps (Chen et al. 2017):

    L = mean [d_ij - d_ik + a1]_+ + mean [d_ij - d_lk + a2]_+,    i, j of one class, l, k of two others

The first term takes all triplets of the batch. In the second every positive pair meets every image l of
another class with l's nearest negative k, if k is not of i's class: the hardest gap around each image, so
that memory stays that of the triplets. Means are over violated margins.

Different from the paper: there d is the square of a function g of two images, and the loss a sum; here d is
the Euclidean distance of embeddings (`squared`: its square), since the protocol compares embeddings. Its
own margin-based mining is replaced as above; the farthest positive and nearest negative of each image alone
learned far less in a trial. Defaults a1 = a2 = 0.2 are those of the public code of Roth et al. 2020, which
has the same plain distances, but draws the fourth image without looking at its class. Of the paper only the
abstract was read, its equation as others quote it, its margins and mining not; no official code was found.
"""

from __future__ import annotations

import math

from torch import Tensor

from bench import pairs
from bench.method import Batch, Method, hyper


class Quadruplet(Method):
    """Quadruplet loss over all positive pairs."""

    name = "quadruplet"
    paper = "chen2017quadruplet"
    by_default = False
    margin: float = hyper(0.2, low=0.02, high=1.0, scale="log", help="a1: around one anchor")
    margin_apart: float = hyper(0.2, low=0.02, high=1.0, scale="log", help="a2: against pairs of two other classes")
    squared: bool = hyper(False, help="squared Euclidean distances")

    def loss(self, batch: Batch) -> Tensor:
        """Each positive pair against its anchor's negatives and against the gaps between other classes."""
        d = (pairs.squared_distances if self.squared else pairs.distances)(batch.embeddings)
        positive, negative = pairs.pair_masks(batch.labels)
        anchor, partner = positive.nonzero(as_tuple=True)
        far = d[anchor, partner][:, None]
        near, rival = d.masked_fill(~negative, math.inf).min(1)
        apart = negative & (batch.labels[:, None] != batch.labels[rival][None, :])
        shared = (far - d.index_select(0, anchor) + self.margin).clamp(min=0) * negative.index_select(0, anchor)
        other = (far - near[None, :] + self.margin_apart).clamp(min=0) * apart.index_select(0, anchor)
        return _mean_violation(shared) + _mean_violation(other)


def _mean_violation(terms: Tensor) -> Tensor:
    return terms.sum() / (terms > 0).sum().clamp(min=1)
