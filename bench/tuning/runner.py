"""The runner of a search: worker processes, where a run whose worker dies is tried once more."""

from __future__ import annotations

from collections import Counter, deque

from bench.engines.pool import run_queue, say
from bench.engines.worker import Result
from bench.plan import Plan
from bench.record import RunSpec
from bench.tuning.search import Ended

TRIES = 2  # of a run whose worker dies: memory may have been short for a moment


def run_all(plan: Plan, workers: int, queue: deque[RunSpec], ended: Ended) -> bool:
    """Run what is in the queue, to which `ended` may add, until it is empty; True if stopped before."""
    deaths: Counter[str] = Counter()

    def took(spec: RunSpec, result: Result) -> None:
        if result.death is None:
            ended(spec, result.state, result.reason)
            return
        deaths[spec.run_id] += 1
        if deaths[spec.run_id] < TRIES:
            say(f"{spec.run_id}: {result.death}; it is tried once more.")
            queue.appendleft(spec)
        else:
            ended(spec, "died", f"{result.death}, {TRIES} times")

    return run_queue(plan, workers, queue, took)
