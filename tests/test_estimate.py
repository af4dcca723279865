"""Time and price of a plan before it starts."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from bench import machine
from bench.budget import scaled
from bench.data.cache import prepare_images
from bench.errors import UsageError
from bench.estimate import Pace, Paces, estimate, makespan, measured_paces, paces_elsewhere, weights_at_once, work
from bench.plan import Plan, Setting, make_plan, open_dataset
from bench.price import groups, half_width, price
from bench.run import run
from bench.store import Store
from tests.report import builders

FOLDED = {"count": 4, "use": [0, 1, 2]}
SEARCH = {"trials": 20, "reproductions": 6}
LONG = {"iterations": 1000, "evaluate_every": 250, "epoch": 100}


class Study:
    """A plan on glyphs with finished runs of known duration."""

    def __init__(self, protocol: str, root: Path, methods: list[str]) -> None:
        self.setting = Setting(protocol, root, root / "results")
        self.plan = make_plan("glyphs", self.setting, methods)
        self.dataset = open_dataset("glyphs", root, self.plan.protocol)

    def finish(self, method: str, seconds: dict[str, float], plan: Plan | None = None, **changes: Any) -> None:
        """A finished run: `seconds` of fit, validation and test over 1000 steps and 4 evaluations, 1 s of all else."""
        of = plan or self.plan
        spec = next(s for s in of.specs if s.method == method and not Store(self.setting.results).is_done(s))
        steps = 0 if method in ("untrained", "raw_trunk") else 1000
        made = builders.record(spec, of.protocol, builders.facts(), 0.3, seconds=seconds, counts={"steps": steps})
        point = made.curves[0]
        points = tuple(point.model_copy(update={"step": n}) for n in range(4 if steps else 1))
        here = {**made.environment, "cpu": machine.cpu_model(), "gpu": machine.gpu_name(), **changes}
        Store(self.setting.results).write(made.model_copy(update={"curves": points, "environment": here}))

    def paces(self) -> Paces:
        return measured_paces(self.plan, self.dataset)


def spent(fit: float, validation: float, test: float) -> dict[str, float]:
    return {"fit": fit, "validation": validation, "test": test, "train": fit + validation + 1}


@pytest.fixture
def study(tiny, tmp_path):
    def make(methods: list[str], **changes: Any) -> Study:
        return Study(tiny(**({"budget": LONG} | changes)), tmp_path, methods)

    return make


def test_each_method_goes_by_its_own_runs(study):
    made = study(["margin", "triplet", "untrained"])
    made.finish("margin", spent(100, 4, 8))
    made.finish("margin", spent(300, 4, 8))
    made.finish("triplet", spent(900, 8, 8))
    made.finish("untrained", spent(0, 2, 2))
    found = made.paces()
    assert found.methods["margin"] == Pace(step=0.2, validation=1, test=2, rest=1)
    assert found.methods["triplet"].step == 0.9
    assert found.methods["untrained"] == Pace(step=0, validation=2, test=2, rest=1)
    assert "4 finished runs of 3 of the 3 methods" in found.basis
    triplet, untrained = 900 + 8 + 8 + 1, 2 + 2 + 1  # one seed of each is left, none of margin
    assert estimate(made.plan, made.dataset, 1, found).seconds == pytest.approx(triplet + untrained)


def test_methods_without_runs_go_by_their_like_and_the_basis_says_so(study):
    made = study(["margin", "triplet", "untrained", "raw_trunk"])
    made.finish("margin", spent(100, 4, 8))
    made.finish("untrained", spent(0, 2, 3))
    found = made.paces()
    assert found.methods["triplet"] == found.methods["margin"]
    assert found.methods["raw_trunk"] == found.methods["untrained"]
    assert "their mean for 2 others" in found.basis


def test_runs_of_another_budget_tell_the_pace_of_this_one(study):
    made = study(["margin"])
    small = make_plan("glyphs", dataclasses.replace(made.setting, budget=0.5), ["margin"])
    assert small.protocol.hash != made.plan.protocol.hash
    made.finish("margin", spent(100, 4, 8), small)
    found = made.paces()
    assert found.methods["margin"] == Pace(step=0.1, validation=1, test=2, rest=1)
    assert estimate(made.plan, made.dataset, 2, found).seconds == pytest.approx(100 + 4 + 8 + 1)
    assert estimate(small, made.dataset, 1, found).seconds == 0


def test_runs_elsewhere_or_of_other_costs_are_no_kin(study, tiny, tmp_path):
    made = study(["margin"])
    made.finish("margin", spent(1e6, 4, 8), cpu="another processor")
    wider = make_plan("glyphs", dataclasses.replace(made.setting, protocol=tiny(budget=LONG, embedding={"size": 32})))
    made.finish("margin", spent(1e6, 4, 8), wider)
    found = made.paces()
    assert "finished" not in found.basis
    assert "calibration" in found.basis
    pace = found.methods["margin"]
    assert 0 < pace.step < 100
    assert 0 < pace.validation < pace.test


def test_runs_of_other_devices_tell_the_pace_there(study):
    made = study(["margin", "triplet", "untrained"])
    made.finish("margin", spent(100, 4, 8))
    made.finish("margin", spent(400, 8, 16), cpu="another processor")
    made.finish("untrained", spent(0, 1, 1), cpu="a third one")  # of no use: nothing was trained there
    found = paces_elsewhere(made.plan)
    assert list(found) == ["another processor"]
    assert found["another processor"] == dict.fromkeys(
        ("margin", "triplet", "untrained"), Pace(step=0.4, validation=2, test=4, rest=1)
    )
    cost = price(made.plan, made.dataset, 2)
    runs, seeds = [400 + 8 + 16 + 1, 400 + 8 + 16 + 1, 2 + 4 + 1], len(made.plan.protocol.seeds)
    assert cost.elsewhere == (("another processor", pytest.approx(seeds * sum(runs))),)


def test_free_workers_take_the_next_run():
    assert makespan([5, 4, 3, 3, 3], 2) == 10  # 5 + 3 and 4 + 3 + 3
    assert makespan([5, 4, 3], 9) == 5
    assert makespan([], 3) == 0


def test_work_counts_both_fits_of_a_retrained_run_and_spares_trials_the_test_side():
    retrained = builders.protocol(selection={"split": "last", "retrain": True})
    assert (work(retrained, True).steps, work(retrained, True, tested=False).steps) == (800, 400)
    plain = builders.protocol(budget={"iterations": 400, "evaluate_every": 150, "epoch": 100})
    assert dataclasses.astuple(work(plain, True)) == (400, 3, 3)
    assert dataclasses.astuple(work(plain, True, tested=False)) == (400, 3, 0)
    assert dataclasses.astuple(work(plain, False)) == (0, 1, 1)
    assert work(builders.protocol(folds=None, selection={"split": "last"}), True).validations == 0


def kept(evaluations: int, candidates: int, best: int | None) -> set[int]:
    """Evaluations whose weights are there at the end of a run of that many."""
    stride = 1
    while evaluations / stride > candidates:
        stride *= 2
    found = {number for number in range(1, evaluations + 1) if number % stride == 0} | {evaluations}
    return found if best is None else found | {best}


@given(st.integers(1, 40), st.integers(1, 9), st.booleans(), st.sampled_from(["fixed", "patience", "retrain"]))
def test_tests_and_weights_on_disk_are_those_of_the_worst_run(
    points: int, candidates: int, folded: bool, length: str
) -> None:
    split = "last" if length == "retrain" or not folded else "validation"
    protocol = builders.protocol(
        budget={"iterations": 10 * points, "evaluate_every": 10, "epoch": 10}
        | ({"patience": 2} if length == "patience" else {}),
        folds={"count": 4} if folded or length == "retrain" else None,
        selection={"split": split, "candidates": candidates, "retrain": length == "retrain"},
    )
    judged = folded and length != "retrain"
    lengths = {n: [kept(n, candidates, best if judged else None) for best in range(1, n + 1)] for n in range(1, 41)}
    sizes = {n: max(map(len, found)) for n, found in lengths.items()}
    found, at_once = work(protocol, True).tests, weights_at_once(protocol, True)
    longest = max(sizes[n] for n in range(1, points + 1))
    if length == "fixed":
        assert found == sizes[points]
    else:
        assert longest <= found <= candidates + judged
        assert found == longest or points < 2 * candidates
    assert at_once == min(points, max(longest, min(points, candidates + judged)) + 1)
    assert work(protocol, True, tested=False).tests == 0


def test_a_test_side_evaluation_costs_what_those_that_were_made_cost(study):
    made = study(["margin"], selection={"candidates": 2})
    made.finish("margin", spent(100, 4, 9))  # of a record that does not say: all 4 evaluations
    assert made.paces().methods["margin"].test == 9 / 4
    spec = made.plan.specs[0]
    record = Store(made.setting.results).load(spec)
    other = record.model_copy(update={"spec": made.plan.specs[1], "run_id": made.plan.specs[1].run_id})
    Store(made.setting.results).write(other.model_copy(update={"counts": {**record.counts, "test_checkpoints": 3}}))
    assert made.paces().methods["margin"].test == pytest.approx((9 / 4 + 9 / 3) / 2)


def test_a_study_counts_methods_folds_trials_and_reproductions(study):
    made = study(["contrastive", "untrained"], folds=FOLDED, search=SEARCH, seeds=[0, 1])
    plain = {(g.method, g.tested): g.models for g in groups(made.plan.protocol, made.plan.methods(), None, False)}
    assert plain == {("contrastive", True): 6, ("untrained", True): 6}
    tuned = {(g.method, g.tested): g.models for g in groups(made.plan.protocol, made.plan.methods(), None, True)}
    assert tuned == {("contrastive", False): 60, ("contrastive", True): 18, ("untrained", True): 18}


def test_images_are_those_that_pass_the_network(study):
    made = study(["contrastive", "untrained"], folds={"count": 4, "use": [0, 3]}, search=SEARCH)
    for name in ("contrastive", "untrained"):
        made.finish(name, spent(10, 1, 1))
    cost = price(made.plan, made.dataset, 2, tune=True)
    assert cost.models == 2 * (20 + 6) + 2 * 6
    assert cost.training_images == 2 * 26 * 1000 * 16
    training, test = made.dataset.manifest.train_images, made.dataset.manifest.test_images
    validation = training / 16 * 4  # a quarter of the 16 classes; all of one size
    assert cost.evaluated_images == pytest.approx(
        2 * 26 * 4 * validation + 2 * 6 * 4 * test + 12 * (validation + test), rel=0.05
    )


def test_smaller_budgets_show_time_and_wider_intervals(study):
    made = study(["margin"], seeds=list(range(10)))
    made.finish("margin", spent(100, 4, 8))
    rows = {row.share: row for row in price(made.plan, made.dataset, 1).smaller}
    assert list(rows) == [1.0, 0.5, 0.2, 0.1]
    assert [rows[share].repetitions for share in rows] == [10, 5, 2, 1]
    assert [rows[share].iterations for share in rows] == [1000, 500, 200, 100]
    assert rows[0.5].seconds == pytest.approx(5 * (50 + 4 + 8 + 1))
    width = {n: stats.t.interval(0.95, n - 1)[1] / math.sqrt(n) for n in (10, 5, 2)}
    assert rows[0.5].half_width == pytest.approx(width[5])
    assert rows[0.2].wider == pytest.approx(width[2] / width[10])
    assert (rows[0.1].half_width, rows[0.1].wider) == (None, None)
    assert half_width(1, 0.95) is None
    asked = price(made.plan, made.dataset, 1, seeds=[7, 8])
    assert {row.repetitions for row in asked.smaller} == {2}


def test_a_search_needs_a_protocol_that_has_one(study):
    made = study(["margin"])
    with pytest.raises(UsageError, match="no section 'search'"):
        price(made.plan, made.dataset, 1, tune=True)


def test_the_disk_that_is_priced_is_the_disk_that_a_run_takes(tiny, tmp_path):
    protocol = tiny(budget={"iterations": 4, "evaluate_every": 2}, seeds=[0])
    made = Study(protocol, tmp_path, ["untrained"])
    cost = price(made.plan, made.dataset, 1)
    assert run(made.plan.specs[0], made.plan.protocol, made.setting, lambda *_: None, lambda: False).state == "done"
    stored = sum(file.stat().st_size for file in (tmp_path / "results").rglob("*.safetensors"))
    assert stored <= cost.disk.results < 1.25 * stored  # examples share images, which is not known before
    weights = next((tmp_path / "results").rglob("weights.safetensors")).stat().st_size
    assert cost.disk.working == pytest.approx((2 + 1 + 2) * weights, rel=0.02)
    assert cost.disk.caches == 0


def test_checkpoints_that_are_thrown_away_are_not_priced(tiny, tmp_path):
    changes: dict[str, Any] = {"budget": {"iterations": 20, "evaluate_every": 1}, "search": SEARCH, "seeds": [0]}
    prices = {}
    for candidates in (None, 3):
        made = Study(tiny(selection={"candidates": candidates}, **changes), tmp_path, ["contrastive"])
        made.finish("contrastive", spent(10, 1, 1))
        prices[candidates] = [price(made.plan, made.dataset, 1, tune=tune) for tune in (False, True)]
    test = made.dataset.manifest.test_images
    for whole, few, models in zip(prices[None], prices[3], (1, 6), strict=True):
        assert whole.evaluated_images - few.evaluated_images == models * (20 - 4) * test  # 8, 16, the last, the best
        weights = whole.disk.working / (20 + 1 + 2)
        assert few.disk.working == pytest.approx((4 + 1 + 1 + 2) * weights)
    at_once = price(made.plan, made.dataset, 100, tune=True)  # 20 trials, and then 6 reproductions
    assert at_once.disk.working == pytest.approx(max(6 * (4 + 1 + 1 + 2), 20 * (1 + 2)) * weights)


def test_scaled_protocols_keep_the_shares_of_work():
    full = builders.protocol(budget={"iterations": 10_000, "evaluate_every": 500, "epoch": 100})
    part = work(scaled(full, 0.1).protocol, True)
    assert (part.steps, part.tests) == (1000, work(full, True).tests)


def test_the_cache_that_is_priced_is_the_cache_that_is_written(tiny, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for label in range(24):
        folder = tmp_path / "data" / f"c{label:02}"
        folder.mkdir(parents=True)
        for number in range(4):
            size = (48 + 8 * number, 40)
            Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    setting = Setting(tiny(subset=None), tmp_path / "data", tmp_path / "results")
    plan = make_plan("image_folder", setting, ["margin"])
    dataset = open_dataset("image_folder", setting.data, plan.protocol)
    priced = price(plan, dataset, 1)
    assert "preparing the data included" in priced.left.basis
    prepare_images(dataset, 32, 1, progress=False)
    written = sum(file.stat().st_size for file in (tmp_path / "cache").rglob("pixels.bin"))
    assert priced.disk.caches == pytest.approx(written, rel=0.02)
