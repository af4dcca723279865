"""The margin loss (Wu et al. 2017), for methods that differ in the triplets which they give it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench import miners, pairs
from bench.method import Batch, Context, Method, ParameterGroup, hyper

LOWER, UPPER = 0.5, 1.4


def margin_loss(embeddings: Tensor, triplets: Tensor, beta: Tensor, margin: float, nu: float = 0.0) -> Tensor:
    """The loss of given triplets.

    Args:
        embeddings: (B, D).
        triplets: int64 (T, 3), rows (anchor, positive, negative).
        beta: (T,) boundary of each triplet.
        margin: half width of the band around the boundary.
        nu: weight of the penalty on the boundary.
    """
    anchor, positive, negative = triplets.unbind(1)
    pull = (pairs.row_distances(embeddings, anchor, positive) - beta + margin).clamp(min=0)
    push = (beta - pairs.row_distances(embeddings, anchor, negative) + margin).clamp(min=0)
    active = (pull > 0).sum() + (push > 0).sum()
    return (pull.sum() + push.sum() + nu * beta.abs().sum()) / active.clamp(min=1)


class MarginMethod(Method):
    """Base of methods with a learnable boundary: `triplets` says which comparisons they make."""

    margin: float = hyper(
        0.2, low=0.02, high=0.5, accepts=(-0.2, 2.0), help="half width of the band around the boundary"
    )
    beta_init: float = hyper(
        1.2, low=0.5, high=1.4, accepts=(-0.2, 2.0), help="initial boundary, Euclidean distance of unit vectors"
    )
    beta_lr: float = hyper(
        5e-4, low=1e-5, high=1e-1, scale="log", accepts=(1e-6, 1.0), help="learning rate of the boundary"
    )
    per_class: bool = hyper(False, help="one boundary per class of the anchor instead of one for all")
    nu: float = hyper(0.0, low=0.0, high=0.1, help="penalty on the boundary")

    def build(self, context: Context) -> None:
        """Create the boundary: (1,) or one entry a training class."""
        size = context.num_classes if self.per_class else 1
        self.beta = nn.Parameter(torch.full((size,), self.beta_init, device=context.device))

    def triplets(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """One distance-weighted negative for every positive pair: int64 (T, 3), anchor, positive, negative."""
        return miners.distance_weighted(embeddings, labels, LOWER, UPPER)

    def loss(self, batch: Batch) -> Tensor:
        """Draw triplets, then penalise distances on the wrong side."""
        triplets = self.triplets(batch.embeddings, batch.labels)
        classes = batch.labels[triplets[:, 0]] if self.per_class else torch.zeros_like(triplets[:, 0])
        return margin_loss(batch.embeddings, triplets, self.beta[classes], self.margin, self.nu)

    def parameter_groups(self, default: ParameterGroup) -> list[ParameterGroup]:
        """The boundary learns at its own rate, without weight decay."""
        return [{"params": default["params"], "lr": self.beta_lr, "weight_decay": 0.0}]
