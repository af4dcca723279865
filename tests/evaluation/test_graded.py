"""Metrics under continuous labels: brute force, properties, scikit-learn, and the official scorer's numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from bench import protocol
from bench.errors import DataError, UsageError
from bench.evaluation import evaluate
from bench.evaluation.graded import graded_metrics, ndcg, ranked_labels
from tests.evaluation.test_official_vectors import cases


def random_case(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    return rng.standard_normal((count, 5)).astype(np.float32), rng.standard_normal((count, 2))


def test_brute_force() -> None:
    rows, targets = random_case()
    query = np.arange(len(rows)) % 3 == 0
    for asking in (None, query):
        total, gains = 0.0, 0.0
        searching = range(len(rows)) if asking is None else np.flatnonzero(query)
        for i in searching:
            gallery = [j for j in range(len(rows)) if (j != i if asking is None else not query[j])]
            label = {j: math.dist(targets[i], targets[j]) for j in gallery}
            near = sorted(gallery, key=lambda j: math.dist(rows[i].astype(float), rows[j].astype(float)))
            total += sum(label[j] for j in near[:4]) / 4
            gained, best = (
                sum(1 / (1 + label[j]) / math.log2(rank + 2) for rank, j in enumerate(order[:6]))
                for order in (near, sorted(gallery, key=label.__getitem__))
            )
            gains += gained / best
        found = graded_metrics(rows, targets, asking, (4,), (6,))
        assert found["label_distance_at_4"] == pytest.approx(total / len(searching))
        assert found["ndcg_at_6"] == pytest.approx(gains / len(searching))


def test_labels_as_embeddings_are_perfect_and_a_collapse_is_the_worst() -> None:
    _, targets = random_case()
    perfect = graded_metrics(targets.astype(np.float32), targets, ndcg_at=(5, 20), distance_at=(1,))
    assert perfect["ndcg_at_5"] == pytest.approx(1)
    assert perfect["ndcg_at_20"] == pytest.approx(1)
    collapsed = graded_metrics(np.ones((40, 3), np.float32), targets, ndcg_at=(5,), distance_at=(1,))
    farthest = np.linalg.norm(targets[:, None] - targets[None], axis=2).max(1)
    assert collapsed["label_distance_at_1"] == pytest.approx(farthest.mean())
    chance = graded_metrics(random_case()[0], targets, ndcg_at=(5,), distance_at=(1,))
    assert collapsed["ndcg_at_5"] < chance["ndcg_at_5"] < perfect["ndcg_at_5"]


def test_ndcg_is_scikit_learn_s() -> None:
    rng = np.random.default_rng(0)
    near, labels = rng.random((8, 30)), rng.random((8, 30)) * 3
    mine = ndcg(*ranked_labels(near, labels, 10))
    theirs = [ndcg_score(1 / (1 + labels[[i]]), -near[[i]], k=10) for i in range(8)]
    np.testing.assert_allclose(mine, theirs)


@pytest.mark.parity
def test_official_scorer() -> None:
    checked = 0
    for case in cases("log_ratio/retrieval_metrics", "mean_distance"):
        count = int(case["num_query"])
        rows = case["emb"].astype(np.float64)
        near = ((rows[:count, None] - rows[None, count:]) ** 2).sum(2)
        labels = case["dist_pose"][:count, count:].astype(np.float64)
        ranked, ideal = ranked_labels(near, labels, int(case["list_p"].max()))
        means = np.cumsum(ranked.mean(0)) / np.arange(1, ranked.shape[1] + 1)
        np.testing.assert_allclose(means[:10] * float(case["scale"]), case["mean_distance"], rtol=1e-6)
        scores = [ndcg(ranked[:, :k], ideal[:, :k]).mean() for k in case["list_p"]]
        np.testing.assert_allclose(scores, case["ndcg"], rtol=1e-6)
        checked += 1
    assert checked


def test_evaluate_reports_them_beside_the_others() -> None:
    rows, targets = random_case()
    settings = protocol.Graded(distance_at=(1, 3), ndcg_at=(5,))
    labels = np.arange(40) % 4
    found = evaluate(rows, labels, targets=targets, graded=settings).metrics
    assert {"recall_at_1", "label_distance_at_1", "label_distance_at_3", "ndcg_at_5"} <= set(found)
    with pytest.raises(UsageError, match="continuous labels"):
        evaluate(rows, labels, graded=settings)
    with pytest.raises(DataError, match="100 nearest of 39"):
        evaluate(rows, labels, targets=targets, graded=protocol.Graded())
