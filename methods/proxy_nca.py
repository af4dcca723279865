"""Proxy-NCA: each class has a learned proxy; an image is pulled to its own and pushed from all others.

Comparing with one proxy a class instead of with images needs no sampling (Movshovitz-Attias et al.
2017, equations 3 and 4). Images x and proxies p have length r, n images in the batch:

    L = 1/n sum_i [ d(x_i, p_yi) + log sum_{z != yi} exp(-d(x_i, p_z)) ],    d = squared distance

As in the paper the own proxy is absent from the denominator; `denominator = "all"` is the softmax form
of many libraries, which includes it. The paper works on unit vectors; with r = 1 exponents stay within
[-4, 0] and training is slow, so the default is r = 3, the "scaled" form that public code settled on.
Proxies of classes absent from the batch take part. The authors published no code.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from bench import pairs
from bench.method import Batch, hyper
from bench.proxy_method import ProxyMethod


class ProxyNCA(ProxyMethod):
    """Scaled Proxy-NCA."""

    name = "proxy_nca"
    paper = "movshovitz2017proxynca"
    scale: float = hyper(
        3.0, low=1.0, high=10.0, scale="log", accepts=(0.1, 10.0), help="length r of embeddings and proxies"
    )
    denominator: str = hyper(
        "others", choices=("others", "all"), help="proxies in the denominator: 'all' adds the own one"
    )

    def loss(self, batch: Batch) -> Tensor:
        """Mean over images of the pull to the own proxy and the soft maximum over the others."""
        cosine = self.cosines(batch.embeddings)  # (B, C)
        closeness = 2 * self.scale**2 * cosine  # -d + 2 r^2: the constant cancels
        if self.denominator == "all":
            return F.cross_entropy(closeness, batch.labels)
        rivals = pairs.masked_logsumexp(closeness, ~self.own(batch.labels), 1)
        return (rivals - closeness.gather(1, batch.labels[:, None])[:, 0]).mean()
