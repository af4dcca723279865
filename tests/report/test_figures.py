"""Figures: every mark stands where its value belongs, labels do not collide."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report import figures
from bench.report.sections import Section, build_sections
from tests.report import builders as b

QUICK, GLYPHS = b.protocol(), b.facts()
LEVELS = {"margin": 0.375, "triplet": 0.37, "contrastive": 0.36}


@pytest.fixture
def section() -> Section:
    records = [
        b.record(b.spec(name, seed, QUICK, GLYPHS), QUICK, GLYPHS, level + 0.002 * seed)
        for name, level in LEVELS.items()
        for seed in (0, 1, 2)
    ]
    records += [b.record(b.spec("raw_trunk", s, QUICK, GLYPHS), QUICK, GLYPHS, 0.05, trains=False) for s in (0, 1)]
    (made,) = build_sections(records)
    return made


def value_at(ticks: tuple[figures.Tick, ...], place: float) -> float:
    """Read a value off an axis by its ticks, as a reader would."""
    slope, offset = np.polyfit([tick.at for tick in ticks], [float(tick.text.replace(",", "")) for tick in ticks], 1)
    return float(slope * place + offset)


def test_seed_scatter_shows_every_seed_at_its_value(section: Section) -> None:
    chart = figures.seed_scatter(section, figures.styles([section]))
    assert chart is not None
    assert [series.label for series in chart.series] == list(LEVELS)
    for series in chart.series:
        read = [value_at(chart.x_ticks, dot.x) for dot in series.dots]
        assert read == pytest.approx([100 * (LEVELS[series.label] + 0.002 * seed) for seed in (0, 1, 2)], abs=0.01)
        assert value_at(chart.x_ticks, series.centres[0].x) == pytest.approx(np.mean(read), abs=0.01)
        ((left, _, right, _),) = series.bars
        assert value_at(chart.x_ticks, right) - np.mean(read) == pytest.approx(100 * 0.002 * 4.303 / 3**0.5, abs=0.02)
        assert left < series.centres[0].x < right
    assert chart.description.endswith("Further left: raw_trunk 5.00.")


def test_curves_hold_one_line_a_run_and_their_mean(section: Section) -> None:
    charts = figures.curves(section, figures.styles([section]))
    assert [chart.title for chart in charts] == ["Validation classes", "Test classes, after unsealing"]
    for chart, side in zip(charts, ("validation", "test"), strict=True):
        series = next(series for series in chart.series if series.label == "margin")
        assert len(series.lines) == 3
        own = [record for record in section.records if record.spec.method == "margin"]
        for place, dot in enumerate(series.centres):
            mean = np.mean([getattr(record.curves[place], side)["map_at_r"] for record in own])
            assert value_at(chart.y_ticks, dot.y) == pytest.approx(100 * mean, abs=0.05)
            assert value_at(chart.x_ticks, dot.x) == pytest.approx(100 * place, abs=0.5)
    assert [s.label for s in charts[1].series if s.is_baseline] == ["raw_trunk"]


def test_cost_scatter_needs_two_methods(section: Section) -> None:
    chart = figures.cost_scatter(section, figures.styles([section]))
    assert chart is not None
    margin = next(series for series in chart.series if series.label == "margin")
    assert value_at(chart.x_ticks, margin.centres[0].x) == pytest.approx(16, abs=0.1)
    (alone,) = build_sections([b.record(b.spec("margin", 0, QUICK, GLYPHS), QUICK, GLYPHS, 0.3)])
    assert figures.cost_scatter(alone, figures.styles([alone])) is None


def test_no_finished_run_no_figure() -> None:
    (section,) = build_sections([b.failed(b.spec("margin", 0, QUICK, GLYPHS), QUICK, GLYPHS, "error", "x")])
    assert figures.seed_scatter(section, {}) is None
    assert figures.curves(section, {}) == []


def test_labels_of_many_equal_methods_do_not_overlap() -> None:
    records = [b.record(b.spec(f"method_{n}", 0, QUICK, GLYPHS), QUICK, GLYPHS, 0.3) for n in range(40)]
    (section,) = build_sections(records)
    for chart in figures.curves(section, figures.styles([section])):
        places = sorted(series.label_y for series in chart.series)
        assert all(after - before >= 14.9 for before, after in itertools.pairwise(places))
        assert chart.top - 1 <= places[0]
        assert places[-1] <= chart.bottom


@given(st.floats(-5, 5), st.floats(1e-6, 100), st.integers(3, 8))
def test_ticks_are_round_inside_and_about_as_many_as_asked(low: float, width: float, wanted: int) -> None:
    values = figures.nice_values(low, low + width, wanted)
    assert 1 <= len(values) <= wanted + 1
    assert all(low - 1e-6 * width <= value <= low + width * (1 + 1e-6) for value in values)
    steps = np.diff(values)
    if len(steps):
        mantissa = f"{steps[0]:.3e}".split("e")[0]
        assert mantissa in ("1.000", "2.000", "5.000")
        assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-4)


def test_logarithmic_ticks() -> None:
    assert figures.nice_values(0.8, 60, 5, logarithmic=True) == [1, 2, 5, 10, 20, 50]
