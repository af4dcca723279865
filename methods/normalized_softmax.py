"""Normalised softmax: classification by cosine to a learned class vector, sharpened by a temperature.

Classification is a strong baseline for metric learning once embeddings and class vectors have unit
length (Zhai and Wu 2019, equation 2), n images in the batch:

    L = -1/n sum_i log( exp(s(x_i, p_yi) / t) / sum_z exp(s(x_i, p_z) / t) ),    t = 0.05

Different from the paper: its layer normalisation before the embedder, its class-balanced batches and
its subsampling of classes are not part of the loss; trunk and batches are the protocol's.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from bench.method import Batch, hyper
from bench.proxy_method import ProxyMethod


class NormalizedSoftmax(ProxyMethod):
    """Normalised softmax."""

    name = "normalized_softmax"
    paper = "zhai2019normsoftmax"
    temperature: float = hyper(
        0.05, low=0.01, high=0.5, scale="log", accepts=(0.01, 100.0), help="divides the cosines: smaller is sharper"
    )

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy of the sharpened cosines."""
        cosine = self.cosines(batch.embeddings)
        return F.cross_entropy(cosine / self.temperature, batch.labels)
