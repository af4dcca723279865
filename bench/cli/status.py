"""`bench status`: how far the runs of a results folder are."""

from __future__ import annotations

import argparse
import json

from bench.cli.arguments import add_results_argument

EPILOG = """\
examples:
  bench status
  bench status --results results --json
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "status", help="count finished, failed and unfinished runs", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_results_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a line for each protocol and data set."""
    from collections import Counter, defaultdict

    from bench.store import Store

    store = Store(args.results)
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for record in store.records():
        counts[record.spec.protocol, record.spec.dataset][record.state] += 1
    for place in store.unfinished():
        protocol = "/".join(place.parts[:-3])  # a protocol may lie in a folder: papers/mic
        counts[protocol, place.parts[-3]]["unfinished"] += 1
    rows = [{"protocol": p, "dataset": d, **dict(states)} for (p, d), states in sorted(counts.items())]
    if args.json:
        print(json.dumps({"runs": rows, "problems": store.problems}, indent=1))
        return 0
    if not rows:
        print(f"no runs under {args.results}; `bench run` or `make bench` makes some.")
    for (protocol, dataset), states in sorted(counts.items()):
        print(f"{dataset} under {protocol}: " + ", ".join(f"{n} {state}" for state, n in sorted(states.items())))
    for problem in store.problems:
        print(f"warning: {problem}")
    return 0
