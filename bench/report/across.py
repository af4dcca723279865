"""Methods over several data sets under one protocol: average ranks and what they can tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.report import tables, text
from bench.report.sections import Row, Section
from bench.report.tables import Band, Cell, Column, Table
from bench.statistics import Friedman, friedman

FEWEST = 3  # data sets, and methods


def across_tables(sections: Sequence[Section]) -> tuple[Table, ...]:
    """One table for each protocol and metric that three data sets or more share; the newest version of each counts."""
    groups: dict[tuple[str, str], dict[str, Section]] = {}
    for section in sections:
        key = (section.protocol_name, section.metric)
        groups.setdefault(key, {}).setdefault(section.dataset_name, section)
    found = (_table(protocol, metric, group) for (protocol, metric), group in groups.items())
    return tuple(table for table in found if table is not None)


def _table(protocol: str, metric: str, group: dict[str, Section]) -> Table | None:
    means = {name: _means(section) for name, section in group.items()}
    shared = set.intersection(*(set(row) for row in means.values()))
    if len(means) < FEWEST or len(shared) < FEWEST:
        return None
    level = next(iter(group.values())).level
    found = friedman(means, level, lower_is_better=text.lower_is_better(metric), incomplete="drop")
    columns = [Column("Method", numeric=False), Column("Average rank"), Column("Not told apart from the best")]
    columns += [Column(section.dataset.title) for section in group.values()]
    first = set(found.groups[0])
    lines = tuple(
        (
            Cell(method),
            Cell(f"{place:.2f}"),
            Cell("yes" if method in first else "no"),
            *(Cell(text.value(metric, row[method])) for row in means.values()),
        )
        for method, place in found.ranks.items()
    )
    title = f"Over {len(means)} data sets: {protocol}"
    notes = (*_notes(found, metric, group), *_other_values(group, sorted(found.ranks)))
    return Table(f"across-{protocol}", title, tuple(columns), (Band("", lines),), notes)


def _notes(found: Friedman, metric: str, group: dict[str, Section]) -> Iterable[str]:
    yield (
        f"{text.metric_label(metric)}, mean over seeds; rank 1 is best. Average ranks that differ by less than "
        f"{found.critical_difference:.2f} are not told apart (Nemenyi, level {1 - found.level:g}); Friedman's test for "
        f"any difference at all: p = {found.p:.3f}."
    )
    if found.dropped:
        yield f"Left out, because a data set lacks them: {text.listed(found.dropped)}."
    partial = [section.dataset.title for section in group.values() if section.dataset.partial]
    if partial:
        yield f"Partial data sets: {text.listed(partial)}."


def _other_values(group: dict[str, Section], labels: Sequence[str]) -> Iterable[str]:
    rows = [row for section in group.values() for row in section.rows]
    if found := varied([row for row in rows if row.label == label] for label in labels):
        yield f"Hyper-parameters differ from data set to data set: {text.listed(found)}."


def varied(methods: Iterable[Sequence[Row]]) -> list[str]:
    """Which methods did not run with the same hyper-parameters everywhere, as a protocol or a search may have it."""
    used = {rows[0].label: [row.records[0].spec.hyperparameters for row in rows] for rows in methods}
    return [label for label, values in used.items() if any(value != values[0] for value in values)]


def _means(section: Section) -> dict[str, float]:
    means = {}
    for row in section.comparable_rows:
        span = tables.interval(row, section, section.headline, section.metric)
        if span is not None:
            means[row.label] = span.mean
    return means
