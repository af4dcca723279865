"""The report as Markdown with GitHub's tables; numbers link to the list of runs at the end of a section."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bench.report.model import Report, Runs, View
from bench.report.tables import Cell, Table


def write(report: Report) -> str:
    """The whole document."""
    states = ", ".join(f"{count} {state}" for state, count in report.states)
    parts = ["# Benchmark report", f"Newest record: {escape(report.newest)}. Runs: {escape(states)}."]
    parts += [f"> **Warning:** {escape(problem)}" for problem in report.problems]
    parts += _table(report.overview, "## ", link=True)
    for table in (*report.across, *report.side_by_side):
        parts += _table(table, "## ", link=True)
    for view in report.views:
        parts += _view(view)
    parts += _table(report.environment, "## ")
    return "\n\n".join(parts) + "\n"


def _view(view: View) -> Iterable[str]:
    yield f'<a id="{view.section.anchor}"></a>'
    yield f"## {escape(view.title)}"
    if view.badges:
        yield " · ".join(f"**{escape(badge.text)}**" for badge in view.badges)
    yield "\n".join(f"- {escape(label)}: {escape(value)}" for label, value in view.facts)
    if view.notes:
        yield "\n".join(f"- {escape(note)}" for note in view.notes)
    for table in (view.results, view.failures, view.study, view.evidence, view.gap):
        if table is not None:
            yield from _table(table, "### ", link=True)
    yield "### Published numbers"
    yield escape(view.published_sentence)
    for table in view.published:
        yield from _table(table, "#### ", link=True)
    if view.cost is not None:
        yield from _table(view.cost, "### ", link=True)
    yield "### Runs"
    for runs in view.runs:
        yield f'<a id="{runs.anchor}"></a>'
        yield _run_list(runs)


def _run_list(runs: Runs) -> str:
    lines = [f"**{escape(runs.label)}**", ""]
    for run in runs.lines:
        spec = run.record.spec
        fold = "" if spec.fold is None else f", fold {spec.fold}"
        step = "" if run.step is None else f", step {run.step}"
        lines.append(f"- {escape(run.record.state)}, seed {spec.seed}{fold}{step}: {code(run.folder)}")
    return "\n".join(lines)


def _table(table: Table, heading: str, link: bool = False) -> list[str]:
    lines = ["| " + " | ".join(escape(column.label) or " " for column in table.columns) + " |"]
    lines.append("| " + " | ".join("---:" if column.numeric else "---" for column in table.columns) + " |")
    for band in table.bands:
        if band.label:
            lines.append("| " + " | ".join([f"*{escape(band.label)}*", *[" "] * (len(table.columns) - 1)]) + " |")
        lines += ["| " + " | ".join(_cell(cell, link) for cell in row) + " |" for row in band.rows]
    notes = "\n".join(f"- {escape(note)}" for note in table.notes)
    return [heading + escape(table.title), "\n".join(lines), *([notes] if notes else [])]


def _cell(cell: Cell, link: bool) -> str:
    shown = escape(" ".join(part for part in (cell.text, cell.minor) if part))
    if cell.mark == "best":
        shown = f"**{shown}**"
    elif cell.mark == "tied":
        shown = f"{shown} ≈"
    return f"[{shown}](#{cell.runs})" if link and cell.runs else shown


def escape(plain: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    one_line = re.sub(r"\s+", " ", plain)
    marked = re.sub(r"([\\`*_{}\[\]#|~])", r"\\\1", one_line)
    return marked.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(plain: str) -> str:
    """Text as inline code, whatever it holds."""
    one_line = re.sub(r"\s+", " ", plain)
    fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", one_line)), default=0))
    pad = " " if one_line.startswith("`") or one_line.endswith("`") else ""
    return f"{fence}{pad}{one_line}{pad}{fence}"
