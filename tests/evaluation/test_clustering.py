"""Clustering metrics against their definitions and scikit-learn, and where k-means has nothing to find."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score, pair_confusion_matrix

from bench.evaluation import evaluate
from bench.evaluation.clustering import adjusted_mutual_information, cluster, clustering_metrics, pairwise_f1
from bench.protocol import Clustering
from tests.evaluation import naive

LABELLING = st.lists(st.integers(0, 5), min_size=2, max_size=30)


def blobs(spread: float, classes: int = 8, each: int = 25, size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    rows = rng.standard_normal((classes, size))[labels] + spread * rng.standard_normal((len(labels), size))
    return rows.astype(np.float32), labels


@given(LABELLING, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_f1_agrees_with_counting_pairs(labels: list[int], seed: int) -> None:
    clusters = np.random.default_rng(seed).integers(0, 4, len(labels))
    assert pairwise_f1(np.array(labels), clusters) == pytest.approx(naive.pairwise_f1(np.array(labels), clusters))


def test_f1_agrees_with_scikit_learn_where_pairs_exceed_32_bits() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200_000)
    clusters = np.where(rng.random(200_000) < 0.7, labels, rng.integers(0, 3, 200_000))
    (_, false), (missed, right) = pair_confusion_matrix(labels, clusters)
    assert pairwise_f1(labels, clusters) == pytest.approx(2 * right / (2 * right + false + missed), abs=1e-12)


@pytest.mark.parametrize("average", ["arithmetic", "geometric", "min", "max"])
@given(LABELLING, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_ami_agrees_with_scikit_learn(average: str, labels: list[int], seed: int) -> None:
    clusters = np.random.default_rng(seed).integers(0, 4, len(labels))
    assume(len(labels) > max(len(set(labels)), len(set(clusters.tolist()))))  # 0 / 0 otherwise
    expected = adjusted_mutual_info_score(labels, clusters, average_method=average)
    assert adjusted_mutual_information(np.array(labels), clusters, average) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("average", ["arithmetic", "geometric", "min", "max"])
def test_metrics_are_those_of_the_clusters(average: str) -> None:
    embeddings, labels = blobs(1.2)
    setting = Clustering(average=average)
    clusters = cluster(embeddings, 8, setting)
    found = clustering_metrics(embeddings, labels, setting)
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(labels, clusters, average_method=average))
    assert found["ami"] == pytest.approx(adjusted_mutual_info_score(labels, clusters, average_method=average))
    assert found["f1"] == pytest.approx(naive.pairwise_f1(labels, clusters))
    assert 0.1 < found["ami"] < found["nmi"] < 0.95


def test_ami_where_every_item_is_its_own_class() -> None:
    labels = np.arange(6)
    assert adjusted_mutual_information(labels, labels[::-1], "arithmetic") == 1.0
    assert adjusted_mutual_information(labels, labels % 2, "min") == 0.0


def test_separate_blobs_are_found() -> None:
    embeddings, labels = blobs(0.05, classes=4)
    found = evaluate(embeddings, labels, clustering=Clustering(restarts=10)).metrics
    assert {name: found[name] for name in ("nmi", "ami", "f1")} == pytest.approx({"nmi": 1.0, "ami": 1.0, "f1": 1.0})


def test_clusters_are_as_tight_as_scikit_learns() -> None:
    embeddings, _ = blobs(1.0)
    clusters = cluster(embeddings, 8, Clustering(restarts=10))
    inertia = sum(
        ((embeddings[clusters == c] - embeddings[clusters == c].mean(axis=0)) ** 2).sum() for c in np.unique(clusters)
    )
    assert inertia <= 1.02 * KMeans(8, n_init=10, random_state=0).fit(embeddings).inertia_


def test_settings_reach_k_means() -> None:
    embeddings, _ = blobs(2.0)
    plain = cluster(embeddings, 8, Clustering())
    np.testing.assert_array_equal(plain, cluster(embeddings, 8, Clustering()))
    for other in (Clustering(seed=7), Clustering(iterations=1), Clustering(restarts=20)):
        assert (cluster(embeddings, 8, other) != plain).any()


@pytest.mark.parametrize("offset", [1e3, 1e5])
def test_a_cloud_far_from_the_origin_is_clustered_like_one_around_it(offset: float) -> None:
    embeddings, labels = blobs(0.05, classes=200, each=5, size=512)
    moved = (np.round(embeddings * 64) / 64 + offset).astype(np.float32)
    around, away = (clustering_metrics(rows, labels, Clustering())["nmi"] for rows in (embeddings, moved))
    assert away == pytest.approx(around, abs=0.03)


def test_all_rows_are_used() -> None:
    """Centres are the means of their clusters once k-means has converged: not so after training on a sample."""
    embeddings, _ = blobs(1.5, classes=2, each=2000, size=3)
    clusters = cluster(embeddings, 2, Clustering(iterations=300))
    means = np.stack([embeddings[clusters == c].mean(axis=0) for c in (0, 1)])
    nearest = ((embeddings[:, None] - means) ** 2).sum(-1).argmin(axis=1)
    np.testing.assert_array_equal(nearest, clusters)


def test_every_size_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """faiss would take a sample above 256 rows a centre, and complain below 39."""
    for embeddings, labels in (blobs(0.05, classes=2, each=900), blobs(0.05, classes=100, each=2)):
        clustering_metrics(embeddings, labels, Clustering())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("row", [0.0, 1.0, 0.1])
def test_collapsed_rows_are_one_cluster(row: float, capfd: pytest.CaptureFixture[str]) -> None:
    labels = np.repeat(np.arange(60), 10)
    found = clustering_metrics(np.full((600, 16), row, dtype=np.float32), labels, Clustering())
    assert found["nmi"] == pytest.approx(0.0, abs=1e-12)
    assert found["ami"] == 0.0
    assert found["f1"] == pytest.approx(naive.pairwise_f1(labels, np.zeros(600)))  # that of a single cluster
    assert capfd.readouterr() == ("", "")


def test_identical_rows_share_a_cluster() -> None:
    rng = np.random.default_rng(0)
    copies = rng.integers(0, 30, 900)
    clusters = cluster(rng.standard_normal((30, 512)).astype(np.float32)[copies], 100, Clustering())
    assert len(np.unique(np.stack([copies, clusters]), axis=1).T) == 30


def test_as_many_classes_as_rows_but_one(capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    found = evaluate(
        rng.standard_normal((40, 8)).astype(np.float32), np.maximum(np.arange(40), 1), clustering=Clustering()
    )
    assert found.counts == {"queries": 2, "lone_queries": 38}
    assert 0.9 < found.metrics["nmi"] <= 1.0
    assert capfd.readouterr() == ("", "")


def test_one_class_only() -> None:
    found = evaluate(blobs(1.0)[0], np.zeros(200, dtype=np.int64), clustering=Clustering()).metrics
    assert (found["nmi"], found["ami"], found["f1"]) == (1.0, 1.0, 1.0)  # one class, one cluster: they agree


def test_the_random_streams_of_training_are_not_touched() -> None:
    import torch

    np.random.seed(3)
    torch.manual_seed(3)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    embeddings, labels = blobs(1.0)
    evaluate(embeddings, labels, clustering=Clustering())
    np.testing.assert_array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
