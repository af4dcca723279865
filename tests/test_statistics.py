"""Intervals and paired tests: worked numbers, scipy, simulated coverage, degenerate inputs."""

from __future__ import annotations

import doctest
import importlib
import math
import pkgutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import bench.statistics
from bench.statistics import Interval, mean_interval, paired_p, rank

PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"
MODULES = [module.name for module in pkgutil.iter_modules(bench.statistics.__path__)]

fractions = st.lists(st.floats(0, 1), min_size=2, max_size=12)


def test_worked_example_from_a_t_table() -> None:
    # mean 3, s = sqrt(2.5), standard error sqrt(0.5); t(0.975, 4) = 2.776 in every printed table
    interval = mean_interval([1, 2, 3, 4, 5])
    assert interval.mean == 3
    assert interval.half_width == pytest.approx(2.776 * math.sqrt(0.5), abs=5e-4)
    assert (interval.low, interval.high) == (3 - interval.half_width, 3 + interval.half_width)


@given(fractions, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_interval_equals_scipys(values: list[float], level: float) -> None:
    interval = mean_interval(values, level)
    if np.ptp(values) < 1e-9:
        assert interval.half_width == pytest.approx(0, abs=1e-7)
        return
    low, high = stats.t.interval(level, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert interval.low == pytest.approx(low, abs=1e-9)
    assert interval.high == pytest.approx(high, abs=1e-9)


@pytest.mark.parametrize(("n", "level"), [(3, 0.95), (5, 0.95), (5, 0.8)])
def test_interval_covers_the_true_mean_as_often_as_it_says(n: int, level: float) -> None:
    rng = np.random.default_rng(0)
    trials = 2000
    hits = sum(
        interval.low <= 0.4 <= interval.high
        for interval in (mean_interval(rng.normal(0.4, 0.02, n).tolist(), level) for _ in range(trials))
    )
    # five standard errors of a binomial share
    assert abs(hits / trials - level) < 5 * math.sqrt(level * (1 - level) / trials)


def test_one_value_has_no_interval_and_equal_values_one_of_width_zero() -> None:
    assert mean_interval([0.25]) == Interval(0.25, None, 1)
    assert mean_interval([0.1] * 7) == Interval(0.1, 0.0, 7)


@pytest.mark.parametrize("bad", [[], [0.1, math.nan], [math.inf]])
def test_nothing_and_nan_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="values"):
        mean_interval(bad)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=10))
def test_paired_p_equals_scipys(pairs: list[tuple[float, float]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    differences = np.subtract(first, second)
    p = paired_p(first, second)
    assert p is not None
    assert 0 <= p <= 1
    if np.ptp(differences) > 1e-9:
        assert p == pytest.approx(stats.ttest_rel(first, second).pvalue, abs=1e-6)
        assert p == pytest.approx(paired_p(second, first))


def test_paired_p_where_differences_do_not_vary() -> None:
    assert paired_p([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]) == 1
    assert paired_p([0.2, 0.3, 0.4], [0.1, 0.2, 0.3]) == 0  # up to rounding a constant difference
    assert paired_p([0.5], [0.4]) is None
    with pytest.raises(ValueError, match="pairs"):
        paired_p([0.1], [0.1, 0.2])


def test_rank_uses_the_pairing() -> None:
    # seeds differ by far more than methods: unpaired, nothing could be told apart
    base = {0: 0.30, 1: 0.50, 2: 0.40}
    rows = {
        "best": {seed: value + 0.010 + 0.0005 * seed for seed, value in base.items()},
        "close": {0: 0.31, 1: 0.49, 2: 0.42},
        "worse": base,
    }
    ranking = rank(rows)
    assert ranking is not None
    assert ranking.best == "best"
    assert stats.ttest_ind(list(rows["best"].values()), list(rows["worse"].values())).pvalue > 0.5
    assert ranking.first == {"best", "close"}
    assert ranking.untested == frozenset()


def test_rank_without_shared_seeds_tests_nothing() -> None:
    ranking = rank({"a": {0: 0.5}, "b": {0: 0.5 - 1e-6}, "c": {3: 0.2, 4: 0.3}, "empty": {}})
    assert ranking is not None
    assert (ranking.best, ranking.first, ranking.untested) == ("a", {"a"}, {"b", "c"})
    assert rank({}) is None
    assert rank({"empty": {}}) is None


def test_rank_keeps_its_error_rate() -> None:
    """Two methods that differ by nothing but noise are called different about once in twenty."""
    rng = np.random.default_rng(1)
    trials, told_apart = 1000, 0
    for _ in range(trials):
        seeds = rng.normal(0.4, 0.05, 5)
        ranking = rank({n: dict(enumerate((seeds + rng.normal(0, 0.01, 5)).tolist())) for n in "ab"})
        assert ranking is not None
        told_apart += len(ranking.first) == 1
    assert abs(told_apart / trials - 0.05) < 5 * math.sqrt(0.05 * 0.95 / trials)


def test_examples_of_the_page_and_of_the_modules() -> None:
    found = doctest.testfile(str(PAGE), module_relative=False)
    assert found.attempted > 5
    assert not found.failed
    for name in MODULES:
        assert not doctest.testmod(importlib.import_module(f"bench.statistics.{name}")).failed


def test_importing_loads_no_numerical_library() -> None:
    # `bench --help` imports reports, which import this
    code = "import sys, bench.statistics; print(*{'numpy', 'scipy', 'statsmodels', 'pandas'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PAGE.parents[1])
    assert shown.stdout.split() == []
