"""`bench plan`: what would run, and for how long."""

from __future__ import annotations

import argparse
import json

from bench.cli.arguments import add_plan_arguments, plan, positive

EPILOG = """\
examples:
  bench plan
  bench plan --dataset cars196 --data ~/datasets --json
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "plan", help="show what would run, and for how long, without running it", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_plan_arguments(parser)
    parser.add_argument("--workers", type=positive, metavar="N", help="runs at once (default as for `bench run`)")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the plan and an estimate of its time."""
    from bench.engines import local
    from bench.estimate import estimate
    from bench.plan import open_dataset

    todo = plan(args)
    missing = todo.missing()
    workers = args.workers or local.default_workers(todo.protocol, max(1, len(missing)))
    cost = estimate(todo, open_dataset(todo.specs[0].dataset, todo.setting.data, todo.protocol), workers)
    waiting = {spec.run_id for spec in missing}
    if args.json:
        rows = [
            {"run_id": s.run_id, "finished": s.run_id not in waiting, **s.model_dump(mode="json")} for s in todo.specs
        ]
        print(json.dumps({"protocol": todo.protocol.name, "protocol_hash": todo.protocol.hash,
                          "why_protocol": todo.why_protocol, "workers": workers, "runs": rows,
                          "seconds": cost.seconds, "basis": cost.basis}, indent=1))  # fmt: skip
        return 0
    print(f"{todo.specs[0].dataset} under {todo.protocol.name} [{todo.protocol.hash}] ({todo.why_protocol})")
    for spec in todo.specs:
        fold = "-" if spec.fold is None else spec.fold
        state = "to do" if spec.run_id in waiting else "finished"
        print(f"  {spec.method:<24} fold {fold}  seed {spec.seed}  {state}")
    print(f"{len(missing)} of {len(todo.specs)} runs to do with {workers} worker(s): "
          f"about {cost.text} ({cost.basis})")  # fmt: skip
    return 0
