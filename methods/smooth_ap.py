"""Smooth-AP: the average precision with which every image ranks its batch, each step of a rank a sigmoid.

An image's rank is one plus the number of images that are more similar to the query; counting with a
sigmoid g(x) = 1 / (1 + exp(-x / t)) instead of a step makes average precision differentiable (Brown et
al. 2020). For a query q with positives P and negatives N, averaged over the queries that have a positive:

    AP_q = 1/|P| sum_{i in P} [1 + sum_{j in P, j != i} g(s_qj - s_qi)] / [1 + sum_{j in P or N, j != i} g(s_qj - s_qi)]
    L = mean_q (1 - AP_q)

Default t = 0.01. Only the positives' ranks are needed, so time and memory are O(positive pairs x batch),
where public code fills the whole cube of batch x batch x batch.

Different: classes may have any size and come in any order; the released code reshapes the batch, and is
right only for equal classes that lie side by side. Its comments leave the query out of the ranked
images, as the definition does, but its code ranks the query too, as a positive of its own: at rank one
it raises every AP and lowers the weight of the first ranks. `query = "as_released"` gives that form.
Queries without a positive are left out; there they do not occur.

Not read: the paper beyond its opening; formula and default are those of the released code.
"""

from __future__ import annotations

from torch import Tensor

from bench import pairs
from bench.method import hyper
from bench.ranking_method import RankingMethod


class SmoothAP(RankingMethod):
    """Smooth average precision."""

    name = "smooth_ap"
    paper = "brown2020smoothap"
    by_default = False
    temperature: float = hyper(0.01, low=0.001, high=0.1, scale="log", help="width of a rank's step, cosine")

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """One minus the mean average precision over the anchors that have a positive."""
        anchor, gap = pairs.gaps_to_positives(s, positive)  # (T,), (T, R): the ranks that matter
        above = (gap / self.temperature).sigmoid()
        # An item counts itself with g(0) = 1/2: one plus the others is one half plus all.
        rank_in_class = 0.5 + (above * positive.index_select(0, anchor)).sum(1)
        rank = 0.5 + (above * (positive | negative).index_select(0, anchor)).sum(1)
        size = positive.sum(1)
        return ((1 - rank_in_class / rank) / size[anchor]).sum() / (size > 0).sum().clamp(min=1)
