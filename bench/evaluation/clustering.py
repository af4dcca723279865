"""NMI, AMI and pairwise F1 of k-means clusters against labels."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bench import protocol
from bench.evaluation.knn import Floats, Ints, centre, distinct_rows


def clustering_metrics(embeddings: Floats, labels: Ints, settings: protocol.Clustering) -> dict[str, float]:
    """`nmi`, `ami` and `f1` of k-means with as many centres as there are distinct labels.

    Args:
        embeddings: float32 (N, D), finite.
        labels: int64 (N,).
        settings: iterations, restarts, seed; how NMI and AMI average the two entropies.
    """
    from sklearn.metrics import normalized_mutual_info_score

    clusters = cluster(embeddings, len(np.unique(labels)), settings)
    return {
        "nmi": float(normalized_mutual_info_score(labels, clusters, average_method=settings.average)),
        "ami": adjusted_mutual_information(labels, clusters, settings.average),
        "f1": pairwise_f1(labels, clusters),
    }


def cluster(embeddings: Floats, centres: int, settings: protocol.Clustering) -> Ints:
    """Cluster of each row by k-means over all rows, int64 (N,); identical rows share a cluster."""
    import faiss

    rows = centre(embeddings)
    kmeans = faiss.Kmeans(
        rows.shape[1],
        centres,
        niter=settings.iterations,
        nredo=settings.restarts,
        seed=settings.seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(rows),
    )
    kmeans.train(rows)
    assigned = kmeans.index.search(rows, 1)[1][:, 0]
    # float32 products of identical rows differ with their place, which may send them to different centres
    first, twin = distinct_rows(embeddings)
    return np.asarray(assigned[first][twin], dtype=np.int64)


def adjusted_mutual_information(labels: Ints, clusters: Ints, average: str) -> float:
    """AMI of Vinh et al., JMLR 2010: 0 expected for random clusters, 1 for the labels themselves.

    Equal to scikit-learn's, whose time grows with classes x clusters (minutes for thousands of
    each): the expected mutual information depends on their sizes only, of which few are distinct.
    Where it leaves no room below the bound (every item its own class), anything but the labels scores 0.
    """
    both = np.unique(np.stack([labels, clusters], axis=1), axis=0, return_counts=True)[1]
    of_class, of_cluster = (np.unique(values, return_counts=True)[1] for values in (labels, clusters))
    if len(both) == len(of_class) == len(of_cluster):
        return 1.0
    if min(len(of_class), len(of_cluster)) == 1:
        return 0.0
    entropies = _entropy(of_class), _entropy(of_cluster)
    bound = {
        "arithmetic": sum(entropies) / 2,
        "geometric": math.prod(entropies) ** 0.5,
        "min": min(entropies),
        "max": max(entropies),
    }[average]
    expected = _expected_mutual_information(of_class, of_cluster)
    if bound - expected < 1e-12:
        return 0.0
    return (sum(entropies) - _entropy(both) - expected) / (bound - expected)


def _entropy(counts: Ints) -> float:
    """Entropy in nats of a partition with groups of these sizes."""
    shares = counts / counts.sum()
    return -float(shares @ np.log(shares))


def _expected_mutual_information(of_class: Ints, of_cluster: Ints) -> float:
    """Mean mutual information (nats) of all pairs of labellings with these class and cluster sizes."""
    from scipy.special import gammaln

    total = int(of_class.sum())
    log_factorial = gammaln(np.arange(total + 1) + 1.0)
    result = 0.0
    for a, classes in zip(*np.unique(of_class, return_counts=True), strict=True):
        for b, groups in zip(*np.unique(of_cluster, return_counts=True), strict=True):
            shared = np.arange(max(1, a + b - total), min(a, b) + 1)  # items that a class and a cluster share
            probability = np.exp(
                log_factorial[[a, b, total - a, total - b]].sum()
                - log_factorial[total]
                - log_factorial[shared]
                - log_factorial[a - shared]
                - log_factorial[b - shared]
                - log_factorial[total - a - b + shared]
            )
            information = shared / total * (np.log(total * shared) - np.log(a) - np.log(b))
            result += classes * groups * float(probability @ information)
    return result


def pairwise_f1(labels: NDArray[np.int64], clusters: NDArray[np.int64]) -> float:
    """F1 of "same cluster" as a prediction of "same label" over all pairs of items; 0 without any such pair.

    Three items of one class, of which two share a cluster with a fourth: one pair right, three
    pairs clustered together, three pairs of one class, so 2 * 1 / (3 + 3):

    >>> round(pairwise_f1(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 0])), 4)
    0.3333
    """
    both = np.stack([labels, clusters], axis=1)
    right, of_class, together = (
        _pairs(np.unique(values, axis=0, return_counts=True)[1]) for values in (both, labels, clusters)
    )
    return 2 * right / (of_class + together) if of_class + together else 0.0


def _pairs(counts: NDArray[np.int64]) -> int:
    """Number of pairs within groups of these sizes."""
    return int((counts.astype(np.int64) * (counts.astype(np.int64) - 1) // 2).sum())
