"""ProxyNCA++: the probability of the own proxy among all proxies, at a low temperature.

Proxy-NCA leaves the own proxy out of the denominator, so that its ratio is no probability; here it is
one, and a temperature T sharpens it (Teh et al. 2020, "proxy assignment probability"), n images:

    L = -1/n sum_i log( exp(-d(x_i, p_yi) / T) / sum_z exp(-d(x_i, p_z) / T) )

d is the squared distance of unit vectors, T = 1/9. Since d = 2 - 2 cos, this is the normalised softmax
at temperature T / 2 = 1/18, and Proxy-NCA's `denominator = "all"` at length r = 3.

Different: nothing in the loss, which is that of the authors' code; its proxies too start as normal / 8.
The paper's other changes belong to trunk and training, which the protocol fixes: global max pooling, layer
normalisation before the embedder, five warm-up epochs, and proxies with a learning rate of their own
("fast moving": 400 against 0.004 for the network in the authors' CUB configuration, under an Adam whose
epsilon of 1 makes it resemble plain gradient descent). Only the last is kept in spirit, as `proxy_lr`. Its
class-balanced batches are the protocol's. Not read: the paper's text and its equation numbers.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from bench.method import Batch, hyper
from bench.proxy_method import ProxyMethod


class ProxyNCAPP(ProxyMethod):
    """Proxy assignment probability."""

    name = "proxy_nca_pp"
    paper = "teh2020proxynca_pp"
    by_default = False
    temperature: float = hyper(1 / 9, low=0.01, high=1.0, scale="log", help="divides squared distances")

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of the negative squared distances; their constant part cancels."""
        cosine = self.cosines(batch.embeddings)  # (B, C)
        return F.cross_entropy(2 / self.temperature * cosine, batch.labels)
