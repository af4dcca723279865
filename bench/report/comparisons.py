"""Published numbers beside measured ones, as tables."""

from __future__ import annotations

from dataclasses import replace

from bench.published import VERDICTS, Comparison, Published, Setting, compare, refusal
from bench.report import study, tables, text
from bench.report.sections import Row, Section
from bench.report.tables import Band, Cell, Column, Table

_COLUMNS = (
    Column("Metric", numeric=False),
    Column("Published"),
    Column("Measured"),
    Column("Difference, points"),
    Column("Tolerance"),
    Column("Verdict", numeric=False),
    Column("Differences of setting", numeric=False),
    Column("Source", numeric=False),
)


def published_tables(section: Section, published: Published, stored: study.Stored) -> tuple[str, list[Table]]:
    """A sentence on what is comparable, and one table a method; no table where nothing may be compared."""
    if not section.is_known:
        return "No run got far enough to tell whether the data set is complete: nothing is compared.", []
    reason = refusal(section.dataset, published)
    if reason is not None:
        return f"{reason} None is printed here.", []
    made, matched = [], 0
    for row in (row for row in section.rows if row.done):
        measured = {metric: tables.interval(row, section, section.headline, metric) for metric in section.metrics}
        present = {metric: cell for metric, cell in measured.items() if cell is not None}
        joined = study.joined(section, stored, row)
        found = compare(
            published, section.dataset_name, row.facts.name, row.facts.paper, present, _setting(section, row), joined
        )
        if found:
            matched += len(found)
            made.append(_table(row, found, published))
    total = text.count(len(published.of(section.dataset_name)))
    sentence = (
        f"{text.plural(matched, 'published number')} of {total} on file for {section.dataset.title} belong to the "
        "methods measured here; a number that several sources repeat has one line. A verdict compares two numbers: "
        "'reproduced' when they differ by at most the tolerance (the largest of one point, half the measured interval "
        "and the published spread). The differences of setting beside it say how much it means."
    )
    return sentence, made


def _table(row: Row, found: list[Comparison], published: Published) -> Table:
    order = {metric: n for n, metric in enumerate(text.metric_order(c.row.metric for c in found))}
    found = sorted(found, key=lambda c: (VERDICTS.index(c.verdict), order[c.row.metric], -c.row.value, c.row.paper))
    merged: dict[tuple[str, ...], tuple[str, tuple[Cell, ...]]] = {}
    for comparison in found:
        line = _line(row, comparison, published)
        key = tuple(cell.text + cell.minor for cell in line)
        _, known = merged.get(key, ("", line))
        tips = dict.fromkeys(tip for tip in (known[-1].tip, line[-1].tip))
        merged[key] = comparison.verdict, (*line[:-1], replace(line[-1], tip=" · ".join(tips)))
    verdicts = [verdict for verdict, _ in merged.values()]
    summary = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in VERDICTS if verdict in verdicts)
    return Table(
        "published", f"{row.label}: {summary}", _COLUMNS, (Band("", tuple(line for _, line in merged.values())),)
    )


def _line(row: Row, comparison: Comparison, published: Published) -> tuple[Cell, ...]:
    there, here = comparison.row, comparison.measured
    spread = "" if there.spread is None else f"± {text.percent(there.spread)}"
    name = there.method + (f" ({there.variant})" if there.variant else "")
    title = published.titles.get(there.paper) or there.paper
    origin = " ".join(part for part in (title, there.venue, there.year) if part)
    nothing = Cell("—", mark="weak")
    return (
        Cell(text.metric_label(there.metric)),
        Cell(text.percent(there.value), spread),
        nothing if here is None else Cell(text.percent(here.mean), text.plus_minus(here), runs=row.anchor),
        nothing if comparison.difference is None else Cell(text.points(comparison.difference)),
        nothing if comparison.tolerance is None else Cell(text.percent(comparison.tolerance)),
        Cell(comparison.verdict, mark="" if comparison.verdict in VERDICTS[:3] else "weak"),
        Cell("; ".join(comparison.differences) or "none found"),
        Cell(origin if name == row.facts.name else f"{name}: {origin}", tip=f"read in {there.seen_in}"),
    )


def _setting(section: Section, row: Row) -> Setting:
    protocol = section.protocol
    return Setting(
        trunk=protocol["trunk"]["name"],
        trunk_frozen=protocol["trunk"]["frozen"],
        embedding_size=row.facts.embedding_size,
        crop=protocol["images"]["crop"],
        selection=protocol["selection"]["split"],
        validation_held_out=protocol["folds"] is not None,
        trains=row.facts.trains,
    )
