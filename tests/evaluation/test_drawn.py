"""CMC over drawn galleries against its definition, and where methods could gain by ties."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data import draws as drawing
from bench.errors import DataError
from bench.evaluation import drawn, evaluate, knn
from bench.evaluation.drawn import drawn_metrics, drawn_queries
from bench.report.text import metric_label, metric_order, value

KS = (1, 2, 5, 10, 1000)


def naive(embeddings: np.ndarray, labels: np.ndarray, draws: np.ndarray) -> dict[str, float]:
    """One query at a time in float64: how many gallery images of others are at most as far as the right one."""
    rows = embeddings.astype(np.float64)
    means = {k: [] for k in KS}
    for gallery in draws:
        hits = {k: [] for k in KS}
        for asking in set(range(len(rows))) - set(gallery.tolist()):
            far = {g: math.fsum((rows[asking] - rows[g]) ** 2) for g in gallery.tolist()}
            right = next(g for g in far if labels[g] == labels[asking])
            before = sum(far[g] <= far[right] for g in far if g != right)
            for k in KS:
                hits[k].append(before < k)
        for k in KS:
            means[k].append(np.mean(hits[k]))
    return {f"cmc_at_{k}": float(np.mean(means[k])) for k in KS}


def some_draws(seed: int, labels: np.ndarray, count: int = 10) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([[rng.choice(np.flatnonzero(labels == u)) for u in np.unique(labels)] for _ in range(count)])


def clustered(seed: int, identities: int = 30, size: int = 8, spread: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    """Shuffled rows around one centre an identity; identities of 1 to 7 images, labels sparse."""
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.choice(27_000, identities, replace=False))
    labels = rng.permutation(np.repeat(ids, rng.integers(1, 8, identities)))
    rows = rng.standard_normal((identities, size))[np.searchsorted(ids, labels)]
    return (rows + spread * rng.standard_normal(rows.shape)).astype(np.float32), labels


@pytest.mark.parametrize("seed", range(4))
def test_clustered_rows_agree_with_the_definition(seed: int) -> None:
    rows, labels = clustered(seed)
    draws = some_draws(seed, labels)
    found = drawn_metrics(rows, labels, draws, KS)
    assert found == pytest.approx(naive(rows, labels, draws), abs=1e-12)
    assert 0.2 < found["cmc_at_1"] < found["cmc_at_5"] < 1, "too easy or too hard to tell definitions apart"
    assert found["cmc_at_1000"] == 1.0


@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 40),
    st.integers(1, 4),
    st.integers(1, 8),
    st.sampled_from([0, 1, 2, 50]),
)
@settings(max_examples=100, deadline=None)
def test_any_small_set_agrees_with_the_definition(seed: int, count: int, size: int, identities: int, top: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, top + 1, (count, size)).astype(np.float32)
    labels = rng.integers(0, identities, count) * 37 + 5
    draws = some_draws(seed, labels, 3)
    if drawn_queries(labels, draws) == 0:
        with pytest.raises(DataError, match="no query is left"):
            drawn_metrics(rows, labels, draws, KS)
        return
    assert drawn_metrics(rows, labels, draws, KS) == pytest.approx(naive(rows, labels, draws), abs=1e-12)


def test_ties_count_against_the_method() -> None:
    # The query lies at 1, its own gallery image and one of the two others are both at distance 1.
    rows = np.array([[0.0], [1.0], [2.0], [9.0]], dtype=np.float32)
    found = drawn_metrics(rows, np.array([4, 4, 6, 8]), np.array([[0, 2, 3]]), ks=(1, 2))
    assert found == {"cmc_at_1": 0.0, "cmc_at_2": 1.0}


def test_a_collapse_finds_nothing_before_the_last_rank() -> None:
    labels = np.repeat(np.arange(20), 4)
    rows = np.ones((80, 16), dtype=np.float32)
    found = drawn_metrics(rows, labels, some_draws(0, labels), ks=(1, 10, 19, 20))
    assert found == {"cmc_at_1": 0.0, "cmc_at_10": 0.0, "cmc_at_19": 0.0, "cmc_at_20": 1.0}


def test_it_is_another_task_than_leave_one_out() -> None:
    rows, labels = clustered(1)
    recall = evaluate(rows, labels, ks=(1,)).metrics["recall_at_1"]
    assert drawn_metrics(rows, labels, some_draws(1, labels))["cmc_at_1"] < recall - 0.03


def test_every_draw_counts_the_same() -> None:
    rows, labels = clustered(2)
    draws = some_draws(2, labels)
    alone = [drawn_metrics(rows, labels, gallery[None])["cmc_at_5"] for gallery in draws]
    assert len(set(alone)) > 1
    assert drawn_metrics(rows, labels, draws)["cmc_at_5"] == pytest.approx(np.mean(alone))


def test_identities_of_one_image_distract_and_do_not_ask() -> None:
    rows = np.array([[0.0], [2.0], [1.5]], dtype=np.float32)
    labels, draws = np.array([7, 7, 9]), np.array([[0, 2]])
    assert drawn_queries(labels, draws) == 1
    assert drawn_metrics(rows, labels, draws, ks=(1, 2)) == {"cmc_at_1": 0.0, "cmc_at_2": 1.0}


@pytest.mark.parametrize("chunk", [1, 7])
def test_chunks_do_not_change_anything(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = clustered(5)
    rows[20:60] = rows[3]
    draws = some_draws(5, labels)
    whole = drawn_metrics(rows, labels, draws, KS)
    monkeypatch.setattr(knn, "_CHUNK_QUERIES", chunk)
    monkeypatch.setattr(knn, "_CHUNK_NUMBERS", chunk * 100)
    assert drawn_metrics(rows, labels, draws, KS) == whole


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        ([[0, 1]], r"row 1 is not of identity 1"),
        ([[2, 0]], r"draw 0: row 2 is not of identity 0"),
        ([[0]], r"must be \(R, 2\).*found \(1, 1\)"),
        ([[0, 4]], r"rows from 0 to 3"),
        ([[0, -1]], r"rows from 0 to 3"),
        (np.empty((0, 2), dtype=np.int64), r"found \(0, 2\)"),
    ],
)
def test_draws_of_another_test_side_are_refused(draws: list[list[int]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        drawn_metrics(np.zeros((4, 2), np.float32), np.array([0, 0, 1, 1]), np.asarray(draws))


def test_reports_name_it_and_keep_it_apart_from_recall() -> None:
    assert metric_label("cmc_at_10") == "CMC@10"
    assert value("cmc_at_1", 0.775) == "77.50"
    names = ["ndcg_at_5", "cmc_at_10", "zeta", "cmc_at_5", "f1", "recall_at_10", "map_at_r", "label_distance_at_1"]
    assert metric_order(names) == [
        *("recall_at_10", "map_at_r", "f1", "cmc_at_5", "cmc_at_10", "ndcg_at_5", "label_distance_at_1", "zeta"),
    ]


@pytest.mark.parametrize("module", [drawn, drawing])
def test_worked_numbers(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted > 0
    assert result.failed == 0
