"""MIC: an auxiliary embedding learns what classes share, so that the class embedding need not.

Viewpoint, light or typeface vary inside every class. An auxiliary head on the same trunk learns such properties
from surrogate labels, clusters of images found after the classes' differences were taken away, and the two
embeddings are kept from saying the same (Roth et al. 2019). With class embedding c, auxiliary embedding s, both of
unit length, and a projection R = Linear - ReLU - Linear:

    L = l(c, classes) + l(s, clusters) - w mean_{images, dimensions} ( c * R(s) / |R(s)| )^2

where l is any loss of a batch, by default the margin loss with a learned boundary per class and per cluster. The
gradient of the last term is reversed where it enters c and s: R learns to predict c from s, and both heads and the
trunk learn to make that hard. At test time only c is used.

First clustering: k-means of trunk features of unit length, minus the mean of their class. Later ones, every third
epoch: of the auxiliary embeddings as they are. In the surrogate task a fifth of the images get the cluster of
another such image, against overfitting.

Defaults are those of the released runs on CUB200 (30 clusters) and CARS196 (w = 500; others from 250 to 2500). Those
have D = 128 dimensions; the mean above falls with 1 / D^2 for vectors that have nothing to do with each other, so
w = `weight` (D / 128)^2.

Different: the released code takes turns: a batch of classes with a step of its own, then with probability
`task_p` a batch of clusters with a step of its own; each adds the adversarial term. That is
the method `mic_alternating`, where a step of either task is one of the run's iterations; the default is one objective
on the protocol's batches, in which clusters come as they fall. Released code puts strangers into a cluster's batch;
here labels change places, to the same end. Its counter makes the period one
epoch longer than it says, its two last clusters are never drawn, k-means runs with 25 iterations on at most 256
images a cluster whatever is set (here 20 on all), and the first clustering uses maps of the trunk's first block,
which methods do not see here. Clusters are numbered anew each time though boundaries live on, as released; `match`
gives them the names of the old ones. The paper's overview standardises features per class; released runs only
centre them (`centring = "standardise"` divides by the deviation too; a constant dimension gives 0, where the
released code gives NaN).

Not reproduced, because the protocol fixes it: trunk, crops (no flips in the surrogate task), rates of the
network and their schedule. `margin` draws a negative for every positive pair, not one pair an image, and rarely
beyond 1.4. Not read: the paper beyond its abstract and its overview; the equation is the released code's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bench import clusters, compose
from bench.margin_loss import MarginMethod
from bench.method import Batch, Context, Method, ParameterGroup, TrainView, hyper
from bench.protocol import Batch as BatchShape

ITERATIONS = 20  # of k-means
PUBLISHED_SIZE = 128  # of the embeddings for which weights were published


def without_class(features: Tensor, labels: Tensor, standardise: bool = False) -> Tensor:
    """Features (N, F) minus the mean of their class, divided by its deviation if asked for."""
    classes, size = int(labels.max()) + 1, labels.bincount().clamp(min=1)[:, None]

    def class_mean(rows: Tensor) -> Tensor:
        return (rows.new_zeros(classes, rows.shape[1]).index_add_(0, labels, rows) / size)[labels]

    centred = features - class_mean(features)
    return centred / class_mean(centred.square()).sqrt().clamp(min=1e-6) if standardise else centred


def agreement(first: Tensor, second: Tensor) -> Tensor:
    """Mean over images and dimensions of the squared product of unit rows (B, D)."""
    return (F.normalize(first) * F.normalize(second)).square().mean()


def reversed_gradient(x: Tensor) -> Tensor:
    """The same value, whose gradient has the opposite sign."""
    return 2 * x.detach() - x


class MIC(Method):
    """Class and auxiliary embedding, trained jointly and against each other."""

    name = "mic"
    paper = "roth2019mic"
    by_default = False
    base: str = hyper("margin", method=True, help="loss of both tasks; margin losses get a boundary per class")
    clusters: int = hyper(30, low=2, high=150, scale="log", help="surrogate classes")
    weight: float = hyper(
        500.0, low=10.0, high=5000.0, scale="log", help="weight of the adversarial term, for 128 dimensions"
    )
    period: int = hyper(3, low=1, high=10, help="epochs between clusterings")
    swapped: float = hyper(0.2, low=0.0, high=0.5, help="share of images with the cluster of another one")
    centring: str = hyper("mean", choices=("mean", "standardise"), help="of features before the first clustering")
    match: bool = hyper(False, help="new clusters take the names of the old ones that they overlap best")
    hidden: int = hyper(512, low=16, high=2048, scale="log", help="hidden units of the projection")
    head_lr: float = hyper(
        1e-3, low=1e-5, high=1e-1, scale="log", help="learning rate of auxiliary head and projection"
    )

    def build(self, context: Context) -> None:
        """Auxiliary head, projection and the two losses; no clusters yet."""
        size, number = context.embedding_size, len(context.labels)
        self.head = nn.Linear(context.trunk_dim, size)
        self.projection = nn.Sequential(nn.Linear(size, self.hidden), nn.ReLU(), nn.Linear(self.hidden, size))
        self.inner, self.surrogate = compose.create(self.base), compose.create(self.base)
        for loss in (self.inner, self.surrogate):
            if isinstance(loss, MarginMethod):
                loss.per_class = True
        self.inner.build(context)
        labels = torch.arange(number, device=context.device) % self.clusters
        self.surrogate.build(replace(context, num_classes=self.clusters, labels=labels, targets=None))
        self.assigned: Tensor
        self.epoch: Tensor
        self.register_buffer("assigned", labels)
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64, device=context.device))  # epochs begun

    def on_epoch(self, view: TrainView) -> None:
        """Cluster the training images: first without their classes, then every so many epochs by the auxiliary head."""
        if self.epoch % self.period == 0:
            features = F.normalize(view.features()) if self.epoch == 0 else view.features()
            if self.epoch == 0:
                rows = without_class(features, view.labels, self.centring == "standardise")
            else:
                with torch.no_grad():
                    rows = F.normalize(self.head(features))
            found = clusters.kmeans(rows, self.clusters, ITERATIONS)
            if self.match and self.epoch > 0:
                found = clusters.renamed(found, self.assigned, self.clusters)
            self.assigned.copy_(found)
        self.epoch += 1

    def tasks(self, step: int) -> tuple[bool, bool]:
        """Whether a step learns classes, and whether it learns clusters."""
        return True, True

    def loss(self, batch: Batch) -> Tensor:
        """The losses of the step's tasks, and the adversarial term."""
        of_classes, of_clusters = self.tasks(batch.step)
        raw: Tensor = self.head(batch.features)
        auxiliary = F.normalize(raw)
        weight = self.weight * (raw.shape[1] / PUBLISHED_SIZE) ** 2
        loss = -weight * self.adversarial(batch.embeddings, auxiliary)
        if of_classes:
            loss = loss + self.inner.loss(batch)
        if of_clusters:
            found = self._swap(self.assigned[batch.indices])
            task = replace(batch, embeddings=auxiliary, raw_embeddings=raw, labels=found)
            loss = loss + self.surrogate.loss(task)
        return loss

    def adversarial(self, embeddings: Tensor, auxiliary: Tensor) -> Tensor:
        """How well the projection predicts class embeddings (B, D) from auxiliary ones (B, D); reversed for both."""
        target, source = reversed_gradient(embeddings), F.normalize(reversed_gradient(auxiliary))
        return agreement(target, self.projection(source))

    def parameter_groups(self, default: ParameterGroup) -> list[ParameterGroup]:
        """Those of the two losses; the auxiliary head and the projection learn at their own rate."""
        *groups, own = compose.parameter_groups([self.inner, self.surrogate], default)
        return [*groups, {**own, "lr": self.head_lr}]

    def _swap(self, found: Tensor) -> Tensor:
        """Clusters (B,), of which some images' have changed places."""
        chosen = (torch.rand(len(found)) < self.swapped).nonzero()[:, 0]
        rows = torch.arange(len(found)).scatter(0, chosen, chosen[torch.randperm(len(chosen))])
        return found[rows.to(found.device)]


class MICAlternating(MIC):
    """The released schedule: each step serves one task, with batches of its own."""

    name = "mic_alternating"
    task_p: float = hyper(0.8, low=0.0, high=1.0, help="surrogate steps per step of the class task")

    def build(self, context: Context) -> None:
        """Draw which step serves which task."""
        super().build(context)
        follows = torch.rand(context.iterations) < self.task_p  # a surrogate step follows this step of the class task
        turns = torch.stack([torch.ones_like(follows), follows], 1).nonzero()[: context.iterations, 1].bool()
        self.turns: Tensor
        self.start: Tensor
        self.done: Tensor
        self.register_buffer("turns", turns)  # bool (iterations,): a surrogate step
        for counter in ("start", "done"):  # step at which the epoch began, steps done
            self.register_buffer(counter, torch.zeros((), dtype=torch.int64, device=context.device))

    def on_epoch(self, view: TrainView) -> None:
        """Note where the epoch begins, then cluster."""
        self.start.copy_(self.done)
        super().on_epoch(view)

    def tasks(self, step: int) -> tuple[bool, bool]:
        """One of the two."""
        of_clusters = bool(self.turns[step % len(self.turns)])
        return not of_clusters, of_clusters

    def batches(
        self, labels: NDArray[np.int64], shape: BatchShape, rng: np.random.Generator
    ) -> Iterator[NDArray[np.int64]]:
        """The protocol's batches, and batches of clusters on surrogate steps."""
        of_classes = super().batches(labels, shape, rng)
        of_clusters = clusters.balanced_batches(self.assigned.cpu().numpy(), np.arange(len(labels)), shape, rng)
        return (next(of_clusters if self.tasks(step)[1] else of_classes) for step in count(int(self.start)))

    def loss(self, batch: Batch) -> Tensor:
        """Count the step."""
        self.done.fill_(batch.step + 1)
        return super().loss(batch)
