"""One data set under several protocols: as published and under equal conditions, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.published import Published, PublishedRow, refusal, rows_of
from bench.report import tables, text
from bench.report.across import varied
from bench.report.sections import Row, Section
from bench.report.tables import Band, Cell, Column, Table

METRIC = "recall_at_1"  # what papers print; every protocol here computes it
_NAMES = (METRIC, "precision_at_1")
NOTHING = Cell("—", mark="weak")


def side_by_side_tables(sections: Sequence[Section], published: Published) -> tuple[Table, ...]:
    """A table for each data set on which a method was run under two protocols; the newest version of each counts."""
    groups: dict[tuple[str, str], dict[str, Section]] = {}
    for section in sections:
        spec = section.records[0].spec
        groups.setdefault((spec.dataset, spec.dataset_hash), {}).setdefault(section.protocol_name, section)
    found = (_table(list(group.values()), published) for group in groups.values())
    return tuple(table for table in found if table is not None)


def _table(sections: list[Section], published: Published) -> Table | None:
    rows = [{row.label: row for row in section.comparable_rows} for section in sections]
    methods = list(dict.fromkeys(label for found in rows for label in found))
    if not any(sum(label in found for found in rows) > 1 for label in methods):
        return None
    facts = sections[0].dataset
    own = {} if refusal(facts, published) else {label: _own(label, rows, facts.name, published) for label in methods}
    shown = any(own.values())
    columns = [Column("Method", numeric=False)]
    columns += [Column(_title(section), optimistic=section.headline == "best_test") for section in sections]
    if shown:
        columns.append(Column("Published by its authors"))

    def line(label: str) -> tuple[Cell, ...]:
        cells = [
            tables.interval_cell(found[label], section, section.headline, METRIC) if label in found else NOTHING
            for section, found in zip(sections, rows, strict=True)
        ]
        return (Cell(label), *cells, *([_published(own[label], published)] if shown else []))

    title = f"{facts.title} under {len(sections)} protocols"
    notes = tuple(_notes(sections, rows, methods, shown))
    return Table(f"side-by-side-{facts.name}", title, tuple(columns), (Band("", tuple(map(line, methods))),), notes)


def _title(section: Section) -> str:
    share = section.protocol.get("budget_share", 1.0)
    scaled = "" if share == 1 else f", budget {100 * share:g} %"
    return f"{section.protocol_name} [{section.protocol_hash}]{scaled}"


def _own(label: str, rows: list[dict[str, Row]], dataset: str, published: Published) -> PublishedRow | None:
    """The best number that the method's own paper gives for the data set."""
    facts = next(found[label] for found in rows if label in found).facts
    own = [row for row, _ in rows_of(published, dataset, facts.name, facts.paper) if row.paper == facts.paper]
    return max((row for row in own if row.metric in _NAMES), key=lambda row: row.value, default=None)


def _published(row: PublishedRow | None, published: Published) -> Cell:
    if row is None:
        return NOTHING
    setting = ", ".join(str(part) for part in (row.backbone or "trunk not stated", row.embedding_dim) if part)
    title = published.titles.get(row.paper) or row.paper
    return Cell(text.percent(row.value), setting, tip=f"{title}, {row.venue} {row.year}; read in {row.seen_in}")


def _notes(sections: list[Section], rows: list[dict[str, Row]], methods: list[str], shown: bool) -> Iterable[str]:
    yield (
        f"{text.metric_label(METRIC)}, mean over seeds, ± half the interval. Conditions are equal down a column and "
        "differ between columns (the hash behind a name says which): methods are compared down a column only; along a "
        "row one sees what the conditions make of a method."
    )
    if chosen := [section.protocol_name for section in sections if section.headline == "best_test"]:
        yield f"Chosen by looking at the test side, so too high: {text.listed(chosen)}."
    if shown:
        yield "Published: the best number of the method's own paper for this data set, under its conditions."
    found = [[records[label] for records in rows if label in records] for label in methods]
    if other := varied(found):
        yield f"Hyper-parameters differ from protocol to protocol: {text.listed(other)}."
