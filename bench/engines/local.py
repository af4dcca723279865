"""The local engine: the runs of a plan by worker processes on this machine, a line for each."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from bench import machine
from bench.engines.pool import run_queue, say
from bench.engines.worker import Result
from bench.plan import Plan
from bench.protocol import Protocol
from bench.record import RunSpec

HEADLINE = "map_at_r"


@dataclass
class Outcome:
    """What became of the runs of a plan."""

    done: int = 0
    failed: list[tuple[RunSpec, str]] = field(default_factory=list)
    interrupted: bool = False


def default_workers(protocol: Protocol, runs: int) -> int:
    """As many runs at once as the machine's cores allow at the protocol's threads; one on a GPU."""
    if machine.gpu_name():
        return 1
    return max(1, min(runs, machine.cores() // protocol.threads))


def execute(plan: Plan, specs: Sequence[RunSpec], workers: int) -> Outcome:
    """Run specs; every one of them ends as a record, whatever happens to a worker.

    The run of a worker that dies is reported as failed; its checkpoints stay, so that starting again resumes it.
    """
    outcome = Outcome()
    began = time.monotonic()

    def ended(spec: RunSpec, result: Result) -> None:
        overall.update(1)
        if result.state == "done":
            outcome.done += 1
        else:
            outcome.failed.append((spec, result.reason or result.state))
        count = outcome.done + len(outcome.failed)
        left = (time.monotonic() - began) / count * (len(specs) - count)
        remaining = f", about {tqdm.format_interval(left)} left" if count < len(specs) else ""
        say(f"[{count}/{len(specs)}] {_line(spec, result)}{remaining}")

    with tqdm(total=len(specs), desc="runs", unit="run", disable=None, position=0, smoothing=0) as overall:
        outcome.interrupted = run_queue(plan, workers, deque(specs), ended)
    return outcome


def _line(spec: RunSpec, result: Result) -> str:
    value = result.metrics.get("last", {}).get(HEADLINE)
    if result.state != "done":
        found = f"{result.state.upper()}: {result.reason}"
    else:
        found = "done" if value is None else f"MAP@R {100 * value:5.2f}"
    fold = "" if spec.fold is None else f" fold {spec.fold}"
    return f"{spec.method}{fold} seed {spec.seed}: {found}"
