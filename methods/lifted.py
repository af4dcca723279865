"""Lifted structure loss: every positive pair competes with all negatives of both its members at once.

A batch's full distance matrix is used, with a smooth upper bound on the hinge against the hardest
negative (Song et al. 2016). Over the positive pairs P, D Euclidean:

    J_ij = D_ij + log[ sum_{k in N_i} exp(a - D_ik) + sum_{l in N_j} exp(a - D_jl) ]
    L = 1/(2|P|) sum_{(i,j) in P} max(0, J_ij)^2

Default a = 1, as in the authors' Caffe layer. Each pair counts in both orders here, which leaves the
mean as it is.

Different: that layer divides by D_ij in its backward pass and by |P|; here duplicates pass no gradient,
and a batch without positives or without negatives gives 0. When the references are not the batch itself
(a memory, synthetic points), only similarities of unit vectors are known, and the negatives of
reference j are the anchors of other classes.

Not reproduced, because the protocol fixes it: their embeddings are not normalised, and their batches
grow from random positive pairs by adding hard negatives of these. Not read: the paper's text; the formula
is that of the layer and of secondary sources.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench import pairs
from bench.method import Batch, hyper
from bench.pair_method import PairMethod


class Lifted(PairMethod):
    """Lifted structure loss in its original form."""

    name = "lifted"
    paper = "song2016lifted"
    by_default = False
    margin: float = hyper(1.0, low=0.1, high=2.0, help="distance a that negatives should keep")

    def loss(self, batch: Batch) -> Tensor:
        """The loss on the distances of the batch."""
        return self._mean_square(pairs.distances(batch.embeddings), *pairs.pair_masks(batch.labels))

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The same for any references, from the similarities of unit vectors."""
        return self._mean_square(pairs.unit_distances(s), positive, negative)

    def _mean_square(self, d: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        of_anchor = pairs.masked_logsumexp(self.margin - d, negative, 1)  # (A,)
        of_reference = pairs.masked_logsumexp(self.margin - d, negative, 0)  # (R,)
        violation = d + torch.logaddexp(of_anchor[:, None], of_reference[None, :])
        return (violation.clamp(min=0).square() * positive).sum() / (2 * positive.sum().clamp(min=1))
