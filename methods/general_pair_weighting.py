"""General pair weighting: a pair loss is nothing but the weights that it gives to the similarities of its pairs.

The gradient of any loss on similarities is a weighted sum of theirs, so choosing a loss is choosing
weights (Wang et al. 2019). With weights w held constant, n anchors:

    L = 1/n sum_i { sum_{k in N_i} w_ik s_ik - sum_{p in P_i} w_ip s_ip }

Only the gradient of L means something; its value is no measure of progress. The weights, in closed form:

- contrastive: positives 1; negatives 1 if s > l.
- triplet: positives the number of negatives, negatives the number of positives, with which they form a
  triplet that violates s_ip >= s_ik + m.
- lifted: softmax of -s over positives and of s over negatives, while the hinge
  [log sum_p exp(m - s_ip) + log sum_k exp(s_ik)]_+ is active.
- binomial: a sigmoid(-a (s - l)) / |P_i| and b sigmoid(b (s - l)) / |N_i|.
- multi_similarity: mining with slack m, then exp(-a (s_ip - l)) / (1 + sum_q exp(-a (s_iq - l))) over the kept
  positives, exp(b (s_ik - l)) / (1 + sum_q exp(b (s_iq - l))) over the kept negatives.

Defaults are those of the multi-similarity loss in the authors' code: a = 2, b = 40, l = 0.5, m = 0.1. They serve
the other weightings too, for which that code has none.

Different: the paper explains losses by this form, and the authors' code has none in it; gradients are
those of the pair losses themselves. Where an anchor lacks positives or negatives, all weightings but
"contrastive" give it none; "multi_similarity" takes no pair with s >= 1 - 1e-5 for a positive. Not read:
the paper's text, so that equation numbers are missing; the lifted form is that of Hermans et al. 2017, on
similarities.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench import miners, pairs
from bench.method import hyper
from bench.pair_method import PairMethod


class GeneralPairWeighting(PairMethod):
    """Similarities times the weights that a known pair loss would give them."""

    name = "general_pair_weighting"
    paper = "wang2019ms"
    by_default = False
    weighting: str = hyper(
        "multi_similarity",
        choices=("contrastive", "triplet", "lifted", "binomial", "multi_similarity"),
        help="loss whose weights are used",
    )
    alpha: float = hyper(2.0, low=0.1, high=20.0, scale="log", help="sharpness a over positive pairs")
    beta: float = hyper(40.0, low=5.0, high=150.0, scale="log", help="sharpness b over negative pairs")
    base: float = hyper(0.5, low=0.0, high=1.0, help="cosine l that positives should exceed and negatives stay below")
    margin: float = hyper(0.1, low=0.0, high=0.8, help="margin m of triplets and lifted terms, or mining slack; cosine")

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Weighted similarities of negatives minus those of positives, divided by the number of anchors."""
        pull, push = self.weights(s, positive, negative)
        return ((push - pull) * s).sum() / len(s)

    @torch.no_grad()
    def weights(self, s: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of positive and of negative pairs, both (A, R), at least 0, and 0 outside the masks."""
        if self.weighting == "contrastive":
            return positive.to(s.dtype), (negative & (s > self.base)).to(s.dtype)
        complete = positive.any(1, keepdim=True) & negative.any(1, keepdim=True)
        positive, negative = positive & complete, negative & complete
        if self.weighting == "triplet":
            return self._violated_triplets(s, positive, negative)
        if self.weighting == "lifted":
            far, near = _filled(self.margin - s, positive), _filled(s, negative)
            active = far.logsumexp(1, keepdim=True) + near.logsumexp(1, keepdim=True) > 0
            return far.softmax(1) * (positive & active), near.softmax(1) * (negative & active)
        if self.weighting == "binomial":
            pull = self.alpha * (-self.alpha * (s - self.base)).sigmoid() * positive
            push = self.beta * (self.beta * (s - self.base)).sigmoid() * negative
            return pull / positive.sum(1, keepdim=True).clamp(min=1), push / negative.sum(1, keepdim=True).clamp(min=1)
        positive, negative = miners.multi_similarity(s, positive & (s < 1 - 1e-5), negative, self.margin)
        return _soft(-self.alpha * (s - self.base), positive), _soft(self.beta * (s - self.base), negative)

    def _violated_triplets(self, s: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """For each pair, how many opposite pairs of its anchor lie on the wrong side of it."""
        positives = s.masked_fill(~positive, math.inf).sort(1).values
        negatives = s.masked_fill(~negative, -math.inf).sort(1).values
        above = s.shape[1] - torch.searchsorted(negatives, s - self.margin, right=True)
        below = torch.searchsorted(positives, s + self.margin)
        return (above * positive).to(s.dtype), (below * negative).to(s.dtype)


def _filled(logits: Tensor, mask: Tensor) -> Tensor:
    return logits.masked_fill(~mask, torch.finfo(logits.dtype).min)


def _soft(logits: Tensor, mask: Tensor) -> Tensor:
    """Softmax with one more, constant entry: exp / (1 + sum exp) over the entries admitted by `mask`, 0 elsewhere."""
    return (_filled(logits, mask) - pairs.log1p_sum_exp(logits, mask, 1)[:, None]).exp()
