"""Which weights of a run lie on disk while it trains, and what is looked at when the test side is opened."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.plan import Plan, Setting, make_plan
from bench.record import Record
from bench.run import run
from bench.store import Store
from bench.training import checkpoint

EVALUATIONS = 13


class Killed(BaseException):
    """The end of the process, where it is raised: nothing of the harness catches it."""


def seen_in(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("kept/*")}


def names(steps: set[int]) -> set[str]:
    return {f"step-{step:08d}.safetensors" for step in steps}


def by_the_rule(evaluations: int, candidates: int) -> set[int]:
    stride = next(2**k for k in itertools.count() if Fraction(evaluations, 2**k) <= candidates)
    return {number for number in range(1, evaluations + 1) if number % stride == 0}


def planned(protocol: str, results: Path, method: str = "margin") -> Plan:
    return make_plan("glyphs", Setting(protocol, results / "data", results), [method], [0])


def done(plan: Plan, watch: Callable[[str, int], None] = lambda *_: None, tuning: bool = False) -> Record:
    spec = plan.specs[0].model_copy(update={"tuning": tuning})
    record = run(spec, plan.protocol, plan.setting, lambda phase, at, _: watch(phase, at), lambda: False)
    assert record.state == "done", record.traceback
    return record


def content(record: Record) -> tuple[Any, ...]:
    points = [(p.step, p.loss, p.validation, p.test) for p in record.curves]
    return record.metrics, points, record.steps, record.counts


@pytest.fixture
def pruned(tiny: Any) -> Callable[..., str]:
    """A protocol with an evaluation after every step, all but a few of which are thrown away again."""

    def write(candidates: int | None, **changes: Any) -> str:
        return str(
            tiny(
                budget={"iterations": EVALUATIONS, "evaluate_every": 1},
                selection={"candidates": candidates} | changes,
            )
        )

    return write


@given(st.integers(0, 700), st.integers(1, 60))
def test_candidates_are_evenly_spaced_and_never_asked_for_again(evaluations: int, candidates: int) -> None:
    now = set(checkpoint.spaced(evaluations, candidates))
    assert now == by_the_rule(evaluations, candidates)
    assert len(now) <= candidates
    assert now == set(range(1, evaluations + 1)) or len(now) > candidates // 2 - 1
    assert set(checkpoint.spaced(evaluations + 1, candidates)) <= now | {evaluations + 1}
    assert list(checkpoint.spaced(evaluations, None)) == [*range(1, evaluations + 1)]


@given(st.lists(st.integers(1, 50), unique=True), st.lists(st.integers(1, 50), unique=True))
def test_pruning_leaves_what_is_named_and_nothing_half_written(
    tmp_path_factory: pytest.TempPathFactory, stored: list[int], wanted: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("kept")
    for step in stored:
        checkpoint.weights_file(folder, step).touch()
        checkpoint.weights_file(folder, step).with_suffix(".tmp").touch()
    for _ in range(2):
        checkpoint.prune(folder, wanted)
        assert {file.name for file in folder.iterdir()} == names({*stored} & {*wanted})


@pytest.mark.parametrize("candidates", [1, 3, 5, None])
def test_after_every_evaluation_the_candidates_the_best_and_the_last_are_there(
    pruned: Callable[..., str], tmp_path: Path, candidates: int | None
) -> None:
    plan, seen = planned(pruned(candidates), tmp_path), dict[int, set[str]]()
    work = Store(tmp_path).work(plan.specs[0])
    record = done(plan, lambda phase, at: seen.setdefault(at, seen_in(work)) if phase == "train" else None)
    scores = {point.step: (point.validation or {})["map_at_r"] for point in record.curves}
    assert max(scores, key=lambda step: scores[step]) < EVALUATIONS, "the best would be the last: nothing to tell apart"
    for step in range(1, EVALUATIONS + 1):
        best = max(range(1, step + 1), key=lambda one: scores[one])
        assert seen[step] == names(by_the_rule(step, candidates or EVALUATIONS) | {best, step})


def test_best_on_test_is_the_best_of_the_kept_and_all_else_is_as_without_pruning(
    pruned: Callable[..., str], tmp_path: Path
) -> None:
    whole, few = (done(planned(pruned(candidates), tmp_path / str(candidates))) for candidates in (None, 5))
    looked_at = {point.step: point.test["map_at_r"] for point in few.curves if point.test is not None}
    assert set(looked_at) == {4, 8, 12, EVALUATIONS, few.steps["best_validation"]}
    assert few.counts["test_checkpoints"] == len(looked_at)
    assert whole.counts["test_checkpoints"] == len(whole.curves) == EVALUATIONS
    assert few.steps["best_test"] == max(looked_at, key=lambda step: looked_at[step])
    for name in ("last", "best_validation"):
        assert (few.steps[name], few.metrics[name]) == (whole.steps[name], whole.metrics[name])
    for ours, theirs in zip(few.curves, whole.curves, strict=True):
        assert (ours.step, ours.loss, ours.validation) == (theirs.step, theirs.loss, theirs.validation)
        assert ours.test in (None, theirs.test)


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Ends the process just before a file is put in place ('keep', 'save') or removed ('prune') for the nth time."""

    def at(what: str, count: int) -> None:
        replace, unlink, left = os.replace, Path.unlink, itertools.count(count - 1, -1)

        def replaced(source: Path, target: Path) -> None:
            kind = {".safetensors": "keep", ".pt": "save"}.get(Path(target).suffix)
            if kind == what and next(left) == 0:
                raise Killed
            replace(source, target)

        def removed(path: Path, missing_ok: bool = False) -> None:
            if what == "prune" and path.parent.name == "kept" and next(left) == 0:
                raise Killed
            unlink(path, missing_ok)

        monkeypatch.setattr(os, "replace", replaced)
        monkeypatch.setattr(Path, "unlink", removed)

    return at


@pytest.mark.parametrize(
    ("what", "count"),
    [("keep", 7), ("save", 1), ("save", 7), ("save", EVALUATIONS), ("prune", 1), ("prune", 10)],
)
def test_killed_at_any_write_and_resumed_a_run_gives_the_same_record(
    pruned: Callable[..., str],
    tmp_path: Path,
    kill: Callable[[str, int], None],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    count: int,
) -> None:
    protocol = pruned(3)
    whole = done(planned(protocol, tmp_path / "whole"))
    plan, seen = planned(protocol, tmp_path / "cut"), list[set[str]]()
    work = Store(tmp_path / "cut").work(plan.specs[0])
    kill(what, count)
    with pytest.raises(Killed):
        done(plan)
    monkeypatch.undo()
    resumed = done(plan, lambda phase, _: seen.append(seen_in(work)) if phase == "test" else None)
    assert content(resumed) == content(whole)
    assert seen[0] == names({point.step for point in whole.curves if point.test is not None})


def test_a_trial_keeps_no_weights(pruned: Callable[..., str], tmp_path: Path) -> None:
    plan, seen = planned(pruned(None), tmp_path), set[Path]()
    done(plan, lambda *_: seen.update(tmp_path.rglob("*.safetensors")), tuning=True)
    assert seen == set()


@pytest.mark.parametrize(("method", "stages"), [("contrastive", {"retrained"}), ("untrained", {"first"})])
def test_of_two_stages_only_the_one_that_is_tested_keeps_weights(
    pruned: Callable[..., str], tmp_path: Path, method: str, stages: set[str]
) -> None:
    plan = planned(pruned(None, split="last", retrain=True), tmp_path, method)
    folders = {"first": Store(tmp_path).work(plan.specs[0])}
    folders["retrained"] = folders["first"] / "retrained"
    seen = set[str]()
    record = done(plan, lambda *_: seen.update(name for name, folder in folders.items() if seen_in(folder)))
    assert seen == stages
    assert record.counts["test_checkpoints"] == len(record.curves)
