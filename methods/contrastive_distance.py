"""Contrastive loss on Euclidean distances, with a margin for each kind of pair.

Images of one class attract until they are nearer than one margin, others repel until they are farther than
another. Both hinges are linear in the distance d and averaged over the pairs that violate them, as in
pytorch-metric-learning and in A Metric Learning Reality Check (Musgrave et al. 2020):

    L = mean of [d_ip - m+]_+ over violating positive pairs + mean of [m- - d_ik]_+ over violating negative pairs

With averages of their own the few positive pairs weigh as much as the many negative ones. m+ = 0 and m- = 1 are
the library's defaults; the study's search ended between -0.2 and 0.285, and 0.384 and 0.541. A margin for
positives below 0 lets every positive pair count in full, as does 0.

Different from Hadsell et al. 2006: distances are not squared, terms not halved, positives may have a margin, and
means are over violating pairs. Not read: their text. Pairs at the same place pass no gradient.
"""

from __future__ import annotations

from torch import Tensor

from bench import pairs
from bench.method import hyper
from bench.pair_method import PairMethod


class ContrastiveDistance(PairMethod):
    """Contrastive loss on distances of unit vectors."""

    name = "contrastive_distance"
    paper = "hadsell2006contrastive"
    by_default = False
    pos_margin: float = hyper(0.0, low=0.0, high=0.6, accepts=(-0.2, 2.0), help="distance down to which positives pull")
    neg_margin: float = hyper(1.0, low=0.2, high=1.4, accepts=(-0.2, 2.0), help="distance up to which negatives push")

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Both hinges, each a mean over its violating pairs."""
        d = pairs.unit_distances(s)
        pull = (d - self.pos_margin).clamp(min=0) * positive
        push = (self.neg_margin - d).clamp(min=0) * negative
        return pairs.active_mean(pull) + pairs.active_mean(push)
