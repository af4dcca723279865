"""Recall@K, Precision@1, R-Precision and MAP@R from one pass over exact rankings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.errors import DataError
from bench.evaluation.knn import Bools, Doubles, Floats, Ints, Ranker


@dataclass(frozen=True)
class Retrieval:
    """Scores of every query that has something to find; Q queries, `lone` others left out.

    `first_hit` is the 1-based rank of the nearest item of the query's class, or a rank beyond every
    K asked for; `neighbours` holds row indices, nearest first.
    """

    queries: Ints
    first_hit: Ints
    r_precision: Doubles
    average_precision_at_r: Doubles
    neighbours: Ints
    lone: int

    def recall_at(self, k: int) -> float:
        """Share of queries with an item of their class among the k nearest."""
        return float(np.mean(self.first_hit <= k))


def retrieval(
    embeddings: Floats,
    labels: Ints,
    query: Bools | None,
    ks: Sequence[int],
    neighbours: int,
    progress: bool = False,
) -> Retrieval:
    """Rank the gallery for every query and score the rankings.

    Args:
        embeddings: float32 (N, D), finite.
        labels: int64 (N,), from 0.
        query: bool (N,), the asking rows, the others being the gallery; None: every row asks all others.
        ks: the K of Recall@K that `first_hit` must serve.
        neighbours: nearest rows to keep for each query (fewer where the gallery is smaller).
        progress: show a progress bar.

    Raises:
        DataError: no query has another item of its class.
    """
    asking = np.arange(len(labels)) if query is None else np.flatnonzero(query)
    gallery = None if query is None else np.flatnonzero(~query)
    ranker = Ranker(embeddings, labels, asking, gallery)
    lone = ranker.relevant == 0
    if lone.all():
        raise DataError(
            f"none of the {len(asking)} queries has another item of its class among the {ranker.available} items "
            "searched: no retrieval metric is defined. Are the labels those of these embeddings?"
        )
    if lone.any():
        ranker = Ranker(embeddings, labels, asking[~lone], gallery)
    relevant = ranker.relevant
    count = len(relevant)
    first_hit = np.empty(count, dtype=np.int64)
    precision, average = np.empty(count), np.empty(count)
    nearest = np.empty((count, min(neighbours, ranker.available)), dtype=np.int64)
    for which, ranking in ranker.chunks(np.maximum(relevant, max([*ks, neighbours, 1])), progress):
        hits = labels[ranking] == labels[ranker.queries[which], None]
        first_hit[which] = first_hit_rank(hits)
        precision[which] = r_precision(hits, relevant[which])
        average[which] = average_precision_at_r(hits, relevant[which])
        nearest[which] = ranking[:, : nearest.shape[1]]
    return Retrieval(ranker.queries, first_hit, precision, average, nearest, int(lone.sum()))


def first_hit_rank(hits: NDArray[np.bool_]) -> Ints:
    """1-based rank of the first hit of each row of bool (n, k); where there is none, a rank above any K.

    >>> first_hit_rank(np.array([[False, True, True], [False, False, False]])).tolist()[0]
    2
    """
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, np.iinfo(np.int64).max)


def r_precision(hits: NDArray[np.bool_], relevant: Ints) -> Doubles:
    """Share of the R nearest that are of the query's class; R = items of its class, float64 (n,).

    Two of three relevant items are among the three nearest:

    >>> r_precision(np.array([[True, False, True, True]]), np.array([3])).round(4).tolist()
    [0.6667]
    """
    return np.asarray(_cut(hits, relevant).sum(axis=1) / relevant)


def average_precision_at_r(hits: NDArray[np.bool_], relevant: Ints) -> Doubles:
    """1/R times the sum, over hits at rank i up to R, of the precision at i; float64 (n,).

    The mean over queries is MAP@R of Musgrave et al., ECCV 2020. With R = 3 and hits at ranks 1, 3
    and 4, ranks 1 and 3 count with precisions 1 and 2/3, so (1 + 2/3) / 3:

    >>> average_precision_at_r(np.array([[True, False, True, True]]), np.array([3])).round(4).tolist()
    [0.5556]
    """
    counted = _cut(hits, relevant)
    precision = np.cumsum(counted, axis=1) / np.arange(1, counted.shape[1] + 1)
    return np.asarray((precision * counted).sum(axis=1) / relevant)


def _cut(hits: NDArray[np.bool_], relevant: Ints) -> NDArray[np.bool_]:
    """Hits at ranks up to R, as wide as the largest R."""
    width = int(relevant.max())
    return hits[:, :width] & (np.arange(width) < relevant[:, None])
