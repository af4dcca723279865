"""Paired bootstrap between two methods over the queries, or the classes, of one test set.

It asks what other queries, or other classes, of the same kind would have shown, with these trained networks and this
gallery; seeds are not resampled. Several seeds are averaged query by query first: a hierarchical bootstrap would
resample three or five seeds, and the bootstrap of so few values is far too narrow. What other seeds would have shown
is the question of `mean_interval` and `paired_p`.

Own code rather than `scipy.stats.bootstrap`, which gives the same intervals (the tests compare): its jackknife takes
time in the square of 60,502 queries where the mean has a closed form, it has no p value, and it gathers two arrays
where one or none will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bench.statistics.intervals import ROUNDING, check_level

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

Method = Literal["percentile", "bca"]

_DRAWN_AT_ONCE = 1 << 20  # resampled units: 20 MB of indices and gathered values
_FEW_VALUES = 20  # so many times fewer distinct values than units: counting them beats gathering units
_FEW_UNITS = 30


@dataclass(frozen=True)
class Bootstrap:
    """Mean difference between two methods over queries, with interval and p value.

    Attributes:
        difference: mean over queries of first - second.
        low: lower end of the interval.
        high: upper end.
        p: two-sided; below 1 - level where the interval leaves out zero.
        queries: number of queries.
        units: what was resampled: queries, or clusters.
        level: of the interval.
    """

    difference: float
    low: float
    high: float
    p: float
    queries: int
    units: int
    level: float

    @property
    def few(self) -> bool:
        """Fewer than 30 units: the interval is too narrow (10 classes: it covers some 88 % where it says 95 %)."""
        return self.units < _FEW_UNITS


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
    method: Method = "bca",
    resamples: int = 9_999,
    seed: int = 0,
) -> Bootstrap:
    """Bootstrap the mean over queries of the difference of two methods' scores.

    With d the (Q,) differences, units u are drawn with replacement and the mean is sum_u s_u / sum_u n_u, where a unit
    is one query (s = d, n = 1) or a cluster of n queries whose differences sum to s. The interval is that of quantiles
    of the resampled means, plain (Efron 1979) or corrected for bias and skewness (BCa, Efron 1987). p is the smallest
    1 - level whose interval leaves out zero, at least 2 / (resamples + 1).

    Args:
        first: float (Q,), or (S, Q) with one row a seed, which are averaged.
        second: the same of the other method, for the same queries in the same order.
        clusters: int (Q,), the class of each query. Queries of a class succeed and fail together; without clusters
            the interval is then too narrow.
        level: of the interval.
        method: of the interval.
        resamples: how many.
        seed: of the random draws.

    Raises:
        ValueError: scores that are not finite or not paired, fewer than two units, arguments out of range.
    """
    import numpy as np

    check_level(level)
    if method not in ("percentile", "bca"):
        raise ValueError(f"method must be 'percentile' or 'bca', found {method!r}")
    if resamples < 100:
        raise ValueError(f"resamples must be at least 100, found {resamples}")
    differences = _per_query("first", first) - _per_query("second", second, like=first)
    sums, sizes = _units(differences, clusters)
    if len(sums) < 2:
        raise ValueError(f"a bootstrap needs two {'queries' if clusters is None else 'clusters'}, found {len(sums)}")
    observed = float(sums.sum() / sizes.sum())
    found = np.concatenate(list(_resampled(sums, sizes, resamples, np.random.default_rng(seed))))
    found[np.abs(found) <= ROUNDING] = 0.0
    bias, skew = (_share_below(found, observed), _acceleration(sums, sizes)) if method == "bca" else (0.0, 0.0)
    low, high = np.quantile(found, [_share(tail, bias, skew) for tail in ((1 - level) / 2, (1 + level) / 2)])
    p = _p(found, bias, skew)
    return Bootstrap(observed, float(low), float(high), p, len(differences), len(sums), level)


def _per_query(name: str, scores: ArrayLike, like: ArrayLike | None = None) -> NDArray[np.float64]:
    import numpy as np

    array = np.asarray(scores, dtype=np.float64)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"{name} must hold scores of shape (Q,) or (S, Q), found {array.shape}")
    if like is not None and array.shape[-1] != np.shape(like)[-1]:
        raise ValueError(f"scores must be paired by query, found {np.shape(like)[-1]} and {array.shape[-1]} queries")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds scores that are not finite, the first at {np.argwhere(~np.isfinite(array))[0]}")
    return array if array.ndim == 1 else array.mean(0)


def _units(differences: NDArray[Any], clusters: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum of differences and number of queries of each unit."""
    import numpy as np

    if clusters is None:
        return differences, np.ones(len(differences))
    labels = np.asarray(clusters)
    if labels.shape != differences.shape or labels.dtype.kind not in "iu":
        raise ValueError(
            f"clusters must be {len(differences)} integers, one a query, found {labels.dtype} {labels.shape}"
        )
    _, inverse = np.unique(labels, return_inverse=True)
    return np.bincount(inverse, differences).astype(np.float64), np.bincount(inverse).astype(np.float64)


def _resampled(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    """Resampled means, some at a time so that memory does not grow with resamples x units."""
    import numpy as np

    distinct, counts = np.unique(np.stack([sums, sizes], 1), axis=0, return_counts=True)
    equal_sizes = bool((sizes == sizes[0]).all())
    for start in range(0, resamples, step := max(1, _DRAWN_AT_ONCE // len(sums))):
        rows = min(step, resamples - start)
        if len(distinct) * _FEW_VALUES <= len(sums):
            drawn = rng.multinomial(len(sums), counts / len(sums), size=rows) @ distinct
            yield drawn[:, 0] / drawn[:, 1]
        else:
            chosen = rng.integers(len(sums), size=(rows, len(sums)), dtype=np.int32)
            total = sizes[0] * len(sums) if equal_sizes else sizes[chosen].sum(1)
            yield sums[chosen].sum(1) / total


def _acceleration(sums: NDArray[np.float64], sizes: NDArray[np.float64]) -> float:
    """Skewness of the mean from its jackknife (Efron 1987); the mean without unit u is (S - s_u) / (N - n_u)."""
    left_out = (sums.sum() - sums) / (sizes.sum() - sizes)
    gaps = left_out.mean() - left_out
    scale = float((gaps**2).sum())
    return 0.0 if scale <= ROUNDING**2 * len(gaps) else float((gaps**3).sum()) / (6 * scale**1.5)


def _share_below(found: NDArray[np.float64], value: float) -> float:
    """Bias z0: the normal quantile of the share of resampled means below the observed one, half of equal ones."""
    from scipy import special

    equal = abs(found - value) <= ROUNDING
    share = ((found < value) & ~equal).mean() + equal.mean() / 2
    return float(special.ndtri(min(max(share, 1 / (len(found) + 1)), len(found) / (len(found) + 1))))


def _share(tail: float, bias: float, skew: float) -> float:
    """Which quantile of the resampled means bounds this tail: the tail itself where bias and skew are zero."""
    from scipy import special

    z = bias + special.ndtri(tail)
    return float(special.ndtr(bias + z / (1 - skew * z)))


def _p(found: NDArray[np.float64], bias: float, skew: float) -> float:
    """Twice the smaller tail whose bound is zero: `_share` inverted at the shares of means below and above zero."""
    from scipy import special

    n = len(found) + 1
    tails = []
    for share, side in (((1 + (found <= 0).sum()) / n, 1), ((1 + (found >= 0).sum()) / n, -1)):
        z = side * float(special.ndtri(min(share, 1 - 1 / n))) - bias
        tail = special.ndtr(side * (z / (1 + skew * z) - bias)) if 1 + skew * z > 0 else 0.0
        tails.append(max(float(tail), 1 / n))
    return min(1.0, 2 * min(tails))
