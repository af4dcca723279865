"""Evaluation: retrieval and clustering metrics of embeddings, under one set of rules.

The query itself is removed by its index; ties go against the method; queries without another item
of their class are left out and counted; labels are compared as integers; memory is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench import protocol
from bench.errors import DataError, Diverged, UsageError


@dataclass(frozen=True)
class Evaluation:
    """Metrics as fractions (mean label distances aside), and the scores behind them for the Q scored queries.

    `per_query` holds hit_at_1 uint8 (Q,), average_precision_at_r float32 (Q,), r_precision float32 (Q,);
    `queries` int64 (Q,) and `neighbours` int64 (Q, at most the number asked for) are row indices;
    `counts` holds queries (scored) and lone_queries (left out).

    Where only continuous labels can be scored, `per_query` is empty, and the queries are all that search.
    """

    metrics: dict[str, float]
    per_query: dict[str, NDArray[np.uint8] | NDArray[np.float32]]
    queries: NDArray[np.int64]
    neighbours: NDArray[np.int64]
    counts: dict[str, int]


def evaluate(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    query: NDArray[np.bool_] | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    clustering: protocol.Clustering | None = None,
    targets: NDArray[np.float64] | None = None,
    graded: protocol.Graded | None = None,
    neighbours: int = 10,
    progress: bool = False,
) -> Evaluation:
    """All metrics of one set of embeddings.

    Ranking is by Euclidean distance of the rows as given: for unit rows that is the ranking by cosine.
    Clustering metrics compare k-means of all rows (queries and gallery together), k = the number of
    distinct labels, with the labels. Where `graded` is asked for and no query has another item of its
    class, continuous labels are all there is: metrics of classes are left out.

    Two pairs, one of them split by a row of the other class:

    >>> rows = np.array([[0.0], [1.0], [1.5], [4.0]], dtype=np.float32)
    >>> found = evaluate(rows, np.array([0, 0, 1, 1]), ks=(1, 2)).metrics
    >>> found["recall_at_1"], found["recall_at_2"], found["map_at_r"]
    (0.5, 0.75, 0.5)

    Args:
        embeddings: float32 (N, D).
        labels: integers (N,).
        query: bool (N,), rows that search the other rows; None: every row searches all the others.
        ks: K of Recall@K; may exceed the size of the gallery.
        clustering: k-means settings for nmi, ami and f1; None leaves them out.
        targets: (N, T) continuous labels, for `graded`.
        graded: ranks of label_distance_at_<K> (not a fraction, lower is better) and ndcg_at_<K>.
        neighbours: nearest rows to return for each query.
        progress: show a progress bar.

    Raises:
        DataError: wrong shape or dtype, or no query has another item of its class (and `graded` is None).
        Diverged: an embedding is NaN or infinite.
        UsageError: a K below 1.
    """
    from bench.evaluation.retrieval import retrieval

    if any(k < 1 for k in ks):
        raise UsageError(f"Recall@K needs K of at least 1, found {list(ks)}.")
    _check(embeddings, labels, query)
    dense = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    if graded is not None and not _any_answer(dense, query):
        return _graded_alone(embeddings, dense, query, targets, graded, neighbours)
    found = retrieval(embeddings, dense, query, ks, neighbours, progress)
    metrics = {f"recall_at_{k}": found.recall_at(k) for k in ks}
    metrics["precision_at_1"] = found.recall_at(1)
    metrics["r_precision"] = float(found.r_precision.mean())
    metrics["map_at_r"] = float(found.average_precision_at_r.mean())
    if clustering is not None:
        from bench.evaluation.clustering import clustering_metrics

        metrics |= clustering_metrics(embeddings, dense, clustering)
    if graded is not None:
        metrics |= _graded(embeddings, query, targets, graded)
    return Evaluation(
        metrics=metrics,
        per_query={
            "hit_at_1": (found.first_hit == 1).astype(np.uint8),
            "average_precision_at_r": found.average_precision_at_r.astype(np.float32),
            "r_precision": found.r_precision.astype(np.float32),
        },
        queries=found.queries,
        neighbours=found.neighbours,
        counts={"queries": len(found.queries), "lone_queries": found.lone},
    )


def _graded(
    embeddings: NDArray[np.float32],
    query: NDArray[np.bool_] | None,
    targets: NDArray[np.float64] | None,
    graded: protocol.Graded,
) -> dict[str, float]:
    from bench.evaluation.graded import graded_metrics

    if targets is None:
        raise UsageError("graded metrics need continuous labels (targets), which this data set does not have.")
    return graded_metrics(embeddings, targets, query, graded.distance_at, graded.ndcg_at)


def _any_answer(labels: NDArray[np.int64], query: NDArray[np.bool_] | None) -> bool:
    """Whether a query has another item of its class to find."""
    if query is None:
        return bool((np.bincount(labels) > 1).any())
    return bool(np.isin(labels[query], labels[~query]).any())


def _graded_alone(
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    query: NDArray[np.bool_] | None,
    targets: NDArray[np.float64] | None,
    graded: protocol.Graded,
    neighbours: int,
) -> Evaluation:
    """What is left where classes say nothing: metrics of continuous labels, and the neighbours to show."""
    from bench.evaluation.knn import Ranker

    metrics = _graded(embeddings, query, targets, graded)
    asking = np.arange(len(labels)) if query is None else np.flatnonzero(query)
    ranker = Ranker(embeddings, labels, asking, None if query is None else np.flatnonzero(~query))
    nearest = np.empty((len(asking), min(neighbours, ranker.available)), dtype=np.int64)
    for which, ranking in ranker.chunks(np.full(len(asking), max(neighbours, 1))):
        nearest[which] = ranking[:, : nearest.shape[1]]
    return Evaluation(metrics, {}, asking, nearest, {"queries": len(asking), "lone_queries": 0})


def _check(embeddings: NDArray[np.float32], labels: NDArray[np.int64], query: NDArray[np.bool_] | None) -> None:
    if embeddings.ndim != 2 or embeddings.dtype != np.float32 or 0 in embeddings.shape:
        raise DataError(f"embeddings must be float32 (N, D), found {_describe(embeddings)}.")
    if labels.shape != embeddings.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(f"labels must be integers ({len(embeddings)},), one an embedding; found {_describe(labels)}.")
    if query is not None:
        if query.shape != labels.shape or query.dtype != np.bool_:
            raise DataError(f"query must be bool ({len(labels)},), one an embedding; found {_describe(query)}.")
        if query.all() or not query.any():
            raise DataError(f"query marks {int(query.sum())} of {len(query)} rows: queries and gallery need both some.")
    broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(broken):
        raise Diverged(
            f"{len(broken)} of {len(embeddings)} embeddings are NaN or infinite, the first one in row {broken[0]}."
        )


def _describe(array: NDArray[np.generic]) -> str:
    return f"{array.dtype} {array.shape}"
