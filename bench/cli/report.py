"""`bench report`: render what a results folder holds."""

from __future__ import annotations

import argparse
import os
from contextlib import suppress
from pathlib import Path

from bench.errors import UsageError

_FILES = {"html": "index.html", "markdown": "report.md", "latex": "tables.tex", "csv": "numbers.csv"}
_SUFFIXES = {".html": "html", ".md": "markdown", ".tex": "latex", ".csv": "csv"}

_EPILOG = """examples:
  bench report                                     results/ as reports/latest/index.html
  bench report --html --csv --out reports/today    index.html and numbers.csv in that folder
  bench report --latex --out paper/tables.tex      one format into one file
  bench report --results results/reference         another folder of records

A report reads records and published numbers only: it never trains, and the same records give the same bytes.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `report` to the command line."""
    parser = subparsers.add_parser(
        "report",
        help="render the records of a results folder as a page or as tables",
        description="Render the records of a results folder: one self-contained HTML page by default.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, file in _FILES.items():
        parser.add_argument(f"--{name}", action="store_true", help=f"write {name} ({file} when --out is a folder)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder with records (default: results)")
    parser.add_argument(
        "--out", type=Path, default=Path("reports/latest"), help="folder, or file of one format (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write every format that was asked for and print where it is."""
    formats = [name for name in _FILES if getattr(args, name)]
    targets = _targets(formats, args.out)
    from bench import published
    from bench.report import csv_writer, html, latex, markdown
    from bench.report.model import build_report
    from bench.store import Store

    writers = {"html": html.write, "markdown": markdown.write, "latex": latex.write, "csv": csv_writer.write}
    report = build_report(Store(args.results), published.load())
    for problem in report.problems:
        print(f"warning: {problem}")
    for name, path in targets.items():
        _write(path, writers[name](report))
        print(path)
    return 0


def _targets(formats: list[str], out: Path) -> dict[str, Path]:
    """Format -> file to write.

    Raises:
        UsageError: a file is named for several formats, or for another format than its suffix.
    """
    of_suffix = None if out.is_dir() else _SUFFIXES.get(out.suffix)
    if of_suffix is None:
        return {name: out / _FILES[name] for name in formats or ["html"]}
    if formats not in ([], [of_suffix]):
        raise UsageError(
            f"--out {out} is a file for --{of_suffix}, but {', '.join(f'--{name}' for name in formats)} was asked for. "
            "Name a folder instead."
        )
    return {of_suffix: out}


def _write(path: Path, content: str) -> None:
    """Put a whole file in place in one rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(content, "utf-8", newline="\n")
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UsageError(f"{path} cannot be written ({error}). Name another place with --out.") from None
