"""Retrieval metrics against their definitions, against pytorch-metric-learning, and where methods fail."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import DataError, Diverged, UsageError
from bench.evaluation import evaluate, knn
from tests.evaluation import naive

KS = (1, 2, 3, 4, 8, 1000)


def clustered(
    seed: int, count: int = 200, classes: int = 12, size: int = 16, spread: float = 0.6
) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows around one centre a class; classes of unequal size, shuffled, labels not from 0."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, count, p=rng.dirichlet(np.full(classes, 3.0)))
    rows = rng.standard_normal((classes, size))[labels] / np.sqrt(size) + spread * rng.standard_normal((count, size))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32), (labels * 7 - 3).astype(np.int64)


def same(embeddings: np.ndarray, labels: np.ndarray, query: np.ndarray | None = None) -> dict[str, float]:
    """Assert that the metrics are those of the definitions, and return them."""
    expected = naive.metrics(embeddings, labels, query, KS)
    found = evaluate(embeddings, labels, query=query, ks=KS).metrics  # K = 1000: the whole gallery is ranked
    assert found == pytest.approx(expected, abs=1e-12)
    few = evaluate(embeddings, labels, query=query, ks=(1, 2, 3), neighbours=1).metrics  # as few ranks as can be
    assert few == pytest.approx({name: expected[name] for name in few}, abs=1e-12)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_clustered_rows_agree_with_the_definitions(seed: int) -> None:
    found = same(*clustered(seed))
    assert 0.2 < found["recall_at_1"] < 0.95, "too easy or too hard to tell definitions apart"


def test_recall_is_not_off_by_one() -> None:
    # The nearest positive of every query is exactly third: a rank counted from 0, a self-match
    # that stays in the list, or one too many removed each gives another set of values.
    embeddings = np.array([[0.0], [10.0], [-1.0], [1.5], [9.0], [11.5]], dtype=np.float32)
    labels = np.array([0, 0, 1, 1, 2, 2])
    query = np.array([True, False, False, False, False, False])
    alone = evaluate(embeddings, labels, query=query, ks=(1, 2, 3, 4, 5)).metrics
    assert [alone[f"recall_at_{k}"] for k in (1, 2, 3, 4, 5)] == [0.0, 0.0, 0.0, 1.0, 1.0]
    pair = np.array([[0.0], [3.0], [1.0], [2.0]], dtype=np.float32)
    found = evaluate(pair, np.array([5, 5, 6, 7]), ks=(1, 2, 3)).metrics
    assert [found[f"recall_at_{k}"] for k in (1, 2, 3)] == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_codes_full_of_ties_agree_with_the_definitions(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    embeddings = rng.integers(0, levels + 1, (150, 6)).astype(np.float32)
    same(embeddings, rng.integers(0, 9, 150))


@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 40),
    st.integers(1, 4),
    st.integers(1, 6),
    st.sampled_from([0, 1, 2, 50]),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_any_small_set_agrees_with_the_definitions(
    seed: int, count: int, size: int, classes: int, levels: int, split: bool
) -> None:
    rng = np.random.default_rng(seed)
    embeddings = rng.integers(0, levels + 1, (count, size)).astype(np.float32)
    labels = rng.integers(0, classes, count)
    query = np.arange(count) < max(1, count // 3) if split else None
    if not naive.ranked_hits(embeddings, labels, query):
        with pytest.raises(DataError, match="no retrieval metric is defined"):
            evaluate(embeddings, labels, query=query)
        return
    same(embeddings, labels, query)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_do_not_change_anything(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, labels = clustered(5)
    embeddings[50:90] = embeddings[10]
    whole = evaluate(embeddings, labels, ks=KS)
    monkeypatch.setattr(knn, "_CHUNK_QUERIES", chunk)
    monkeypatch.setattr(knn, "_CHUNK_NUMBERS", chunk * 100)
    parts = evaluate(embeddings, labels, ks=KS)
    assert parts.metrics == whole.metrics
    for name, values in whole.per_query.items():
        np.testing.assert_array_equal(parts.per_query[name], values)
    np.testing.assert_array_equal(parts.queries, whole.queries)


@pytest.mark.parametrize("row", ["zero", "unit", "one"])
def test_collapsed_rows_never_score(row: str) -> None:
    """Every row equal: each positive ranks behind all negatives."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 15)
    direction = {"zero": np.zeros(32), "unit": rng.standard_normal(32), "one": np.ones(32)}[row]
    embeddings = np.tile(direction / (np.linalg.norm(direction) or 1.0), (300, 1)).astype(np.float32)
    found = evaluate(embeddings, labels, ks=(1, 8, 285, 286)).metrics
    assert found["recall_at_1"] == found["recall_at_285"] == found["r_precision"] == found["map_at_r"] == 0.0
    assert found["recall_at_286"] == 1.0  # 285 negatives first


@pytest.mark.parametrize("noise", [1e-3, 1e-5, 1e-7])
def test_nearly_collapsed_rows_score_at_chance(noise: float) -> None:
    rng = np.random.default_rng(1)
    labels = np.tile(np.arange(10), 40)
    centre = rng.standard_normal(24)
    embeddings = (centre + noise * rng.standard_normal((400, 24))).astype(np.float32)
    found = same(embeddings, labels)
    assert found["recall_at_1"] < 0.15


@pytest.mark.parametrize("noise", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("offset", [1.0, 1e4])
def test_far_from_the_origin_agrees_with_the_definitions(noise: float, offset: float) -> None:
    embeddings, labels = clustered(2, spread=0.4)
    same((offset + noise * embeddings).astype(np.float32), labels)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-6, 1e6, 1e30, 3e38])
def test_scale_does_not_matter(scale: float) -> None:
    embeddings, labels = clustered(3)
    same((embeddings * scale).astype(np.float32), labels)


def test_rows_of_very_different_scale_agree_with_the_definitions() -> None:
    embeddings, labels = clustered(4, count=120)
    scales = 10.0 ** np.random.default_rng(0).integers(-4, 4, (120, 1))
    same((embeddings * scales).astype(np.float32), labels)


def test_duplicates_across_classes_count_against_the_method() -> None:
    embeddings, labels = clustered(6, count=60)
    embeddings, labels = np.concatenate([embeddings, embeddings]), np.concatenate([labels, labels + 1])
    assert same(embeddings, labels)["recall_at_1"] == 0.0


@pytest.mark.parametrize("size", [512, 2048])
def test_ties_do_not_depend_on_where_rows_lie(size: int) -> None:
    """Identical rows in a large set: float32 products of equal rows differ with the place in the matrix."""
    rng = np.random.default_rng(2)
    distinct = rng.standard_normal((40, size)).astype(np.float32)
    distinct /= np.linalg.norm(distinct, axis=1, keepdims=True)
    copies = rng.permutation(np.repeat(np.arange(40), 30))
    labels = rng.integers(0, 50, 1200)
    found = evaluate(distinct[copies], labels, ks=(1, 2, 30))
    # 29 copies, of which about one in fifty is a positive: it always ranks behind the other copies.
    assert found.metrics["recall_at_1"] == 0.0
    assert found.metrics["recall_at_2"] == 0.0


@pytest.mark.parametrize("tied", range(1, 12))
@pytest.mark.parametrize("nearer", range(4))
def test_ties_that_end_anywhere_around_the_needed_ranks(nearer: int, tied: int) -> None:
    """`nearer` negatives, then a positive tied with `tied` negatives: its rank is behind all of them."""
    embeddings = np.array([[0.0], [2.0], *[[1.0]] * nearer, *[[-2.0]] * tied, *[[9.0]] * 30], dtype=np.float32)
    labels = np.array([0, 0, *range(1, nearer + tied + 31)])
    query = np.arange(len(labels)) == 0
    ranks = tuple(range(1, nearer + tied + 3))
    for most in ranks:
        found = evaluate(embeddings, labels, query=query, ks=(most,), neighbours=1).metrics
        assert found[f"recall_at_{most}"] == float(most > nearer + tied)


@pytest.mark.parametrize("nearer", range(8))
@pytest.mark.parametrize("positives", range(1, 10))
def test_tied_negatives_that_the_search_finds_last(nearer: int, positives: int) -> None:
    """`nearer` negatives, then all positives tied with 50 negatives that come after them in the gallery."""
    away = [*[[2.0]] * positives, *[[1.0]] * nearer, *[[-2.0]] * 50]
    labels = np.array([0, *[0] * positives, *range(1, nearer + 51)])
    query = np.arange(len(labels)) == 0
    found = evaluate(np.array([[0.0], *away], dtype=np.float32), labels, query=query, ks=(1,), neighbours=1)
    assert found.metrics["r_precision"] == found.metrics["recall_at_1"] == 0.0


def test_minus_zero_is_zero() -> None:
    first, twin = knn.distinct_rows(np.array([[0.0, 1.0], [-0.0, 1.0], [0.0, 2.0], [0.0, 1.0]], dtype=np.float32))
    assert len(first) == 2
    assert twin[0] == twin[1] == twin[3] != twin[2]


def test_dead_rows_share_one_tie() -> None:
    embeddings, labels = clustered(7)
    embeddings[::3] = 0
    same(embeddings, labels)


@given(st.integers(0, 1000), st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_order_of_rows_does_not_matter(seed: int, ties: bool) -> None:
    embeddings, labels = clustered(seed, count=80)
    if ties:
        embeddings = np.round(2 * embeddings)
    order = np.random.default_rng(seed).permutation(80)
    first, second = evaluate(embeddings, labels, ks=KS), evaluate(embeddings[order], labels[order], ks=KS)
    assert first.metrics == pytest.approx(second.metrics, abs=1e-12)
    back = np.argsort(order[second.queries])
    for name, values in first.per_query.items():
        np.testing.assert_array_equal(values, second.per_query[name][back])


@given(st.integers(0, 1000), st.integers(-60, 60))
@settings(max_examples=25, deadline=None)
def test_a_power_of_two_changes_no_bit(seed: int, power: int) -> None:
    embeddings, labels = clustered(seed, count=60)
    assert evaluate(embeddings, labels).metrics == evaluate(embeddings * np.float32(2.0**power), labels).metrics


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_recall_grows_with_k(seed: int) -> None:
    found = evaluate(*clustered(seed, count=70), ks=tuple(range(1, 71))).metrics
    recalls = [found[f"recall_at_{k}"] for k in range(1, 71)]
    assert recalls == sorted(recalls)
    assert recalls[-1] == 1.0


def test_a_perfect_embedding_scores_one() -> None:
    labels = np.random.default_rng(3).integers(0, 7, 100)
    found = evaluate(np.eye(7, dtype=np.float32)[labels], labels).metrics
    assert set(found.values()) == {1.0}


def test_lone_queries_are_left_out_and_counted() -> None:
    embeddings, labels = clustered(8)[0], np.arange(200) % 12
    labels[[3, 50, 51]] = [1000, 1001, 2**40]
    found = evaluate(embeddings, labels)
    assert found.counts == {"queries": 197, "lone_queries": 3}
    assert set(range(200)) - set(found.queries.tolist()) == {3, 50, 51}
    assert {len(values) for values in found.per_query.values()} == {197}
    same(embeddings, labels)


def test_only_lone_queries_is_an_error() -> None:
    with pytest.raises(DataError, match="none of the 5 queries"):
        evaluate(np.eye(5, dtype=np.float32), np.arange(5))


def test_large_labels_that_float32_cannot_tell_apart() -> None:
    embeddings = np.array([[0], [1], [10], [11]], dtype=np.float32)
    labels = np.array([2**24, 2**24 + 1, 2**24, 2**24 + 1])
    assert evaluate(embeddings, labels).metrics["recall_at_1"] == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_query_and_gallery_agree_with_the_definitions(seed: int) -> None:
    embeddings, labels = clustered(seed)[0], np.arange(200) % 12
    embeddings[100:130] = embeddings[:30]  # a copy of a query in the gallery is a neighbour like any other
    query = np.random.default_rng(seed).random(200) < 0.4
    labels[np.flatnonzero(query)[:2]] = [500, 501]
    same(embeddings, labels, query)
    found = evaluate(embeddings, labels, query=query)
    assert found.counts == {"queries": int(query.sum()) - 2, "lone_queries": 2}
    assert query[found.queries].all()
    assert not query[found.neighbours].any()


def test_neighbours_are_the_nearest_rows() -> None:
    embeddings, labels = clustered(9)
    found = evaluate(embeddings, labels, neighbours=5)
    distance = ((embeddings[:, None].astype(np.float64) - embeddings[None]) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    np.testing.assert_array_equal(found.neighbours, np.argsort(distance, axis=1)[found.queries, :5])
    np.testing.assert_array_equal(found.per_query["hit_at_1"], labels[found.neighbours[:, 0]] == labels[found.queries])
    assert evaluate(embeddings[:4], np.array([0, 0, 1, 1]), neighbours=10).neighbours.shape == (4, 3)


def test_per_query_scores_average_to_the_metrics() -> None:
    found = evaluate(*clustered(10))
    assert found.metrics["map_at_r"] == pytest.approx(found.per_query["average_precision_at_r"].mean(), abs=1e-6)
    assert found.metrics["r_precision"] == pytest.approx(found.per_query["r_precision"].mean(), abs=1e-6)
    assert found.metrics["precision_at_1"] == found.metrics["recall_at_1"] == found.per_query["hit_at_1"].mean()
    assert {str(values.dtype) for values in found.per_query.values()} == {"uint8", "float32"}


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_pytorch_metric_learning(seed: int) -> None:
    calculator = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator").AccuracyCalculator
    names = {"precision_at_1": "precision_at_1", "r_precision": "r_precision"}
    names["map_at_r"] = "mean_average_precision_at_r"
    embeddings, labels = clustered(seed, count=600, classes=40, size=64)
    labels[:2] = [900, 901]
    found = evaluate(embeddings, labels).metrics
    theirs = calculator(include=tuple(names.values())).get_accuracy(embeddings, labels)
    assert {name: found[name] for name in names} == pytest.approx(
        {name: theirs[their] for name, their in names.items()}, abs=1e-6
    )
    half = np.arange(600) % 2 == 0
    found = evaluate(embeddings, labels, query=half).metrics
    theirs = calculator(include=tuple(names.values())).get_accuracy(
        embeddings[half], labels[half], embeddings[~half], labels[~half]
    )
    assert {name: found[name] for name in names} == pytest.approx(
        {name: theirs[their] for name, their in names.items()}, abs=1e-6
    )


@pytest.mark.parametrize("kind", ["normal", "positive", "sparse", "heavy"])
@pytest.mark.parametrize("size", [3, 64, 1500])
def test_float32_errors_stay_within_the_tolerance(kind: str, size: int) -> None:
    """Below the tolerance two candidates are compared in float64: it must exceed the error of their difference."""
    rng = np.random.default_rng(size)
    rows = rng.standard_normal((400, size))
    if kind == "positive":
        rows = np.abs(rows)
    if kind == "sparse":
        rows = np.maximum(rows - 1, 0)
    if kind == "heavy":
        rows *= np.exp(2 * rng.standard_normal((400, 1)))
    embeddings = rows.astype(np.float32)
    ranker = knn.Ranker(embeddings, np.zeros(400, dtype=np.int64), np.arange(400), None)
    centred = knn.centre(embeddings)
    distance, found = knn._search(centred, centred, 400)
    size_of = np.linalg.norm(centred, axis=1)[:, None]
    exact = (
        ((centred[:, None, :].astype(np.float64) - centred[found]) ** 2).sum(-1)
        if size < 100
        else np.stack([((centred[i].astype(np.float64) - centred[found[i]]) ** 2).sum(-1) for i in range(400)])
    )
    assert np.max(np.abs(distance - exact) / ranker._tolerance(size_of, distance)) < 0.25


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_rows_are_refused(value: float) -> None:
    embeddings, labels = clustered(11)
    embeddings[[17, 30], 3] = value
    with pytest.raises(Diverged, match=r"2 of 200 embeddings .* row 17"):
        evaluate(embeddings, labels)


def test_wrong_shapes_and_types_are_refused() -> None:
    embeddings, labels = clustered(12)
    with pytest.raises(DataError, match=r"float32 \(N, D\), found float64 \(200, 16\)"):
        evaluate(embeddings.astype(np.float64), labels)
    with pytest.raises(DataError, match=r"found float32 \(200,\)"):
        evaluate(embeddings[:, 0], labels)
    with pytest.raises(DataError, match=r"labels must be integers \(200,\).* found float64"):
        evaluate(embeddings, labels.astype(np.float64))
    with pytest.raises(DataError, match=r"found int64 \(199,\)"):
        evaluate(embeddings, labels[:-1])
    with pytest.raises(DataError, match=r"query must be bool \(200,\).* found int64"):
        evaluate(embeddings, labels, query=labels)
    with pytest.raises(DataError, match="200 of 200 rows"):
        evaluate(embeddings, labels, query=np.ones(200, dtype=bool))
    with pytest.raises(UsageError, match="at least 1"):
        evaluate(embeddings, labels, ks=(0, 1))
