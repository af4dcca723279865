"""Easy positive, hard negative: each image is pulled only to the nearest image of its class.

Classes with several modes need not collapse to one point (Xuan et al. 2020). P_i are the other images of
i's class, N_i those of other classes, n anchors have both:

    L = 1/n sum_i log[ 1 + exp( (max_{k in N_i} s_ik - max_{p in P_i} s_ip) / t ) ]

Different: the paper draws the negatives from the whole batch or semi-hard; here it is the hardest one.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from bench.method import hyper
from bench.pair_method import PairMethod


class EasyPositive(PairMethod):
    """Easy positive, hard negative."""

    name = "easy_positive"
    paper = "xuan2020epshn"
    temperature: float = hyper(0.1, low=0.01, high=1.0, scale="log", help="divides the cosines: smaller is sharper")

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Mean over anchors that have a positive and a negative."""
        usable = positive.any(1) & negative.any(1)
        nearest = s.masked_fill(~positive, -2.0).amax(1)
        hardest = s.masked_fill(~negative, -2.0).amax(1)
        terms = functional.softplus((hardest - nearest) / self.temperature)
        return (terms * usable).sum() / usable.sum().clamp(min=1)
