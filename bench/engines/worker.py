"""What a worker process does: one run after another, as they come down its pipe; progress and results go back."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from bench.plan import Setting
from bench.protocol import Protocol
from bench.record import RunSpec, State
from bench.store import Store

REPORT_EVERY_SECONDS = 0.25


@dataclass(frozen=True)
class Progress:
    """How far the run in hand is."""

    phase: str
    done: int
    total: int


@dataclass(frozen=True)
class Result:
    """What a run has come to. `death` says how its worker process ended, where that, not the run, was the end."""

    state: State
    reason: str | None = None
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    death: str | None = None


def work(pipe: Connection, protocol: Protocol, setting: Setting) -> None:
    """Body of a worker process: does the specs that it receives, until it receives None or is told to stop.

    Ctrl-C in a terminal reaches every process of a command; this one leaves it to its parent, which sends SIGTERM.
    """
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
        pipe.send(_result(spec, protocol, setting, _reporter(pipe), stopping.is_set))


def _result(
    spec: RunSpec, protocol: Protocol, setting: Setting, report: Callable[[str, int, int], None],
    stop: Callable[[], bool],
) -> Result:  # fmt: skip
    from bench.run import run

    store = Store(setting.results)
    try:
        with store.claim(spec):
            record = store.load(spec) if store.is_done(spec) else run(spec, protocol, setting, report, stop)
    except Exception as error:
        return Result("error", f"its record could not be written ({error}); {traceback.format_exc(limit=1)}")
    return Result(record.state, record.reason, record.metrics)


def _reporter(pipe: Connection) -> Callable[[str, int, int], None]:
    last = 0.0

    def report(phase: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > REPORT_EVERY_SECONDS:
            last = now
            try:
                pipe.send(Progress(phase, done, total))
            except OSError:
                os._exit(1)  # the parent is gone: give up the claim, the checkpoint stays

    return report


def _leave_with_parent(parent: int) -> None:
    """End this worker when the process that started it is gone, so that no orphan holds a claim."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
