"""Supervised contrastive loss: an anchor shares its probability among its positives, against all other images.

Like NT-Xent, but the other positives stand in the denominator too, and an anchor's terms are averaged before
anchors are (Khosla et al. 2020, the form with the sum outside the logarithm, which they call L_out):

    L = 1/n sum_i -1/|P_i| sum_{p in P_i} log( exp(s_ip / t) / sum_{a != i} exp(s_ia / t) )

P_i holds the other images of i's class; n counts the images that have any. t = 0.1 is the paper's
temperature, as pytorch-metric-learning states it. At t = 1 this is also what the 2021 code of Sanakoyeu et al.
calls its n-pairs loss (the factor 1 / t is learned there).

Different: the paper sums over images and sees two crops of each; here it is the mean, and positives are the
other images of the class. Official code divides by zero for an image without a positive, and multiplies the
loss by t over a base temperature (1 where both are equal, as in its defaults, 0.07); here such an image is
left out, and there is no factor. A batch of one class is no 0, as it is in the library: its positives still
compete. Not read: the paper's text; the above follows official code and the library's page on the loss.
"""

from __future__ import annotations

from torch import Tensor

from bench import pairs
from bench.method import hyper
from bench.pair_method import PairMethod


class SupCon(PairMethod):
    """Supervised contrastive loss, sum outside the logarithm."""

    name = "supcon"
    paper = "khosla2020supcon"
    by_default = False
    temperature: float = hyper(0.1, low=0.005, high=1.0, scale="log", help="divides the cosines: smaller is sharper")

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Mean over anchors of the log-sum-exp over everything less the mean logit of the positives."""
        logits = s / self.temperature
        count = positive.sum(1)
        own = (logits * positive).sum(1) / count.clamp(min=1)
        everything = pairs.masked_logsumexp(logits, positive | negative, 1)
        return ((everything - own) * (count > 0)).sum() / (count > 0).sum().clamp(min=1)
