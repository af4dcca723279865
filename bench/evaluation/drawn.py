"""Re-identification metrics: a gallery of one image an identity, drawn several times.

This is another task than leave-one-out retrieval: a query has one right answer, so the same embeddings score far
lower, and numbers of the two must never stand in one column. The metrics have names of their own therefore: CMC, the
cumulative matching characteristic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.errors import DataError
from bench.evaluation.knn import Floats, Ints, Ranker
from bench.evaluation.retrieval import first_hit_rank

CMC_AT = (1, 5, 10)


def drawn_metrics(embeddings: Floats, labels: Ints, draws: Ints, ks: Sequence[int] = CMC_AT) -> dict[str, float]:
    """Share of queries whose identity is among the K nearest of the gallery, mean over the draws.

    Ranking is by Euclidean distance of the rows as given, exact; ties go against the method. In each draw, every row
    outside the gallery is a query. An identity whose only row is its gallery row has no query, but distracts others.

    Two pairs; in the second draw, the row at 1.1 is nearer to the other identity:

    >>> rows = np.array([[0.0], [1.1], [2.0], [3.0]], dtype=np.float32)
    >>> drawn_metrics(rows, np.array([0, 0, 1, 1]), np.array([[0, 3], [0, 2]]), ks=(1, 2))
    {'cmc_at_1': 0.75, 'cmc_at_2': 1.0}

    Args:
        embeddings: float32 (N, D), finite.
        labels: int64 (N,), identities.
        draws: int64 (R, T), the gallery rows of each draw: one of each of the T identities, in the order of labels.
        ks: the K of `cmc_at_<K>`; may exceed the size of the gallery.

    Raises:
        DataError: a draw is not one row of each identity, or no identity has a second row.
    """
    dense = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    _check(dense, draws)
    queries = drawn_queries(labels, draws)
    if queries == 0:
        raise DataError("every identity has one image, which is its gallery image: no query is left.")
    hits = dict.fromkeys(ks, 0)
    for gallery in draws:
        first = _first_hits(embeddings, dense, gallery, max(ks))
        for k in ks:
            hits[k] += int((first <= k).sum())
    return {f"cmc_at_{k}": hits[k] / (len(draws) * queries) for k in ks}


def drawn_queries(labels: Ints, draws: Ints) -> int:
    """Queries of one draw, the same number in all of them."""
    return len(labels) - int(draws.shape[1])


def _check(dense: Ints, draws: Ints) -> None:
    identities = int(dense.max()) + 1
    if draws.ndim != 2 or draws.shape[1] != identities or len(draws) == 0:
        raise DataError(f"draws must be (R, {identities}), one row of each identity; found {draws.shape}.")
    if draws.dtype.kind not in "iu" or draws.min() < 0 or draws.max() >= len(dense):
        raise DataError(f"draws must hold rows from 0 to {len(dense) - 1}.")
    wrong = np.argwhere(dense[draws] != np.arange(identities))
    if len(wrong):
        draw, place = wrong[0]
        raise DataError(f"draw {draw}: row {draws[draw, place]} is not of identity {place} in the order of labels.")


def _first_hits(embeddings: Floats, dense: Ints, gallery: Ints, depth: int) -> Ints:
    """Rank of the one right gallery row for every query, or a rank beyond `depth`."""
    asking = np.setdiff1d(np.arange(len(dense)), gallery)
    ranker = Ranker(embeddings, dense, asking, gallery)
    first = np.empty(len(asking), dtype=np.int64)
    for which, ranking in ranker.chunks(np.full(len(asking), depth)):
        first[which] = first_hit_rank(dense[ranking] == dense[asking[which], None])
    return first
