"""Multi-similarity loss: a pair's weight depends on its own similarity and on the other pairs of its anchor.

Mining keeps, per anchor, the pairs that are informative relative to the hardest opposite pair; the
loss then weighs them softly (Wang et al. 2019, equations 7, 8 and 10), n images in the batch:

    L = 1/n sum_i { 1/a log[1 + sum_{p} exp(-a (s_ip - l))] + 1/b log[1 + sum_{k} exp(b (s_ik - l))] }

Defaults a = 2, b = 40, l = 0.5, mining slack 0.1 are those of the authors' code; the paper's text gives
b = 50. As there, anchors without informative pairs count in n, and a same-class pair with s >= 1 - 1e-5
(an exact duplicate) is no positive.

Different: the image itself is removed by its index. The authors' code raises an error for an anchor
without a positive or without a negative; here that anchor adds 0, and the loss of a batch of such
anchors is a 0 that stays connected to the graph.
"""

from __future__ import annotations

from torch import Tensor

from bench import miners, pairs
from bench.method import hyper
from bench.pair_method import PairMethod


class MultiSimilarity(PairMethod):
    """Multi-similarity loss with its miner."""

    name = "multi_similarity"
    paper = "wang2019ms"
    alpha: float = hyper(
        2.0, low=0.1, high=20.0, scale="log", accepts=(1e-3, 100.0), help="sharpness over positive pairs"
    )
    beta: float = hyper(
        40.0, low=5.0, high=150.0, scale="log", accepts=(0.01, 200.0), help="sharpness over negative pairs"
    )
    base: float = hyper(0.5, low=0.0, high=1.0, help="cosine that positives should exceed and negatives stay below")
    mined: bool = hyper(True, help="only informative pairs; without mining all pairs of the batch count")
    epsilon: float = hyper(0.1, low=0.0, high=0.8, accepts=(0.0, 1.0), help="mining slack, cosine")

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Mine, then sum the two soft maxima of every anchor, divided by the number of anchors."""
        positive = positive & (s < 1 - 1e-5)
        if self.mined:
            positive, negative = miners.multi_similarity(s, positive, negative, self.epsilon)
        pull = pairs.log1p_sum_exp(-self.alpha * (s - self.base), positive, 1) / self.alpha
        push = pairs.log1p_sum_exp(self.beta * (s - self.base), negative, 1) / self.beta
        return (pull + push).sum() / len(s)
