"""A-BIER: the embedding is an ensemble of learners, trained by gradient boosting and kept apart by adversaries.

The dimensions are split into groups that grow. Each group is a learner with a similarity of its own; the pairs
on which the learners before it already agree with the labels weigh less for it. Regressors try to predict a
smaller group from a larger one, and groups learn to be unpredictable (Opitz et al. 2018, "Deep Metric Learning
with BIER"; the paper of 2017 has boosting alone). With s^m_ij the cosine in group m of M, y = 1 for pairs of one
class and -25 for others, and l(z) = log(1 + exp(-z)) (binomial deviance):

    L = 1/M sum_m sum_ij v_ij w^m_ij l( 2 y_ij (s^m_ij - 1/2) ),   v: mean over positive plus mean over negative pairs
    w^1 = 1,  w^{m+1}_ij = -l'( 2 y_ij (S^m_ij - 1/2) ),           no gradient passes through weights
    S^m = (1 - eta_m) S^{m-1} + eta_m s^m,  eta_m = 2 / (m + 1)    similarity of the ensemble of the first m
    A = sum_{i < j} [ -mean (g_i * R_ij(g_j))^2 + n ( mean_r (|W_r|^2 - 1)^2 + [|b|^2 - 1]_+ ) ]

The total is L + u A. g are outputs of the groups before normalisation, R two linear layers (512, ReLU)
with weights W (rows r) and biases b. The sign of the gradient is reversed between R and g: R raises the product's
squares, the groups lower them. Only the embedder feels A, not the trunk, and its rows are held to length 1 as
well. S^M weighs learner m by 2m / (M (M + 1)), and the embedding is the concatenation of unit groups times
the root of that, so that its dot product is S^M. Defaults: three groups sized 3 : 5 : 8, u = 5e-5, n = 1e5.
u = 0 is BIER.

Different: the released code runs, unless told otherwise, a boosting of another form (`boosting = "as_released"`):
z starts at 1/2, each learner adds 0.06 times its own 2y(s - 1/2), weights of negative pairs count twice, and
at test time groups are scaled by their sizes, so that the dot product has the squares of these. There the
pair of an image with itself counts in the number of positives, and norms of the embedder's and R's weights
are taken along the axis of their units; here it does not, and norms are those of the units' weight vectors.
u, n and the sizes are those of its script, and as there the reversal acts on both g_i and g_j. Where another
embedder is used (inside another method), A sees the raw embedding's groups as they are.

Not read: the paper beyond its opening; the recursion for S is the code's other option, which is the paper's
algorithm as recalled. BIER's initialisation and its activation loss are not offered.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import pairs
from bench.method import Batch, Context, Method, hyper

RATIO = (3, 5, 8)  # sizes of the groups
SLOPE, THRESHOLD, NEGATIVE = 2.0, 0.5, 25.0  # of the binomial deviance
SHRINKAGE, START, DOUBLED = 0.06, 0.5, 2.0  # of the boosting as released
HIDDEN = 512  # units of a regressor


def groups(size: int) -> list[int]:
    """Sizes of the groups of `size` dimensions; those that would be empty are left out."""
    ends = [size * sum(RATIO[: m + 1]) // sum(RATIO) for m in range(len(RATIO))]
    return [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True) if end > start]


class Reversed(torch.autograd.Function):
    """The identity, with the sign of the gradient reversed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """The input."""
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The negative gradient."""
        return -gradient


class Ensemble(nn.Module):
    """A linear layer whose output groups are normalised and scaled; the scales' squares add up to 1."""

    def __init__(self, trunk_dim: int, size: int, by_size: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(trunk_dim, size)
        self.sizes = groups(size)
        total = len(self.sizes) * (len(self.sizes) + 1) / 2
        scales = self.sizes if by_size else [math.sqrt((m + 1) / total) for m in range(len(self.sizes))]
        self.scales = [scale / math.hypot(*scales) for scale in scales]

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, F) to unit embeddings (B, size)."""
        parts = torch.split(self.linear(features), self.sizes, 1)
        return torch.cat([functional.normalize(p) * s for p, s in zip(parts, self.scales, strict=True)], 1)

    def activations(self, features: Tensor) -> Tensor:
        """Outputs of the linear layer without bias, (B, size), cut off from the trunk."""
        return functional.linear(features.detach(), self.linear.weight)


class ABIER(Method):
    """Boosted groups of the embedding, with adversarial regressors between them."""

    name = "a_bier"
    paper = "opitz2018abier"
    by_default = False
    adversarial: float = hyper(5e-5, low=0.0, high=1e-2, help="u, weight of the adversarial loss; 0: BIER")
    norm_weight: float = hyper(1e5, low=1e2, high=1e6, scale="log", help="n, weight of the penalties on norms")
    boosting: str = hyper("paper", choices=("paper", "as_released"), help="recursion of the ensemble and its scales")

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.head: Ensemble | None = None

    def embedder(self, trunk_dim: int, size: int) -> nn.Module:
        """One linear layer, its groups normalised and scaled."""
        self.head = Ensemble(trunk_dim, size, by_size=self.boosting == "as_released")
        return self.head

    def build(self, context: Context) -> None:
        """A regressor from each group to each one before it."""
        sizes = groups(context.embedding_size)
        self.regressors = nn.ModuleList()
        if self.adversarial > 0:
            for i, j in couples(len(sizes)):
                self.regressors.append(
                    nn.Sequential(nn.Linear(sizes[j], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, sizes[i]))
                )
        self.regressors.to(context.device)

    def loss(self, batch: Batch) -> Tensor:
        """Boosted deviance of the learners, plus what the regressors can tell of the groups."""
        sizes = groups(batch.embeddings.shape[1])
        learners = [functional.normalize(part) for part in torch.split(batch.embeddings, sizes, 1)]
        total = self._boosted([pairs.similarities(learner) for learner in learners], batch.labels)
        if self.adversarial > 0:
            total = total + self.adversarial * self._adversarial(batch, sizes)
        return total

    def _boosted(self, similarities: list[Tensor], labels: Tensor) -> Tensor:
        positive, negative = (mask.to(similarities[0]) for mask in pairs.pair_masks(labels))
        mean = positive / positive.sum().clamp(min=1) + negative / negative.sum().clamp(min=1)
        sign = SLOPE * (1 - (1 + NEGATIVE) * negative)
        released = self.boosting == "as_released"
        total, weight = similarities[0].new_zeros(()), torch.ones_like(mean)
        margin = torch.full_like(mean, START if released else 0.0)
        for m, s in enumerate(similarities, 1):
            own = sign * (s - THRESHOLD)
            total = total + (functional.softplus(-own) * weight * mean).sum() / len(similarities)
            eta = 2 / (m + 1)
            margin = (margin + SHRINKAGE * own if released else (1 - eta) * margin + eta * own).detach()
            weight = torch.sigmoid(-margin)
            if released:
                weight = weight * (1 + (DOUBLED - 1) * negative)
        return total

    def _adversarial(self, batch: Batch, sizes: list[int]) -> Tensor:
        outputs = batch.raw_embeddings if self.head is None else self.head.activations(batch.features)
        parts = [Reversed.apply(part) for part in torch.split(outputs, sizes, 1)]
        products = [
            -(parts[i] * regressor(parts[j])).square().mean()
            for regressor, (i, j) in zip(self.regressors, couples(len(sizes)), strict=True)
        ]
        layers = [layer for layer in self.regressors.modules() if isinstance(layer, nn.Linear)]
        weights = [layer.weight for layer in layers] + ([] if self.head is None else [self.head.linear.weight])
        lengths = [(weight.square().sum(1) - 1).square().mean() for weight in weights]
        biases = [(layer.bias.square().sum() - 1).clamp(min=0) for layer in layers]
        return torch.stack(products).sum() + self.norm_weight * torch.stack(lengths + biases).sum()


def couples(count: int) -> list[tuple[int, int]]:
    """All (i, j) with i < j."""
    return [(i, j) for i in range(count) for j in range(i + 1, count)]
