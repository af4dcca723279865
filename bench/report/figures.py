"""Geometry of the figures: where every mark, tick and label goes, in the units of an SVG view box.

Colours are numbers into the page's palette, so that one method has one colour on the whole page; a
marker and a dash pattern go with each, so that no figure is read by colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.report import tables, text
from bench.report.sections import Row, Section
from bench.statistics import Interval, mean_interval

COLOURS = 8
BASELINE_STYLE = -1
_LABEL_STEP = 15.0
_ROW_HEIGHT = 30.0


@dataclass(frozen=True)
class Tick:
    """A tick: its place along the axis and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Dot:
    """A marker and what hovering it says."""

    x: float
    y: float
    tip: str


@dataclass(frozen=True)
class Series:
    """What one method contributes to a figure.

    `lines` are thin (one a seed), `mean` is thick, `bars` are interval bars as (x1, y1, x2, y2), the
    label stands at (label_x, label_y) and is tied to the data by a thin line from (tie_x, tie_y).
    """

    label: str
    style: int
    lines: tuple[str, ...] = ()
    mean: str = ""
    dots: tuple[Dot, ...] = ()
    centres: tuple[Dot, ...] = ()
    bars: tuple[tuple[float, float, float, float], ...] = ()
    label_x: float = 0.0
    label_y: float = 0.0
    tie_x: float = 0.0
    tie_y: float = 0.0
    is_baseline: bool = False


@dataclass(frozen=True)
class Chart:
    """One figure; the plotting area spans (left, top) to (right, bottom) of the view box."""

    title: str
    description: str
    width: float
    height: float
    left: float
    top: float
    right: float
    bottom: float
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    series: tuple[Series, ...]


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = math.log10(value), math.log10(low), math.log10(high)
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 2)


def styles(sections: Sequence[Section]) -> dict[str, int]:
    """One style number a method, the same in every figure of a page; all baselines share one."""
    trained = sorted({row.label for section in sections for row in section.trained})
    baselines = {row.label for section in sections for row in section.baselines}
    return dict.fromkeys(baselines, BASELINE_STYLE) | {label: n for n, label in enumerate(trained)}


def curves(section: Section, style: Mapping[str, int]) -> list[Chart]:
    """MAP@R by step on validation classes and on the test side, one chart each; empty without curves."""
    charts = []
    for side, title in (("validation", "Validation classes"), ("test", "Test classes, after unsealing")):
        per_row = {row.anchor: _seed_curves(row, side, section.metric) for row in section.trained}
        rows = [row for row in section.trained if any(len(line) > 1 for line in per_row[row.anchor].values())]
        if rows:
            charts.append(_curve_chart(section, style, side, title, rows, per_row))
    return charts


def _seed_curves(row: Row, side: str, metric: str) -> dict[str, list[tuple[int, float]]]:
    found = {}
    for record in row.done:
        points = [(point.step, getattr(point, side)) for point in record.curves]
        line = [(step, values[metric]) for step, values in points if values and metric in values]
        if line:
            found[record.run_id] = line
    return found


def _curve_chart(
    section: Section,
    style: Mapping[str, int],
    side: str,
    title: str,
    rows: list[Row],
    per_row: dict[str, dict[str, list[tuple[int, float]]]],
) -> Chart:
    references = {} if side == "validation" else _baseline_values(section)
    width, height, left, top, right, bottom = _frame(len(rows) + len(references))
    points = [point for row in rows for line in per_row[row.anchor].values() for point in line]
    x = _Scale(0, max(step for step, _ in points), left, right)
    y_range = _padded([value for _, value in points] + list(references.values()))
    y = _Scale(*y_range, bottom, top)
    series = []
    for row in rows:
        lines = list(per_row[row.anchor].values())
        mean = _mean_line(lines)
        dots = tuple(Dot(x(step), y(value), f"{row.label}, step {step}: {text.percent(value)}") for step, value in mean)
        tie_x, tie_y = (dots[-1].x, dots[-1].y) if dots else (x(lines[0][-1][0]), y(lines[0][-1][1]))
        series.append(
            Series(
                row.label, style[row.label], tuple(_path(line, x, y) for line in lines if len(line) > 1),
                _path(mean, x, y), centres=dots, label_x=right + 14, label_y=tie_y, tie_x=tie_x, tie_y=tie_y,
            )
        )  # fmt: skip
    for label, value in references.items():
        at = y(value)
        series.append(
            Series(
                label, style[label], mean=f"M{left} {at}L{right} {at}", label_x=right + 14, label_y=at,
                tie_x=right, tie_y=at, is_baseline=True,
            )
        )  # fmt: skip
    metric = text.metric_label(section.metric)
    return Chart(
        title, f"{metric} by training step, one thick line a method (mean over seeds), one thin line a run.",
        width, height, left, top, right, bottom, "training step", f"{metric}, percent",
        _ticks(x, 5, text.count), _ticks(y, 6, _percent_tick(y_range)), _spread(series, top, bottom),
    )  # fmt: skip


def seed_scatter(section: Section, style: Mapping[str, int]) -> Chart | None:
    """One dot a seed, one line a method, with mean and interval; None without finished runs.

    Baselines far below the trained methods are named in the description: on the axis they would
    squeeze everything else together.
    """
    found = {row.anchor: row.values(section.headline, section.metric) for row in section.rows}
    spans = {row.anchor: tables.interval(row, section, section.headline, section.metric) for row in section.rows}
    rows, outside = _on_axis(section, spans)
    if not rows:
        return None
    width, left, right, top = 600.0, 175.0, 580.0, 12.0
    bottom = top + _ROW_HEIGHT * len(rows)
    ends = [end for row in rows if (span := spans[row.anchor]) for end in (span.low, span.high)]
    x_range = _padded([value for row in rows for value in found[row.anchor].values()] + ends)
    x = _Scale(*x_range, left, right)
    series = tuple(
        _seed_row(row, span, found[row.anchor], style[row.label], x, top + _ROW_HEIGHT * (place + 0.5))
        for place, row in enumerate(rows)
        if (span := spans[row.anchor])
    )
    metric = text.metric_label(section.metric)
    description = f"{metric} of every seed, with mean and interval of each method."
    if outside:
        description += f" Further left: {text.listed(outside)}."
    return Chart(
        "Seeds", description, width, bottom + 46, left, top, right, bottom, f"{metric}, percent", "",
        _ticks(x, 6, _percent_tick(x_range)), (), series,
    )  # fmt: skip


def _on_axis(section: Section, spans: Mapping[str, Interval | None]) -> tuple[list[Row], list[str]]:
    """Rows to draw, and the baselines that lie too far below them, with their means."""
    trained = [row for row in section.trained if spans[row.anchor]]
    baselines = [row for row in section.baselines if spans[row.anchor]]
    if not trained:
        return baselines, []
    means = [span.mean for row in trained if (span := spans[row.anchor])]
    floor = min(means) - max(max(means) - min(means), 0.02)
    far = [(row, span.mean) for row in baselines if (span := spans[row.anchor]) and span.mean < floor]
    near = [row for row in baselines if row not in [row for row, _ in far]]
    return trained + near, [f"{row.label} {text.percent(mean)}" for row, mean in far]


def _seed_row(row: Row, span: Interval, values: Mapping[int, float], style: int, x: _Scale, at: float) -> Series:
    tip = f"{row.label}: {text.percent(span.mean)} {text.plus_minus(span)} (n = {span.n})"
    return Series(
        row.label,
        style,
        dots=tuple(Dot(x(v), at, f"{row.label}, seed {seed}: {text.percent(v)}") for seed, v in values.items()),
        centres=(Dot(x(span.mean), at, tip),),
        bars=((x(span.low), at, x(span.high), at),) if span.half_width else (),
        label_x=x.start - 12,
        label_y=at,
        is_baseline=row.is_baseline,
    )


def cost_scatter(section: Section, style: Mapping[str, int]) -> Chart | None:
    """Accuracy against training seconds; None with fewer than two methods that have both."""
    cost = {row.anchor: _mean([r.seconds["fit"] for r in row.done if "fit" in r.seconds]) for row in section.trained}
    spans = {row.anchor: tables.interval(row, section, section.headline, section.metric) for row in section.trained}
    rows = [row for row in section.trained if cost[row.anchor] and spans[row.anchor]]
    if len(rows) < 2:
        return None
    width, height, left, top, right, bottom = _frame(len(rows))
    seconds = [cost[row.anchor] for row in rows]
    logarithmic = max(seconds) > 8 * min(seconds)
    low, high = (min(seconds) / 1.3, max(seconds) * 1.3) if logarithmic else (0.0, max(seconds) * 1.08)
    x = _Scale(low, high, left, right, logarithmic)
    y_range = _padded([end for row in rows if (span := spans[row.anchor]) for end in (span.low, span.high)])
    y = _Scale(*y_range, bottom, top)
    series = []
    for row in rows:
        span = spans[row.anchor]
        assert span is not None  # rows without a value were left out above
        at_x, at_y = x(cost[row.anchor]), y(span.mean)
        tip = f"{row.label}: {text.percent(span.mean)} {text.plus_minus(span)}, {text.duration(cost[row.anchor])}"
        bars = ((at_x, y(span.low), at_x, y(span.high)),) if span.half_width else ()
        series.append(
            Series(
                row.label, style[row.label], centres=(Dot(at_x, at_y, tip),), bars=bars, label_x=right + 14,
                label_y=at_y, tie_x=at_x, tie_y=at_y,
            )
        )  # fmt: skip
    metric = text.metric_label(section.metric)
    return Chart(
        "Accuracy against cost", f"{metric} against mean seconds of training of one run.", width, height, left, top,
        right, bottom, "training seconds" + (" (logarithmic)" if logarithmic else ""), f"{metric}, percent",
        _ticks(x, 5, lambda value: f"{value:g}"), _ticks(y, 6, _percent_tick(y_range)), _spread(series, top, bottom),
    )  # fmt: skip


def _frame(labels: int) -> tuple[float, float, float, float, float, float]:
    """Width, height, left, top, right, bottom of a chart with room for that many labels at its right."""
    height = max(360.0, _LABEL_STEP * (labels + 1) + 64)
    return 600.0, height, 60.0, 16.0, 430.0, height - 48


def _baseline_values(section: Section) -> dict[str, float]:
    values = {row.label: row.values(section.headline, section.metric) for row in section.baselines}
    return {label: _mean(list(seeds.values())) for label, seeds in values.items() if seeds}


def _mean(values: Sequence[float]) -> float:
    return mean_interval(values).mean if values else 0.0


def _mean_line(lines: list[list[tuple[int, float]]]) -> list[tuple[int, float]]:
    """Mean over the runs at the steps that all of them have."""
    shared = set.intersection(*({step for step, _ in line} for line in lines))
    return [(step, _mean([dict(line)[step] for line in lines])) for step in sorted(shared)]


def _path(line: Sequence[tuple[float, float]], x: _Scale, y: _Scale) -> str:
    return "".join(f"{'L' if n else 'M'}{x(a)} {y(b)}" for n, (a, b) in enumerate(line))


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or max(0.05 * abs(high), 0.005)
    return max(0.0, low - margin) if low >= 0 else low - margin, high + margin


def _ticks(scale: _Scale, wanted: int, write: Callable[[float], str]) -> tuple[Tick, ...]:
    values = nice_values(scale.low, scale.high, wanted, scale.logarithmic)
    return tuple(Tick(scale(value), write(value)) for value in values)


def nice_values(low: float, high: float, wanted: int, logarithmic: bool = False) -> list[float]:
    """Round values inside [low, high], about as many as wanted: steps of 1, 2 or 5 times a power of ten."""
    if logarithmic:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
        return [value for value in found if low <= value <= high]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def _percent_tick(span: tuple[float, float]) -> Callable[[float], str]:
    """Percent with just the decimals that tell ticks apart."""
    decimals = max(0, -math.floor(math.log10(max(100 * (span[1] - span[0]) / 6, 1e-9))))
    return lambda value: f"{100 * value:.{decimals}f}"


def _spread(series: list[Series], top: float, bottom: float) -> tuple[Series, ...]:
    """Move labels apart vertically, keeping their order and staying inside as far as there is room."""
    ordered = sorted(series, key=lambda one: (one.label_y, one.label))
    places: list[float] = []
    for one in ordered:
        places.append(max(one.label_y, places[-1] + _LABEL_STEP) if places else max(one.label_y, top + 4))
    limit = bottom
    for n in reversed(range(len(places))):
        places[n] = min(places[n], limit)
        limit = places[n] - _LABEL_STEP
    moved = {one.label: replace(one, label_y=round(place, 2)) for one, place in zip(ordered, places, strict=True)}
    return tuple(moved[one.label] for one in series)
