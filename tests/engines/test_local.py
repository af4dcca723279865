"""The local engine with real worker processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.engines import local
from bench.plan import Setting, make_plan
from bench.store import Store

ROOT = Path(__file__).parents[2]


def bits(records) -> dict:
    return {r.run_id: (r.metrics, [(p.step, p.loss, p.validation, p.test) for p in r.curves], r.steps) for r in records}


def test_worker_count_changes_the_time_and_not_the_bits(tiny, tmp_path):
    protocol, results = tiny(), {}
    for workers in (1, 2):
        plan = make_plan("glyphs", Setting(protocol, tmp_path, tmp_path / str(workers)), ["margin", "triplet"], [0, 1])
        outcome = local.execute(plan, plan.missing(), workers)
        assert (outcome.done, outcome.failed) == (4, [])
        assert plan.missing() == []
        results[workers] = bits(Store(plan.setting.results).records())
    assert results[1] == results[2]


def test_a_dying_worker_fails_its_run_alone(tiny, tmp_path):
    (tmp_path / "dies.py").write_text(
        "import os, signal\nfrom bench.method import Method\n\n\nclass Dies(Method):\n"
        "    name = 'dies'\n\n    def loss(self, batch):\n        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "raises.py").write_text(
        "from bench.method import Method\n\n\nclass Raises(Method):\n"
        "    name = 'raises'\n\n    def loss(self, batch):\n        raise RuntimeError('out of ideas')\n"
    )
    include = (tmp_path / "dies.py", tmp_path / "raises.py")
    setting = Setting(tiny(), tmp_path, tmp_path / "results", include)
    plan = make_plan("glyphs", setting, ["dies", "raises", "contrastive"], [0])
    outcome = local.execute(plan, plan.missing(), 1)
    assert outcome.done == 1
    reasons = {spec.method: reason for spec, reason in outcome.failed}
    assert "killed by signal 9" in reasons["dies"]
    assert "out of ideas" in reasons["raises"]
    states = {r.spec.method: r.state for r in Store(setting.results).records()}
    assert states == {"dies": "error", "raises": "error", "contrastive": "done"}


def command(protocol: str, results: Path) -> list[str]:
    return [
        sys.executable, "-m", "bench", "run", "--protocol", protocol, "--methods", "margin,proxy_anchor",
        "--seeds", "0", "--workers", "1", "--results", str(results),
    ]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("victim", ["parent", "worker"])
def test_killed_anywhere_and_started_again_gives_the_same_bits(tiny, tmp_path, victim):
    protocol = tiny(budget={"iterations": 60, "evaluate_every": 10, "epoch": 7})
    subprocess.run(command(protocol, tmp_path / "whole"), cwd=ROOT, check=True, capture_output=True)
    luck = random.Random(0)
    for _ in range(5):
        process = subprocess.Popen(
            command(protocol, tmp_path / "cut"), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + luck.uniform(3.0, 9.0)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if process.poll() is not None:
            break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in [str(process.pid)] if victim == "parent" else children:
            os.kill(int(pid), signal.SIGKILL)
        if victim == "worker":
            process.wait(120)
        else:
            process.wait(10)
    done = subprocess.run(command(protocol, tmp_path / "cut"), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    whole, cut = (Store(tmp_path / name) for name in ("whole", "cut"))
    assert bits(cut.records()) == bits(whole.records())
    assert whole.problems == cut.problems == []
    assert not list((tmp_path / "cut").rglob(".*.work"))
    assert not list((tmp_path / "cut").rglob(".*staging*"))
