"""Clustering loss: the classes must be a better clustering of the batch than any other choice of medoids.

A batch is clustered by choosing as many medoids among its images as it has classes. The score of the classes
has to exceed that of every other clustering by a margin that grows with how little the two agree (Song et al.
2017, "Deep Metric Learning via Facility Location"). With d the Euclidean distance, S a set of medoids, g(S) the
assignment of images to the nearest one, y the labels:

    F(S) = - sum_i min_{j in S} d_ij                                       facility-location score
    F*   = - sum_c min_{j in c} sum_{i in c} d_ij                          score of the classes, best medoid each
    L    = [ max_{|S| = #classes} { F(S) + b D(g(S), y) } - F* ]_+         D = 1 - NMI

NMI is divided by the geometric mean of the entropies. The maximum is approximated: medoids are added one by one,
each time the image with the largest F + b D, and then refined: `refinements` times, images are assigned, and each
cluster in turn takes as its medoid the member with the largest score, -(sum of distances inside) + b D (PAM).
Defaults: 5 refinements, b = 1. The search runs on the CPU, medoid after medoid, with all candidates at once.

Different: entropies are sums over counts, where the TensorFlow code that an author contributed calls scikit-learn
once a candidate; that library divides by the arithmetic mean since its version 0.22, so that the same code means
another margin today. As there, the value is a sum over the batch, a medoid belongs to its own cluster whatever
the distances, and exact ties go to what comes first.

Not read: the paper beyond its opening; the algorithm is that of the TensorFlow code. It has no default for b, and
the schedule that the paper may have for it was not seen: b is constant, and its default no more than neutral.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import pairs
from bench.method import Batch, Method, hyper

Floats = NDArray[np.floating[Any]]
Index = NDArray[np.int64]


class FacilityLocation(Method):
    """Structured clustering loss with an NMI margin."""

    name = "clustering"
    paper = "song2017clustering"
    by_default = False
    margin: float = hyper(1.0, low=0.1, high=100.0, scale="log", help="b, weight of 1 - NMI")
    refinements: int = hyper(5, low=0, high=10, help="rounds of local search after the greedy choice")

    def loss(self, batch: Batch) -> Tensor:
        """Score of the most violating clustering found, plus its margin, less the score of the classes."""
        d = pairs.distances(batch.embeddings)
        distinct, classes = torch.unique(batch.labels, return_inverse=True)
        search = Search(d.detach().cpu().numpy(), classes.cpu().numpy(), self.margin)
        medoids = search.greedy()
        for _ in range(self.refinements):
            medoids = search.refined(medoids)
        score = -d[torch.from_numpy(medoids).to(d.device)].amin(0).sum()
        sums = (d * (classes[:, None] == classes[None, :])).sum(1)  # with each image as its class's medoid
        best = sums.new_full((len(distinct),), math.inf).scatter_reduce(0, classes, sums, "amin")
        gap: Tensor = score + self.margin * search.disagreement(medoids) + best.sum()
        return gap.clamp(min=0)


class Search:
    """The search for the medoids that maximise F(S) + margin * (1 - NMI).

    Args:
        d: (B, B) distances.
        classes: int64 (B,), 0..C-1, each of which occurs.
        margin: weight of the disagreement.
    """

    def __init__(self, d: Floats, classes: Index, margin: float) -> None:
        self.d, self.classes, self.margin = d, classes, margin
        self.images = np.arange(len(d))
        self.of_class = _one_hot(classes)
        counts = np.arange(len(d) + 1)
        self.n_log_n = counts * np.log(np.maximum(counts, 1))

    def greedy(self) -> Index:
        """As many medoids as classes, each the best addition to those before it, (C,)."""
        medoids = np.empty(0, dtype=np.int64)
        for _ in range(self.of_class.shape[1]):
            scores = self.margin * self._disagreements(medoids, self.images)
            scores -= np.minimum(self._distance_to(medoids), self.d).sum(1)
            scores[medoids] = -math.inf
            medoids = np.append(medoids, scores.argmax())
        return medoids

    def refined(self, medoids: Index) -> Index:
        """One round: each cluster of the present assignment takes the best medoid among its members."""
        assignment, medoids = self.assignment(medoids), medoids.copy()
        for k in range(len(medoids)):
            members = np.flatnonzero(assignment == k)
            inside = self.d[np.ix_(members, members)].sum(1)
            scores = self.margin * self._disagreements(np.delete(medoids, k), members) - inside
            medoids[k] = members[scores.argmax()]
        return medoids

    def assignment(self, medoids: Index) -> Index:
        """Position in `medoids` of each image's nearest one, (B,); medoids keep their own."""
        nearest: Index = self.d[medoids].argmin(0)
        nearest[medoids] = np.arange(len(medoids))
        return nearest

    def disagreement(self, medoids: Index) -> float:
        """1 - NMI of the medoids' clusters and the classes."""
        return float(self._disagreements(medoids[:-1], medoids[-1:])[0])

    def _distance_to(self, medoids: Index) -> Floats:
        if len(medoids) == 0:
            return np.full_like(self.d[0], math.inf)
        nearest: Floats = self.d[medoids].min(0)
        return nearest

    def _disagreements(self, medoids: Index, candidates: Index) -> Floats:
        """1 - NMI with each candidate added to the medoids, (n,): counts change only where images move to it."""
        moved = self.d[candidates] < self._distance_to(medoids)
        moved[:, medoids] = False
        moved[np.arange(len(candidates)), candidates] = True
        moves = moved.astype(np.float32)  # (n, B); counts are exact in it
        clusters = self.assignment(medoids) if len(medoids) else np.zeros_like(self.classes)
        of_cluster = _one_hot(clusters)
        of_cell = _one_hot(np.unique(clusters * len(self.images) + self.classes, return_inverse=True)[1])
        new = moves @ self.of_class
        joint = self._sum(of_cell.sum(0) - moves @ of_cell) + self._sum(new)
        sizes = self._sum(of_cluster.sum(0) - moves @ of_cluster) + self._sum(moves.sum(1, keepdims=True))
        return 1 - self._nmi(self._sum(self.of_class.sum(0)), sizes, joint)

    def _nmi(self, classes: Floats, clusters: Floats, joint: Floats) -> Floats:
        """NMI from sums of n log n over classes, clusters and cells; 1 if nothing is divided on either side."""
        total = len(self.images)
        of_classes, of_clusters, together = (math.log(total) - s / total for s in (classes, clusters, joint))
        root = np.sqrt(np.maximum(of_classes * of_clusters, 0))
        whole = np.where(np.maximum(of_classes, of_clusters) < 1e-9, 1.0, 0.0)
        return np.where(root < 1e-9, whole, (of_classes + of_clusters - together) / np.maximum(root, 1e-9))

    def _sum(self, counts: Floats) -> Floats:
        """Sum over the last axis of n log n."""
        total: Floats = self.n_log_n[counts.astype(np.int64)].sum(-1)
        return total


def _one_hot(index: Index) -> Floats:
    return np.eye(int(index.max()) + 1, dtype=np.float32)[index]
