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
        x = batch.embeddings
        logits = torch.addmm(-self.scale * x.square().sum(1), 2 * self.scale * x, x.T)
        return self._mean(logits, *pairs.pair_masks(batch.labels))

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The same for any references, from the similarities of unit vectors: d^2 = 2 - 2s."""
        return self._mean(2 * self.scale * s, positive, negative)

    def _mean(self, logits: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        none = torch.finfo(logits.dtype).min
        picked = logits.masked_fill(~(positive | negative), none).log_softmax(1)  # log p_ij
        anchor, item = positive.nonzero(as_tuple=True)  # few: sums over them are quicker than over masked rows
        likely = picked[anchor, item]
        top = likely.new_full((len(logits),), none).scatter_reduce(0, anchor, likely.detach(), "amax")
        sums = torch.zeros_like(top).index_add(0, anchor, (likely - top[anchor]).exp())
        own = sums[sums > 0].log() + top[sums > 0]  # log p_i, where there are positives
        terms = -own if self.objective == "log" else -own.expm1()
        return terms.sum() / max(len(own), 1)
