"""Numbers and names as a reader sees them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bench.statistics import Interval

CHECKPOINT_LABELS = {
    "last": "last step",
    "best_validation": "best on validation",
    "best_test": "best on test (optimistic)",
}
_METRIC_LABELS = {
    "precision_at_1": "Precision@1",
    "r_precision": "R-Precision",
    "map_at_r": "MAP@R",
    "nmi": "NMI",
    "ami": "AMI",
    "f1": "F1",
}
_ORDER = ("recall", "precision_at_1", "r_precision", "map_at_r", "nmi", "ami", "f1", "cmc", "ndcg", "label_distance")


def metric_label(name: str) -> str:
    """A metric's name in tables: 'recall_at_8' is 'Recall@8'."""
    if match := re.fullmatch(r"(recall|cmc|ndcg|label_distance)_at_(\d+)", name):
        kind = {"recall": "Recall", "cmc": "CMC", "ndcg": "nDCG", "label_distance": "↓ Label distance"}[match[1]]
        return f"{kind}@{match[2]}"
    return _METRIC_LABELS.get(name, name)


def metric_order(names: Iterable[str]) -> list[str]:
    """Metrics in the order of tables: Recall@K by K, R-Precision, MAP@R, clustering, CMC, graded ones, then others."""

    def key(name: str) -> tuple[int, int, str]:
        if match := re.fullmatch(r"(recall|cmc|ndcg|label_distance)_at_(\d+)", name):
            return _ORDER.index(match[1]), int(match[2]), name
        return (_ORDER.index(name) if name in _ORDER else len(_ORDER)), 0, name

    return sorted(set(names), key=key)


def lower_is_better(name: str) -> bool:
    """Whether a smaller value of a metric is the better one; such metrics are no fractions either."""
    return name.startswith("label_distance_at_")


def value(metric: str, number: float) -> str:
    """A metric's value as tables show it: fractions in percent, label distances in their own units."""
    return f"{number:.3f}" if lower_is_better(metric) else percent(number)


def percent(fraction: float) -> str:
    """0.53957 as '53.96'."""
    return f"{100 * fraction:.2f}"


def points(fraction: float) -> str:
    """A difference of fractions in points of percent, with its sign: '+1.20', '−0.35'."""
    text = f"{100 * fraction:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def plus_minus(interval: Interval, metric: str = "") -> str:
    """The interval's half width behind a mean, written as `value` writes the metric; empty with one value."""
    return "" if interval.half_width is None else f"± {value(metric, interval.half_width)}"


def duration(seconds: float) -> str:
    """'4.1 s', '3 min 05 s', '2 h 10 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(number_of_bytes: float) -> str:
    """Bytes as MiB or GiB."""
    mebibytes = number_of_bytes / 2**20
    return f"{mebibytes / 1024:.2f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"


def count(number: float) -> str:
    """Whole numbers with thousands separated: '12,800'."""
    return f"{round(number):,}"


def listed(items: Iterable[object]) -> str:
    """'0, 1, 2'."""
    return ", ".join(str(item) for item in items)


def plural(number: int, one: str, many: str | None = None) -> str:
    """'1 run', '3 runs'."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"
