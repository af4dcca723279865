"""The local engine: one to n worker processes on this machine, each doing one run after another."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from tqdm import tqdm

from bench import machine
from bench.draft import Draft
from bench.plan import Plan, Setting
from bench.protocol import Protocol
from bench.record import RunSpec
from bench.store import Store

REPORT_EVERY_SECONDS = 0.25
HEADLINE = "map_at_r"


@dataclass
class Outcome:
    """What became of the runs of a plan."""

    done: int = 0
    failed: list[tuple[RunSpec, str]] = field(default_factory=list)
    interrupted: bool = False


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    bar: Any
    spec: RunSpec | None = None


def default_workers(protocol: Protocol, runs: int) -> int:
    """As many runs at once as the machine's cores allow at the protocol's threads; one on a GPU."""
    if machine.gpu_name():
        return 1
    return max(1, min(runs, machine.cores() // protocol.threads))


def execute(plan: Plan, specs: Sequence[RunSpec], workers: int) -> Outcome:
    """Run specs; every one of them ends as a record, whatever happens to a worker.

    A worker that dies (killed, out of memory) is replaced and its run is reported as failed; the
    run's checkpoints stay, so that starting again resumes it.
    """
    outcome = Outcome()
    waiting = deque(specs)
    context = multiprocessing.get_context("spawn")
    overall = tqdm(total=len(specs), desc="runs", unit="run", disable=None, position=0, smoothing=0)
    began = time.monotonic()
    pool: list[_Worker] = []
    try:
        for slot in range(min(workers, len(specs))):
            pool.append(_start(context, plan, slot))
        for worker in pool:
            _assign(worker, waiting)
        while any(worker.spec for worker in pool):
            pipes = {worker.pipe: worker for worker in pool if worker.spec}
            for pipe in wait(list(pipes)):
                worker = pipes[pipe]  # type: ignore[index]
                try:
                    message = worker.pipe.recv()
                except (EOFError, ConnectionError):
                    message = ("ended", "error", _record_death(worker, plan), None)
                    pool[pool.index(worker)] = replacement = _start(context, plan, pool.index(worker))
                    replacement.spec, worker.bar, worker = worker.spec, worker.bar.close(), replacement
                if message[0] == "progress":
                    _show(worker, message)
                    continue
                _note(outcome, worker, message, overall, len(specs), began)
                _assign(worker, waiting)
    except KeyboardInterrupt:
        outcome.interrupted = True
        _say("stopping: each run in hand saves its state; start the same command again to go on.")
        for worker in pool:
            if worker.process.pid is not None and worker.process.is_alive():
                os.kill(worker.process.pid, signal.SIGTERM)
    finally:
        for worker in pool:
            _close(worker, 60 if outcome.interrupted else 10)
        overall.close()
    return outcome


def _start(context: Any, plan: Plan, slot: int) -> _Worker:
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, plan.protocol, plan.setting), name=f"bench-worker-{slot}")
    process.start()
    there.close()
    bar = tqdm(total=1, desc=f"worker {slot}", unit="step", disable=None, position=slot + 1, leave=False)
    return _Worker(process, here, bar)


def _assign(worker: _Worker, waiting: deque[RunSpec]) -> None:
    worker.spec = waiting.popleft() if waiting else None
    if worker.spec is not None:
        worker.bar.reset(total=1)
        try:
            worker.pipe.send(worker.spec)
        except (BrokenPipeError, ConnectionError):
            pass  # its death is noticed, and recorded, when the pipe is read


def _show(worker: _Worker, message: tuple[Any, ...]) -> None:
    _, phase, done, total = message
    assert worker.spec is not None
    worker.bar.total = max(total, 1)
    worker.bar.set_description(f"{worker.spec.method} seed {worker.spec.seed} {phase}", refresh=False)
    worker.bar.update(done - worker.bar.n)


def _note(outcome: Outcome, worker: _Worker, message: tuple[Any, ...], overall: Any, total: int, began: float) -> None:
    _, state, reason, value = message
    spec = worker.spec
    assert spec is not None
    overall.update(1)
    if state == "done":
        outcome.done += 1
        result = "done" if value is None else f"MAP@R {100 * value:5.2f}"
    else:
        outcome.failed.append((spec, reason or state))
        result = f"{state.upper()}: {reason}"
    fold = "" if spec.fold is None else f" fold {spec.fold}"
    count = outcome.done + len(outcome.failed)
    left = (time.monotonic() - began) / count * (total - count)
    remaining = f", about {tqdm.format_interval(left)} left" if count < total else ""
    _say(f"[{count}/{total}] {spec.method}{fold} seed {spec.seed}: {result}{remaining}")


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def _death(process: SpawnProcess) -> str:
    process.join(5)
    code = process.exitcode
    how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
    hint = " (out of memory? try fewer workers)" if code == -signal.SIGKILL else ""
    return f"its worker process {how}{hint}; start the same command again to resume the run"


def _record_death(worker: _Worker, plan: Plan) -> str:
    reason = _death(worker.process)
    assert worker.spec is not None
    try:
        Store(plan.setting.results).write(Draft(worker.spec, plan.protocol).record("error", reason))
    except OSError as error:
        reason += f" (and its record could not be written: {error})"
    return reason


def _close(worker: _Worker, patience: float) -> None:
    try:
        worker.pipe.send(None)
    except (BrokenPipeError, ConnectionError, OSError):
        pass
    worker.process.join(patience)
    if worker.process.is_alive():
        worker.process.kill()
    worker.bar.close()


def _work(pipe: Connection, protocol: Protocol, setting: Setting) -> None:
    """Body of a worker process: receives specs, answers with progress and outcomes."""
    stopping = threading.Event()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    while not stopping.is_set():
        try:
            spec = pipe.recv()
        except (EOFError, ConnectionError):
            return
        if spec is None:
            return
        pipe.send(("ended", *_one(spec, protocol, setting, _reporter(pipe), stopping.is_set)))


def _one(
    spec: RunSpec, protocol: Protocol, setting: Setting, report: Callable[[str, int, int], None],
    stop: Callable[[], bool],
) -> tuple[str, str | None, float | None]:  # fmt: skip
    from bench.run import run

    store = Store(setting.results)
    try:
        with store.claim(spec):
            record = store.load(spec) if store.is_done(spec) else run(spec, protocol, setting, report, stop)
    except Exception as error:
        return "error", f"its record could not be written ({error}); {traceback.format_exc(limit=1)}", None
    value = record.metrics.get("last", {}).get(HEADLINE)
    return record.state, record.reason, value


def _reporter(pipe: Connection) -> Callable[[str, int, int], None]:
    last = 0.0

    def report(phase: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > REPORT_EVERY_SECONDS:
            last = now
            try:
                pipe.send(("progress", phase, done, total))
            except OSError:
                os._exit(1)  # the parent is gone: give up the claim, the checkpoint stays

    return report


def _leave_with_parent(parent: int) -> None:
    """End this worker when the process that started it is gone, so that no orphan holds a claim."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
