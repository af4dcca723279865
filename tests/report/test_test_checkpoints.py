"""A report of runs of which only some evaluations were looked at on the test side."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.record import Record
from bench.report import figures
from bench.report.sections import build_sections
from bench.store import Store
from tests.report import builders as b
from tests.report import page

GLYPHS = b.facts()


def sparse(method: str, seed: int, looked_at: set[int], split: str = "validation") -> Record:
    """A run with five evaluations; on the test side those of some steps."""
    protocol = b.protocol(selection={"split": split, "candidates": 2})
    made = b.record(b.spec(method, seed, protocol, GLYPHS), protocol, GLYPHS, 0.3 + seed / 100)
    points = tuple(p if p.step in looked_at else p.model_copy(update={"test": None}) for p in made.curves)
    counts = {**made.counts, "test_checkpoints": len(looked_at)}
    return made.model_copy(update={"curves": points, "counts": counts})


def test_the_test_curve_has_the_points_that_were_looked_at() -> None:
    runs = [sparse("margin", 0, {200, 300, 400}), sparse("margin", 1, {0, 200, 400}), sparse("margin", 2, {200, 400})]
    (section,) = build_sections(runs)
    validation, test = figures.curves(section, figures.styles([section]))
    assert [len(chart.series[0].centres) for chart in (validation, test)] == [5, 2]
    assert [line.count("L") for line in test.series[0].lines] == [2, 2, 1]
    shown = [float(dot.tip.rpartition(" ")[2]) for dot in test.series[0].centres]
    for at, step in enumerate((200, 400)):
        values = [(point.test or {})["map_at_r"] for run in runs for point in run.curves if point.step == step]
        assert shown[at] == pytest.approx(100 * sum(values) / 3, abs=0.006)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_page_says_among_how_many_the_best_on_test_was_looked_for(tmp_path: Path, split: str) -> None:
    store = Store(tmp_path)
    store.write(sparse("margin", 0, {200, 300, 400}, split))
    store.write(sparse("margin", 1, {200, 400}, split))
    words = page.words(page.parsed(page.written(store)))
    among = "2–3 of the 5 evaluated steps of a run"
    assert f"best on test is the best of {among}" in words
    assert (f"That step was looked for among {among}" in words) == (split == "test")


def test_where_all_were_looked_at_no_number_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write(sparse("margin", 0, {0, 100, 200, 300, 400}))
    before = sparse("margin", 1, {0, 100, 200, 300, 400})
    store.write(before.model_copy(update={"counts": {"steps": 400}}))  # of a record that does not count them
    words = page.words(page.parsed(page.written(store)))
    assert "best on test is the best of all evaluated steps by MAP@R" in words
    assert "of a run (evenly spaced" not in words
