"""Angular loss: the angle at the negative, in the triangle with anchor and positive, is kept below a bound.

An angle is free of scale and looks at all three sides, where a triplet loss looks at two (Wang et al. 2017).
Bounding it by alpha gives, for unit vectors and up to a constant, f below, and all negatives of a positive
pair enter one soft maximum:

    f_ipk = 4 tan^2(alpha) (x_i + x_p) . x_k - 2 (1 + tan^2(alpha)) x_i . x_p
    L = 1/|P| sum_{(i,p) in P} log[ 1 + sum_{k in N_i} exp(f_ipk) ] + w L_npair

alpha = 45 degrees is the default of the public code of Roth et al. 2020; pytorch-metric-learning takes 40. That
code always adds the N-pair loss, with a weight of 2 on the angular part: w = 0.5 here, up to a factor 2.
The default w = 0 is the angular loss alone.

Different: P holds all positive pairs of the batch, as in the library, not one pair a class; f is symmetric
in i and p, so each pair is computed once. The library (2.9) normalises anchors and positives but not the
negatives; given unit vectors it agrees. L_npair is the method `n_pair` at its defaults, on raw embeddings
with a penalty on their squared lengths (Roth et al.: 0.005 times the mean length), its pairs chosen by the
order of the batch. No official code was found; of the paper only the opening was read, not its experiments.
"""

from __future__ import annotations

import math

from torch import Tensor

from bench import compose, pairs
from bench.method import Batch, Context, Method, hyper


class Angular(Method):
    """Angular loss over all positive pairs, alone or with the N-pair loss."""

    name = "angular"
    paper = "wang2017angular"
    by_default = False
    alpha: float = hyper(45.0, low=30.0, high=60.0, help="bound on the angle at the negative, degrees")
    n_pair: float = hyper(0.0, low=0.0, high=2.0, help="weight w of the N-pair loss")

    def build(self, context: Context) -> None:
        """The N-pair loss, if it has a weight."""
        if self.n_pair > 0:
            self.inner = compose.create("n_pair")
            self.inner.build(context)

    def loss(self, batch: Batch) -> Tensor:
        """Mean over positive pairs of the soft maximum over the anchor's negatives."""
        s = pairs.similarities(batch.embeddings)
        positive, negative = pairs.pair_masks(batch.labels)
        first, second = positive.triu().nonzero(as_tuple=True)
        tan2 = math.tan(math.radians(self.alpha)) ** 2
        near = 2 * (1 + tan2) * s[first, second]
        f = 4 * tan2 * (s.index_select(0, first) + s.index_select(0, second)) - near[:, None]
        value = pairs.log1p_sum_exp(f, negative.index_select(0, first), 1).sum() / max(len(first), 1)
        return value + self.n_pair * self.inner.loss(batch) if self.n_pair > 0 else value
