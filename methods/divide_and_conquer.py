"""Divide and Conquer: the training images fall into clusters, the embedding into slices, and each slice learns one.

A part of the data is an easier problem than the whole, and learners that see different parts use the embedding
more fully than one learner does (Sanakoyeu et al. 2019). With K clusters of the training images and the embedding
x = (x_1, ..., x_K), cut into K slices of consecutive dimensions, each of unit length, a batch B from cluster k has

    L = l(x_k; B)    in the first 40 % of the run
    L = l(x; B)      from then on, x as a whole brought to unit length
    L = l(x; B)      in the last 5 %, with B from all images

where l is any loss of a batch. Clusters are k-means of the trunk's features, unit length, anew every second epoch;
new ones take the names of the old ones that they overlap best, so that a learner keeps its images. An image that
is the only one of its class in its cluster sits out until the next clustering. Clusters take turns in giving
class-balanced batches. Slices have unit length at test time too.

Defaults: the shares of the run are those of the released run (epochs 80 and 190 of 200). It has K = 8 on 128
dimensions, for sets such as SOP with some 60,000 training images. K = 4 here: 16 dimensions a learner, as there, on
embeddings of 64, and larger parts of sets that have a few thousand images. The released loss is `margin_nearest`.

Different: the released matching applies the inverse of the permutation that it finds, which renames clusters wrongly
unless the permutation is its own inverse (`matching = "as_released"`). Where K does not divide the dimensions, its
network and its loss cut slices differently; here both use ceil(D / K) with a smaller last slice, and so few dimensions
that a slice would be empty make fewer learners. A cluster with fewer classes than a batch takes gives more images
of each, not some classes twice; one with a single class gives no batches, for it holds no negatives; small clusters
do not stop the run. The paper's overview has clusters of embeddings; clusters of trunk features and
nearest negatives are as released (base "margin" draws them by distance instead). A loss with parameters of
its own gets them once a learner and once for the whole vector.

Not reproduced, because the protocol fixes it: trunk, dropout of 1 % before the embedder, crops, Adam's rates. Not
read: the paper beyond its introduction; whether it trains whole vectors on clusters before the last stage (the
second line above) is not known, and `merge` = `finetune` skips that stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bench import clusters, compose
from bench.method import Batch, Context, Method, ParameterGroup, TrainView, hyper
from bench.protocol import Batch as BatchShape

ITERATIONS = 100  # of k-means


class Slices(nn.Module):
    """A linear layer whose output is cut into slices of unit length."""

    def __init__(self, trunk_dim: int, size: int, width: int) -> None:
        super().__init__()
        self.linear, self.width = nn.Linear(trunk_dim, size), width
        with torch.no_grad():
            for rows in torch.split(self.linear.weight, width):
                nn.init.xavier_normal_(rows)

    def forward(self, features: Tensor) -> Tensor:
        """Embeddings (B, size) from trunk features (B, F)."""
        return torch.cat([F.normalize(part, dim=1) for part in torch.split(self.linear(features), self.width, 1)], 1)


class DivideAndConquer(Method):
    """A learner for each cluster of the training images on its own slice of the embedding."""

    name = "divide_and_conquer"
    paper = "sanakoyeu2019divide"
    by_default = False
    base: str = hyper("margin_nearest", method=True, help="loss of the learners and of the whole vector")
    parts: int = hyper(4, low=2, high=16, scale="log", help="clusters, and slices of the embedding")
    period: int = hyper(2, low=1, high=10, help="epochs between clusterings")
    merge: float = hyper(0.4, low=0.0, high=1.0, help="share of the run after which the whole vector is trained")
    finetune: float = hyper(0.95, low=0.0, high=1.0, help="share of the run after which batches come from all images")
    matching: str = hyper("right", choices=("right", "as_released"), help="'as_released' renames clusters inversely")

    def embedder(self, trunk_dim: int, size: int) -> nn.Module:
        """A linear layer in slices of unit length."""
        return Slices(trunk_dim, size, self._width(size))

    def build(self, context: Context) -> None:
        """One loss a learner, one for the whole vector; no clusters yet."""
        whole = context.embedding_size
        sizes = [len(part) for part in torch.split(torch.empty(whole), self._width(whole))]
        self.losses = nn.ModuleList(compose.create(self.base) for _ in [*sizes, None])
        for loss, size in zip(self._losses(), [*sizes, whole], strict=True):
            loss.build(replace(context, embedding_size=size))
        self.iterations = context.iterations
        self.assigned: Tensor
        self.epoch: Tensor
        self.start: Tensor
        self.done: Tensor
        self.register_buffer("assigned", torch.full_like(context.labels, -1))
        for counter in ("epoch", "start", "done"):  # epochs begun, step at which this one began, steps done
            self.register_buffer(counter, torch.zeros((), dtype=torch.int64, device=context.device))

    def on_epoch(self, view: TrainView) -> None:
        """Cluster the training images anew, every so many epochs until the last stage."""
        self.start.copy_(self.done)
        if self.start < self.finetune * self.iterations and self.epoch % self.period == 0:
            learners = len(self.losses) - 1
            found = clusters.kmeans(F.normalize(view.features()), learners, ITERATIONS)
            if self.epoch > 0:
                found = clusters.renamed(found, self.assigned, learners, inverse=self.matching == "as_released")
            self.assigned.copy_(clusters.without_lone_images(found, view.labels))
        self.epoch += 1

    def batches(
        self, labels: NDArray[np.int64], shape: BatchShape, rng: np.random.Generator
    ) -> Iterator[NDArray[np.int64]]:
        """Class-balanced batches of the clusters in turn, from all images in the last stage."""
        assigned = self.assigned.cpu().numpy()
        members = [np.flatnonzero(assigned == k) for k in range(len(self.losses) - 1)]
        fit = [rows for rows in members if len(np.unique(labels[rows])) > 1]
        sources = [clusters.balanced_batches(labels, rows, shape, rng) for rows in fit]
        for step in count(int(self.start)):
            if step >= self.finetune * self.iterations or not sources:
                break
            yield next(sources[step % len(sources)])
        yield from super().batches(labels, shape, rng)

    def loss(self, batch: Batch) -> Tensor:
        """The learner's loss on its slice, or that of the whole vector."""
        self.done.fill_(batch.step + 1)
        if batch.step >= self.merge * self.iterations:
            return self._losses()[-1].loss(batch)
        learner = max(0, int(self.assigned[batch.indices].mode().values))
        part = torch.split(batch.raw_embeddings, self._width(batch.raw_embeddings.shape[1]), 1)[learner]
        return self._losses()[learner].loss(replace(batch, embeddings=F.normalize(part), raw_embeddings=part))

    def parameter_groups(self, default: ParameterGroup) -> list[ParameterGroup]:
        """Those of the losses."""
        return compose.parameter_groups(self._losses(), default)

    def _width(self, size: int) -> int:
        """Dimensions of a slice."""
        return -(-size // self.parts)

    def _losses(self) -> list[Method]:
        return [cast(Method, loss) for loss in self.losses]
