"""Contrastive loss on cosine similarity: images of one class attract, others repel while more similar than a margin.

The oldest pair loss; this is its cosine form, as founding pair-based code bases use it, summed over
pairs and divided by the batch size n:

    L = 1/n sum_i [ sum_{p in P_i} max(1 - s_ip, 0) + sum_{k in N_i, s_ik > m} s_ik ]

where s is the dot product of unit vectors, P_i and N_i are the other images of i's class and those of
other classes, and m is the margin. A violating negative adds s, not s - m: same gradient, but the
value jumps by m where a pair becomes active.

Different from the public code: the image itself is removed by its index, not by the test s < 1, which
in float32 lets some self pairs through as positives. Exact duplicates add 0 here as there.
"""

from __future__ import annotations

from torch import Tensor

from bench.method import hyper
from bench.pair_method import PairMethod


class Contrastive(PairMethod):
    """Cosine contrastive loss."""

    name = "contrastive"
    paper = "hadsell2006contrastive"
    margin: float = hyper(0.5, low=0.0, high=0.9, help="cosine above which a negative pair is pushed apart")

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Attraction of all positive pairs plus repulsion of the negatives above the margin, per anchor."""
        pull = ((1 - s).clamp(min=0) * positive).sum()
        push = (s * (negative & (s > self.margin))).sum()
        return (pull + push) / len(s)
