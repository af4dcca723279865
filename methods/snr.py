"""SNR contrastive loss: the distance of two images is the power of their difference over that of the anchor.

With the anchor's features as signal and the difference as noise, d grows with the noise and falls with the
anchor's own variance, so that shrinking all features gains nothing (Yuan et al. 2019). Variances are over
the dimensions of a vector:

    d_ij = var(x_i - x_j) / var(x_i)
    L = mean of [d_ip - m+]_+ over active positive pairs + mean of [m- - d_ik]_+ over active negative pairs
        + lambda/n sum_i |sum of the entries of x_i|

The last term keeps features at zero mean, which the variance takes for granted. d is not symmetric: each
pair counts twice, with either image as the anchor. m+ = 0 and m- = 1 are the defaults of
pytorch-metric-learning, lambda = 0.005 that of the public code of Roth et al. 2020.

Features are the raw embeddings, as in the paper; `features = "unit"` takes those that the protocol has
normalised, as the library and A Metric Learning Reality Check do. The protocol compares cosines at test time.

Different: averaging over active terms is the library's. A signal power (sum of squares) below 1e-8, that of a
constant row, counts as 1e-8. This is the contrastive form, as in the library; Roth et al. have the triplet
form. Not read: the paper's margins, lambda and reduction; no official code was found.
"""

from __future__ import annotations

from torch import Tensor

from bench import pairs
from bench.method import Batch, Method, hyper


class SNR(Method):
    """Contrastive loss on the signal-to-noise-ratio distance."""

    name = "snr"
    paper = "yuan2019snr"
    by_default = False
    pos_margin: float = hyper(
        0.0, low=0.0, high=0.6, accepts=(0.0, 2.0), help="distance down to which positives are pulled"
    )
    neg_margin: float = hyper(
        1.0, low=0.4, high=2.0, accepts=(0.0, 2.0), help="distance up to which negatives are pushed"
    )
    zero_mean: float = hyper(
        0.005, low=0.0, high=0.5, accepts=(0.0, 1.0), help="weight lambda of the zero-mean penalty"
    )
    features: str = hyper("raw", choices=("raw", "unit"), help="'unit': embeddings as the protocol normalises them")

    def loss(self, batch: Batch) -> Tensor:
        """Both hinges over active pairs, plus the penalty."""
        x = batch.raw_embeddings if self.features == "raw" else batch.embeddings
        centred = x - x.mean(1, keepdim=True)
        power = centred.square().sum(1)
        d = pairs.squared_distances(centred) / power.clamp(min=1e-8)[:, None]
        positive, negative = pairs.pair_masks(batch.labels)
        pull = (d - self.pos_margin).clamp(min=0) * positive
        push = (self.neg_margin - d).clamp(min=0) * negative
        return pairs.active_mean(pull) + pairs.active_mean(push) + self.zero_mean * x.sum(1).abs().mean()
