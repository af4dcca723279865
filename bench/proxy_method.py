"""Methods that compare images with one learned vector a training class: a proxy, class vector or centre."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.method import Context, Method, ParameterGroup, hyper


class ProxyMethod(Method):
    """Base of proxy and classification losses: creates the proxies, (C, D), and sets their learning rate."""

    needs_pairs = False
    proxy_lr: float = hyper(
        0.01, low=1e-4, high=1.0, scale="log", accepts=(1e-6, 1e4), help="learning rate of the proxies"
    )

    def build(self, context: Context) -> None:
        """The proxies, drawn by `initial`."""
        self.proxies = nn.Parameter(self.initial(context).to(context.device))

    def initial(self, context: Context) -> Tensor:
        """Normal, standard deviation 1/8."""
        return torch.randn(context.num_classes, context.embedding_size) / 8

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Cosines of images (B, D) and proxies: (B, C)."""
        return F.normalize(embeddings) @ F.normalize(self.proxies).T

    def own(self, labels: Tensor) -> Tensor:
        """Which proxy is of an image's class: bool (B, C)."""
        return labels[:, None] == torch.arange(len(self.proxies), device=labels.device)

    def parameter_groups(self, default: ParameterGroup) -> list[ParameterGroup]:
        """Proxies learn at their own rate; their weight decay is the protocol's."""
        return [{**default, "lr": self.proxy_lr}]
