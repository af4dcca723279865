"""ROADMAP: an upper bound of the average-precision loss whose gradient never vanishes, plus calibration.

Smooth ranks saturate: a positive far below a negative gets no gradient, and the smoothed loss may lie
below the true one. SupAP counts the positives above a positive with true steps H, and the negatives with
a function that is never below the step and grows linearly beyond it (Ramzi et al. 2021):

    H-(x) = g(x) for x < 0,   g(x) + 1/2 for 0 <= x <= d,   r (x - d) + g(d) + 1/2 for x > d,
    g(x) = 1 / (1 + exp(-x / t)),    rank+_i = 1 + sum_{j in P, j != i} H(s_qj - s_qi),
    SupAP_q = 1/|P| sum_{i in P} rank+_i / [rank+_i + sum_{j in N} H-(s_qj - s_qi)]

so that 1 - SupAP is at least 1 - AP. A batch's AP says little about that of the whole set unless scores
of different queries are comparable; a contrastive term calibrates them, each mean over violating pairs:

    C = mean [a - s_p]_+ + mean [s_n - b]_+,    L = (1 - w) mean_q (1 - SupAP_q) + w C

Defaults: t = 0.01, r = 100, d = 0.05, a = 0.9, b = 0.6, all from the released configuration, which adds
the two terms with equal weights: w = 0.5, up to a factor of 2.

Different: a tie with a negative counts as being outranked (H-(0) = 1), so the bound holds there too; the
released code counts 1/2. It also raises the last piece by r d, in a jump at d: `tail = "as_released"`
gives its r x + 1.44; the authors' later code has the continuous piece. And it ranks the query itself, as
a positive of its own (`query = "as_released"`), here left out. Gradients through ties are the same. Its
configuration for iNaturalist, whose H- lacks the 1/2, is not reproduced.

Not read: the paper beyond its opening; formulas and defaults are those of the released code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench import pairs
from bench.method import hyper
from bench.ranking_method import RankingMethod


class Roadmap(RankingMethod):
    """SupAP with a calibrating contrastive term."""

    name = "roadmap"
    paper = "ramzi2021roadmap"
    by_default = False
    temperature: float = hyper(0.01, low=0.001, high=0.1, scale="log", help="t, width of a rank's step, cosine")
    slope: float = hyper(100.0, low=1.0, high=1000.0, scale="log", help="r, ranks a unit of cosine beyond the step")
    delta: float = hyper(0.05, low=0.0, high=0.2, help="d, where the linear piece begins, cosine")
    positive_margin: float = hyper(0.9, low=0.5, high=1.0, help="a, cosine that positive pairs should exceed")
    negative_margin: float = hyper(0.6, low=0.0, high=0.9, help="b, cosine that negative pairs should stay below")
    weight: float = hyper(0.5, low=0.0, high=0.95, help="w, share of the calibrating term")
    tail: str = hyper("continuous", choices=("continuous", "as_released"), help="height of the linear piece")

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Weighted sum of both terms."""
        ranking, calibration = self.ranking(s, positive, negative), self.calibration(s, positive, negative)
        return (1 - self.weight) * ranking + self.weight * calibration

    def ranking(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """One minus the mean SupAP over the anchors that have a positive."""
        anchor, gap = pairs.gaps_to_positives(s, positive)  # (T,), (T, R): the ranks that matter
        in_class = (positive.index_select(0, anchor) & (gap >= 0)).sum(1)  # the item itself is the one
        outranked_by = (self._above(gap) * negative.index_select(0, anchor)).sum(1)
        size = positive.sum(1)
        # 1 - rank+ / rank, without the cancellation of a nearly perfect ranking
        lost = outranked_by / (in_class + outranked_by)
        return (lost / size[anchor]).sum() / (size > 0).sum().clamp(min=1)

    def calibration(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Mean violation of the two margins, each over the pairs that violate it."""
        pull = (self.positive_margin - s).clamp(min=0) * positive
        push = (s - self.negative_margin).clamp(min=0) * negative
        return pairs.active_mean(pull) + pairs.active_mean(push)

    def _above(self, gap: Tensor) -> Tensor:
        """H-, by how much a negative outranks an item that it exceeds by the gap."""
        step = (gap / self.temperature).sigmoid() + 0.5 * (gap >= 0)
        if self.tail == "as_released":
            return torch.where(gap > self.delta, self.slope * gap + 1.44, step)
        top = 0.5 + 1 / (1 + math.exp(-self.delta / self.temperature))
        return torch.where(gap > self.delta, self.slope * (gap - self.delta) + top, step)
