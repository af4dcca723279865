"""`bench tune`: search hyper-parameters under a protocol's budget, then run the best with fresh seeds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli.arguments import add_budget_argument, add_results_argument, names, plan, positive

if TYPE_CHECKING:
    from bench.plan import Plan
    from bench.tuning.search import Search
    from bench.tuning.study import Study, Trial

EPILOG = """\
Every method gets as many trials as the protocol's section 'search' says, over the ranges that it names, else
over those which the method declares. A trial is one setting, trained on every fold and judged by its validation
classes; the test classes stay sealed. The best setting is then run under seeds that no trial used, as `bench run`
runs it. A search that was cut off goes on where it was and ends with the same trials.

examples:
  bench tune --dataset cub200 --data ~/datasets --protocol reality-check --methods contrastive,margin
  bench tune --dataset cars196 --data ~/datasets --protocol reality-check-small --methods all --trials 20

exit codes: 0 every study is complete, 1 some are not (stopped, or nothing worked), 2 a wrong call
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "tune", help="search hyper-parameters with equal trials for every method, then run the best", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--dataset", default="glyphs", metavar="D", help="data set (default: glyphs, which is built in)"
    )
    parser.add_argument("--protocol", default="", metavar="P",
                        help="protocol, or YAML file, with a section 'search' (default: the data set's)")  # fmt: skip
    parser.add_argument(
        "--methods", type=names, metavar="A,B", help="methods, or 'all' (default: those of the first table)"
    )
    add_budget_argument(parser)
    parser.add_argument("--trials", type=positive, metavar="N", help="trials of each method (default: the protocol's)")
    parser.add_argument("--workers", type=positive, metavar="N",
                        help="runs at once (default: cores divided by the protocol's threads; 1 on a GPU)")  # fmt: skip
    parser.add_argument("--data", metavar="DIR", help="where data sets lie (default: $BENCH_DATA, else ./data)")
    add_results_argument(parser)
    parser.add_argument("--include", action="append", type=Path, default=[], metavar="PATH",
                        help="a method file, or a folder of them, outside methods/; may be repeated")  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Search what is to be searched, run the winners, say what came of it."""
    import torch

    from bench import machine
    from bench.engines import local
    from bench.ensembles import complete
    from bench.plan import open_dataset
    from bench.store import Store
    from bench.training.sides import prepare
    from bench.tuning import reproduce, study
    from bench.tuning.space import search_of

    args.seeds = [study.TUNING_SEED]
    todo = plan(args)
    rules = search_of(todo.protocol)
    trials = args.trials or rules.trials
    results = todo.setting.results
    methods = dict.fromkeys(spec.method for spec in todo.specs)
    fresh = [study.new_study(todo, method, trials) for method in methods]
    with study.claimed(fresh, results):
        studies = [study.load(one, results) for one in fresh]
        dataset = open_dataset(todo.specs[0].dataset, todo.setting.data, todo.protocol)
        _introduce(todo, dataset.title, dataset.partial, studies, trials)
        left = sum(one.trials_wanted - len(one.trials) for one in studies) * len(studies[0].folds)
        runs = rules.reproductions * len(studies) * len(studies[0].folds)
        workers = args.workers or local.default_workers(todo.protocol, max(left, runs))
        device = torch.device("cuda" if machine.gpu_name() else "cpu")
        if not all(one.complete for one in studies):
            prepare(dataset, todo.protocol, device, descriptors=todo.descriptors())
        del dataset
        search, interrupted = _search(todo, studies, workers)
        studies = [reproduce.choose(todo, one) if one.searched else one for one in search.studies]
        if not interrupted:
            _reproduce(todo, studies, workers)
        studies = [reproduce.close(todo, one) for one in studies]
        winners = [spec for one in studies for spec in reproduce.reproductions(todo, one)]
        joined = complete(Store(results), todo.protocol, winners)
    status = _summary(studies, search.halted, results)
    print(*joined.lines, sep="\n")
    return 1 if joined.refused else status


def _introduce(todo: Plan, title: str, partial: str | None, studies: list[Study], trials: int) -> None:
    from bench import registry
    from bench.tuning import space
    from bench.tuning.study import REPRODUCTION_SEED

    protocol, rules = todo.protocol, space.search_of(todo.protocol)
    asked = "" if trials == rules.trials else f" (the protocol says {rules.trials})"
    folds = len(studies[0].folds)
    print(f"data set  {title}{f', {partial}' if partial else ''}")
    print(f"protocol  {protocol.name} [{protocol.hash}] ({todo.why_protocol})")
    print(f"search    {trials} trial(s){asked} of each method, {folds} fold(s) a trial, judged by the best validation "
          f"{protocol.selection.metric}; the test classes stay sealed")  # fmt: skip
    print(f"then      the best setting of each with {rules.reproductions} fresh seed(s) from {REPRODUCTION_SEED} on")
    if rules.winner_counts:
        print("note      search.winner_counts: the seed of the trials is run too, which biases the mean upwards")
    for note in (*todo.notes, *todo.left_out):
        print(f"note      {note}")
    known = registry.methods(todo.setting.include)
    for name in sorted(set(rules.spaces) - set(known)):
        print(f"note      search.spaces names '{name}', which no method is called")
    for study in studies:
        if not study.trials_wanted:
            print(f"{study.method}: no hyper-parameter to search, so no trial: straight to its reproductions")
            continue
        finished = f"; {len(study.trials)} of {trials} trials finished" if study.trials else ""
        print(f"{study.method}: {space.described(study.space)}{finished}")
    print(flush=True)


def _search(todo: Plan, studies: list[Study], workers: int) -> tuple[Search, bool]:
    """Run the trials that are left, a line for each."""
    from functools import partial

    from tqdm import tqdm

    from bench.report.text import metric_label, percent
    from bench.tuning.runner import run_all
    from bench.tuning.search import Search, trial_plan

    total = sum(study.trials_wanted for study in studies)
    done = sum(len(study.trials) for study in studies)
    bar = tqdm(total=total, initial=done, desc="trials", unit="trial", disable=None, position=0, smoothing=0)

    def judged(study: Study, trial: Trial) -> None:
        bar.update(1)
        settings = _settings({key: trial.hyperparameters[key] for key in study.space})
        best = ", best so far" if trial == study.best() else ""
        scored = f"{metric_label(study.metric)} {percent(trial.score)}{best}"
        outcome = f"FAILED: {trial.reason}" if trial.state == "failed" else scored
        count = f"{len(study.trials)}/{study.trials_wanted}"
        tqdm.write(f"[{count}] {study.method} trial {trial.number} ({settings}): {outcome}")

    search = Search(todo, studies, judged)
    try:
        interrupted = search.run(partial(run_all, trial_plan(todo), workers))
    finally:
        bar.close()
    return search, interrupted


def _reproduce(todo: Plan, studies: list[Study], workers: int) -> None:
    """Run the winners' runs that have no finished record."""
    from dataclasses import replace

    from bench.engines import local
    from bench.tuning.reproduce import reproductions

    specs = tuple(spec for study in studies for spec in reproductions(todo, study))
    runs = replace(todo, specs=specs)
    missing = runs.missing()
    if missing:
        print(f"reproductions: {len(specs)} runs, {len(missing)} to do with {workers} worker(s)", flush=True)
        outcome = local.execute(runs, missing, min(workers, len(missing)))
        for spec, reason in outcome.failed:
            print(f"  {spec.run_id}: {reason}")


def _summary(studies: list[Study], halted: dict[str, str], results: Path) -> int:
    from bench.report.text import metric_label, percent

    print()
    for study in studies:
        if study.winner is not None and study.winner.trial is not None and study.winner.score is not None:
            chosen = _settings({key: study.winner.hyperparameters[key] for key in study.space})
            score = f"{metric_label(study.metric)} {percent(study.winner.score)} on validation"
            found = f"trial {study.winner.trial} won with {score} ({chosen})"
        elif study.winner is not None:
            found = "nothing searched, its defaults"
        elif study.searched:
            found = "every trial failed: no setting to run"
        else:
            found = f"{len(study.trials)} of {study.trials_wanted} trials finished"
        stopped = f"; stopped: {halted[study.method]}" if study.method in halted else ""
        state = f"{len(study.reproductions)} reproductions finished" if study.complete else "not complete"
        print(f"{study.method}: {found}{stopped}; {state}")
        print(f"  {study.path(results)}")
    complete = sum(study.complete for study in studies)
    again = "" if complete == len(studies) else "; the same command goes on where they are"
    print(f"{complete} of {len(studies)} studies are complete{again}.")
    return 0 if complete == len(studies) else 1


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                     for key, value in values.items())  # fmt: skip
