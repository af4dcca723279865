"""Worker processes fed from a queue of runs that may grow: what is asked next may depend on what has ended."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait

from tqdm import tqdm

from bench.draft import Draft
from bench.engines.worker import Progress, Result, work
from bench.plan import Plan
from bench.record import RunSpec
from bench.store import Store

PATIENCE_SECONDS = 10  # with a worker that has nothing in hand
SAVING_SECONDS = 60  # with one that saves the state of its run

Ended = Callable[[RunSpec, Result], None]


def run_queue(plan: Plan, workers: int, queue: deque[RunSpec], ended: Ended) -> bool:
    """Run what is in the queue until it is empty and no run is in hand; True if stopped before.

    Runs are taken from the left. `ended` is called in this process when a run has ended, and may put more into the
    queue. A worker that dies (killed, out of memory) is replaced; its run ends with a `Result` that says so, recorded
    as an error, and keeps its checkpoints. Ctrl-C or SIGTERM stops: every run in hand saves its state.
    """
    pool: list[_Worker] = []
    patience = PATIENCE_SECONDS
    try:
        with _terminated_as_by_ctrl_c():
            while busy := _supply(pool, plan, workers, queue):
                speaking = wait([worker.pipe for worker in busy])
                for worker in busy:
                    if worker.pipe in speaking and (result := worker.hear()):
                        spec = worker.lay_down()
                        if result.death:
                            pool.remove(worker)
                            worker.close(PATIENCE_SECONDS)
                        ended(spec, result)
        return False
    except KeyboardInterrupt:
        patience = SAVING_SECONDS
        say("stopping: each run in hand saves its state; start the same command again to go on.")
        for worker in pool:
            worker.stop()
        return True
    finally:
        for worker in pool:
            worker.close(patience)


def say(text: str) -> None:
    """Print a line above the progress bars."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


class _Worker:
    """A worker process as its parent sees it: the run it has in hand, the pipe to it, its progress bar."""

    def __init__(self, plan: Plan, slot: int) -> None:
        self.slot = slot
        self.spec: RunSpec | None = None
        self.pipe: Connection
        self._plan = plan
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        self._process = context.Process(
            target=work, args=(there, plan.protocol, plan.setting), name=f"bench-worker-{slot}"
        )
        self._process.start()
        there.close()  # its only holder is the worker, so that the pipe breaks when that dies
        self._bar = tqdm(total=1, desc=f"worker {slot}", unit="step", disable=None, position=slot + 1, leave=False)

    def take(self, spec: RunSpec) -> None:
        self.spec = spec
        self._bar.reset(total=1)
        try:
            self.pipe.send(spec)
        except ConnectionError:
            pass  # its death is noticed, and recorded, when the pipe is read

    def hear(self) -> Result | None:
        """Read one message: what the run in hand has come to, or None after showing how far it is."""
        try:
            message: Progress | Result = self.pipe.recv()
        except (EOFError, ConnectionError):
            return self._died()
        if isinstance(message, Result):
            return message
        assert self.spec is not None
        self._bar.total = max(message.total, 1)
        self._bar.set_description(f"{self.spec.method} seed {self.spec.seed} {message.phase}", refresh=False)
        self._bar.update(message.done - self._bar.n)
        return None

    def lay_down(self) -> RunSpec:
        """The run in hand, no longer in hand."""
        spec, self.spec = self.spec, None
        assert spec is not None
        return spec

    def stop(self) -> None:
        """Ask it to save the state of its run and end."""
        self._process.terminate()

    def close(self, patience: float) -> None:
        """End it: by asking, and by force if it takes more seconds than `patience`."""
        try:
            self.pipe.send(None)
        except OSError:
            pass
        self._process.join(patience)
        if self._process.is_alive():
            self._process.kill()
        self.pipe.close()
        self._bar.close()

    def _died(self) -> Result:
        """The result, recorded, of the run that it had in hand."""
        assert self.spec is not None
        self._process.join(5)
        code = self._process.exitcode
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        hint = " (out of memory? try fewer workers)" if code == -signal.SIGKILL else ""
        death = f"its worker process {how}{hint}"
        reason = f"{death}; start the same command again to resume the run"
        try:
            Store(self._plan.setting.results).write(Draft(self.spec, self._plan.protocol).record("error", reason))
        except OSError as error:
            reason += f" (and its record could not be written: {error})"
        return Result("error", reason, death=death)


def _supply(pool: list[_Worker], plan: Plan, workers: int, queue: deque[RunSpec]) -> list[_Worker]:
    """Give every idle worker a run, starting workers as long as there are runs for them; those that have one."""
    idle = [worker for worker in pool if worker.spec is None]
    while len(pool) < workers and len(queue) > len(idle):
        slot = min(set(range(workers)) - {worker.slot for worker in pool})
        pool.append(_Worker(plan, slot))
        idle.append(pool[-1])
    for worker in idle[: len(queue)]:
        worker.take(queue.popleft())
    return [worker for worker in pool if worker.spec is not None]


@contextmanager
def _terminated_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM, which is how batch systems end a job, raises what Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
