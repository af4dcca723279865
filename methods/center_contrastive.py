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
they are known. Centres learn at `proxy_lr`, without weight decay.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.method import Batch, Context, Method, ParameterGroup, hyper


class CenterContrastive(Method):
    """Large-margin softmax over class centres plus the distance to the own one."""

    name = "center_contrastive"
    paper = "ccl2023"
    by_default = False
    margin: float = hyper(0.2, low=0.0, high=1.0, help="m, subtracted from the own centre's cosine")
    scale: float = hyper(64.0, low=4.0, high=256.0, scale="log", help="s, multiplies the cosines: larger is sharper")
    weight: float = hyper(1.0, low=0.0, high=10.0, help="w, of the squared distance to the own centre")
    proxy_lr: float = hyper(0.01, low=1e-4, high=1.0, scale="log", help="learning rate of the centres")

    def build(self, context: Context) -> None:
        """One centre a training class, (C, D)."""
        self.proxies = nn.Parameter(torch.randn(context.num_classes, context.embedding_size, device=context.device) / 8)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy with a margin on the own centre, plus the squared distance to it."""
        cosine = F.normalize(batch.embeddings) @ F.normalize(self.proxies).T  # (B, C)
        own = batch.labels[:, None] == torch.arange(len(self.proxies), device=cosine.device)
        contrast = F.cross_entropy(self.scale * (cosine - self.margin * own.type_as(cosine)), batch.labels)
        distance = 2 - 2 * cosine.gather(1, batch.labels[:, None])
        return contrast + self.weight * distance.mean()

    def parameter_groups(self, default: ParameterGroup) -> list[ParameterGroup]:
        """Centres learn at their own rate, without weight decay: only their direction matters."""
        return [{"params": default["params"], "lr": self.proxy_lr, "weight_decay": 0.0}]
