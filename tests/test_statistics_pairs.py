"""Families of paired tests: Holm's correction against published examples and statsmodels, ranks, error rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.statistics import Comparison, all_pairs, holm, paired_p, rank

Rows = dict[str, dict[int, float]]


def by_name(found: tuple[Comparison, ...]) -> dict[tuple[str, str], Comparison]:
    return {(one.first, one.second): one for one in found}


def equal_methods(rng: np.random.Generator, methods: int, seeds: int) -> Rows:
    shared = rng.normal(0.4, 0.05, seeds)  # a seed moves all methods alike
    return {str(m): dict(enumerate((shared + rng.normal(0, 0.01, seeds)).tolist())) for m in range(methods)}


def test_holm_on_the_example_of_demsar() -> None:
    # Demsar 2006, section 3.2.2: three classifiers against C4.5; the first two are rejected at 0.05, the third is not
    adjusted = holm([0.016, 0.019, 0.607])
    assert adjusted == pytest.approx([0.048, 0.048, 0.607])


def test_holm_keeps_the_order_given_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@settings(max_examples=20, deadline=None)  # each call of statsmodels collects garbage
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_statsmodels(p_values: list[float]) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    assert holm(p_values) == pytest.approx(multitest.multipletests(p_values, method="holm")[1].tolist(), abs=1e-15)


@pytest.mark.parametrize("bad", [math.nan, -0.1, 1.1])
def test_what_is_no_probability_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.1, bad])


def test_each_pair_is_tested_over_its_own_shared_seeds() -> None:
    rows: Rows = {"a": {0: 0.5, 1: 0.6, 2: 0.55}, "b": {0: 0.4, 1: 0.52, 2: 0.43}, "c": {2: 0.1, 3: 0.9}, "d": {9: 0.3}}
    found = by_name(all_pairs(rows))
    assert len(found) == 6
    tested = found["a", "b"]
    assert tested.n == 3
    assert tested.difference == pytest.approx(0.1)
    assert tested.p == paired_p([0.5, 0.6, 0.55], [0.4, 0.52, 0.43])
    assert tested.adjusted_p == tested.p  # the only test of the family: the others share too few seeds
    lone, none = found["a", "c"], found["a", "d"]
    assert (lone.n, lone.p, lone.adjusted_p) == (1, None, None)
    assert lone.difference == pytest.approx(0.45)
    assert (none.n, none.difference, none.better()) == (0, None, None)


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        all_pairs({"a": {0: math.nan, 1: 0.2}, "b": {0: 0.1, 1: 0.1}})


def ladder(*steps: float, noise: float = 0.001, seeds: int = 8) -> Rows:
    rng = np.random.default_rng(3)
    return {chr(97 + i): dict(enumerate((step + rng.normal(0, noise, seeds)).tolist())) for i, step in enumerate(steps)}


def test_ranks_count_the_rows_that_are_significantly_better() -> None:
    ranking = rank(ladder(0.5, 0.5, 0.4, 0.3))
    assert ranking is not None
    assert ranking.ranks == {"a": 1, "b": 1, "c": 3, "d": 4}
    assert ranking.first == {"a", "b"}


def test_not_told_apart_does_not_carry_over() -> None:
    rows: Rows = {
        "a": {0: 0.500, 1: 0.502, 2: 0.501, 3: 0.503},
        "b": {0: 0.470, 1: 0.520, 2: 0.460, 3: 0.530},  # too noisy to be told from either
        "c": {0: 0.480, 1: 0.481, 2: 0.482, 3: 0.482},
    }
    ranking = rank(rows)
    assert ranking is not None
    assert ranking.ranks == {"a": 1, "b": 1, "c": 2}
    assert ranking.first == {"a", "b"}


def test_correction_can_only_widen_the_tie_for_first() -> None:
    rng = np.random.default_rng(7)
    wider = 0
    for _ in range(50):
        rows = equal_methods(rng, 8, 4)
        ranking = rank(rows)
        assert ranking is not None
        best = rows[ranking.best]
        single = {
            n: paired_p(list(best.values()), list(seeds.values())) for n, seeds in rows.items() if n != ranking.best
        }
        wider += len(ranking.first) > 1 + sum(p is not None and p >= 0.05 for p in single.values())
    assert wider > 5


def test_rows_that_cannot_be_tested_have_no_rank() -> None:
    ranking = rank({**ladder(0.5, 0.4), "lone": {0: 0.45}, "empty": {}})
    assert ranking is not None
    assert ranking.untested == {"lone"}
    assert ranking.ranks == {"a": 1, "b": 2}
    one = rank({"a": {0: 0.5}})
    assert one is not None
    assert (one.ranks, one.first) == ({"a": 1}, {"a"})


def test_seeds_that_all_differ_by_the_same() -> None:
    # two methods without any randomness: the limit of the test tells them apart, equal ones it does not
    ranking = rank({"a": {0: 0.5, 1: 0.5}, "b": {0: 0.5, 1: 0.5}, "c": {0: 0.4, 1: 0.4}})
    assert ranking is not None
    assert ranking.ranks == {"a": 1, "b": 1, "c": 3}


def test_ten_equal_methods_are_seldom_told_apart() -> None:
    """At most one study in twenty has any false difference over all pairs; corrected for fewer tests, more have."""
    rng = np.random.default_rng(11)
    trials = 400
    pairs = chosen = 0
    for _ in range(trials):
        rows = equal_methods(rng, 10, 5)
        pairs += any(one.better() for one in all_pairs(rows))
        best = max(rows, key=lambda name: sum(rows[name].values()))
        p_values = [paired_p(list(rows[best].values()), list(rows[name].values())) for name in rows if name != best]
        chosen += min(holm([p for p in p_values if p is not None])) < 0.05
    allowed = 0.05 + 4 * math.sqrt(0.05 * 0.95 / trials)
    assert pairs / trials <= allowed
    # the reason why `rank` corrects for all pairs: the best row was chosen by the same data
    assert chosen > 1.2 * pairs
