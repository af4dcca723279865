"""A protocol under a share of its budget."""

from __future__ import annotations

import dataclasses

import pytest

from bench.budget import scaled
from bench.cli.arguments import share
from bench.errors import UsageError
from bench.plan import Setting, make_plan
from bench.training.optimizer import learning_rate_factor
from tests.report.builders import protocol

SEARCH = {"trials": 50, "reproductions": 10}
LONG = {"iterations": 10_000, "evaluate_every": 500, "epoch": 100, "patience": 3}


def evaluations(made) -> int:
    return -(-made.budget.iterations // made.budget.evaluate_every)


@pytest.mark.parametrize("part", [0.5, 0.2, 0.1, 0.03])
def test_a_smaller_budget_has_as_many_checkpoints_and_the_same_patience(part):
    full = protocol(budget=LONG)
    small = scaled(full, part).protocol
    assert small.budget.iterations == round(10_000 * part)
    assert evaluations(small) == evaluations(full)
    assert small.budget.patience == 3


@pytest.mark.parametrize("every", [1, 7, 333, 400])
@pytest.mark.parametrize("part", [0.9, 0.37, 0.25])
def test_evaluations_never_become_more(every, part):
    full = protocol(budget={"iterations": 400, "evaluate_every": every, "epoch": 100})
    assert evaluations(scaled(full, part).protocol) <= evaluations(full)


def test_trials_reproductions_and_seeds_become_fewer_and_reproductions_stay_two():
    full = protocol(budget=LONG, search=SEARCH, seeds=[4, 5, 6, 7])
    half, tenth = scaled(full, 0.5), scaled(full, 0.1)
    assert (half.protocol.search.trials, half.protocol.search.reproductions) == (25, 5)
    assert half.protocol.seeds == (4, 5)
    assert half.floored == ()
    assert (tenth.protocol.search.trials, tenth.protocol.search.reproductions) == (5, 2)
    assert tenth.protocol.seeds == (4,)
    assert any("reproductions 2" in text and "leave 1" in text for text in tenth.floored)
    assert any("seeds 1" in text for text in tenth.floored)


def test_a_floor_keeps_what_a_protocol_has_and_never_adds():
    tiny = scaled(protocol(budget={"iterations": 40, "evaluate_every": 10, "epoch": 10}), 0.1)
    assert tiny.protocol.budget.iterations == 40
    assert any("iterations 40" in text and "leave 4" in text for text in tiny.floored)
    single = scaled(protocol(search={"trials": 1, "reproductions": 1}), 0.5).protocol
    assert (single.search.trials, single.search.reproductions) == (1, 1)


def test_the_schedule_moves_with_the_iterations():
    optimizer = {
        "name": "adam", "schedule": "steps", "milestones": [4000, 8000], "factor": 0.1, "warmup": 1000,
        "trunk_rests": 500, **{part: {"lr": 1e-3} for part in ("trunk", "embedder", "method")},
    }  # fmt: skip
    full = protocol(budget=LONG, optimizer=optimizer)
    small = scaled(full, 0.1).protocol
    for step in (0, 99, 399, 400, 799, 800, 999):
        slow = learning_rate_factor(full.optimizer, 10 * step + 9, 10_000)
        assert learning_rate_factor(small.optimizer, step, 1000) == pytest.approx(slow)
    assert small.optimizer.trunk_rests == 50


def test_each_share_is_a_protocol_of_its_own_and_the_whole_is_the_protocol_itself():
    full = protocol(budget=LONG)
    found = [scaled(full, part).protocol for part in (1, 0.5, 0.1)]
    assert len({made.hash for made in found}) == 3
    assert found[0] == full
    assert [made.name for made in found] == ["quick", "quick@0.5", "quick@0.1"]
    unscaled = scaled(protocol(budget={"iterations": 40, "evaluate_every": 10, "epoch": 10}), 0.5).protocol
    assert unscaled.hash != protocol(budget={"iterations": 40, "evaluate_every": 10, "epoch": 10}).hash


def test_shares_multiply_where_the_protocol_is_a_scaled_one_already():
    twice = scaled(protocol(budget=LONG, budget_share=0.002), 0.5).protocol
    assert (twice.name, twice.budget_share) == ("quick@0.5", 0.001)


@pytest.mark.parametrize("wrong", [0.0, -0.5, 1.5, float("nan")])
def test_shares_outside_are_refused(wrong):
    with pytest.raises(UsageError, match="above 0 and at most 1"):
        scaled(protocol(), wrong)


@pytest.mark.parametrize(("text", "value"), [("0.1", 0.1), ("10%", 0.1), ("1", 1.0), ("100 %", 1.0), ("2.5%", 0.025)])
def test_shares_are_written_as_fractions_or_percent(text, value):
    assert share(text) == value


@pytest.mark.parametrize("text", ["0", "0%", "-1", "101%", "2", "ten", "", "%", "nan", "inf"])
def test_wrong_shares_are_explained(text):
    with pytest.raises(Exception, match="above 0 and at most 1"):
        share(text)


def test_specs_of_a_budget_bear_its_name_and_share_nothing_with_the_full_ones(tiny, tmp_path):
    setting = Setting(tiny(budget={"iterations": 1000, "evaluate_every": 100}), tmp_path, tmp_path / "results")
    whole = make_plan("glyphs", setting, ["margin"])
    part = make_plan("glyphs", dataclasses.replace(setting, budget=0.5), ["margin"])
    assert {spec.protocol for spec in part.specs} == {"tiny@0.5"}
    assert {spec.seed for spec in part.specs} == {0}
    assert not {spec.run_id for spec in part.specs} & {spec.run_id for spec in whole.specs}
    assert part.protocol.budget.iterations == 500
    assert any("500 of 1,000 iterations" in note for note in part.notes)
    assert whole.notes == ()


def test_seeds_that_were_asked_for_are_not_scaled(tiny, tmp_path):
    setting = Setting(tiny(), tmp_path, tmp_path / "results", budget=0.1)
    assert {spec.seed for spec in make_plan("glyphs", setting, ["margin"], [3, 4, 5]).specs} == {3, 4, 5}


def test_values_of_a_data_set_are_scaled_with_the_rest(tiny, tmp_path):
    own = {"glyphs": {"budget": {"iterations": 4000, "evaluate_every": 400}}}
    setting = Setting(tiny(datasets=own), tmp_path, tmp_path / "results", budget=0.25)
    assert make_plan("glyphs", setting, ["margin"]).protocol.budget.iterations == 1000
