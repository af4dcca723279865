"""Arguments that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bench import home

if TYPE_CHECKING:
    from bench.plan import Plan


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """What names a plan: data set, protocol and share of its budget, methods, seeds, and where things are."""
    parser.add_argument(
        "--dataset", default="glyphs", metavar="D", help="data set (default: glyphs, which is built in)"
    )
    parser.add_argument(
        "--protocol", default="", metavar="P", help="protocol name or YAML file (default: the data set's)"
    )
    parser.add_argument(
        "--methods", type=names, metavar="A,B", help="methods, or 'all' (default: those of the first table)"
    )
    parser.add_argument("--seeds", type=seeds, metavar="0,1", help="seeds (default: the protocol's)")
    add_budget_argument(parser)
    parser.add_argument("--data", metavar="DIR", help="where data sets lie (default: $BENCH_DATA, else ./data)")
    add_results_argument(parser)
    parser.add_argument("--include", action="append", type=Path, default=[], metavar="PATH",
                        help="a method file, or a folder of them, outside methods/; may be repeated")  # fmt: skip


def add_budget_argument(parser: argparse.ArgumentParser) -> None:
    """A share of the protocol's budget."""
    parser.add_argument("--budget", type=share, default=1.0, metavar="SHARE",
                        help="a share of the protocol's iterations, trials and seeds, as 0.1 or 10%%; marked in every "
                        "result (default: 1)")  # fmt: skip


def add_results_argument(parser: argparse.ArgumentParser) -> None:
    """Where records lie."""
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR",
                        help="folder of run records (default: results)")  # fmt: skip


def plan(args: argparse.Namespace) -> Plan:
    """The plan that `add_plan_arguments` asked for."""
    from bench.plan import Setting, make_plan

    data = home.data_folder(args.data).absolute()
    include = tuple(path.absolute() for path in args.include)
    budget = getattr(args, "budget", 1.0)  # a command may do without the argument
    setting = Setting(args.protocol, data, args.results.absolute(), include, budget)
    return make_plan(args.dataset, setting, args.methods, args.seeds)


def names(text: str) -> list[str]:
    """`a,b` -> ['a', 'b']."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found:
        raise argparse.ArgumentTypeError("expected names separated by commas")
    return found


def seeds(text: str) -> list[int]:
    """`0,1,2` -> [0, 1, 2]; distinct and not negative."""
    try:
        found = [int(part) for part in names(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers separated by commas, found '{text}'") from None
    if min(found) < 0 or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"seeds must be distinct and not negative, found '{text}'")
    return found


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found '{text}'")
    return int(text)


def share(text: str) -> float:
    """`0.1` or `10%` -> 0.1."""
    percent = text.endswith("%")
    try:
        number = float(text.removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        number = 0.0
    number = float(f"{number:.4g}")  # the digits that are shown are all that counts
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"expected a share above 0 and at most 1, such as 0.1 or 10%, found '{text}'")
    return number
