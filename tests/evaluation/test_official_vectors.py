"""Retrieval and clustering metrics against numbers that the official code of papers produced."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from bench.evaluation import evaluate
from bench.evaluation.clustering import pairwise_f1

VECTORS = Path(os.environ.get("BENCH_VECTORS", Path(__file__).parents[1] / "references"))
pytestmark = pytest.mark.parity


def arrays(name: str) -> dict[str, np.ndarray]:
    path = VECTORS / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def cases(name: str, needs: str) -> Iterator[dict[str, np.ndarray]]:
    """The numbered cases of a file that have the field."""
    everything = arrays(name)
    for number in range(int(everything["n_cases"])):
        start = f"c{number:02}."
        case = {key.removeprefix(start): value for key, value in everything.items() if key.startswith(start)}
        if needs in case:
            yield case


def recalls(embeddings: np.ndarray, labels: np.ndarray, ks: np.ndarray, query: np.ndarray | None = None) -> np.ndarray:
    found = evaluate(embeddings, labels, query=query, ks=[int(k) for k in ks]).metrics
    return np.array([found[f"recall_at_{k}"] for k in ks])


def optimistic_recalls(embeddings: np.ndarray, labels: np.ndarray, ks: np.ndarray) -> np.ndarray:
    """Fewer than K negatives strictly nearer than the nearest positive, over queries that have one."""
    distance = ((embeddings[:, None].astype(np.float64) - embeddings[None]) ** 2).sum(-1)
    same = labels[:, None] == labels
    np.fill_diagonal(same, False)
    best = np.where(same, distance, np.inf).min(axis=1)
    nearer = ((distance < best[:, None]) & (labels[:, None] != labels)).sum(axis=1)[same.any(axis=1)]
    return np.array([(nearer < k).mean() for k in ks])


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("cgd/recall", "recall"),
        ("deep_metric_losses/recall", "recall_self_removed"),
        ("embedding_expansion/recall", "recall"),
        ("multi_similarity/recall", "recall"),
        ("proxy_anchor/recall", "recall"),
    ],
)
def test_recall_without_ties(name: str, field: str) -> None:
    case = arrays(name)
    ks = case["ks"] if "ks" in case else np.array([1, 2, 4, 8])
    np.testing.assert_allclose(recalls(case["emb"], case["labels"], ks), case[field], atol=1e-9)


def test_recall_of_queries_in_a_gallery() -> None:
    case = arrays("multi_similarity/recall")
    rows = np.concatenate([case["query_rows"], case["gallery_rows"]])
    query = np.arange(len(rows)) < len(case["query_rows"])
    found = recalls(case["emb"][rows], case["labels"][rows], case["ks"], query)
    np.testing.assert_allclose(found, case["recall_query_gallery"], atol=1e-9)


@pytest.mark.parametrize("name", ["cgd/recall_edge", "embedding_expansion/recall_edge"])
def test_recall_with_ties_and_a_lone_row(name: str) -> None:
    """The official codes take a duplicate in another class as it falls (partition of an unsorted list) and
    count the row without a partner as a miss. Here that row is left out, and the duplicate ranks before
    the positive, so that no recall is above theirs per scored row.
    """
    case = arrays(name)
    embeddings, labels, ks = case["emb"], case["labels"], case["ks"]
    scored = evaluate(embeddings, labels).counts["queries"]
    assert scored == len(labels) - 1
    found = recalls(embeddings, labels, ks)
    assert (found <= case["recall"] * len(labels) / scored + 1e-9).all()
    assert (found < optimistic_recalls(embeddings, labels, ks) - 1e-9).any()
    np.testing.assert_allclose(optimistic_recalls(embeddings, labels, ks) * scored / len(labels), case["recall"])


def test_recall_with_ties_of_multi_similarity() -> None:
    """The official code counts a duplicate in another class as no obstacle, and fails on a row without a
    partner, so that its numbers are those without that row, in the gallery as well.
    """
    case = arrays("multi_similarity/recall_edge")
    paired = np.bincount(case["labels"])[case["labels"]] > 1
    embeddings, labels, ks = case["emb"][paired], case["labels"][paired], case["ks"]
    official = case["recall_without_singleton"]
    np.testing.assert_allclose(optimistic_recalls(embeddings, labels, ks), official, atol=1e-9)
    assert (recalls(embeddings, labels, ks) <= official + 1e-9).all()


def test_precision_and_map_at_r() -> None:
    case = arrays("xbm/accuracy")
    found = evaluate(case["emb"], case["labels"]).metrics
    for ours, theirs in (
        ("precision_at_1", "precision_at_1"),
        ("r_precision", "r_precision"),
        ("map_at_r", "mean_average_precision_at_r"),
    ):
        assert found[ours] == pytest.approx(float(case[theirs]), abs=1e-6)


def test_map_at_r_of_the_extended_divide_and_conquer() -> None:
    """Their average precision is over the hits among the first R, not over R: the divisor is put back."""
    for case in cases("divide_and_conquer/improved_tpami", "map_at_r"):
        scores = evaluate(case["emb"], case["labels"]).per_query
        found, precision = scores["average_precision_at_r"], scores["r_precision"]
        theirs = np.divide(found, precision, out=np.zeros_like(found), where=precision > 0).mean()
        assert theirs == pytest.approx(float(case["map_at_r"]), abs=1e-6)


def test_neighbours_and_recall_of_divide_and_conquer() -> None:
    for case in cases("divide_and_conquer/evaluation", "knn_idx"):
        embeddings, labels = case["emb"], case["labels"]
        found = evaluate(embeddings, labels, neighbours=8)
        if "duplicates" in str(case["name"]):
            continue  # their order of tied rows is that of the search; lone rows count as misses
        np.testing.assert_array_equal(found.neighbours, case["knn_idx"][found.queries])
        # Their mean is over all rows, a lone one being a miss.
        official = case["recall"] * len(labels) / found.counts["queries"]
        np.testing.assert_allclose(recalls(embeddings, labels, case["recall_k"]), official, atol=1e-9)


@pytest.mark.parametrize("name", ["divide_and_conquer/evaluation", "mic/evaluation"])
def test_recall_of_in_shop_queries(name: str) -> None:
    for case in cases(name, "emb_query"):
        embeddings = np.concatenate([case["emb_query"], case["emb_gallery"]])
        labels = np.concatenate([case["labels_query"], case["labels_gallery"]])
        query = np.arange(len(labels)) < len(case["labels_query"])
        found = recalls(embeddings, labels, case["recall_k"], query)
        np.testing.assert_allclose(found, case["recall"], atol=1e-9)


def test_recall_of_mic() -> None:
    """Their code drops the nearest neighbour unseen, so duplicates are left out here."""
    for case in cases("mic/evaluation", "emb"):
        if "duplicates" not in str(case["name"]):
            found = recalls(case["emb"], case["labels"], case["recall_k"])
            np.testing.assert_allclose(found, case["recall"], atol=1e-9)


def test_f1_and_nmi_of_given_clusters() -> None:
    for case in cases("mic/evaluation", "f1"):
        if "cluster_labels" in case:
            labels, clusters = case["labels"], case["cluster_labels"]
        else:
            labels = np.concatenate([case["labels_query"], case["labels_gallery"]])
            clusters = case["cluster_labels_query_then_gallery"]
        assert pairwise_f1(labels, clusters) == pytest.approx(float(case["f1"]), abs=1e-9)
        for average in ("arithmetic", "geometric"):
            if f"nmi_{average}" in case:
                nmi = normalized_mutual_info_score(labels, clusters, average_method=average)
                assert nmi == pytest.approx(float(case[f"nmi_{average}"]), abs=1e-9)
