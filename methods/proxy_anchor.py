"""Proxy-anchor: a learned proxy per class is the anchor of all images in the batch, own class against the rest.

It has the speed of proxies, and since all images of a batch meet inside one log-sum-exp, hard ones
weigh more, as in pair losses (Kim et al. 2020, equation 4). C proxies, C+ of them with images in the batch:

    L = 1/|C+| sum_{c in C+} log[1 + sum_{x in c} exp(-a (s(x, p_c) - d))]
      + 1/|C|  sum_{c}       log[1 + sum_{x not in c} exp( a (s(x, p_c) + d))]

s is the cosine, a = 32, d = 0.1. Proxies start as in the authors' code: normal, variance 2 / C.

Different: the authors' one-hot coding collapses for exactly two classes, and their value is wrong there;
here it is right. Their warm-up epoch, gradient clipping and average + max pooling belong to the trunk and
the training loop, which the protocol fixes. Their proxies learn at 100 times the network's rate with its
weight decay; here at `proxy_lr`, without decay.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench import pairs
from bench.method import Batch, Context, hyper
from bench.proxy_method import ProxyMethod


class ProxyAnchor(ProxyMethod):
    """Proxy-anchor loss."""

    name = "proxy_anchor"
    paper = "kim2020proxyanchor"
    alpha: float = hyper(32.0, low=4.0, high=128.0, scale="log", help="sharpness of the soft maxima")
    delta: float = hyper(0.1, low=0.0, high=0.5, help="margin, cosine")

    def initial(self, context: Context) -> Tensor:
        """Normal, variance 2 / C."""
        return nn.init.kaiming_normal_(torch.empty(context.num_classes, context.embedding_size), mode="fan_out")

    def loss(self, batch: Batch) -> Tensor:
        """Soft maxima over own and other images of each proxy, each divided by its count of proxies."""
        cosine = self.cosines(batch.embeddings)  # (B, C)
        own = self.own(batch.labels)
        pull = pairs.log1p_sum_exp(-self.alpha * (cosine - self.delta), own, 0)
        push = pairs.log1p_sum_exp(self.alpha * (cosine + self.delta), ~own, 0)
        return pull.sum() / own.any(0).sum() + push.mean()
