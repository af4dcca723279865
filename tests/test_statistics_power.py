"""Numbers of seeds: tables of sample sizes, simulated tests, statsmodels where it has an answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bench.statistics import paired_p, seed_plan, seeds_needed, smallest_difference


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_tables_of_sample_sizes(effect: float, n: int) -> None:
    # Cohen's small, medium and large effect, two-sided 0.05, power 0.8, paired: as G*Power and textbooks print them
    assert seeds_needed(1.0, effect) == n
    assert seeds_needed(0.013, effect * 0.013) == n


@pytest.mark.parametrize("n", [5, 10, 30])
def test_smallest_difference_equals_statsmodels(n: int) -> None:
    power = pytest.importorskip("statsmodels.stats.power")
    expected = power.TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8)
    assert smallest_difference(1.0, n) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_simulated_tests_find_the_smallest_difference_as_often_as_planned(n: int) -> None:
    rng, trials = np.random.default_rng(n), 3000
    shift = smallest_difference(0.01, n)
    found = 0
    for _ in range(trials):
        p = paired_p((0.4 + shift + rng.normal(0, 0.01, n)).tolist(), [0.4] * n)
        assert p is not None
        found += p < 0.05
    assert abs(found / trials - 0.8) < 4 * math.sqrt(0.8 * 0.2 / trials)


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.99])
def test_needed_and_smallest_are_inverse(level: float, power: float) -> None:
    for n in (2, 3, 4, 7, 20, 150):
        smallest = smallest_difference(0.02, n, level=level, power=power)
        assert seeds_needed(0.02, smallest * 1.0001, level=level, power=power) == n
        assert seeds_needed(0.02, smallest * 0.9999, level=level, power=power) == n + 1


def test_many_seeds_approach_the_normal_formula() -> None:
    expected = ((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / 0.01) ** 2
    assert seeds_needed(1.0, 0.01) == pytest.approx(expected, rel=1e-4)


def test_plan_of_three_seeds() -> None:
    first, second = [0.50, 0.52, 0.51], [0.49, 0.50, 0.52]
    plan = seed_plan(first, second, difference=0.01)
    deviation = float(np.std(np.subtract(first, second), ddof=1))
    assert (plan.n, plan.deviation) == (3, pytest.approx(deviation))
    assert plan.smallest == pytest.approx(smallest_difference(deviation, 3))
    assert plan.needed == seeds_needed(deviation, 0.01)
    # chi-square of 2 degrees of freedom: 7.378 and 0.0506 in every printed table
    assert plan.deviation_interval == pytest.approx(
        (deviation * math.sqrt(2 / 7.378), deviation * math.sqrt(2 / 0.0506)), rel=1e-3
    )
    assert plan.needed_interval[0] < plan.needed < plan.needed_interval[1]


def test_differences_that_do_not_vary() -> None:
    plan = seed_plan([0.3, 0.4], [0.2, 0.3])
    assert (plan.deviation, plan.smallest, plan.needed, plan.needed_interval) == (0, 0, 2, (2, 2))


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="two or more paired values"):
        seed_plan([0.1], [0.2])
    with pytest.raises(ValueError, match="two or more paired values"):
        seed_plan([0.1, 0.2], [0.2])
    with pytest.raises(ValueError, match="finite"):
        seed_plan([0.1, math.nan], [0.2, 0.1])
    with pytest.raises(ValueError, match="positive"):
        seeds_needed(0.1, 0.0)
    with pytest.raises(ValueError, match="not negative"):
        seeds_needed(-0.1, 0.1)
    with pytest.raises(ValueError, match="a million seeds do not show"):
        seeds_needed(1.0, 1e-4)
    with pytest.raises(ValueError, match="two seeds, found 1"):
        smallest_difference(0.1, 1)
    with pytest.raises(ValueError, match="power must lie"):
        smallest_difference(0.1, 3, power=0.01)
