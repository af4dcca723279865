"""Intervals over seeds and paired tests between methods.

Every value is one seed's metric. Intervals are two-sided Student t with n - 1 degrees of freedom
around the mean. Methods under one seed share initial weights, batches and crops, so that they are
compared by the differences seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Metrics are fractions of thousands of queries: below this, a spread is rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """Mean of n values and half the width of its confidence interval; None when n is 1."""

    mean: float
    half_width: float | None
    n: int

    @property
    def low(self) -> float:
        """Lower end; the mean itself when there is no interval."""
        return self.mean - (self.half_width or 0.0)

    @property
    def high(self) -> float:
        """Upper end; the mean itself when there is no interval."""
        return self.mean + (self.half_width or 0.0)


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean and confidence interval of independent values.

    >>> interval = mean_interval([1, 2, 3, 4, 5])  # standard error sqrt(1/2), t(0.975, 4) = 2.776
    >>> interval.mean, round(interval.half_width, 3), interval.n
    (3.0, 1.963, 5)

    Values that are all equal have an interval of width zero.

    Raises:
        ValueError: no value, a value that is not finite, or a level outside (0, 1).
    """
    _check(values, level)
    n = len(values)
    if n == 1:
        return Interval(float(values[0]), None, 1)
    mean, deviation = _moments(values)
    if deviation == 0.0:
        return Interval(mean, 0.0, n)
    from scipy import special

    return Interval(mean, float(special.stdtrit(n - 1, 0.5 + level / 2)) * deviation / math.sqrt(n), n)


def paired_p(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Two-sided p value of the paired t-test; None with fewer than two pairs.

    Where the differences do not vary at all the test has no scale: p is 1 if they are zero, else 0
    (the limit of the test).

    Raises:
        ValueError: the sequences differ in length or hold a value that is not finite.
    """
    if len(first) != len(second):
        raise ValueError(f"paired values must come in pairs, found {len(first)} and {len(second)}")
    if len(first) < 2:
        return None
    differences = [a - b for a, b in zip(first, second, strict=True)]
    _check(differences, 0.5)
    mean, deviation = _moments(differences)
    if deviation == 0.0:
        return 1.0 if abs(mean) <= _ROUNDING else 0.0
    from scipy import special

    t = abs(mean) / (deviation / math.sqrt(len(differences)))
    return float(2 * special.stdtr(len(differences) - 1, -t))


@dataclass(frozen=True)
class Ranking:
    """The row with the highest mean, the rows not told apart from it, and the rows that could not be tested."""

    best: str
    tied: frozenset[str]
    untested: frozenset[str]


def rank(rows: Mapping[str, Mapping[int, float]], level: float = 0.95) -> Ranking | None:
    """Compare every row with the best one; `rows` maps a row's name to its value for each seed.

    A row is tied when the paired t-test over the seeds that both have gives p >= 1 - level. Rows that
    share fewer than two seeds with the best one are not tested. None if there are no values at all.
    """
    means = {name: mean_interval(list(seeds.values()), level).mean for name, seeds in rows.items() if seeds}
    if not means:
        return None
    best = max(means, key=lambda name: means[name])
    tied, untested = set(), set()
    for name in means:
        shared = sorted(rows[name].keys() & rows[best].keys())
        p = paired_p([rows[best][seed] for seed in shared], [rows[name][seed] for seed in shared])
        if name == best:
            continue
        if p is None:
            untested.add(name)
        elif p >= 1 - level:
            tied.add(name)
    return Ranking(best, frozenset(tied), frozenset(untested))


def _check(values: Sequence[float], level: float) -> None:
    if not values:
        raise ValueError("no values to take a mean of")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"values must be finite, found {list(values)}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, found {level}")


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1); a deviation that is mere rounding is zero."""
    if max(values) - min(values) <= _ROUNDING:
        return float(values[0]), 0.0
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
