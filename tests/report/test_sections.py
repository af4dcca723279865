"""What may share a section, a row and a mean."""

from __future__ import annotations

import pytest

from bench.record import Record
from bench.report.sections import build_sections
from tests.report import builders as b

QUICK, GLYPHS = b.protocol(), b.facts()


def run(method: str, seed: int, level: float = 0.3, **changes: object) -> Record:
    return b.record(b.spec(method, seed, QUICK, GLYPHS, **changes), QUICK, GLYPHS, level)


def test_two_versions_of_anything_that_must_be_equal_never_share_a_section() -> None:
    other = b.protocol(embedding={"size": 32})
    sections = build_sections(
        [
            run("margin", 0),
            b.record(b.spec("margin", 0, other, GLYPHS), other, GLYPHS, 0.2),
            run("margin", 0, dataset_hash="e" * 12),
            run("margin", 0, harness=99),
        ]
    )
    assert len(sections) == 4
    assert all(section.versions == ("protocol", "data set", "harness") for section in sections)
    assert all(len(section.records) == 1 for section in sections)


def test_sections_of_different_data_sets_are_not_versions_of_each_other() -> None:
    cars = b.facts("cars196")
    sections = build_sections([run("margin", 0), b.record(b.spec("margin", 0, QUICK, cars), QUICK, cars, 0.2)])
    assert [(section.dataset_name, section.versions) for section in sections] == [("cars196", ()), ("glyphs", ())]


def test_versions_of_a_method_get_their_own_rows_and_say_what_differs() -> None:
    (section,) = build_sections(
        [
            run("margin", 0, 0.3, hyperparameters={"beta": 1.2, "nu": 0.0}),
            run("margin", 0, 0.2, hyperparameters={"beta": 0.6, "nu": 0.0}),
            run("triplet", 0, 0.4),
            run("triplet", 0, 0.1, method_hash="fedcba987654"),
        ]
    )
    assert [row.label for row in section.rows] == [
        "triplet (code abcdef)", "margin (beta=1.2)", "margin (beta=0.6)", "triplet (code fedcba)",
    ]  # fmt: skip
    assert [row.values("best_validation", "map_at_r") for row in section.rows] == [
        {0: 0.4},
        {0: 0.3},
        {0: 0.2},
        {0: 0.1},
    ]


def test_a_seed_counts_once_all_its_folds_are_done() -> None:
    made = b.protocol(folds={"count": 4, "use": [0, 1]})
    specs = [b.spec("margin", seed, made, GLYPHS, fold=fold) for seed in (0, 1, 2) for fold in (0, 1)]
    records = [b.record(spec, made, GLYPHS, 0.2 + 0.1 * (spec.fold or 0) + 0.01 * spec.seed) for spec in specs[:-1]]
    records.append(b.failed(specs[-1], made, GLYPHS, "error", "out of memory"))
    (section,) = build_sections(records)
    (row,) = section.rows
    assert row.values("best_validation", "map_at_r") == pytest.approx({0: 0.25, 1: 0.26})
    assert row.progress == "5 / 6"
    assert section.comparable_rows == []


def test_facts_come_from_a_run_that_saw_the_data_set() -> None:
    """A run that failed while opening it knows neither counts nor whether it is partial."""
    half = b.facts(partial="partial (98 of 196 classes)")
    blank = b.facts(test_images=0, test_classes=0)
    (section,) = build_sections(
        [
            b.failed(b.spec("a_first", 0, QUICK, half), QUICK, blank, "error", "damaged"),
            b.record(b.spec("margin", 0, QUICK, half), QUICK, half, 0.3),
        ]
    )
    assert section.dataset.partial == "partial (98 of 196 classes)"
    (section,) = build_sections([b.failed(b.spec("a", 0, QUICK, half), QUICK, blank, "error", "damaged")])
    assert not section.is_known
