"""The search: trials of several methods at once, each study's file renewed after every trial."""

from __future__ import annotations

import math
import shutil
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from bench import registry
from bench.hyperparameters import values_under
from bench.plan import Plan
from bench.record import RunSpec, State, Value
from bench.run import DISK_FULL
from bench.store import Store
from bench.tuning.sampler import STARTUP, propose
from bench.tuning.study import FoldScore, Study, Trial, judge, save, spec_of

End = State | Literal["died"]  # died: the worker process itself, not the method's code
Ended = Callable[[RunSpec, End, str | None], None]  # a run, what it has come to, and why
Runner = Callable[[deque[RunSpec], Ended], bool]  # does what is queued until nothing is left; True if stopped before


@dataclass
class _Asked:
    """A trial in hand: its runs, and what became of those that ended."""

    study: int
    number: int
    values: dict[str, Value]
    runs: tuple[RunSpec, ...]
    scores: dict[str, FoldScore] = field(default_factory=dict)


def trial_plan(plan: Plan) -> Plan:
    """The plan with a results folder of its own for trials, so that reports do not take them for results."""
    return replace(plan, setting=replace(plan.setting, results=tuning_folder(plan.setting.results)))


def tuning_folder(results: Path) -> Path:
    """Where the records of trials lie."""
    return results / "tuning"


class Search:
    """Trials of studies, from what their files know to the last one.

    `judged` is called after every trial, with the study that holds it and is written.
    """

    def __init__(self, plan: Plan, studies: Sequence[Study], judged: Callable[[Study, Trial], None]) -> None:
        self.plan, self.studies, self.judged = plan, list(studies), judged
        self.halted: dict[str, str] = {}  # method -> why its search cannot go on
        self.queue: deque[RunSpec] = deque()
        self._results = plan.setting.results
        self._store = Store(tuning_folder(self._results))
        self._asked: dict[tuple[int, int], _Asked] = {}
        self._ended: dict[str, FoldScore] = {}

    def run(self, runner: Runner) -> bool:
        """Search to the end; True if stopped before it. What was judged until then is in the files."""
        self._fill()
        return runner(self.queue, self.ended)

    def ended(self, spec: RunSpec, end: End, reason: str | None) -> None:
        """Take what a run has come to, and ask for what may be asked for now."""
        waiting = [asked for asked in self._asked.values() if spec.run_id in {run.run_id for run in asked.runs}]
        score = self._score(spec, end, reason)
        if isinstance(score, str):
            for asked in waiting:
                self._halt(asked.study, score)
        else:
            self._ended[spec.run_id] = score
            for asked in waiting:
                self._take(asked, score)
        self._fill()

    def _fill(self) -> None:
        """Queue the runs of every trial whose setting is known by now, the methods in turn."""
        while asked := [(number, study) for study in range(len(self.studies)) for number in self._askable(study)]:
            for number, study in sorted(asked):
                self._ask(study, number)

    def _askable(self, index: int) -> list[int]:
        """Random trials at once; another one when all before it are judged."""
        study = self.studies[index]
        judged = {trial.number for trial in study.trials}
        open_ = [number for number in range(study.trials_wanted) if number not in judged]
        if not open_ or study.method in self.halted:
            return []
        now = [number for number in open_ if number < STARTUP] or open_[:1]
        return [number for number in now if (index, number) not in self._asked]

    def _ask(self, index: int, number: int) -> None:
        study, include = self.studies[index], self.plan.setting.include
        method = registry.get(study.method, include).cls
        history = [({key: t.hyperparameters[key] for key in study.space}, t.score) for t in study.trials]
        found = propose(method, study.space, number, study.study_seed, history)
        values = {**values_under(self.plan.protocol, method), **found}
        runs = tuple(spec_of(self.plan, study, values, fold, study.tuning_seed, True) for fold in study.folds)
        asked = self._asked[index, number] = _Asked(index, number, values, runs)
        queued = {spec.run_id for other in self._asked.values() if other is not asked for spec in other.runs}
        for run in runs:
            known = self._ended.get(run.run_id) or self._finished(run)
            if known is not None:
                self._ended[run.run_id] = known
                self._take(asked, known)
            elif run.run_id not in queued:
                self.queue.append(run)

    def _finished(self, spec: RunSpec) -> FoldScore | None:
        """What the store knows of a run from an earlier start, or from another study with this setting."""
        score = self._score(spec, "done", None) if self._store.is_done(spec) else None
        return None if isinstance(score, str) else score

    def _score(self, spec: RunSpec, end: End, reason: str | None) -> FoldScore | str:
        """The score of an ended run; or, where the fault is not that of the setting, why the search cannot go on."""
        assert spec.fold is not None
        if end == "done":
            metric = self.plan.protocol.selection.metric
            try:
                value = self._store.load(spec).metrics["best_validation"].get(metric, math.nan)
            except (OSError, ValidationError) as error:
                return f"{self._store.path(spec)}: unreadable record ({type(error).__name__}); remove it"
            if math.isfinite(value):
                return FoldScore(fold=spec.fold, run_id=spec.run_id, state="done", score=value)
            return FoldScore(fold=spec.fold, run_id=spec.run_id, state="diverged", reason=f"{metric} is no number")
        if end == "died":
            return FoldScore(fold=spec.fold, run_id=spec.run_id, state="error", reason=reason)
        attempt = self._store.last_attempt(spec)
        trained = attempt is not None and "train" in attempt.seconds
        if end == "interrupted" or not trained or (reason or "").startswith(DISK_FULL):
            return reason or end
        return FoldScore(fold=spec.fold, run_id=spec.run_id, state=end, reason=reason)

    def _take(self, asked: _Asked, score: FoldScore) -> None:
        asked.scores[score.run_id] = score
        if len(asked.scores) < len(asked.runs) or self.studies[asked.study].method in self.halted:
            return
        trial = judge(asked.number, asked.values, [asked.scores[run.run_id] for run in asked.runs])
        study = self.studies[asked.study] = self.studies[asked.study].with_trial(trial)
        del self._asked[asked.study, asked.number]
        save(study, self._results)
        for run in asked.runs:
            shutil.rmtree(self._store.work(run), ignore_errors=True)  # a failed run keeps its checkpoints otherwise
        self.judged(study, trial)

    def _halt(self, index: int, reason: str) -> None:
        """Give a study up for now: its runs that wait are taken off the queue, another start goes on."""
        self.halted[self.studies[index].method] = reason
        for key in [key for key in self._asked if key[0] == index]:
            gone = {run.run_id for run in self._asked.pop(key).runs}
            for run in [run for run in self.queue if run.run_id in gone]:
                self.queue.remove(run)
