"""Generalised lifted structure loss: one hinge per anchor over soft maxima of both its positives and negatives.

The original lifted loss has one term per positive pair; here all positives of the anchor enter together
(Hermans et al. 2017), n anchors, D Euclidean:

    L = 1/n sum_i [ log sum_{p in P_i} exp(D_ip) + log sum_{k in N_i} exp(m - D_ik) ]_+

Default m = 1, as in pytorch-metric-learning, whose form this is. As there, the logarithm of an empty sum is
taken as 0, so that an anchor with one kind of pairs is still pulled or pushed, and the mean is over all anchors,
active or not.

Not reproduced, because the protocol fixes it: the paper leaves embeddings unnormalised. Not read: its text
and code; the formula is the library's, which refers to page 4 of the paper.
"""

from __future__ import annotations

from torch import Tensor

from bench import pairs
from bench.method import Batch, hyper
from bench.pair_method import PairMethod


class GeneralizedLifted(PairMethod):
    """Lifted structure loss over all positives and negatives of an anchor."""

    name = "generalized_lifted"
    paper = "hermans2017defense"
    by_default = False
    margin: float = hyper(1.0, low=0.1, high=2.0, help="distance m that negatives should keep")

    def loss(self, batch: Batch) -> Tensor:
        """The loss on the distances of the batch."""
        return self._mean_hinge(pairs.distances(batch.embeddings), *pairs.pair_masks(batch.labels))

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The same for any references, from the similarities of unit vectors."""
        return self._mean_hinge(pairs.unit_distances(s), positive, negative)

    def _mean_hinge(self, d: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        far = pairs.masked_logsumexp(d, positive, 1).where(positive.any(1), 0)
        near = pairs.masked_logsumexp(self.margin - d, negative, 1).where(negative.any(1), 0)
        return (far + near).clamp(min=0).mean()
