"""CosFace: classification by cosine to a class vector, where the own class must win by a margin.

Subtracting a margin m from the own cosine keeps the pressure on images that are already classified
correctly, which makes classes compact (Wang et al. 2018, the large margin cosine loss), n images:

    L = -1/n sum_i log( e^{s (cos_iyi - m)} / ( e^{s (cos_iyi - m)} + sum_{z != yi} e^{s cos_iz} ) )

cos_iz is the cosine between image i and the vector of class z; s = 64, m = 0.35. With m = 0 it is the
normalised softmax at temperature 1 / s.

Different: nothing in the loss. Not reproduced: the face networks, their SGD schedule and class vectors
that share the network's learning rate; here they learn at `proxy_lr`. Not read:
the paper's equation numbers and the authors' code; defaults are those that public libraries give.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from bench.method import Batch, hyper
from bench.proxy_method import ProxyMethod


class CosFace(ProxyMethod):
    """Large margin cosine loss."""

    name = "cosface"
    paper = "wang2018cosface"
    by_default = False
    margin: float = hyper(0.35, low=0.0, high=1.0, help="subtracted from the own class's cosine")
    scale: float = hyper(
        64.0, low=4.0, high=256.0, scale="log", accepts=(0.01, 300.0), help="multiplies the cosines: larger is sharper"
    )

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of the scaled cosines, the own one lowered by the margin."""
        cosine = self.cosines(batch.embeddings)  # (B, C)
        own = self.own(batch.labels)
        return F.cross_entropy(self.scale * (cosine - self.margin * own.type_as(cosine)), batch.labels)
