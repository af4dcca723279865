"""The tables of a report for LaTeX with booktabs, as a file to input into a paper."""

from __future__ import annotations

import re

from bench.report.model import Report, View
from bench.report.tables import Cell, Table

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "`": r"\textasciigrave{}", "[": "{[}", "]": "{]}", "±": r"$\pm$",
    "≈": r"$\approx$", "≥": r"$\geq$", "−": r"$-$", "×": r"$\times$", "—": "---", "–": "--", "·": r"$\cdot$",
}  # fmt: skip


def write(report: Report) -> str:
    """Results, selection gap, cost and failures of every section; a comment above names its facts and hashes."""
    lines = ["% needs \\usepackage{booktabs} and, for quotation marks in names, \\usepackage[T1]{fontenc}"]
    lines.append(f"% newest record: {_comment(report.newest)}")
    lines += [f"% warning: {_comment(problem)}" for problem in report.problems]
    for view in report.views:
        lines += ["", f"% {_comment(view.title)}"]
        lines += [f"%   {_comment(label)}: {_comment(value)}" for label, value in view.facts]
        for table in (view.results, view.gap, view.cost, view.failures):
            if table is not None:
                lines += ["", *_table(table, view)]
    return "\n".join(lines) + "\n"


def _table(table: Table, view: View) -> list[str]:
    kinds = "l" + "".join("r" if column.numeric else r"p{4cm}" for column in table.columns[1:])
    markers = "".join(f" [{badge.text}]" for badge in view.badges if badge.warns)
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{escape(view.title + markers + ': ' + table.title)}}}"]
    lines += [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule"]
    lines += [" & ".join(escape(column.label) for column in table.columns) + r" \\"]
    for band in table.bands:
        lines.append(r"\midrule")
        if band.label:
            lines.append(rf"\multicolumn{{{len(table.columns)}}}{{l}}{{\emph{{{escape(band.label)}}}}} \\")
        lines += [" & ".join(_cell(cell) for cell in row) + r" \\" for row in band.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\footnotesize {escape(note)}" for note in table.notes]
    return [*lines, r"\end{table}"]


def _cell(cell: Cell) -> str:
    main = escape(cell.text)
    if cell.mark == "best":
        main = rf"\textbf{{{main}}}"
    elif cell.mark == "tied":
        main += r"$^{\approx}$"
    return f"{main} {escape(cell.minor)}" if cell.minor else main


def escape(plain: str) -> str:
    """Text that LaTeX sets as it is, on one line."""
    one_line = re.sub(r"\s+", " ", plain)
    return "".join(_SPECIAL.get(character, character) for character in one_line)


def _comment(plain: str) -> str:
    return re.sub(r"\s+", " ", plain)
