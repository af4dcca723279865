"""Worker processes for runs that are not known in advance: what is asked next may depend on what has ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Callable
from multiprocessing.connection import wait
from typing import Literal

from bench.engines import local
from bench.plan import Plan
from bench.record import RunSpec, State

End = State | Literal["died"]  # died: the worker process itself, not the method's code
Ended = Callable[[RunSpec, End, str | None], None]
Runner = Callable[[deque[RunSpec], Ended], bool]

TRIES = 2  # of a run whose worker dies


def run_all(plan: Plan, workers: int, queue: deque[RunSpec], ended: Ended) -> bool:
    """Run what is in the queue until it is empty; True if stopped by Ctrl-C, every run in hand having saved its state.

    `ended` is called in this process when a run has ended, and may put more into the queue.
    """
    context = multiprocessing.get_context("spawn")
    deaths: Counter[str] = Counter()
    pool: list[local._Worker] = []
    interrupted = False
    try:
        while True:
            idle = [worker for worker in pool if worker.spec is None]
            while len(pool) < workers and len(queue) > len(idle):
                pool.append(local._start(context, plan, len(pool)))
                idle.append(pool[-1])
            for worker in idle:
                local._assign(worker, queue)
            busy = {worker.pipe: worker for worker in pool if worker.spec}
            if not busy:
                return False
            for pipe in wait(list(busy)):
                worker = busy[pipe]  # type: ignore[index]
                try:
                    message = worker.pipe.recv()
                except (EOFError, ConnectionError):
                    _bury(pool, worker, plan, context, deaths, queue, ended)
                    continue
                if message[0] == "progress":
                    local._show(worker, message)
                    continue
                spec, worker.spec = worker.spec, None
                assert spec is not None
                ended(spec, message[1], message[2])
    except KeyboardInterrupt:
        interrupted = True
        local._say("stopping: each run in hand saves its state; start the same command again to go on.")
        for worker in pool:
            if worker.process.pid is not None and worker.process.is_alive():
                os.kill(worker.process.pid, signal.SIGTERM)
        return True
    finally:
        for worker in pool:
            local._close(worker, 60 if interrupted else 10)


def _bury(
    pool: list[local._Worker], worker: local._Worker, plan: Plan, context: multiprocessing.context.SpawnContext,
    deaths: Counter[str], queue: deque[RunSpec], ended: Ended,
) -> None:  # fmt: skip
    """Replace a worker that died; its run is tried once more, since memory may have been short for a moment."""
    spec, reason = worker.spec, local._record_death(worker, plan)
    assert spec is not None
    worker.bar.close()
    slot = pool.index(worker)
    pool[slot] = local._start(context, plan, slot)
    deaths[spec.run_id] += 1
    if deaths[spec.run_id] < TRIES:
        local._say(f"{spec.run_id}: {reason.partition(';')[0]}; it is tried once more.")
        queue.appendleft(spec)
    else:
        ended(spec, "died", f"{reason.partition(';')[0]}, {TRIES} times")
