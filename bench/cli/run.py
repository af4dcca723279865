"""`bench run`: train and evaluate what has no finished record yet."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from bench.cli.arguments import add_plan_arguments, plan, positive

if TYPE_CHECKING:
    from bench.plan import Plan

EPILOG = """\
Runs that have a finished record are not repeated; a run that was cut off goes on from its last
checkpoint and ends with the same bits as an uninterrupted one.

examples:
  bench run                                             the default methods on glyphs, the built-in data set
  bench run --methods all                               every method there is
  bench run --methods margin,triplet --seeds 0
  bench run --dataset cub200 --budget 10%               a tenth of the protocol's budget, marked in every result
  bench run --dataset cars196 --data ~/datasets --protocol frozen-trunk
  bench run --include my_method.py --methods my_method,margin

exit codes: 0 every run of the plan has a finished record, 1 some failed or were stopped, 2 a wrong call
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "run", help="train and evaluate methods under a protocol", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_plan_arguments(parser)
    parser.add_argument("--workers", type=positive, metavar="N",
                        help="runs at once (default: cores divided by the protocol's threads; 1 on a GPU)")  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make the plan, prepare the data, run what is missing."""
    import torch

    from bench import machine
    from bench.engines import local
    from bench.plan import open_dataset
    from bench.training.sides import prepare

    todo = plan(args)
    specs = todo.missing()
    dataset = open_dataset(todo.specs[0].dataset, todo.setting.data, todo.protocol)
    partial = f", {dataset.partial}" if dataset.partial else ""
    counts = dataset.manifest
    print(f"data set  {dataset.title}{partial}: {counts.train_images:,} images of {counts.train_classes} classes train,"
          f" {counts.test_images:,} of {counts.test_classes} test")  # fmt: skip
    print(f"protocol  {todo.protocol.name} [{todo.protocol.hash}] ({todo.why_protocol})")
    for note in (*todo.notes, *dataset.notes, *todo.left_out):
        print(f"note      {note}")
    workers = args.workers or local.default_workers(todo.protocol, max(1, len(specs)))
    finished = len(todo.specs) - len(specs)
    print(f"plan      {len(todo.specs)} runs, {finished} finished, {len(specs)} to do with {workers} worker(s), "
          f"{todo.protocol.threads} thread(s) each", flush=True)  # fmt: skip
    if not specs:
        return _ensembles(todo)
    device = torch.device("cuda" if machine.gpu_name() else "cpu")
    prepare(dataset, todo.protocol, device, descriptors=todo.descriptors())
    del dataset
    outcome = local.execute(todo, specs, workers)
    if outcome.failed:
        print(f"\n{len(outcome.failed)} of {len(specs)} runs failed; starting the same command again retries them:")
        for spec, reason in outcome.failed:
            print(f"  {spec.run_id}: {reason}")
    missing = len(todo.missing())
    print(f"{len(todo.specs) - missing} of {len(todo.specs)} runs have a finished record under {args.results}.")
    failed = 0 if outcome.interrupted else _ensembles(todo)
    return 1 if missing else failed


def _ensembles(todo: Plan) -> int:
    """Make the ensembles of the plan's folds that are missing, if the protocol asks for them; 1 if one was refused."""
    from bench.ensembles import complete
    from bench.store import Store

    done = complete(Store(todo.setting.results), todo.protocol, todo.specs)
    for line in done.lines:
        print(line)
    return 1 if done.refused else 0
