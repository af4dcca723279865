"""Exact nearest neighbours in bounded memory, with every tie decided against the method.

The ranking is by Euclidean distance (for unit rows the same as by cosine). faiss finds candidates
in float32; wherever two candidates of different kinds (same class, other class) are closer to each
other than float32 can tell, their distances are computed again in float64, in an order of additions
that does not depend on where a row lies, so that identical rows have identical distances. The
result is the float64 ranking, whatever the hardware, the chunk size or the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_SLACK = 4  # candidates beyond the needed rank: room to see that a tie ends there
_CHUNK_QUERIES = 8192
_CHUNK_ENTRIES = 2**21  # queries x candidates handled at once
_CHUNK_NUMBERS = 2**23  # float64 numbers of a temporary array
_GPU_MOST_CANDIDATES = 2048  # limit of faiss on a GPU


class Ranker:
    """Ranks gallery rows for query rows.

    Args:
        embeddings: float32 (N, D), finite, of any scale.
        labels: int64 (N,).
        queries: int64 (Q,), rows that ask.
        gallery: int64 (G,), rows that are searched; None: all N, without the asking row itself.
    """

    def __init__(self, embeddings: Floats, labels: Ints, queries: Ints, gallery: Ints | None) -> None:
        self.embeddings = embeddings
        self.labels = labels
        self.queries = queries
        self.leave_one_out = gallery is None
        self.gallery = np.arange(len(labels)) if gallery is None else gallery
        self.gallery_labels = labels if gallery is None else labels[gallery]
        self.available = len(self.gallery) - self.leave_one_out
        self._centred = centre(embeddings)
        self._searched = self._centred if gallery is None else self._centred[gallery]
        self.relevant = self._count_relevant()

    def _count_relevant(self) -> Ints:
        counts = np.bincount(self.gallery_labels, minlength=int(self.labels.max()) + 1)
        return (counts[self.labels[self.queries]] - self.leave_one_out).astype(np.int64)

    def chunks(self, depth: Ints, progress: bool = False) -> Iterator[tuple[Ints, Ints]]:
        """Yield the ranking of all queries, some queries at a time.

        Args:
            depth: int64 (Q,), ranks needed for each query; cut at the size of the gallery.
            progress: show a progress bar.

        Yields:
            `which`: int64 (n,), positions in `queries`;
            `ranking`: int64 (n, k), rows of `embeddings`, nearest first, k = the largest depth among them.
        """
        depth = np.minimum(depth, self.available)
        order = np.argsort(-depth, kind="stable")  # equal depths together: a large class costs only its own queries
        with tqdm(
            total=len(order), desc="neighbours", unit="query", disable=None if progress else True, leave=False
        ) as bar:
            start = 0
            while start < len(order):
                width = int(depth[order[start]]) + _SLACK + 1
                which = order[start : start + max(1, min(_CHUNK_QUERIES, _CHUNK_ENTRIES // width))]
                yield which, self.gallery[self._rank(which, depth[which])]
                start += len(which)
                bar.update(len(which))

    def _rank(self, which: Ints, depth: Ints) -> Ints:
        rows = self.queries[which]
        ranks = int(depth.max())
        wanted = min(ranks + _SLACK, self.available) + self.leave_one_out
        distance, found = _search(self._centred[rows], self._searched, wanted)
        if self.leave_one_out:
            distance, found = _drop_self(distance, found, rows)
        hit = self.gallery_labels[found] == self.labels[rows][:, None]
        size = np.linalg.norm(self._centred[rows], axis=1)[:, None]
        close = np.diff(distance, axis=1) <= self._tolerance(size, distance[:, 1:])
        found = self._settle(rows, found, hit, close)
        if found.shape[1] < self.available:
            open_ended = _open_ended(hit, close, depth, self.relevant[which])
            if len(open_ended):
                found[open_ended, :ranks] = self._exhaustive(rows[open_ended], ranks)
        return found[:, :ranks]

    def _tolerance(self, size: Floats, distance: Floats) -> Floats:
        """How far two float32 squared distances may lie apart although their true order is the other one.

        Rounding of a float32 product of D terms grows like the root of D (Higham and Mary, 2019) times
        the norms; a gallery row at distance d of a query has at most the query's norm plus the root of d.
        """
        unit = 2.0**-24 * (np.sqrt(self.embeddings.shape[1]) + 8)
        # The constant covers products that float32 flushes to zero; rows are scaled to the order of one.
        return np.asarray(2 * unit * (2 * size + np.sqrt(distance)) ** 2 + 1e-30, dtype=np.float32)

    def _settle(self, rows: Ints, found: Ints, hit: Bools, close: Bools) -> Ints:
        """Put runs of close candidates that mix hits and misses into their float64 order, misses first."""
        mixed = close & (hit[:, 1:] != hit[:, :-1])
        if not mixed.any():
            return found
        first = np.ones(found.shape, dtype=bool)
        first[:, 1:] = ~close
        run = np.cumsum(first.ravel(), dtype=np.int32).reshape(found.shape)
        unsettled = np.zeros(int(run[-1, -1]) + 1, dtype=bool)
        unsettled[run[:, 1:][mixed]] = True
        places = np.flatnonzero(unsettled[run])
        settled = found.copy()
        candidates = found.ravel()[places]
        exact = self._exact(rows[places // found.shape[1]], self.gallery[candidates])
        order = np.lexsort((candidates, hit.ravel()[places], exact, run.ravel()[places]))
        settled.ravel()[places] = candidates[order]
        return settled

    def _exact(self, left: Ints, right: Ints) -> Doubles:
        """Squared distances of pairs of rows in float64, float64 (P,)."""
        result = np.empty(len(left))
        step = max(1, _CHUNK_NUMBERS // self.embeddings.shape[1])
        for start in range(0, len(left), step):
            part = slice(start, start + step)
            difference = self.embeddings[left[part]].astype(np.float64)
            difference -= self.embeddings[right[part]]
            np.square(difference, out=difference)
            result[part] = difference.sum(axis=1)
        return result

    @cached_property
    def _distinct(self) -> tuple[Ints, Ints]:
        """Gallery positions of its distinct rows, and for each gallery row which of them it equals."""
        rows = self.embeddings if self.leave_one_out else self.embeddings[self.gallery]
        return distinct_rows(rows)

    def _exhaustive(self, rows: Ints, ranks: int) -> Ints:
        """Rankings, int64 (n, ranks), where a tie goes on beyond the candidates: the whole gallery is compared.

        Identical queries share the comparison, identical gallery rows their distance.
        """
        result = np.empty((len(rows), ranks), dtype=np.int64)
        first, twin = distinct_rows(self.embeddings[rows])
        askers = np.split(np.argsort(twin, kind="stable"), np.cumsum(np.bincount(twin))[:-1])
        square = np.einsum("nd,nd->n", self._searched, self._searched)
        step = max(1, _CHUNK_NUMBERS // len(self.gallery))
        for start in range(0, len(first), step):
            query = self._centred[rows[first[start : start + step]]]
            size = np.linalg.norm(query, axis=1)
            approximate = square - 2 * (query @ self._searched.T)
            approximate += size[:, None] ** 2
            np.maximum(approximate, 0, out=approximate)
            for offset, distance in enumerate(approximate):
                asking = askers[start + offset]
                last = np.partition(distance, ranks - 1 + self.leave_one_out)[ranks - 1 + self.leave_one_out]
                within = np.flatnonzero(distance <= last + self._tolerance(size[offset], last))
                exact = self._exact_to_many(rows[asking[0]], within)
                order = np.argsort(exact, kind="stable")
                for position in asking:
                    result[position] = self._pessimistic(rows[position], within[order], exact[order], ranks)
        return result

    def _exact_to_many(self, row: np.int64, positions: Ints) -> Doubles:
        """Float64 distances of one row to gallery positions, each distinct gallery row computed once."""
        first, twin = self._distinct
        needed = np.zeros(len(first), dtype=bool)
        needed[twin[positions]] = True
        which = np.flatnonzero(needed)
        distance = np.empty(len(first))
        distance[which] = self._exact(np.full(len(which), row), self.gallery[first[which]])
        return distance[twin[positions]]

    def _pessimistic(self, row: np.int64, positions: Ints, exact: Doubles, ranks: int) -> Ints:
        """The first `ranks` of positions sorted by distance, misses before hits at equal distance."""
        if self.leave_one_out:
            other = positions != row
            positions, exact = positions[other], exact[other]
        last = exact[ranks - 1]
        nearer, tied = np.searchsorted(exact, [last, np.nextafter(last, np.inf)])
        hit = self.gallery_labels[positions[:tied]] == self.labels[row]
        inner = positions[:nearer][np.lexsort((positions[:nearer], hit[:nearer], exact[:nearer]))]
        edge, edge_hit = positions[nearer:tied], hit[nearer:]
        return np.concatenate([inner, edge[~edge_hit], edge[edge_hit]])[:ranks]


def centre(embeddings: Floats) -> Floats:
    """A float32 copy with the same neighbours that float32 products can tell apart best.

    Scaled by a power of two to the order of one (no overflow, no new rounding), then moved to mean
    zero: a cloud far from the origin, like a nearly collapsed network's, would cancel otherwise.
    """
    peak = max(float(embeddings.max()), -float(embeddings.min()))
    exponent = np.clip(-np.frexp(peak)[1], -126, 126)
    moved = embeddings * np.float32(2.0**exponent)
    moved -= moved.mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.ascontiguousarray(moved, dtype=np.float32)


def distinct_rows(rows: Floats) -> tuple[Ints, Ints]:
    """Positions of the distinct rows, int64 (U,), and for each row which of them it equals, int64 (N,)."""
    plain = np.ascontiguousarray(rows + np.float32(0))  # minus zero becomes zero: equal numbers, equal bytes
    as_bytes = plain.view(np.dtype((np.void, plain.shape[1] * plain.itemsize))).ravel()
    _, first, twin = np.unique(as_bytes, return_index=True, return_inverse=True)
    return first.astype(np.int64), twin.astype(np.int64)


def _search(queries: Floats, gallery: Floats, k: int) -> tuple[Floats, Ints]:
    """Squared distances and gallery positions of the k nearest, nearest first, both (n, k)."""
    import faiss

    if k <= _GPU_MOST_CANDIDATES and _gpu_usable():
        distance, found = faiss.knn_gpu(faiss.StandardGpuResources(), queries, gallery, k, metric=faiss.METRIC_L2)
    else:
        distance, found = faiss.knn(queries, gallery, k, metric=faiss.METRIC_L2)
    return np.maximum(distance, 0), found


def _gpu_usable() -> bool:
    import faiss

    if faiss.get_num_gpus() == 0:
        return False
    import torch

    return torch.cuda.is_available()


def _drop_self(distance: Floats, found: Ints, rows: Ints) -> tuple[Floats, Ints]:
    """Remove each query's own row by its index, or the last candidate where duplicates pushed it out."""
    keep = found != rows[:, None]
    keep[keep.all(axis=1), -1] = False
    shape = (len(rows), found.shape[1] - 1)
    return distance[keep].reshape(shape), found[keep].reshape(shape)


def _open_ended(hit: Bools, close: Bools, depth: Ints, relevant: Ints) -> Ints:
    """Queries whose needed ranks end inside a run of close candidates that may go on beyond the list."""
    gap = ~close[:, ::-1]
    sure = np.where(gap.any(axis=1), close.shape[1] - np.argmax(gap, axis=1), 0)
    hits = np.where(np.arange(hit.shape[1]) < sure[:, None], hit, False).sum(axis=1)
    return np.flatnonzero((sure < depth) & (hits < relevant))
