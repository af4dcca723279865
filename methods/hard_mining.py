"""Hard mining on cosines: the plainest pull and push, on the pairs that violate the order of similarities.

A loss of the Deep_Metric repository, without a paper. Per anchor, kept are the negatives more similar
than the least similar positive - e and the positives less similar than the most similar negative + e
(`rule = "hardest"`), n anchors:

    L = 1/n sum_i { mean_{p kept} (1 - s_ip) + mean_{k kept} s_ik }

Default e = 0.1 (fixed in that code, whatever margin it is given). An anchor either keeps both kinds or
none; the latter adds 0 and counts in n.

`rule = "easiest"` is the triplet-like loss of the XBM repository: positives as above, but negatives are
measured from the most similar positive, s_ik > max(0.6, max_p s_ip) - e, and sums take the place of means.

Different: the image itself is removed by its index. Deep_Metric removes it by s < 1, which in float32 lets
some self pairs through and drops exact duplicates. XBM clears the diagonal of the first n columns, which in
a memory are its oldest slots, by a subtraction of unsigned bytes that turns slots of another class into
positives; both spoil its numbers with a memory, and neither is reproduced. Deep_Metric's file named
"triplet" holds this loss again, not a triplet loss, and ran only with masks of PyTorch before 1.2.
An anchor without positives or without negatives raises an error there; here it keeps nothing, or with
"easiest" and no positives the negatives above 0.6 - e.
"""

from __future__ import annotations

import math

from torch import Tensor

from bench import miners, pairs
from bench.method import hyper
from bench.pair_method import PairMethod

FLOOR = 0.6  # rule "easiest": positives less similar than this do not lower the bar for negatives


class HardMining(PairMethod):
    """Mean or sum of the cosines of hard pairs."""

    name = "hard_mining"
    by_default = False
    margin: float = hyper(0.1, low=0.0, high=0.8, help="mining slack e, cosine")
    rule: str = hyper(
        "hardest", choices=("hardest", "easiest"), help="positive that negatives are measured from; 'easiest': XBM"
    )

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Choose the pairs of each anchor, then add up what they lack, divided by the number of anchors."""
        if self.rule == "hardest":
            positive, negative = miners.multi_similarity(s, positive, negative, self.margin)
            terms = pairs.masked_mean(1 - s, positive, 1) + pairs.masked_mean(s, negative, 1)
        else:
            hardest_negative = s.masked_fill(~negative, -math.inf).amax(1, keepdim=True)
            easiest_positive = s.masked_fill(~positive, -math.inf).amax(1, keepdim=True)
            positive = positive & (s < hardest_negative + self.margin)
            negative = negative & (s > easiest_positive.clamp(min=FLOOR) - self.margin)
            terms = ((1 - s) * positive + s * negative).sum(1)
        return terms.sum() / len(s)
