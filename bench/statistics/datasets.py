"""Methods over several data sets: Friedman's test on ranks, and Nemenyi's critical difference (Demsar, JMLR 2006).

A method's mean on each data set is one value; seeds and queries play no further part. Few data sets tell little: on
three of them, average ranks of ten methods must differ by 7.8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bench.statistics.intervals import check_level

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FEWEST = 3  # data sets, and methods
_PERMUTATIONS = 9_999
_AT_ONCE = 1_000
_ROUNDING = 1e-9  # of sums of ranks


@dataclass(frozen=True)
class Friedman:
    """k methods ranked on each of N data sets.

    Attributes:
        datasets: the N data sets.
        ranks: method -> average rank, best first; 1 is best.
        dropped: methods left out because a data set lacks them.
        chi_square: Friedman's statistic, corrected for ties.
        f: the less conservative statistic made from it; infinite where all data sets agree on the order.
        p: are there any differences among the methods? From permutations of the methods within data sets.
        critical_difference: average ranks that differ by less are not told apart.
        groups: largest sets of methods not told apart, best first; one set of all where p >= 1 - level.
        level: 1 - the level of test and critical difference.
    """

    datasets: tuple[str, ...]
    ranks: Mapping[str, float]
    dropped: tuple[str, ...]
    chi_square: float
    f: float
    p: float
    critical_difference: float
    groups: tuple[tuple[str, ...], ...]
    level: float


def friedman(
    means: Mapping[str, Mapping[str, float]],
    level: float = 0.95,
    *,
    lower_is_better: bool = False,
    incomplete: Literal["refuse", "drop"] = "refuse",
) -> Friedman:
    """Rank the methods on each data set, and test whether their average ranks R_j differ.

    chi2 = 12 N / (k (k + 1)) · (sum_j R_j² - k (k + 1)² / 4), divided by 1 - sum(t³ - t) / (N k (k² - 1)) for groups of
    t tied values, which Demsar leaves out; F = (N - 1) chi2 / (N (k - 1) - chi2) (Iman and Davenport 1980);
    CD = q · √(k (k + 1) / (6 N)), q the studentized range of k values over √2 (Nemenyi 1963).

    p is the share of 9,999 random orders of the methods on each data set whose statistic is as large. The F table with
    (k - 1) and (k - 1)(N - 1) degrees of freedom, which Demsar uses, agrees with it from about ten data sets on; with
    three methods on three data sets it calls equal methods different in one study of five.

    Args:
        means: data set -> method -> mean of the metric.
        level: 1 - the level of the tests.
        lower_is_better: for distances and errors.
        incomplete: what to do with methods that a data set lacks: refuse, or drop them and name them in the result.

    Raises:
        ValueError: fewer than three data sets or methods, a method missing on a data set, a value that is not finite.
    """
    check_level(level)
    if len(means) < _FEWEST:
        raise ValueError(f"ranks over data sets need at least {_FEWEST} of them, found {len(means)}: {sorted(means)}")
    named = list(dict.fromkeys(method for row in means.values() for method in row))
    lacking = {method: [name for name, row in means.items() if method not in row] for method in named}
    dropped = tuple(method for method in named if lacking[method])
    if dropped and incomplete == "refuse":
        where = "; ".join(f"{method}: {', '.join(lacking[method])}" for method in dropped)
        raise ValueError(f"methods without a value on some data sets ({where}); run them there, or drop them")
    methods = [method for method in named if method not in dropped]
    if len(methods) < _FEWEST:
        raise ValueError(f"needs at least {_FEWEST} methods on all data sets, found {methods}; compare two in pairs")
    return _tested(means, methods, dropped, level, -1 if lower_is_better else 1)


def _tested(
    means: Mapping[str, Mapping[str, float]], methods: Sequence[str], dropped: tuple[str, ...], level: float, sign: int
) -> Friedman:
    import numpy as np
    from scipy import stats

    values = sign * np.array([[row[method] for method in methods] for row in means.values()], dtype=np.float64)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(f"values must be finite, found {methods[column]} on {list(means)[row]}: {values[row, column]}")
    n, k = values.shape
    ranks = stats.rankdata(-np.round(values, 12), axis=1)
    chi_square, f = _statistics(ranks)
    p = _permutation_p(ranks)
    order = np.argsort(ranks.mean(0), kind="stable")
    averages = {methods[column]: float(ranks[:, column].mean()) for column in order}
    difference = float(stats.studentized_range.ppf(level, k, np.inf)) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n))
    groups = _groups(averages, difference) if p < 1 - level else (tuple(averages),)
    return Friedman(tuple(means), averages, dropped, chi_square, f, p, difference, groups, level)


def _statistics(ranks: NDArray[np.float64]) -> tuple[float, float]:
    """Chi-square and F for ranks (N, k)."""
    from scipy import stats

    n, k = ranks.shape
    if (ranks == ranks[:, :1]).all():  # all methods tied everywhere
        return 0.0, 0.0
    chi_square = float(stats.friedmanchisquare(*ranks.T).statistic)
    rest = n * (k - 1) - chi_square
    return chi_square, (n - 1) * chi_square / rest if rest > _ROUNDING else math.inf


def _permutation_p(ranks: NDArray[np.float64]) -> float:
    """Share of random orders within data sets whose rank sums (k,) spread as much; chi-square grows with the spread."""
    import numpy as np

    def spread(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(((sums - sums.mean(-1, keepdims=True)) ** 2).sum(-1))

    rng, observed, as_large = np.random.default_rng(0), spread(ranks.sum(0)), 1
    for start in range(0, _PERMUTATIONS, _AT_ONCE):
        drawn = np.repeat(ranks[None], min(_AT_ONCE, _PERMUTATIONS - start), axis=0)
        as_large += int((spread(rng.permuted(drawn, axis=2).sum(1)) >= observed - _ROUNDING).sum())
    return as_large / (_PERMUTATIONS + 1)


def _groups(ranks: Mapping[str, float], difference: float) -> tuple[tuple[str, ...], ...]:
    """Runs of methods within the critical difference, none inside another; `ranks` is sorted."""
    names, found, reached = list(ranks), [], 0
    for start, name in enumerate(names):
        end = start + sum(ranks[other] - ranks[name] < difference for other in names[start:])
        if end > reached:
            found.append(tuple(names[start:end]))
            reached = end
    return tuple(found)
