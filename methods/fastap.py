"""FastAP: the average precision of every image's ranking, from soft histograms of its distances.

Precision at each distance follows from how many images, and how many positives, lie within it;
histograms with linear interpolation make these counts differentiable at a cost that is linear in the
batch (Cakir et al. 2019). Squared distances of unit vectors fill [0, 4]; its L + 1 bin centres lie 4 / L
apart. With h_l, H_l the histogram of all images around a query and its running sum, h+_l, H+_l those of
its positives, averaged over the queries that have a positive:

    AP_q = 1/|P| sum_l h+_l H+_l / H_l,    L = mean_q (1 - AP_q)

Default: L = 10. A distance shares its weight between the two nearest centres in proportion to nearness,
so that every pair is counted with two additions, whatever L.

Different from the released code: gradients come from automatic differentiation, where that code has its
own backward pass; they differ at distances that hit a bin centre exactly (duplicates). Distances
above 4, of embeddings without unit length, count as 4; there they fall out of the histogram. The paper's
batches, drawn from two super-categories at a time, are not reproduced: the protocol fixes the sampler.

Not read: the paper; formula and default are those of the released code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.method import hyper
from bench.pair_method import PairMethod


class FastAP(PairMethod):
    """Average precision from soft histograms."""

    name = "fastap"
    paper = "cakir2019fastap"
    by_default = False
    bins: int = hyper(
        10, low=4, high=40, accepts=(2, 250), help="intervals into which squared distances 0 to 4 are divided"
    )

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """One minus the mean average precision over the anchors that have a positive."""
        edges = self.bins + 1
        position = ((1 - s) * (self.bins / 2)).clamp(0, self.bins)  # squared distance 2 - 2s, in intervals
        below = position.detach().long().clamp(max=self.bins - 1)
        share = position - below  # of the bin above
        # One histogram of the positives and one of the negatives for each anchor, end to end.
        first = torch.arange(len(s), device=s.device)[:, None] * (2 * edges) + negative * edges
        bin_below, exists = (first + below).flatten(), positive | negative
        counts = s.new_zeros(2 * edges * len(s)).index_add(0, bin_below, ((1 - share) * exists).flatten())
        counts = counts.index_add(0, bin_below + 1, (share * exists).flatten()).view(len(s), 2, edges)
        here, near, all_near = counts[:, 0], counts[:, 0].cumsum(1), counts.sum(1).cumsum(1)  # h+, H+ and H
        size = positive.sum(1)
        tiny = torch.finfo(s.dtype).tiny  # an empty H has an empty h+
        precision = (here * near / all_near.clamp(min=tiny)).sum(1) / size.clamp(min=1)
        return ((1 - precision) * (size > 0)).sum() / (size > 0).sum().clamp(min=1)
