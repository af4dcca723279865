"""How many seeds a difference takes, and which difference the present seeds can show.

A paired t-test over n seeds finds a true mean difference d with the probability (power) that a noncentral t of n - 1
degrees of freedom and noncentrality √n · d / s exceeds the critical value, s being the standard deviation of the
differences seed by seed. Plan with a difference that would matter, never with the one just observed.

The integral is evaluated here: `scipy.stats.nct`, and `TTestPower` of statsmodels that rests on it, give NaN or wrong
values for the few seeds that are usual (statsmodels 0.15 has no answer for differences of 6 to 10 deviations).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from bench.statistics.intervals import check_level, check_values, moments

_FAR = 9.0  # standard deviations beyond which a normal has no mass to speak of
_MOST = 10**6  # seeds; beyond, the integrand is too steep for the quadrature


@dataclass(frozen=True)
class SeedPlan:
    """What n seeds can show between two methods, and how many seeds a difference takes.

    Attributes:
        n: seeds so far.
        deviation: standard deviation of the differences.
        deviation_interval: its confidence interval, wide with few seeds (chi-square, n - 1 degrees of freedom).
        smallest: the smallest true difference that n seeds find with the given power.
        difference: the difference to be seen.
        needed: seeds that find it with the given power, if the deviation is as observed.
        needed_interval: the same for the ends of the deviation's interval.
    """

    n: int
    deviation: float
    deviation_interval: tuple[float, float]
    smallest: float
    difference: float
    needed: int
    needed_interval: tuple[int, int]


def seed_plan(
    first: Sequence[float],
    second: Sequence[float],
    difference: float = 0.01,
    *,
    level: float = 0.95,
    power: float = 0.8,
) -> SeedPlan:
    """Plan from two methods' values under the same seeds, in the same order; a difference of 0.01 is one point.

    Raises:
        ValueError: fewer than two pairs, unequal lengths, values that are not finite, arguments out of range.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"a plan needs two or more paired values, found {len(first)} and {len(second)}")
    differences = [a - b for a, b in zip(first, second, strict=True)]
    check_values(differences)
    check_level(level)
    n, deviation = len(differences), moments(differences)[1]
    from scipy import special

    low, high = (
        deviation * math.sqrt((n - 1) / special.chdtri(n - 1, tail)) for tail in ((1 - level) / 2, (1 + level) / 2)
    )
    return SeedPlan(
        n=n,
        deviation=deviation,
        deviation_interval=(low, high),
        smallest=smallest_difference(deviation, n, level=level, power=power),
        difference=difference,
        needed=seeds_needed(deviation, difference, level=level, power=power),
        needed_interval=(
            seeds_needed(low, difference, level=level, power=power),
            seeds_needed(high, difference, level=level, power=power),
        ),
    )


def seeds_needed(deviation: float, difference: float, *, level: float = 0.95, power: float = 0.8) -> int:
    """Fewest seeds with which the paired t-test finds this difference with this power; at least 2.

    >>> seeds_needed(deviation=0.02, difference=0.01)  # half a deviation: 34 in every table of sample sizes
    34

    Raises:
        ValueError: a deviation below zero, a difference that is not positive, a level or power outside (0, 1), or a
            difference so small that a million seeds would not do.
    """
    _check(deviation, level, power)
    if not (difference > 0 and math.isfinite(difference)):
        raise ValueError(f"the difference to be seen must be positive, found {difference}")
    if deviation == 0:
        return 2
    low, high = 1, 2
    while _power(difference / deviation, high, level) < power:
        low, high = high, 2 * high
        if high > _MOST:
            raise ValueError(f"a million seeds do not show {difference} in a deviation of {deviation}")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(difference / deviation, middle, level) >= power else (middle, high)
    return high


def smallest_difference(deviation: float, n: int, *, level: float = 0.95, power: float = 0.8) -> float:
    """Smallest true difference that the paired t-test over n seeds finds with this power.

    Raises:
        ValueError: fewer than two seeds, a deviation below zero, a level or power outside (0, 1).
    """
    _check(deviation, level, power)
    if n < 2:
        raise ValueError(f"a paired test needs two seeds, found {n}")
    if deviation == 0:
        return 0.0
    from scipy import optimize

    high = 1.0
    while _power(high, n, level) < power:
        high *= 2
    return deviation * float(optimize.brentq(lambda effect: _power(effect, n, level) - power, 0.0, high))


def _power(effect: float, n: int, level: float) -> float:
    """Power for a difference of `effect` deviations: the chance of |z + √n · effect| / u > c.

    z is a standard normal, u² a chi-square over its n - 1 degrees of freedom, c the critical value of the t-test.
    """
    from scipy import integrate, special

    shift, critical = math.sqrt(n) * effect, float(special.stdtrit(n - 1, 0.5 + level / 2))

    def rejected(z: float) -> float:
        u = (z + shift) / critical
        return math.exp(-z * z / 2) * float(special.chdtr(n - 1, (n - 1) * u * u))

    # where the integrand is steep: u near 1 on either side
    steep = [z for z in (critical - shift, -critical - shift, -shift) if -_FAR < z < _FAR]
    found, _ = integrate.quad(rejected, -_FAR, _FAR, points=steep or None, limit=200)
    return float(found) / math.sqrt(2 * math.pi)


def _check(deviation: float, level: float, power: float) -> None:
    check_level(level)
    if not (deviation >= 0 and math.isfinite(deviation)):
        raise ValueError(f"a standard deviation is finite and not negative, found {deviation}")
    if not 1 - level < power < 1:
        raise ValueError(f"power must lie between 1 - level and 1, found {power}")
