"""The paired bootstrap: scipy's intervals, coverage with and without clusters, p values, memory, what is refused."""

from __future__ import annotations

import math
import tracemalloc
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from bench.statistics import paired_bootstrap

Method = Literal["percentile", "bca"]
Floats = NDArray[np.float64]


def skewed(rng: np.random.Generator, queries: int) -> tuple[Floats, Floats]:
    return rng.gamma(0.7, 1, queries), rng.gamma(0.7, 1, queries) * 0.9


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("clustered", [False, True])
def test_interval_equals_scipys(method: Method, clustered: bool) -> None:
    rng = np.random.default_rng(0)
    first, second = skewed(rng, 120)
    clusters = np.repeat(np.arange(30), rng.multinomial(90, np.ones(30) / 30) + 1) if clustered else None
    units = np.arange(120) if clusters is None else clusters
    sums, sizes = np.bincount(units, first - second), np.bincount(units)

    def mean(sums: Floats, sizes: Floats, axis: int) -> Floats:
        return np.asarray(sums.sum(axis) / sizes.sum(axis))

    expected = stats.bootstrap(
        (sums, sizes), mean, paired=True, vectorized=True, n_resamples=20_000, method=method, rng=1, batch=1000
    ).confidence_interval
    found = paired_bootstrap(first, second, clusters=clusters, method=method, resamples=20_000)
    width = expected.high - expected.low
    assert found.difference == pytest.approx((first - second).mean())
    # quantiles of 20,000 resamples, twice: about 0.5 % of the width each
    assert found.low == pytest.approx(expected.low, abs=0.03 * width)
    assert found.high == pytest.approx(expected.high, abs=0.03 * width)
    assert (found.queries, found.units) == (120, 30 if clustered else 120)


def test_bca_moves_towards_the_long_tail() -> None:
    first = np.random.default_rng(4).exponential(1, 40) ** 2
    plain, corrected = (paired_bootstrap(first, np.zeros(40), method=m, seed=3) for m in ("percentile", "bca"))
    assert corrected.low > plain.low
    assert corrected.high > plain.high


def clustered_study(rng: np.random.Generator, clusters: int) -> tuple[Floats, NDArray[np.int64]]:
    labels = np.repeat(np.arange(clusters), rng.integers(4, 12, clusters))
    return rng.normal(0, 0.2, clusters)[labels] + rng.normal(0, 0.2, len(labels)), labels


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_coverage_of_independent_queries(method: Method) -> None:
    rng, trials, hits, rejected = np.random.default_rng(1), 400, 0, 0
    for _ in range(trials):
        first, second = rng.random(150), rng.random(150)
        found = paired_bootstrap(first, second, method=method, resamples=399)
        hits += found.low <= 0 <= found.high
        rejected += found.p < 0.05
    error = 4 * math.sqrt(0.05 * 0.95 / trials)
    assert abs(hits / trials - 0.95) < error
    assert abs(rejected / trials - 0.05) < error


def test_queries_of_a_class_need_clusters() -> None:
    rng, trials, with_clusters, without = np.random.default_rng(2), 300, 0, 0
    for _ in range(trials):
        scores, labels = clustered_study(rng, 60)
        found = paired_bootstrap(scores, np.zeros_like(scores), clusters=labels, resamples=399)
        with_clusters += found.low <= 0 <= found.high
        naive = paired_bootstrap(scores, np.zeros_like(scores), resamples=399)
        without += naive.low <= 0 <= naive.high
    assert abs(with_clusters / trials - 0.95) < 4 * math.sqrt(0.05 * 0.95 / trials)
    assert without / trials < 0.8


def test_p_agrees_with_the_interval() -> None:
    rng = np.random.default_rng(3)
    shifts = np.linspace(0, 0.15, 20)
    seen = set()
    for method in ("percentile", "bca"):
        for shift in shifts:
            found = paired_bootstrap(rng.exponential(1, 200) ** 1.5 * 0.3 + shift, np.full(200, 0.4), method=method)
            outside = not found.low <= 0 <= found.high
            if abs(found.p - 0.05) > 0.002:  # the p value counts one resample more
                assert outside == (found.p < 0.05)
            seen.add(outside)
    assert seen == {True, False}


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("errors", [-2.0, 0.5, 1.0])
def test_the_interval_at_level_one_minus_p_ends_at_zero(method: Method, errors: float) -> None:
    scores = np.random.default_rng(1).exponential(1, 25) ** 2
    scores += errors * scores.std() / 5 - scores.mean()  # so many standard errors from zero
    p = paired_bootstrap(scores, np.zeros(25), method=method, resamples=50_000).p
    assert 0.001 < p < 0.9
    found = paired_bootstrap(scores, np.zeros(25), method=method, resamples=50_000, level=1 - p)
    assert min(abs(found.low), abs(found.high)) < 0.02 * scores.std() / 5


def test_p_is_close_to_that_of_the_t_test() -> None:
    rng = np.random.default_rng(6)
    for shift in (0.0, 0.02, 0.04):
        first, second = rng.normal(shift, 0.3, 800), rng.normal(0, 0.3, 800)
        expected = stats.ttest_rel(first, second).pvalue
        assert paired_bootstrap(first, second).p == pytest.approx(expected, abs=0.02)


def test_swapping_the_methods_mirrors_the_result() -> None:
    first, second = skewed(np.random.default_rng(8), 200)
    one, other = (paired_bootstrap(a, b, resamples=20_000) for a, b in ((first, second), (second, first)))
    width = one.high - one.low
    assert other.difference == -one.difference
    assert other.p == pytest.approx(one.p, abs=0.02)
    assert (-other.high, -other.low) == pytest.approx((one.low, one.high), abs=0.03 * width)


def test_seeds_are_averaged_query_by_query() -> None:
    rng = np.random.default_rng(9)
    first, second = rng.random((3, 50)), rng.random((3, 50))
    assert paired_bootstrap(first, second, seed=1) == paired_bootstrap(first.mean(0), second.mean(0), seed=1)
    # resamples that are even up to the rounding of thirds count as even: the same p as with whole numbers
    hits, others = ((rng.random((3, 30)) < 0.5).astype(np.uint8) for _ in range(2))
    whole = paired_bootstrap(hits.sum(0), others.sum(0), method="percentile", seed=1)
    assert paired_bootstrap(hits, others, method="percentile", seed=1).p == whole.p


def test_same_seed_same_bits() -> None:
    first, second = skewed(np.random.default_rng(5), 60)
    assert paired_bootstrap(first, second, seed=4) == paired_bootstrap(first, second, seed=4)
    assert paired_bootstrap(first, second, seed=4) != paired_bootstrap(first, second, seed=5)


def test_hits_are_resampled_by_value_with_the_same_law() -> None:
    # few distinct differences take the other way through the code: compare with the exact binomial spread
    difference = np.repeat([1.0, 0.0, -1.0], [300, 600, 100])
    found = paired_bootstrap(difference, np.zeros(1000), method="percentile", resamples=20_000)
    error = difference.std() / math.sqrt(1000)
    assert (found.low, found.high) == pytest.approx((0.2 - 1.96 * error, 0.2 + 1.96 * error), abs=0.04 * error)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_equal_differences(method: Method) -> None:
    same = paired_bootstrap(np.arange(9) / 9, np.arange(9) / 9, method=method)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    apart = paired_bootstrap(np.arange(9) + 1, np.arange(9), method=method)
    assert (apart.low, apart.high) == (1, 1)
    assert apart.p == pytest.approx(2 / 10_000)


def test_few_classes_are_named() -> None:
    scores, labels = clustered_study(np.random.default_rng(0), 12)
    assert paired_bootstrap(scores, np.zeros_like(scores), clusters=labels).few
    assert not paired_bootstrap(scores, np.zeros_like(scores)).few


@pytest.mark.parametrize("clustered", [False, True])
def test_memory_stays_small_at_the_largest_test_set(clustered: bool) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(60_502), rng.random(60_502)
    clusters = rng.integers(0, 11_316, 60_502) if clustered else None
    tracemalloc.start()
    found = paired_bootstrap(first, second, clusters=clusters, resamples=200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6  # all resamples at once: 200 x 60,502 x 12 bytes = 145 MB
    error = (first - second).std() / math.sqrt(60_502)
    assert found.high - found.low == pytest.approx(3.92 * error, rel=0.25)


def test_what_is_refused() -> None:
    scores = np.arange(4) / 4
    with pytest.raises(ValueError, match=r"second holds scores that are not finite, the first at \[2\]"):
        paired_bootstrap(scores, [0.1, 0.2, math.nan, 0.3])
    with pytest.raises(ValueError, match="paired by query, found 4 and 3"):
        paired_bootstrap(scores, scores[:3])
    with pytest.raises(ValueError, match="shape"):
        paired_bootstrap([], [])
    with pytest.raises(ValueError, match="two queries, found 1"):
        paired_bootstrap([0.1], [0.2])
    with pytest.raises(ValueError, match="two clusters, found 1"):
        paired_bootstrap(scores, scores, clusters=[7, 7, 7, 7])
    with pytest.raises(ValueError, match="4 integers, one a query"):
        paired_bootstrap(scores, scores, clusters=[1, 2])
    with pytest.raises(ValueError, match="4 integers, one a query"):
        paired_bootstrap(scores, scores, clusters=scores)
    with pytest.raises(ValueError, match="level"):
        paired_bootstrap(scores, scores, level=95)
    with pytest.raises(ValueError, match="resamples"):
        paired_bootstrap(scores, scores, resamples=10)
