"""Paired t-tests between methods, alone and as the family of all pairs with Holm's correction.

Methods under one seed share initial weights, batches and crops, so that they are compared by the differences seed
by seed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.statistics.intervals import ROUNDING, check_values, moments

Seeds = Mapping[int, float]  # seed -> the method's value under it


@dataclass(frozen=True)
class Comparison:
    """Two methods over the n seeds that both have.

    Attributes:
        first: a method.
        second: the other one.
        difference: mean of first - second; None where they share no seed.
        n: seeds shared.
        p: of the paired t-test; None with fewer than two shared seeds.
        adjusted_p: the same after Holm's correction for all tests of the family; None where p is.
    """

    first: str
    second: str
    difference: float | None
    n: int
    p: float | None
    adjusted_p: float | None

    def better(self, level: float = 0.95) -> str | None:
        """The significantly better of the two after correction; None if they are not told apart."""
        if self.difference is None or self.adjusted_p is None or self.adjusted_p >= 1 - level:
            return None
        return self.first if self.difference > 0 else self.second


def paired_p(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Two-sided p value of the paired t-test; None with fewer than two pairs.

    t = mean(d) / (s(d) / √n) of the n differences d, with n - 1 degrees of freedom. Where the differences do not vary
    at all the test has no scale: p is 1 if they are zero, else 0 (the limit of the test).

    Raises:
        ValueError: the sequences differ in length or hold a value that is not finite.
    """
    if len(first) != len(second):
        raise ValueError(f"paired values must come in pairs, found {len(first)} and {len(second)}")
    if len(first) < 2:
        return None
    differences = [a - b for a, b in zip(first, second, strict=True)]
    check_values(differences)
    mean, deviation = moments(differences)
    if deviation == 0.0:
        return 1.0 if abs(mean) <= ROUNDING else 0.0
    from scipy import special

    t = abs(mean) / (deviation / math.sqrt(len(differences)))
    return float(2 * special.stdtr(len(differences) - 1, -t))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values of m tests, in the order given; reject where one is below the level of the whole family.

    Sorted upwards, the i-th is max over j <= i of (m - j + 1) · p_j, at most 1 (Holm 1979). The chance of one or more
    false rejections among the m stays below the level, however the tests depend on each other. Own lines because
    `multipletests` of statsmodels, which gives the same, collects garbage at each call: 0.2 s a column of a report.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03, 0.005])]
    [0.03, 0.06, 0.06, 0.02]

    Raises:
        ValueError: a value that is no probability.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p values must lie between 0 and 1, found {list(p_values)}")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def all_pairs(rows: Mapping[str, Seeds]) -> tuple[Comparison, ...]:
    """Every method with every other one, corrected for all k (k - 1) / 2 tests; `rows`: name -> seed -> value.

    Raises:
        ValueError: a value that is not finite.
    """
    found = [_compare(rows, first, second) for first, second in itertools.combinations(rows, 2)]
    adjusted = iter(holm([one.p for one in found if one.p is not None]))
    return tuple(one if one.p is None else replace(one, adjusted_p=next(adjusted)) for one in found)


def best_of(rows: Mapping[str, Seeds]) -> str:
    """The row with the highest mean; the first of equal ones."""
    means = {}
    for name, seeds in rows.items():
        check_values(list(seeds.values()))
        means[name] = moments(list(seeds.values()))[0]
    return max(means, key=lambda name: means[name])


def _compare(rows: Mapping[str, Seeds], first: str, second: str) -> Comparison:
    shared = sorted(rows[first].keys() & rows[second].keys())
    values = [rows[first][seed] for seed in shared], [rows[second][seed] for seed in shared]
    p = paired_p(*values)
    difference = None
    if shared:
        differences = [a - b for a, b in zip(*values, strict=True)]
        check_values(differences)
        difference = moments(differences)[0] if len(shared) > 1 else differences[0]
    return Comparison(first, second, difference, len(shared), p, None)
