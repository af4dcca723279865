"""Binomial deviance loss: a logistic loss on the similarity of each pair, far steeper for negatives.

Unlike a hinge it never stops at a margin, and unlike a contrastive loss it weighs hard pairs more
(Yi et al. 2014). This is the cosine form of the Deep_Metric repository; per anchor, positives and negatives
count equally however many there are, n anchors:

    L = 1/n sum_i { mean_{p in P_i} log[1 + exp(-b (s_ip - m))] + mean_{k in N_i} log[1 + exp(a (s_ik - m))] }

Defaults a = 40, b = 2 (fixed in that code), m = 0.5. `mined` is its second branch: only pairs within 0.1 of the
anchor's hardest opposite pair are kept, and the two means are multiplied by 2/b and 2/a, which weakens
the negatives twentyfold.

Different: an anchor without positives makes the loss NaN there; one without negatives is skipped. Here
an anchor that lacks either kind adds 0, and still counts in n as skipped ones do there. The mined branch
divides by zero at that code's own default b = 0, and takes m = 0.5 whatever is asked for; here b and m hold
in both. An image is removed from its own positives by its index, not by the test s < 1, which in float32
lets some self pairs through and drops exact duplicates. Not read: the paper; its constants may differ.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from bench import miners, pairs
from bench.method import hyper
from bench.pair_method import PairMethod

EXACT = 50.0  # log(1 + exp(x)) is taken as x beyond; torch's 20 would show in float64


class Binomial(PairMethod):
    """Binomial deviance loss on cosines."""

    name = "binomial"
    paper = "yi2014binomial"
    by_default = False
    alpha: float = hyper(40.0, low=2.0, high=150.0, scale="log", help="steepness for negative pairs")
    beta: float = hyper(2.0, low=0.1, high=20.0, scale="log", help="steepness for positive pairs")
    margin: float = hyper(0.5, low=0.0, high=1.0, help="cosine that positives should exceed and negatives stay below")
    mined: bool = hyper(False, help="only pairs that are hard relative to the anchor's hardest opposite pair")
    epsilon: float = hyper(0.1, low=0.0, high=0.8, help="mining slack, cosine; without effect unless mined")

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Two mean deviances of every anchor that has both kinds of pairs, divided by the number of anchors."""
        if self.mined:
            positive, negative = miners.multi_similarity(s, positive, negative, self.epsilon)
        pull = pairs.masked_mean(F.softplus(-self.beta * (s - self.margin), threshold=EXACT), positive, 1)
        push = pairs.masked_mean(F.softplus(self.alpha * (s - self.margin), threshold=EXACT), negative, 1)
        if self.mined:
            pull, push = 2 / self.beta * pull, 2 / self.alpha * push
        complete = positive.any(1) & negative.any(1)
        return (pull + push).where(complete, 0).sum() / len(s)
