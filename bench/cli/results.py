"""`bench results`: records as a table or as JSON."""

from __future__ import annotations

import argparse
import json
from typing import Any

from bench.cli.arguments import add_results_argument, names

EPILOG = """\
examples:
  bench results
  bench results --methods margin,triplet --metric map_at_r
  bench results --json | jq '.[] | select(.state != "done")'
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "results", help="browse run records", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_results_argument(parser)
    parser.add_argument("--methods", type=names, metavar="A,B", help="only these methods")
    parser.add_argument("--metric", default="map_at_r", metavar="M", help="metric of the table (default: map_at_r)")
    parser.add_argument("--json", action="store_true", help="print a list of objects, one a run")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the records."""
    import sys

    from bench.errors import unknown_name
    from bench.store import Store

    store = Store(args.results)
    records = [r for r in store.records() if args.methods is None or r.spec.method in args.methods]
    for problem in store.problems:
        print(f"warning: {problem}", file=sys.stderr)
    if args.json:
        print(json.dumps([_row(record) for record in records], indent=1))
        return 0
    if not records:
        print(f"no records under {args.results}; `bench run` or `make bench` makes some.")
        return 0
    computed = {metric for record in records for scores in record.metrics.values() for metric in scores}
    if computed and args.metric not in computed:
        raise unknown_name("metric", args.metric, computed)
    width = max(len(record.spec.method) for record in records)
    print(
        f"{'protocol':<14} {'dataset':<14} {'method':<{width}} fold seed "
        f" {'last':>7} {'best_val':>8} {'best_test':>9}  state"
    )
    for record in records:
        shown = [record.metrics.get(name, {}).get(args.metric) for name in ("last", "best_validation", "best_test")]
        cells = ["-" if value is None else f"{100 * value:.2f}" for value in shown]
        fold = "-" if record.spec.fold is None else str(record.spec.fold)
        print(f"{record.spec.protocol:<14} {record.spec.dataset:<14} {record.spec.method:<{width}} {fold:>4} "
              f"{record.spec.seed:>4}  {cells[0]:>7} {cells[1]:>8} {cells[2]:>9}  {record.state}"
              + (f": {record.reason}" if record.reason else ""))  # fmt: skip
    print(f"{args.metric} in percent; best_test is optimistic: it was chosen by looking at the test side.")
    return 0


def _row(record: Any) -> dict[str, Any]:
    return {
        "run_id": record.run_id,
        "dataset": record.spec.dataset,
        "dataset_partial": record.dataset.partial,
        "protocol": record.spec.protocol,
        "protocol_hash": record.spec.protocol_hash,
        "method": record.spec.method,
        "seed": record.spec.seed,
        "fold": record.spec.fold,
        "state": record.state,
        "reason": record.reason,
        "metrics": record.metrics,
        "steps": record.steps,
        "counts": record.counts,
        "seconds": record.seconds,
    }
