"""The pool of worker processes: queues that grow while it runs, deaths during a search, and being stopped."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from pathlib import Path

import pytest

from bench.engines.pool import run_queue
from bench.engines.worker import Result
from bench.plan import Plan, Setting, make_plan
from bench.record import RunSpec
from bench.store import Store
from bench.tuning.runner import run_all
from bench.tuning.search import Search, trial_plan
from bench.tuning.study import TUNING_SEED, new_study

QUICK = {
    "budget": {"iterations": 4, "evaluate_every": 2, "epoch": 5},
    "evaluation": {"recall_at": [1], "clustering": None},
}
HEAD = "import os, signal, time\nfrom pathlib import Path\nfrom bench.method import Method, hyper\n\n\n"
WAITS = """class Waits(Method):
    name = "waits"

    def loss(self, batch):
        deadline = time.monotonic() + 60
        while not Path(__file__).with_name("go").exists():
            assert time.monotonic() < deadline, "nothing else was run meanwhile"
            time.sleep(0.05)
        return batch.embeddings.square().sum()
"""
SLOW = """class Slow(Method):
    name = "slow"

    def loss(self, batch):
        Path(__file__).with_name("begun").touch()
        time.sleep(0.5)
        return batch.embeddings.square().sum()
"""
DIES = """class Dies(Method):
    name = "dies"
    x: float = hyper(0.5, low=0.1, high=1.0, help="without effect")

    def loss(self, batch):
        deaths = len(list(Path(__file__).parent.glob("death-*")))
        if deaths < TIMES:
            Path(__file__).with_name(f"death-{deaths}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return batch.embeddings.square().sum()
"""


def planned(protocol: str, folder: Path, body: str, methods: list[str], seeds: list[int]) -> Plan:
    (folder / "mine.py").write_text(HEAD + body)
    setting = Setting(protocol, folder, folder / "results", (folder / "mine.py",))
    return make_plan("glyphs", setting, methods, seeds)


def test_what_is_put_into_the_queue_is_run_while_a_worker_is_busy(tiny, tmp_path):
    plan = planned(tiny(**QUICK), tmp_path, WAITS, ["waits", "untrained"], [0, 1, 2])
    waits, *_, first, second, third = plan.specs
    follow = {first.run_id: [waits, second], second.run_id: [third]}
    queue, order = deque([first]), []

    def ended(spec: RunSpec, result: Result) -> None:
        assert result.reason is None
        order.append(spec)
        queue.extend(follow.get(spec.run_id, []))
        if spec == third:
            (tmp_path / "go").touch()

    assert not run_queue(plan, 2, queue, ended)
    assert order == [first, second, third, waits]
    assert {record.run_id for record in Store(tmp_path / "results").records()} == {spec.run_id for spec in order}


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_run_of_a_search_whose_worker_dies_is_tried_once_more(tiny, tmp_path, capsys, times):
    protocol = tiny(**QUICK, folds={"count": 4, "use": [0]}, search={"trials": 1, "reproductions": 1})
    body = DIES.replace("TIMES", str(times))
    plan = planned(protocol, tmp_path, body, ["dies", "contrastive"], [TUNING_SEED])
    search = Search(plan, [new_study(plan, method, 1) for method in ("dies", "contrastive")], lambda *_: None)
    assert not search.run(lambda queue, ended: run_all(trial_plan(plan), 2, queue, ended))
    assert search.halted == {}
    (mine,), (other,) = (study.trials for study in search.studies)
    assert other.state == "done"
    assert mine.state == ("done" if times == 1 else "failed")
    assert ("killed by signal 9 (out of memory? try fewer workers), 2 times" in (mine.reason or "")) == (times == 2)
    assert capsys.readouterr().out.count("it is tried once more") == 1
    assert len(list((tmp_path / "results/tuning").rglob("*.failed-*"))) == times


@pytest.mark.parametrize("kind", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_signal_makes_the_run_in_hand_save_its_state(tiny, tmp_path, capsys, kind):
    long = tiny(**QUICK | {"budget": {"iterations": 600, "evaluate_every": 300, "epoch": 5}})
    plan = planned(long, tmp_path, SLOW, ["slow", "untrained"], [0])
    slow, quick = plan.specs
    before = signal.getsignal(signal.SIGTERM)

    def ended(spec: RunSpec, result: Result) -> None:
        assert (spec, result.state) == (quick, "done")
        deadline = time.monotonic() + 60
        while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), kind)

    assert run_queue(plan, 2, deque([slow, quick]), ended)
    assert signal.getsignal(signal.SIGTERM) == before
    assert "start the same command again to go on" in capsys.readouterr().out
    store = Store(plan.setting.results)
    assert {record.spec.method: record.state for record in store.records()} == {
        "slow": "interrupted",
        "untrained": "done",
    }
    assert len(store.unfinished()) == 1
