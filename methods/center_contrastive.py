"""Center contrastive loss: every image against a bank of class centres, and drawn to its own besides.

A large-margin softmax over centres separates classes; a term on the distance to the own centre makes them
compact (Cai et al. 2023, equation 5), unit vectors x and c, n images:

    L = 1/n sum_i [ -log( e^{s (x_i.c_yi - m)} / ( e^{s (x_i.c_yi - m)} + sum_{z != yi} e^{s x_i.c_z} ) )
                    + w |x_i - c_yi|^2 ]

Without w it is CosFace.

Not read: the paper beyond its abstract. The equation is taken from two public re-implementations that name
it and agree, up to the constant 2w, which only one of them keeps; both learn the bank by gradient descent.
The authors published no code, and their values of s, m and w were not found: the defaults are those of one
re-implementation, the other has s = 16, m = 0, w = 2. A comparison with the paper's figures means little until
they are known. Centres learn at `proxy_lr`.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from bench.method import Batch, hyper
from bench.proxy_method import ProxyMethod


class CenterContrastive(ProxyMethod):
    """Large-margin softmax over class centres plus the distance to the own one."""

    name = "center_contrastive"
    paper = "ccl2023"
    by_default = False
    margin: float = hyper(0.2, low=0.0, high=1.0, help="m, subtracted from the own centre's cosine")
    scale: float = hyper(64.0, low=4.0, high=256.0, scale="log", help="s, multiplies the cosines: larger is sharper")
    weight: float = hyper(1.0, low=0.0, high=10.0, help="w, of the squared distance to the own centre")

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy with a margin on the own centre, plus the squared distance to it."""
        cosine = self.cosines(batch.embeddings)  # (B, C)
        own = self.own(batch.labels)
        contrast = F.cross_entropy(self.scale * (cosine - self.margin * own.type_as(cosine)), batch.labels)
        distance = 2 - 2 * cosine.gather(1, batch.labels[:, None])
        return contrast + self.weight * distance.mean()
