"""Circle loss: every similarity is weighed by how far it still is from its optimum.

A pair loss on s_n - s_p pulls equally at a positive that is nearly 1 and at one that is far off; here each
similarity gets its own pace, and the decision boundary becomes a circle (Sun et al. 2020). Per anchor i:

    L_i = log[ 1 + sum_{k in N_i} exp(g a_k (s_ik - m)) sum_{p in P_i} exp(-g a_p (s_ip - (1 - m))) ]
    a_p = [1 + m - s_ip]_+,    a_k = [s_ik + m]_+

L is the mean over the anchors that have a positive and a negative. The weights a are constants to the
gradient, which they pace: the slope of the printed value is not the gradient.

Default m = 0.4, g = 80: according to pytorch-metric-learning and Keras, which take them as defaults, the
paper's setting for fine-grained image retrieval, which is the task here; for person re-identification
it has m = 0.25, g = 128 and for faces m = 0.25, g = 256.

Different: the library averages over anchors whose loss is above 0, here all anchors with both kinds count;
that differs only where a loss underflows. The variant with class vectors is another method. No official
code was found; of the paper only the opening was read, not its experiments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench import pairs
from bench.method import hyper
from bench.pair_method import PairMethod


class Circle(PairMethod):
    """Circle loss on pairs."""

    name = "circle"
    paper = "sun2020circle"
    by_default = False
    margin: float = hyper(0.4, low=0.0, high=0.7, help="relaxation m: targets are 1 - m for positives, m for negatives")
    gamma: float = hyper(80.0, low=10.0, high=500.0, scale="log", help="scale of the weighted similarities")

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Soft maximum over all combinations of a positive with a negative of the same anchor."""
        fixed = s.detach()
        pull = -self.gamma * (1 + self.margin - fixed).clamp(min=0) * (s - (1 - self.margin))
        push = self.gamma * (fixed + self.margin).clamp(min=0) * (s - self.margin)
        logit = pairs.masked_logsumexp(pull, positive, 1) + pairs.masked_logsumexp(push, negative, 1)
        both = positive.any(1) & negative.any(1)  # without either the logit is hugely negative: a term of 0
        return torch.logaddexp(logit, torch.zeros_like(logit)).sum() / both.sum().clamp(min=1)
