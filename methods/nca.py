"""Neighbourhood components analysis: an image should find its own class when it picks a neighbour at random.

Neighbour j of i is drawn with a probability that falls with the squared distance; the loss is the negative
logarithm of the probability of picking one's own class (Goldberger et al. 2004), n anchors with a positive:

    p_ij = exp(-c d_ij^2) / sum_{k != i} exp(-c d_ik^2),    L = -1/n sum_i log sum_{j in P_i} p_ij

Before deep networks the objective was the expected number of images that pick their own class;
`objective = "probability"` is that one, as the mean of 1 - p_i. The method then learned a linear map,
whose scale is free; unit vectors need the factor c. Default c = 8, that is 16 on cosines, the scale in the
Deep_Metric repository; the library pytorch-metric-learning has 1.

Different: anchors without positives are left out. That repository's loss of this name is no reference: as
released it stops at an error, and its formula, once that is repaired, takes the least similar entries and
has the opposite sign: it drives positives apart (written for distances, applied to similarities). Not
read: the paper's text.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench import pairs
from bench.method import Batch, hyper
from bench.pair_method import PairMethod


class NCA(PairMethod):
    """Neighbourhood components analysis on a batch."""

    name = "nca"
    paper = "goldberger2004nca"
    by_default = False
    scale: float = hyper(8.0, low=1.0, high=50.0, scale="log", help="factor c on squared distances")
    objective: str = hyper("log", choices=("log", "probability"), help="negative log of p_i, or 1 - p_i")

    def loss(self, batch: Batch) -> Tensor:
        """The loss on the squared distances of the batch, whose part |x_i|^2 cancels in p_ij."""
        s = pairs.similarities(batch.embeddings)
        return self._mean(2 * self.scale * s - self.scale * s.diagonal(), *pairs.pair_masks(batch.labels))

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The same for any references, from the similarities of unit vectors: d^2 = 2 - 2s."""
        return self._mean(2 * self.scale * s, positive, negative)

    def _mean(self, logits: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        # p_i = 1 / (1 + exp(odds)), odds of another class against the own one
        own = pairs.masked_logits(logits, positive, 1).logsumexp(1)
        odds = pairs.masked_logsumexp(logits, negative, 1) - own
        terms = torch.logaddexp(odds, torch.zeros_like(odds)) if self.objective == "log" else odds.sigmoid()
        found = positive.any(1)
        return terms.where(found, 0).sum() / found.sum().clamp(min=1)
