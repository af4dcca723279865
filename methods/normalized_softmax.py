"""Normalised softmax: classification by cosine to a learned class vector, sharpened by a temperature.

Classification is a strong baseline for metric learning once embeddings and class vectors have unit
length (Zhai and Wu 2019, equation 2), n images in the batch:

    L = -1/n sum_i log( exp(s(x_i, p_yi) / t) / sum_z exp(s(x_i, p_z) / t) ),    t = 0.05

Different from the paper: its layer normalisation before the embedder, its class-balanced batches and
its subsampling of classes are not part of the loss; trunk and batches are the protocol's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.method import Batch, Context, Method, ParameterGroup, hyper


class NormalizedSoftmax(Method):
    """Normalised softmax."""

    name = "normalized_softmax"
    paper = "zhai2019normsoftmax"
    temperature: float = hyper(0.05, low=0.01, high=0.5, scale="log", help="divides the cosines: smaller is sharper")
    proxy_lr: float = hyper(0.01, low=1e-4, high=1.0, scale="log", help="learning rate of the class vectors")

    def build(self, context: Context) -> None:
        """One class vector a training class, (C, D)."""
        self.proxies = nn.Parameter(torch.randn(context.num_classes, context.embedding_size, device=context.device) / 8)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of the sharpened cosines."""
        cosine = F.normalize(batch.embeddings) @ F.normalize(self.proxies).T
        return F.cross_entropy(cosine / self.temperature, batch.labels)

    def parameter_groups(self, default: ParameterGroup) -> list[ParameterGroup]:
        """Class vectors learn at their own rate, without weight decay: only their direction matters."""
        return [{"params": default["params"], "lr": self.proxy_lr, "weight_decay": 0.0}]
