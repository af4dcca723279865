"""Lifted structure loss as the Deep_Metric repository has it: a soft minimum of positives, a soft maximum of negatives.

Both sides of an anchor become log-sum-exps of cosines, on scales of their own, n anchors:

    L = 1/n sum_i { 2/b log sum_{p in P_i} exp(-b s_ip) + 2/a log sum_{k in N_i} exp(a s_ik) }

Defaults a = 40, b = 2. There is neither hinge nor square nor margin: the loss is unbounded, may be
negative, and keeps pulling pairs that are apart already. It is another function than the loss of Song et
al. 2016 (see `lifted`); numbers that public tables call "LiftedStruct" may come from either. `mined`
is the repository's second branch: a negative takes part if it is more similar than the anchor's least
similar positive - 0.1, a positive if it is less similar than the most similar negative + 0.1.

Different: an anchor without positives has a loss of minus infinity there, which makes the whole batch's
loss infinite; one without negatives is skipped. Here an anchor that lacks either kind adds 0, and still
counts in n as skipped ones do there. An image is removed from its own positives by its index, not by the
test s < 1, which in float32 lets some self pairs through and drops exact duplicates.
"""

from __future__ import annotations

from torch import Tensor

from bench import miners, pairs
from bench.method import hyper
from bench.pair_method import PairMethod


class LiftedModified(PairMethod):
    """Lifted structure loss on cosines, without hinge."""

    name = "lifted_modified"
    by_default = False
    alpha: float = hyper(40.0, low=2.0, high=150.0, scale="log", help="sharpness over negative pairs")
    beta: float = hyper(2.0, low=0.1, high=20.0, scale="log", help="sharpness over positive pairs")
    mined: bool = hyper(False, help="only pairs that are hard relative to the anchor's hardest opposite pair")
    epsilon: float = hyper(0.1, low=0.0, high=0.8, help="mining slack, cosine; without effect unless mined")

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Two log-sum-exps of every anchor that has both kinds of pairs, divided by the number of anchors."""
        if self.mined:
            positive, negative = miners.multi_similarity(s, positive, negative, self.epsilon)
        pull = 2 / self.beta * pairs.masked_logsumexp(-self.beta * s, positive, 1)
        push = 2 / self.alpha * pairs.masked_logsumexp(self.alpha * s, negative, 1)
        complete = positive.any(1) & negative.any(1)
        return (pull + push).where(complete, 0).sum() / len(s)
