"""The metrics by their definitions: one query at a time, float64, every pair compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np


def ranked_hits(embeddings: np.ndarray, labels: np.ndarray, query: np.ndarray | None) -> list[list[bool]]:
    """For every query with something to find: hit or miss of all searched items, nearest first, ties against it."""
    rows = embeddings.astype(np.float64)
    result = []
    for asking in range(len(rows)):
        if query is not None and not query[asking]:
            continue
        searched = [g for g in range(len(rows)) if (g != asking if query is None else not query[g])]
        distance = [math.fsum((rows[asking] - rows[g]) ** 2) for g in searched]
        hit = [bool(labels[asking] == labels[g]) for g in searched]
        if any(hit):
            result.append([h for _, h in sorted(zip(distance, hit, strict=True))])
    return result


def metrics(
    embeddings: np.ndarray, labels: np.ndarray, query: np.ndarray | None, ks: Sequence[int]
) -> dict[str, float]:
    """Retrieval metrics, each averaged over the scored queries."""
    rankings = ranked_hits(embeddings, labels, query)
    found = {f"recall_at_{k}": float(np.mean([any(hits[:k]) for hits in rankings])) for k in ks}
    found["precision_at_1"] = float(np.mean([hits[0] for hits in rankings]))
    found["r_precision"] = float(np.mean([sum(hits[: sum(hits)]) / sum(hits) for hits in rankings]))
    found["map_at_r"] = float(np.mean([average_precision_at_r(hits) for hits in rankings]))
    return found


def average_precision_at_r(hits: list[bool]) -> float:
    """1/R times the sum of the precisions at the hits among the first R."""
    relevant = sum(hits)
    return sum(sum(hits[:rank]) / rank for rank in range(1, relevant + 1) if hits[rank - 1]) / relevant


def pairwise_f1(labels: np.ndarray, clusters: np.ndarray) -> float:
    """F1 over all pairs of items."""
    pairs = [(labels[i] == labels[j], clusters[i] == clusters[j]) for i, j in combinations(range(len(labels)), 2)]
    right = sum(a and b for a, b in pairs)
    if right == 0:
        return 0.0
    precision, recall = right / sum(b for _, b in pairs), right / sum(a for a, _ in pairs)
    return 2 * precision * recall / (precision + recall)
