"""Retrieval metrics under continuous labels: how near in label space the images ranked first are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from bench.errors import DataError

CHUNK = 256  # queries at a time: memory is CHUNK x gallery

Doubles = NDArray[np.float64]


def graded_metrics(
    embeddings: NDArray[np.float32],
    targets: Doubles,
    query: NDArray[np.bool_] | None = None,
    distance_at: Sequence[int] = (1, 10),
    ndcg_at: Sequence[int] = (10, 100),
) -> dict[str, float]:
    """Mean label distance of the K nearest, and nDCG at K (Kim et al., CVPR 2019, section 5.2).

    Ranking is by Euclidean distance of the rows as given, label distance is the Euclidean distance of
    targets. Ties in the ranking are broken against the method: the farther label comes first.

    Args:
        embeddings: float32 (N, D).
        targets: (N, T) continuous labels.
        query: bool (N,), rows that search the other rows; None: every row searches all the others.
        distance_at: the K of `label_distance_at_<K>`, in units of the targets.
        ndcg_at: the K of `ndcg_at_<K>`, fractions.

    Raises:
        DataError: a K exceeds the number of images searched.
    """
    asking = np.arange(len(targets)) if query is None else np.flatnonzero(query)
    gallery = np.arange(len(targets)) if query is None else np.flatnonzero(~query)
    available = len(gallery) - (query is None)
    deepest = max([*distance_at, *ndcg_at])
    if deepest > available:
        raise DataError(
            f"graded evaluation asks for the {deepest} nearest of {available} images: lower evaluation.graded."
        )
    distance, gain = np.zeros(deepest), dict.fromkeys(ndcg_at, 0.0)
    for start in range(0, len(asking), CHUNK):
        rows = asking[start : start + CHUNK]
        near = cdist(embeddings[rows].astype(np.float64), embeddings[gallery].astype(np.float64), "sqeuclidean")
        labels = cdist(targets[rows], targets[gallery])
        if query is None:
            itself = (np.arange(len(rows)), rows)
            near[itself] = labels[itself] = np.inf
        ranked, ideal = ranked_labels(near, labels, deepest)
        distance += ranked.sum(0)
        for k in ndcg_at:
            gain[k] += float(ndcg(ranked[:, :k], ideal[:, :k]).sum())
    count = len(asking)
    means = np.cumsum(distance) / np.arange(1, deepest + 1) / count
    found = {f"label_distance_at_{k}": float(means[k - 1]) for k in distance_at}
    return found | {f"ndcg_at_{k}": gain[k] / count for k in ndcg_at}


def ranked_labels(near: Doubles, labels: Doubles, depth: int) -> tuple[Doubles, Doubles]:
    """Label distances (Q, depth) in the order of embedding distance, and in the ideal order.

    Args:
        near: (Q, G) embedding distances of queries and gallery, in any monotone form.
        labels: (Q, G) label distances.
        depth: ranks wanted.
    """
    order = np.lexsort((-labels, near))[:, :depth]
    return np.take_along_axis(labels, order, 1), np.sort(labels, 1)[:, :depth]


def ndcg(ranked: Doubles, ideal: Doubles) -> Doubles:
    """Discounted gain of a ranking over that of the ideal one, float64 (Q,).

    An image at label distance d has gain 1 / (1 + d); rank i is discounted by log2(i + 1).

    >>> ndcg(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])).round(4).tolist()
    [0.8597]

    Args:
        ranked: (Q, K) label distances in the order of the ranking.
        ideal: (Q, K) the K smallest label distances, ascending.
    """
    discount = 1 / np.log2(np.arange(2, ranked.shape[1] + 2))
    return np.asarray((discount / (1 + ranked)).sum(1) / (discount / (1 + ideal)).sum(1))
