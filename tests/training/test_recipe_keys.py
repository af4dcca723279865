"""Whole runs under keys that recipes of papers need: exact resumes, and a second stage of as many epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.errors import UsageError
from bench.plan import Setting, make_plan
from bench.protocol import load_protocol
from bench.record import Record
from bench.run import run

RECIPES: dict[str, dict[str, Any]] = {
    "inverse and epsilon": {"optimizer": {"schedule": "inverse", "decay": 0.1, "epsilon": 0.01}},
    "chunks and start": {"batch": {"sampler": "chunks"}, "embedding": {"init": "kaiming_normal"}},
    "stretch": {
        "images": {
            "resize": 36, "fit": "stretch", "train": {"size": 32, "crop_area": [0.8, 0.8], "whole": 0.5, "flip": 0.5}
        }
    },
}  # fmt: skip
STAGES: dict[str, Any] = {"metric": "map_at_r", "split": "last", "retrain": True}


def quiet(phase: str, done: int, total: int) -> None:
    pass


def run_one(protocol: str, results: Path, stop_at: int | None = None) -> Record:
    plan = make_plan("glyphs", Setting(protocol, results / "data", results), ["margin"], [0])
    reached = 0

    def report(phase: str, done: int, total: int) -> None:
        nonlocal reached
        reached = done

    return run(
        plan.specs[0], plan.protocol, plan.setting, report, lambda: stop_at is not None and reached + 1 >= stop_at
    )


def bits(record: Record) -> Any:
    return record.metrics, [(p.step, p.loss, p.validation, p.test) for p in record.curves], record.steps


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_stopped_and_started_again_gives_the_same_bits(tiny: Any, tmp_path: Path, recipe: str) -> None:
    whole = run_one(tiny(**RECIPES[recipe]), tmp_path / "whole")
    assert whole.state == "done", whole.reason
    for at in (4, 11):
        assert run_one(tiny(**RECIPES[recipe]), tmp_path / "cut", at).state == "interrupted"
    assert bits(run_one(tiny(**RECIPES[recipe]), tmp_path / "cut")) == bits(whole)
    assert bits(run_one(tiny(), tmp_path / "plain")) != bits(whole)


def test_the_second_stage_lasts_as_many_epochs_of_all_images(tiny: Any, tmp_path: Path) -> None:
    common = {"budget": {"iterations": 12, "evaluate_every": 4}, "folds": {"count": 2, "use": [0]}}
    found = {}
    for by in ("iterations", "epochs"):
        record = run_one(tiny(**common, selection={**STAGES, "retrain_by": by}), tmp_path / by)
        assert record.state == "done", record.reason
        found[by] = record.steps["last"]
        assert record.counts["steps"] == 12 + found[by]
    first = record.dataset.train_images
    ratio = (first + record.dataset.validation_images) / first
    assert ratio > 1.8
    assert found["iterations"] in (4, 8, 12)
    assert found["epochs"] == round(found["iterations"] * ratio)


def test_what_is_counted_in_iterations_grows_with_the_second_stage(tiny: Any) -> None:
    budget = {"iterations": 90, "evaluate_every": 30, "epoch": 10}
    optimizer = {"schedule": "steps", "milestones": [20, 40], "factor": 0.5, "warmup": 4, "trunk_rests": 10}
    by_epochs, by_iterations = (
        load_protocol(tiny(budget=budget, optimizer=optimizer, selection={**STAGES, "retrain_by": by}))
        for by in ("epochs", "iterations")
    )
    longer = by_epochs.lasting(60, 250, 100)
    assert (longer.budget.iterations, longer.budget.evaluate_every, longer.budget.epoch) == (150, 75, 25)
    assert longer.optimizer == by_epochs.optimizer.moved(100, 250)
    assert (longer.optimizer.milestones, longer.optimizer.trunk_rests) == ((50, 100), 25)
    same = by_iterations.lasting(60, 250, 100)
    assert (same.budget.iterations, same.budget.evaluate_every, same.budget.epoch) == (60, 30, 10)
    assert same.optimizer == by_iterations.optimizer
    assert by_iterations.lasting(20, 250, 100).budget.evaluate_every == 20


def test_the_recipe_in_two_stages_has_its_epochs_of_more_batches() -> None:
    protocol, images = load_protocol("trainval-two-stage"), 5_864  # of cub200, the first stage has 2,889
    second = protocol.lasting(protocol.budget.iterations, images, 2_889)
    assert second.budget.epoch == -(-(images - 32) // 32)  # the rule of the first stage, for all images
    assert second.budget.iterations / second.budget.epoch == pytest.approx(45, rel=2e-3)
    assert second.optimizer.trunk_rests / second.budget.epoch == pytest.approx(5, rel=3e-3)


def test_counting_epochs_of_no_second_stage_is_refused(tiny: Any) -> None:
    with pytest.raises(UsageError, match=r"selection.*retrain_by 'epochs' needs 'retrain: true'"):
        load_protocol(tiny(selection={"split": "validation", "retrain_by": "epochs"}))
    plain = load_protocol(tiny(selection=STAGES)).hash
    hashes = {by: load_protocol(tiny(selection={**STAGES, "retrain_by": by})).hash for by in ("iterations", "epochs")}
    assert hashes["iterations"] == plain != hashes["epochs"]
