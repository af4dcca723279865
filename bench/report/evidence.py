"""What the seeds of a section can tell: differences, corrected tests, ranks, and how many seeds a point takes."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from bench.report import tables, text
from bench.report.sections import Row, Section
from bench.report.tables import Band, Cell, Column, Table
from bench.statistics import Bootstrap, Ranking, mean_interval, paired_bootstrap, seed_plan
from bench.store import Store

POINT = 0.01
RESAMPLES = 1_999


def evidence_table(section: Section, store: Store, problems: list[str]) -> Table | None:
    """Every row against the best one; None where fewer than two rows share two seeds."""
    ranked = tables.ranking(section, section.headline, section.metric)
    if ranked is None or not ranked.comparisons:
        return None
    rows = {row.anchor: row for row in section.comparable_rows}
    order = sorted(ranked.ranks, key=lambda anchor: (ranked.ranks[anchor], -_mean(rows[anchor], section)))
    by_query = section.metric == "map_at_r"
    columns = [
        Column("Method", numeric=False), Column("Rank"), Column("Difference from the best, points"), Column("p"),
        Column("p, Holm"), Column("Seeds to see one point"), Column("Smallest difference these seeds see, points"),
    ]  # fmt: skip
    if by_query:
        columns.append(Column("Difference over other test classes, points"))
    scores = cache(lambda anchor: _per_query(rows[anchor], store, problems))
    lines = []
    for anchor in order:
        cells = _line(rows[anchor], rows[ranked.best], section, ranked)
        if by_query:
            cells = (*cells, _bootstrap_cell(scores(anchor), scores(ranked.best), anchor == ranked.best, section))
        lines.append(cells)
    notes = _notes(section, len(ranked.comparisons), by_query)
    return Table("evidence", "What the seeds can tell", tuple(columns), (Band("", tuple(lines)),), notes)


def _notes(section: Section, pairs: int, by_query: bool) -> tuple[str, ...]:
    rank = (
        f"{text.metric_label(section.metric)}. Rank: one plus the number of rows that are significantly better, by "
        f"paired t-tests over shared seeds with Holm's correction for all {pairs} pairs (p < {1 - section.level:g}); "
        "rows of rank 1 are tied for first, which does not show them to be equal."
    )
    power = (
        "Seeds to see one point: what a paired t-test against the best row needs to find a true difference of 1.00 "
        "with a probability of 80 %, if the differences scatter as they did here; smallest difference: what these "
        "seeds find with that probability. With few seeds both are rough figures."
    )
    classes = (
        f"Over other test classes: {100 * section.level:g} % interval of a bootstrap over the test classes with these "
        "trained networks, seeds averaged; it says nothing about other seeds."
    )
    return (rank, power, classes) if by_query else (rank, power)


def _line(row: Row, best: Row, section: Section, ranked: Ranking) -> tuple[Cell, ...]:
    name = Cell(row.label, runs=row.anchor)
    place = Cell(str(ranked.ranks[row.anchor]), mark="best" if row is best else "")
    if row is best:
        return (name, place, *(Cell("—", mark="weak") for _ in range(5)))
    mine, others = row.values(section.headline, section.metric), best.values(section.headline, section.metric)
    shared = sorted(mine.keys() & others.keys())
    values = [mine[seed] for seed in shared], [others[seed] for seed in shared]
    found = mean_interval([a - b for a, b in zip(*values, strict=True)], section.level)
    test = next(one for one in ranked.comparisons if {one.first, one.second} == {row.anchor, best.anchor})
    plan = seed_plan(*values, POINT, level=section.level)
    low, high = plan.needed_interval
    return (
        name,
        place,
        Cell(text.points(found.mean), text.plus_minus(found), runs=row.anchor, tip=f"{found.n} shared seeds"),
        Cell(_p(test.p)),
        Cell(_p(test.adjusted_p)),
        Cell(text.count(plan.needed), tip=f"{text.count(low)} to {text.count(high)} at the ends of the interval"),
        Cell(text.percent(plan.smallest)),
    )


def _per_query(row: Row, store: Store, problems: list[str]) -> dict[str, NDArray[np.generic]] | None:
    """Average precision (runs, Q) of the scored queries, their rows and classes; None where a file is missing."""
    scores = []
    found: dict[str, NDArray[np.generic]] = {}
    for record in row.done:
        folder = store.folder(record)
        if not {"per_query", "embeddings"} <= record.artefacts.keys():
            return None
        try:
            stored = load_file(folder / record.artefacts["per_query"])
            labels = load_file(folder / record.artefacts["embeddings"])["labels"]
            scores.append(stored["average_precision_at_r"])
            found = {"queries": stored["queries"], "classes": labels[stored["queries"]]}
        except (OSError, SafetensorError, KeyError, IndexError) as error:
            problems.append(f"{folder}: scores of single queries cannot be read ({type(error).__name__})")
            return None
    if not scores or len({len(row) for row in scores}) > 1:
        return None
    return found | {"scores": np.stack(scores)}


def _bootstrap_cell(
    mine: dict[str, NDArray[np.generic]] | None,
    best: dict[str, NDArray[np.generic]] | None,
    is_best: bool,
    section: Section,
) -> Cell:
    if is_best or mine is None or best is None or not np.array_equal(mine["queries"], best["queries"]):
        return Cell("—", mark="weak")
    clusters = mine["classes"]
    if len(np.unique(clusters)) < 2:
        return Cell("—", mark="weak")
    first, second = (part["scores"].mean(0) for part in (mine, best))
    found: Bootstrap = paired_bootstrap(first, second, clusters=clusters, level=section.level, resamples=RESAMPLES)
    tip = f"{found.units:,} classes, {found.queries:,} queries" + ("; few classes: too narrow" if found.few else "")
    return Cell(f"{text.points(found.low)} to {text.points(found.high)}", tip=tip)


def _mean(row: Row, section: Section) -> float:
    values = list(row.values(section.headline, section.metric).values())
    return sum(values) / len(values) * (-1 if text.lower_is_better(section.metric) else 1)


def _p(p: float | None) -> str:
    return "—" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
