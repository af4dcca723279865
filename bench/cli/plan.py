"""`bench plan`: what would run, what it costs, and what a smaller budget would give up."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from bench.cli.arguments import add_plan_arguments, plan, positive

if TYPE_CHECKING:
    from bench.plan import Plan
    from bench.price import Price


EPILOG = """\
Nothing is trained. Times rest on finished runs of the same kind under --results, also of a smaller budget or of other
seeds, else on a short calibration; times of other machines are not guessed from this one's.

examples:
  bench plan
  bench plan --dataset cars196 --data ~/datasets --budget 10%
  bench plan --dataset cub200 --protocol reality-check --tune --json
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "plan", help="show what would run, and what it costs, without running it", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_plan_arguments(parser)
    parser.add_argument("--tune", action="store_true",
                        help="price `bench tune`: the search over every method, and its reproductions")  # fmt: skip
    parser.add_argument("--workers", type=positive, metavar="N", help="runs at once (default as for `bench run`)")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the plan and its price."""
    from bench.engines import local
    from bench.plan import open_dataset
    from bench.price import groups, price

    todo = plan(args)
    models = sum(group.models for group in groups(todo.protocol, todo.methods(), args.seeds, args.tune))
    waiting = {spec.run_id for spec in todo.missing()}
    workers = args.workers or local.default_workers(todo.protocol, max(1, models if args.tune else len(waiting)))
    dataset = open_dataset(todo.specs[0].dataset, todo.setting.data, todo.protocol)
    cost = price(todo, dataset, workers, args.seeds, args.tune)
    if args.json:
        print(json.dumps(_as_json(todo, cost, waiting, workers), indent=1))
        return 0
    print(f"{todo.specs[0].dataset} under {todo.protocol.name} [{todo.protocol.hash}] ({todo.why_protocol})")
    for note in (*todo.notes, *todo.left_out):
        print(f"note  {note}")
    if args.tune:
        for group in cost.groups:
            print(
                f"  {group.method:<24} {group.models:>5} {'runs of its best setting' if group.tested else 'of trials'}"
            )
    else:
        for spec in todo.specs:
            fold = "-" if spec.fold is None else spec.fold
            state = "to do" if spec.run_id in waiting else "finished"
            print(f"  {spec.method:<24} fold {fold}  seed {spec.seed}  {state}")
    _print_price(todo, cost, waiting, workers)
    return 0


def _print_price(todo: Plan, cost: Price, waiting: set[str], workers: int) -> None:
    tuned = cost.trials is not None
    what = "reproductions" if tuned else "seeds"
    if tuned:
        print(f"{cost.models:,} models with {workers} worker(s): about {cost.left.text}; trials that are finished "
              "already are not taken off")  # fmt: skip
    else:
        print(f"{len(waiting)} of {len(todo.specs)} runs to do with {workers} worker(s): about {cost.left.text}")
    methods = len(todo.methods())
    factors = f"{methods} methods x {cost.folds} fold(s) x {cost.repetitions} {what}"
    if tuned:
        factors = f"{methods} methods x {cost.folds} fold(s) x ({cost.trials} trials + {cost.repetitions} {what})"
        factors += ", fewer where there is nothing to search"
    disk = cost.disk
    limits = _why_less(todo)
    rows = [
        ("models", f"{cost.models:,}: {factors}"),
        ("training images", f"{limits}{cost.training_images:,}"),
        ("evaluated images", f"{limits}{cost.evaluated_images:,}"),
        ("hours here", f"{_hours(cost.seconds)} for all; {cost.left.basis}"),
        *((f"hours on {device}", f"{_hours(seconds)} for all, one run at a time, by its runs in the results folder")
          for device, seconds in cost.elsewhere),
        ("computation", f"{cost.operations:.3g} operations of trunk and embedder (a multiply-add counts as two), here "
                        f"{cost.operations / cost.seconds:.2g} a second, all else included; hours on another device "
                        "follow from what it does a second, or from this command there"),
        ("disk", f"{_size(disk.results)} of results, {_size(disk.working)} of checkpoints while running, "
                 f"{_size(disk.caches)} of caches; what methods add is not counted"),
    ]  # fmt: skip
    print()
    for name, value in rows:
        print(f"{name:<17} {value}")
    trials = " trials" if tuned else ""
    print(f"\n{'budget':>7} {'iterations':>11}{trials} {what:>14} {'models':>8} {'hours':>9}  interval")
    for row in cost.smaller:
        trials = f" {row.trials:>6,}" if tuned else ""
        wider = "none" if row.half_width is None else "" if row.wider is None else f"x {row.wider:.2f}"
        print(f"{row.share:>7g} {row.iterations:>11,}{trials} {row.repetitions:>14,} {row.models:>8,} "
              f"{_hours(row.seconds):>9}  {wider}")  # fmt: skip
    print(
        f"interval: half-width of the {100 * todo.protocol.interval.level:g} % interval at one and the same deviation, "
        f"t(n - 1) / sqrt(n) of n {what}, against the whole budget's. A smaller budget also trains less: its numbers "
        "have a table of their own."
    )


def _why_less(todo: Plan) -> str:
    """Whether a run may end before its last iteration, or have fewer checkpoints to look at than counted."""
    budget, selection = todo.protocol.budget, todo.protocol.selection
    fixed = budget.patience is None and not selection.retrain and selection.candidates is None
    return "" if fixed else "at most "


def _as_json(todo: Plan, cost: Price, waiting: set[str], workers: int) -> dict[str, Any]:
    from dataclasses import asdict

    rows = [{"run_id": s.run_id, "finished": s.run_id not in waiting, **s.model_dump(mode="json")} for s in todo.specs]
    left = {"seconds": cost.left.seconds, "basis": cost.left.basis}
    return {
        "protocol": todo.protocol.name,
        "protocol_hash": todo.protocol.hash,
        "budget_share": todo.protocol.budget_share,
        "why_protocol": todo.why_protocol,
        "notes": [*todo.notes, *todo.left_out],
        "workers": workers,
        "runs": [] if cost.trials is not None else rows,
        **left,
        "price": {**asdict(cost), "left": left, "models": cost.models},
    }


def _hours(seconds: float) -> str:
    """Two significant digits below ten hours: it is an estimate."""
    hours = seconds / 3600
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.2g} h"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"
