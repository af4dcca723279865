"""ArcFace: classification by angle to a class vector, the own angle counted a margin wider than it is.

A margin added to the angle is the same arc everywhere on the sphere, unlike one on the cosine (Deng et
al. 2019, equation 3), n images:

    L = -1/n sum_i log( e^{s f(a_iyi)} / ( e^{s f(a_iyi)} + sum_{z != yi} e^{s cos a_iz} ) )
    f(a) = cos(a + m)          where a + m <= pi
           cos(a) - m sin(m)   beyond

a_iz is the angle between image i and the vector of class z; s = 64, m = 28.6 degrees (0.5 rad). The
equation alone would reward angles that grow beyond pi - m; the second branch is that of the authors'
code: f keeps falling, with a step down at a = pi - m.

Different: f is computed without the arc cosine, whose slope is infinite at 0 and pi; own angles within
0.06 degrees of these count as 0.06 degrees away in the sine. Not reproduced: the face networks and their
SGD schedule; class vectors learn at `proxy_lr`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.method import Batch, hyper
from bench.proxy_method import ProxyMethod


def widened(cosine: Tensor, margin: float) -> Tensor:
    """The function f above, of the cosine of the angle; `margin` in radians."""
    sine = (1 - cosine.square()).clamp(min=1e-6).sqrt()
    inside = cosine * math.cos(margin) - sine * math.sin(margin)
    return torch.where(cosine >= -math.cos(margin), inside, cosine - margin * math.sin(margin))


class ArcFace(ProxyMethod):
    """Additive angular margin loss."""

    name = "arcface"
    paper = "deng2019arcface"
    by_default = False
    margin: float = hyper(28.6, low=0.0, high=60.0, accepts=(0.0, 90.0), help="added to the own class's angle, degrees")
    scale: float = hyper(
        64.0, low=4.0, high=256.0, scale="log", accepts=(0.01, 300.0), help="multiplies the cosines: larger is sharper"
    )

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of the scaled cosines, the own angle widened by the margin."""
        cosine = self.cosines(batch.embeddings)  # (B, C)
        own = batch.labels[:, None]
        logits = cosine.scatter(1, own, widened(cosine.gather(1, own), math.radians(self.margin)))
        return F.cross_entropy(self.scale * logits, batch.labels)
