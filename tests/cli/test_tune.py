"""`bench tune` as a user calls it: whole studies with worker processes, and what a kill leaves."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.cli import main
from bench.store import Store

ROOT = Path(__file__).parents[2]
QUICK = {
    "budget": {"iterations": 4, "evaluate_every": 2, "epoch": 5},
    "folds": {"count": 4, "use": [0, 2]},
    "evaluation": {"recall_at": [1], "clustering": None},
}


def words_for(protocol: str, results: Path, methods: str, *more: str) -> list[str]:
    return ["tune", "--protocol", protocol, "--methods", methods, "--results", str(results), *more]


def studies(results: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (results / "studies").rglob("*.json")}


def test_a_search_ends_with_reproductions_that_reports_see_and_trials_that_they_do_not(tiny, tmp_path, capsys):
    protocol = tiny(**QUICK, search={"trials": 5, "reproductions": 1})
    words = words_for(protocol, tmp_path, "contrastive,untrained", "--trials", "2", "--workers", "1")
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "2 trial(s) (the protocol says 5) of each method" in out
    assert "[2/2] contrastive trial" in out
    assert "untrained: no hyper-parameter to search" in out
    assert "2 of 2 studies are complete" in out
    before = studies(tmp_path)
    found = {study["method"]: study for study in map(json.loads, before.values())}
    best = max(found["contrastive"]["trials"], key=lambda trial: trial["score"])
    assert found["contrastive"]["winner"]["hyperparameters"] == best["hyperparameters"]
    assert all(study["complete"] for study in found.values())
    records = Store(tmp_path).records()
    named = {run["run_id"] for study in found.values() for run in study["reproductions"]}
    assert {record.run_id for record in records} == named
    assert len(named) == 2 * 2
    assert all({"last", "best_validation", "best_test"} == set(record.metrics) for record in records)
    assert {record.spec.seed for record in records} == {1000}
    assert main(words) == 0
    assert "trial 0 (" not in capsys.readouterr().out
    assert studies(tmp_path) == before


def test_wrong_calls_say_what_to_do(tiny, tmp_path, capsys):
    assert main(words_for(tiny(), tmp_path, "contrastive")) == 2
    assert "no section 'search'" in capsys.readouterr().err
    space = {"contrastive": {"marginn": {"low": 0.1, "high": 0.2}}}
    protocol = tiny(search={"trials": 1, "reproductions": 1, "spaces": space})
    assert main(words_for(protocol, tmp_path, "contrastive")) == 2
    assert "Did you mean 'margin'?" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.long
def test_killed_at_any_moment_and_started_again_it_ends_with_the_same_studies(tiny, tmp_path):
    protocol = tiny(**QUICK, search={"trials": 12, "reproductions": 1})
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "bench", *words_for(protocol, tmp_path / name, "contrastive")]
        return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    began = time.monotonic()
    whole = start("whole")
    whole.communicate()
    took = time.monotonic() - began
    assert whole.returncode == 0
    draw = random.Random()
    for kind in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        cut = start("cut")
        try:
            cut.communicate(timeout=took * draw.uniform(0.3, 0.7))
        except subprocess.TimeoutExpired:
            cut.send_signal(kind)
            cut.communicate()
    last = start("cut")
    last.communicate()
    assert last.returncode == 0
    assert studies(tmp_path / "cut") == studies(tmp_path / "whole")


@pytest.mark.long
def test_a_setting_that_kills_its_worker_is_a_failed_trial(tiny, tmp_path, capsys):
    (tmp_path / "deadly.py").write_text(
        "import os, signal\nfrom bench.method import Method, hyper\n\n\nclass Deadly(Method):\n"
        "    name = 'deadly'\n    mode: str = hyper('good', choices=('good', 'bad'), help='h')\n\n"
        "    def loss(self, batch):\n        if self.mode == 'bad':\n            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return batch.embeddings.square().sum()\n"
    )
    protocol = tiny(**QUICK, search={"trials": 6, "reproductions": 1})
    assert main(words_for(protocol, tmp_path, "deadly", "--include", str(tmp_path / "deadly.py"))) == 0
    assert "it is tried once more" in capsys.readouterr().out
    (study,) = map(json.loads, studies(tmp_path).values())
    states = {(trial["hyperparameters"]["mode"], trial["state"]) for trial in study["trials"]}
    assert states == {("good", "done"), ("bad", "failed")}
    assert study["winner"]["hyperparameters"] == {"mode": "good"}
