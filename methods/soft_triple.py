"""SoftTriple: classification by cosine to several centres a class, of which the suitable ones count.

A class may consist of clusters, so it gets K centres; the similarity to a class is a softmax-weighted
mean over its centres, and a penalty lets superfluous centres merge (Qian et al. 2019), n images, C classes:

    S_ic = sum_k softmax_k(x_i.w_ck / g) x_i.w_ck
    L = -1/n sum_i log( e^{l (S_iyi - m)} / ( e^{l (S_iyi - m)} + sum_{c != yi} e^{l S_ic} ) )
      + t / (C K (K - 1)) sum_c sum_{k < j} |w_ck - w_cj|

All vectors have unit length; K = 10, l = 20, g = 0.1, m = 0.01, t = 0.2. Distances between centres are
sqrt(2 - 2 w.w' + 1e-5) and centres start uniform in +-(C K)^-1/2, both as in the authors' code.

Different: nothing in the loss. Some libraries leave the merging penalty out by default, and one calls 1 / g
gamma. Not reproduced: Adam's epsilon of 0.01, the decay of centres (they learn at `proxy_lr`, the authors'
0.01) and the steps of the learning rate, which the protocol fixes. Not read: the paper's equation
numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.method import Batch, Context, hyper
from bench.proxy_method import ProxyMethod


class SoftTriple(ProxyMethod):
    """SoftTriple loss with the penalty that merges centres."""

    name = "soft_triple"
    paper = "qian2019softtriple"
    by_default = False
    centres: int = hyper(10, low=1, high=20, help="centres K of a class")
    sharpness: float = hyper(
        20.0, low=2.0, high=200.0, scale="log", accepts=(0.01, 200.0), help="l, multiplies similarities to classes"
    )
    gamma: float = hyper(
        0.1, low=0.01, high=1.0, scale="log", accepts=(0.01, 1e4), help="g, temperature of the choice among centres"
    )
    margin: float = hyper(
        0.01, low=0.0, high=0.5, accepts=(0.0, 1.0), help="m, subtracted from the similarity to the own class"
    )
    merging: float = hyper(0.2, low=0.0, high=2.0, help="t, weight of the distances between a class's centres")

    def initial(self, context: Context) -> Tensor:
        """K centres a training class, uniform, (C, K, D)."""
        count = context.num_classes * self.centres
        start: Tensor = 2 * torch.rand(context.num_classes, self.centres, context.embedding_size) - 1
        return start / math.sqrt(count)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of the similarities to classes, plus the penalty on spread-out centres."""
        centres = F.normalize(self.proxies, dim=2)
        cosine = F.normalize(batch.embeddings) @ centres.permute(1, 2, 0)  # (K, B, C): a softmax over rows is slower
        similarity = (cosine * (cosine / self.gamma).softmax(0)).sum(0)
        own = self.own(batch.labels)
        classify = F.cross_entropy(self.sharpness * (similarity - self.margin * own.type_as(cosine)), batch.labels)
        return classify + self.merging * self.spread(centres)

    def spread(self, centres: Tensor) -> Tensor:
        """Half the mean distance between the centres of a class; 0 if there is but one. (C, K, D) -> ()."""
        first, second = torch.triu_indices(self.centres, self.centres, 1, device=centres.device)
        between = (centres @ centres.transpose(1, 2))[:, first, second]
        distance = ((2 - 2 * between).clamp(min=0) + 1e-5).sqrt()
        return distance.sum() / max(1, len(centres) * self.centres * (self.centres - 1))
