"""Triplet loss with semi-hard negatives: an image is nearer to its class than to the negatives just outside.

Every positive pair of the batch is compared with every negative that is farther than the positive,
but by less than the margin a (Schroff et al. 2015, equations 2 and 3, section 3.2):

    L = 1/|T| sum_{(i,p,k) in T} [ d_ip - d_ik + a ],    T = { d_ip < d_ik <= d_ip + a }

The window makes every chosen term positive, so this is also the mean over violating triplets. Without the
window's lower end (`negatives = "all"`) T holds all triplets that violate the margin, the hardest too: the
form of A Metric Learning Reality Check (Musgrave et al. 2020), whose search also tried margins below 0.

Different from the paper: it squares the distances and takes a = 0.2; the default here is the plain
Euclidean distance of unit vectors, in which benchmarks since then state their margins (`squared`
gives the paper's form, window included). The paper draws from batches of thousands of faces; here all
semi-hard triplets of the batch are used. No official code was published.

The batch's own loss takes the distances of its embeddings, whatever their lengths. Against other
references (a memory, synthetic points) only similarities are known: `pair_loss` supposes unit vectors.
"""

from __future__ import annotations

from torch import Tensor

from bench import miners, pairs
from bench.method import Batch, hyper
from bench.pair_method import PairMethod


def hinge(near: Tensor, far: Tensor, margin: float) -> Tensor:
    """[near - far + margin]_+ of anchor-positive and anchor-negative distances, elementwise."""
    return (near - far + margin).clamp(min=0)


class Triplet(PairMethod):
    """Semi-hard triplet loss."""

    name = "triplet"
    paper = "schroff2015facenet"
    margin: float = hyper(
        0.05,
        low=0.01,
        high=1.0,
        scale="log",
        accepts=(-0.2, 2.0),
        help="how much farther a negative must be than a positive",
    )
    negatives: str = hyper("semi_hard", choices=("semi_hard", "all"), help="'all': nearer than the positive too")
    squared: bool = hyper(False, help="squared Euclidean distances, as in the paper")

    def loss(self, batch: Batch) -> Tensor:
        """Mean violation of the margin over the chosen triplets of the batch; 0 if there are none."""
        d = pairs.squared_distances(batch.embeddings) if self.squared else pairs.distances(batch.embeddings)
        return self._mean_violation(d, *pairs.pair_masks(batch.labels))

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The same for any references, from the similarities of unit vectors."""
        d = (2 - 2 * s).clamp(min=0) if self.squared else pairs.unit_distances(s)
        return self._mean_violation(d, positive, negative)

    def _mean_violation(self, d: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        if self.negatives == "all":
            anchor, near = positive.nonzero(as_tuple=True)
            violation = hinge(d[anchor, near][:, None], d.index_select(0, anchor), self.margin)
            return pairs.active_mean(violation * negative.index_select(0, anchor))
        anchor, near, far = miners.semi_hard(d, positive, negative, self.margin)
        violation = hinge(d[anchor, near][:, None], d.index_select(0, anchor), self.margin)
        return (violation * far).sum() / far.sum().clamp(min=1)
