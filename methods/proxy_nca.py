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

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import pairs
from bench.method import Batch, Context, Method, ParameterGroup, hyper


class ProxyNCA(Method):
    """Scaled Proxy-NCA."""

    name = "proxy_nca"
    paper = "movshovitz2017proxynca"
    scale: float = hyper(3.0, low=1.0, high=10.0, scale="log", help="length r of embeddings and proxies")
    proxy_lr: float = hyper(0.01, low=1e-4, high=1.0, scale="log", help="learning rate of the proxies")
    denominator: str = hyper(
        "others", choices=("others", "all"), help="proxies in the denominator: 'all' adds the own one"
    )

    def build(self, context: Context) -> None:
        """One proxy a training class, (C, D)."""
        self.proxies = nn.Parameter(torch.randn(context.num_classes, context.embedding_size, device=context.device) / 8)

    def loss(self, batch: Batch) -> Tensor:
        """Mean over images of the pull to the own proxy and the soft maximum over the others."""
        cosine = F.normalize(batch.embeddings) @ F.normalize(self.proxies).T  # (B, C)
        closeness = 2 * self.scale**2 * cosine  # -d + 2 r^2: the constant cancels
        if self.denominator == "all":
            return F.cross_entropy(closeness, batch.labels)
        own = batch.labels[:, None]
        others = own != torch.arange(len(self.proxies), device=own.device)
        return (pairs.masked_logsumexp(closeness, others, 1) - closeness.gather(1, own)[:, 0]).mean()

    def parameter_groups(self, default: ParameterGroup) -> list[ParameterGroup]:
        """Proxies learn at their own rate, without weight decay: only their direction matters."""
        return [{"params": default["params"], "lr": self.proxy_lr, "weight_decay": 0.0}]
