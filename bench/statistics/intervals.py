"""Mean and Student t interval over independent units: seeds, or reproductions of a study."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Metrics are fractions of thousands of queries: below this, a spread is rounding.
ROUNDING = 1e-12


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
    """Mean and confidence interval of n independent values: mean ± t(0.5 + level / 2, n - 1) · s / √n (Student 1908).

    >>> interval = mean_interval([1, 2, 3, 4, 5])  # standard error sqrt(1/2), t(0.975, 4) = 2.776
    >>> interval.mean, round(interval.half_width, 3), interval.n
    (3.0, 1.963, 5)

    Values that are all equal have an interval of width zero.

    Raises:
        ValueError: no value, a value that is not finite, or a level outside (0, 1).
    """
    check_values(values)
    check_level(level)
    n = len(values)
    if n == 1:
        return Interval(float(values[0]), None, 1)
    mean, deviation = moments(values)
    if deviation == 0.0:
        return Interval(mean, 0.0, n)
    from scipy import special

    return Interval(mean, float(special.stdtrit(n - 1, 0.5 + level / 2)) * deviation / math.sqrt(n), n)


def check_values(values: Sequence[float]) -> None:
    """Refuse nothing at all, NaN and infinity."""
    if not values:
        raise ValueError("no values to take a mean of")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"values must be finite, found {list(values)}")


def check_level(level: float) -> None:
    """Refuse what is no probability, 0 and 1 among them."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, found {level}")


def moments(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1); a deviation that is mere rounding is zero."""
    if max(values) - min(values) <= ROUNDING:
        return float(values[0]), 0.0
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
