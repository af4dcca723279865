"""HTL: triplets drawn inside groups of neighbouring classes, with a margin read off a tree of all classes.

Random batches hold few informative triplets. Between epochs, HTL builds a tree over all training classes from
the distances of their images; batches then hold classes that are close to each other, and a triplet's margin
is the height at which its two classes meet in the tree (Ge et al. 2018). With r the unit embeddings, and means
over pairs of different images:

    D(p, q) = mean_{i in p, j in q} |r_i - r_j|^2,     s_c = mean_{i, j in c} |r_i - r_j|^2,    d_0 = mean_c s_c
    d_l     = d_0 + l (4 - d_0) / L,  l = 0..L                                     thresholds of the levels
    H(p, q) = the smallest d_l at which p and q are in one node; classes nearer than d_l are merged at level l
    a       = b + H(y_i, y_k) - s_{y_i}                                            margin of (i, p, k)
    L_HTL   = 1/(2Z) sum over all Z triplets (i, p, k) of a batch [ |r_i - r_p|^2 - |r_i - r_k|^2 + a ]_+

A batch of P classes: random classes, each followed by its m - 1 nearest ones, until there are P, with the
protocol's images of each. Defaults: L = 16, b = 0.1, m = 5. Until the share `warmup` of the run is over there
is no tree: batches are random, and a = b, the plain triplet loss with which the paper pre-trains.

Different: the tree is rebuilt before every epoch after the warm-up. Merging is transitive (single linkage): a
chain of near classes is one node. The paper's text of the loss that could be read prints distances without a
square; they are squared here, as in D, since H reaches 4 and unit vectors are at most 2 apart. A class with one
image has s_c = 0. Memory: one byte for each pair of classes.

Not read: the paper beyond its opening, and no code was published. The formulas are those of a summary; L, b,
m, the rebuilding and the length of the pre-training are not in it (L = 16, b = 0.1 and m = 5 as recalled).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import pairs
from bench.data.samplers import ByClass, check_classes
from bench.method import Batch, Context, Method, TrainView, hyper
from bench.protocol import Batch as BatchShape


class HTL(Method):
    """Hierarchical triplet loss: anchor-neighbour batches and a dynamic margin."""

    name = "htl"
    paper = "ge2018htl"
    by_default = False
    margin: float = hyper(0.1, low=0.01, high=1.0, scale="log", help="b, constant part of the margin, squared distance")
    levels: int = hyper(16, low=1, high=64, scale="log", help="L, levels of the tree above the classes")
    neighbours: int = hyper(5, low=1, high=16, help="m, classes in a neighbourhood, the anchor's included")
    warmup: float = hyper(0.1, low=0.0, high=0.9, help="share of the run before the first tree")

    level: Tensor
    height: Tensor
    spread: Tensor
    nearest: Tensor
    steps: Tensor

    def build(self, context: Context) -> None:
        """An empty tree: every class is its own neighbour, heights and spreads are 0."""
        classes, device = context.num_classes, context.device
        width = min(self.neighbours, classes)
        self.register_buffer("level", torch.zeros(classes, classes, dtype=torch.uint8, device=device))
        self.register_buffer("height", torch.zeros(self.levels + 1, device=device))
        self.register_buffer("spread", torch.zeros(classes, device=device))
        self.register_buffer("nearest", torch.arange(classes, device=device)[:, None].repeat(1, width))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=device))
        self._first_tree = self.warmup * context.iterations

    def on_epoch(self, view: TrainView) -> None:
        """Rebuild the tree from the current embeddings."""
        if int(self.steps) < self._first_tree:
            return
        embeddings, labels = view.embeddings().to(self.spread), view.labels.to(self.spread.device)
        between, within = class_distances(embeddings, labels, len(self.spread))
        self.spread.copy_(within)
        self.height.copy_(thresholds(float(within.mean()), self.levels))
        self.level.copy_(meeting_levels(between, self.height))
        between.fill_diagonal_(-1)
        self.nearest.copy_(between.topk(self.nearest.shape[1], largest=False).indices)

    def batches(
        self, labels: NDArray[np.int64], shape: BatchShape, rng: np.random.Generator
    ) -> Iterator[NDArray[np.int64]]:
        """Endless batches of `shape.classes` classes in neighbourhoods, `shape.per_class` images each."""
        nearest = self.nearest.cpu().numpy()
        check_classes(len(nearest), shape)
        classes = ByClass.of(labels)
        while True:
            groups = nearest[rng.permutation(len(nearest))].ravel()
            ordered = groups[np.sort(np.unique(groups, return_index=True)[1])]
            yield np.concatenate([draw(classes.members(c), shape.per_class, rng) for c in ordered[: shape.classes]])

    def loss(self, batch: Batch) -> Tensor:
        """Mean violation over all triplets of the batch, halved."""
        self.steps.fill_(batch.step + 1)
        labels = batch.labels
        d = pairs.squared_distances(batch.embeddings)
        margin = self.margin + self.height[self.level[labels][:, labels].long()] - self.spread[labels][:, None]
        positive, negative = pairs.pair_masks(labels)
        anchor, other = positive.nonzero(as_tuple=True)
        admitted = negative.index_select(0, anchor)
        violation = (d[anchor, other][:, None] + (margin - d).index_select(0, anchor)).clamp(min=0)
        return (violation * admitted).sum() / (2 * admitted.sum().clamp(min=1))


def class_distances(embeddings: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Mean squared distances between the images of two classes (C, C), and of different images of one (C,).

    From means and mean squared norms of the classes alone: |r_i - r_j|^2 = |r_i|^2 + |r_j|^2 - 2 r_i r_j.
    """
    count = torch.bincount(labels, minlength=classes).to(embeddings)
    total = embeddings.new_zeros(classes, embeddings.shape[1]).index_add(0, labels, embeddings)
    norms = embeddings.new_zeros(classes).index_add(0, labels, embeddings.square().sum(1)) / count.clamp(min=1)
    mean = total / count.clamp(min=1)[:, None]
    between = (norms[:, None] + norms[None, :] - 2 * mean @ mean.T).clamp(min=0)
    within = 2 * (norms - mean.square().sum(1)).clamp(min=0) * count / (count - 1).clamp(min=1)
    return between, within


def thresholds(lowest: float, levels: int) -> Tensor:
    """Heights d_0 .. d_L of the levels, (L + 1,)."""
    return lowest + torch.arange(levels + 1) * (4 - lowest) / levels


def meeting_levels(between: Tensor, height: Tensor) -> Tensor:
    """First level at which two classes are in one node, uint8 (C, C); the last one if they never meet earlier."""
    from scipy.cluster.hierarchy import cophenet, linkage
    from scipy.spatial.distance import squareform

    if len(between) < 2:
        return torch.zeros_like(between, dtype=torch.uint8)
    condensed = squareform(between.double().cpu().numpy(), checks=False)
    meet = squareform(cophenet(linkage(condensed, "single")))
    level = np.searchsorted(height.double().cpu().numpy(), meet, side="right").clip(max=len(height) - 1)
    return torch.from_numpy(level.astype(np.uint8)).to(between.device)


def draw(images: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` of the images, none twice more often than another."""
    return np.resize(rng.permutation(images), count)
