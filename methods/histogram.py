"""Histogram loss: the probability that a random negative pair is more similar than a random positive pair.

Both distributions of similarities are estimated by histograms over the batch whose entries are shared
linearly between the two nearest nodes, which makes them differentiable (Ustinova and Lempitsky 2016). Nodes
t_0 = -1 ... t_R = 1 are a step D apart, S+ and S- the positive and negative pairs:

    h+_r = 1/|S+| sum_{S+} max(0, 1 - |s - t_r| / D),    h-_r likewise
    L = sum_r h-_r (h+_0 + ... + h+_r)

There is nothing to tune but the step. Default R = 200, D = 0.01, from the authors' model files. Ordered
pairs are counted, which gives the histograms of unordered ones.

Different: similarities beyond [-1, 1] by rounding count as -1 or 1, as in the authors' code, and pass no
gradient. Without positives or without negatives L is 0, where that code fails. Its variants with a margin,
an exponential or fitted beta distributions are left out. Not read: the paper's text.
"""

from __future__ import annotations

from torch import Tensor

from bench.method import hyper
from bench.pair_method import PairMethod


def histogram(values: Tensor, bins: int) -> Tensor:
    """Share of `values` (M,), in [-1, 1], at each of bins + 1 nodes; sums to 1, or 0 where there are none."""
    place = (values.clamp(-1, 1) + 1) * (bins / 2)
    node = place.detach().floor().clamp(max=bins - 1).long()
    beyond = place - node
    counts = values.new_zeros(bins + 1).index_add(0, node, 1 - beyond).index_add(0, node + 1, beyond)
    return counts / max(len(values), 1)


class Histogram(PairMethod):
    """Histogram loss."""

    name = "histogram"
    paper = "ustinova2016histogram"
    by_default = False
    bins: int = hyper(200, low=10, high=400, scale="log", help="steps R into which [-1, 1] is divided")

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Negatives at each node times positives at or below it."""
        below = histogram(s[positive], self.bins).cumsum(0)
        return (histogram(s[negative], self.bins) * below).sum()
