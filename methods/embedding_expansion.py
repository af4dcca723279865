"""Embedding expansion: points between two images of a class join as negatives, and only the hardest count.

Synthetic points cost no network: n points divide the line between two images of a class evenly, are
brought back to the sphere, and serve as further negatives of a pair loss (Ko and Gu 2020). With y the
partner of x and k = 1 ... n:

    x^k = u / sqrt(|u|^2 + 1e-10),    u = (k y + (n + 1 - k) x) / (n + 1)

Partners are consecutive images of a class. A pair loss then sees the original positives, and one negative
for each other class c of the batch, the nearest pair of points, original or synthetic:

    S_ic = max s(p, q),    q among the points of class c,    p among i and i^1 ... i^n

`scope = "class"` takes p among all points of i's class. The defaults, base "hphn_triplet", n = 2, scope
"image" and m = 1e-5, are the authors' released code, whose commands leave the margin at that value. It has
this loss only; the paper also expands the triplet, lifted structure, N-pair and multi-similarity losses,
with the hardest pair of each two classes: scope "class" and base "triplet" (semi-hard), "lifted",
"multi_similarity", or "nt_xent", which at temperature 1 is the N-pair loss over every positive pair.

Different: every synthetic point occurs twice, as x^k and as y^(n+1-k); the authors' framework gives each of
two equal minima the whole gradient, and so doubles that of synthetic negatives. Here they share it, as the
formula says. A single last image of a class has no points; their code pairs it with the next class. Base
"lifted" counts the negatives of a pair's anchor only. s is 1 - d^2 / 2, for unit vectors the cosine.

Not reproduced: trunk, crops, epochs and schedule belong to the protocol. Not read: the paper's equations
(see the base for its own); that it takes the hardest pair of two classes is from a secondary source.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench import compose, pairs, positive_pairs
from bench.errors import UsageError
from bench.method import Batch, Context, Method, ParameterGroup, hyper
from bench.pair_method import PairMethod


class EmbeddingExpansion(Method):
    """A pair loss against the hardest of original and synthetic points of each class."""

    name = "embedding_expansion"
    paper = "ko2020embedding"
    by_default = False
    order_matters = True
    base: str = hyper("hphn_triplet", method=True, help="pair loss")
    points: int = hyper(2, low=0, high=8, help="synthetic points n between two images")
    normalize: bool = hyper(True, help="bring synthetic points back to the sphere")
    scope: str = hyper(
        "image", choices=("image", "class"), help="points that stand for an anchor: its own, or those of its class"
    )
    margin: float = hyper(1e-5, low=1e-6, high=1.0, scale="log", help="margin of base hphn_triplet; others keep theirs")

    def build(self, context: Context) -> None:
        """The pair loss."""
        inner = compose.create(self.base, **({"margin": self.margin} if self.base == "hphn_triplet" else {}))
        if not isinstance(inner, PairMethod):
            raise UsageError(f"method '{self.name}': hyper-parameter 'base' must be a pair loss, found '{self.base}'.")
        self.inner = inner
        self.inner.build(context)

    def expand(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The batch, then the batch moved 1 ... n steps towards its partners: (n + 1, B, D)."""
        step = torch.arange(1, self.points + 1).to(embeddings)[:, None, None] / (self.points + 1)
        inner = torch.lerp(embeddings, embeddings[positive_pairs.partners(labels)], step)
        if self.normalize:
            inner = inner / (inner.square().sum(2, keepdim=True) + 1e-10).sqrt()
        return torch.cat([embeddings[None], inner])

    def loss(self, batch: Batch) -> Tensor:
        """The pair loss of the images against the images, for positives, and the classes, for negatives."""
        labels, count = batch.labels, len(batch.labels)
        every = pairs.squared_distances(self.expand(batch.embeddings, labels).flatten(0, 1))
        every = every.view(self.points + 1, count, self.points + 1, count)
        classes, own = torch.unique(labels, return_inverse=True)
        nearest = _class_maximum(1 - every.amin((0, 2)) / 2, own, len(classes))  # (B, C)
        if self.scope == "class":
            nearest = _class_maximum(nearest.T, own, len(classes)).T[own]
        positive, _ = pairs.pair_masks(labels)
        negative = labels[:, None] != classes
        return self.inner.pair_loss(
            torch.cat([1 - every[0, :, 0] / 2, nearest], 1),
            torch.cat([positive, torch.zeros_like(negative)], 1),
            torch.cat([torch.zeros_like(positive), negative], 1),
        )

    def parameter_groups(self, default: ParameterGroup) -> list[ParameterGroup]:
        """Those of the pair loss."""
        return compose.parameter_groups([self.inner], default)


def _class_maximum(values: Tensor, own: Tensor, classes: int) -> Tensor:
    """Maximum of each row over the columns of each class, (A, B) -> (A, C); equal maxima share the gradient."""
    start = values.new_zeros(len(values), classes)
    return start.scatter_reduce(1, own.expand(len(values), -1), values, "amax", include_self=False)
