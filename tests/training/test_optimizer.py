"""Rates over a run, the epsilon of adaptive optimisers, and a schedule whose points move with the length of the run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bench.errors import UsageError
from bench.method import Method
from bench.protocol import Group, Optimizer, load_protocol
from bench.training.optimizer import build_optimizer, learning_rate_factor


def optimizer(**values: Any) -> Optimizer:
    groups = {part: Group(lr=0.1) for part in ("trunk", "embedder", "method")}
    return Optimizer(**{"name": "adam", **groups, **values})


def built(settings: Optimizer) -> tuple[nn.Linear, torch.optim.Optimizer]:
    layer = nn.Linear(3, 2)
    return layer, build_optimizer(settings, None, layer, Method())


# ----------------------------------------------------------------------------------------------- inverse


def test_an_inverse_schedule_divides_the_rate_after_each_step() -> None:
    settings = optimizer(schedule="inverse", decay=1e-2)
    rate = 1.0
    for done in range(1, 500):  # the rate is set anew after each step, by the number of steps done
        assert learning_rate_factor(settings, done - 1, 500) == pytest.approx(rate)
        rate = 1 / (1 + done * 1e-2)


def test_an_inverse_schedule_begins_after_the_warm_up_and_does_not_know_the_length() -> None:
    settings = optimizer(schedule="inverse", decay=0.5, warmup=4)
    found = [learning_rate_factor(settings, step, 9) for step in range(7)]
    assert found == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1 / 1.5, 1 / 2])
    assert learning_rate_factor(settings, 6, 10_000) == found[6]


def test_the_recipe_of_log_ratio_ends_at_the_rate_of_its_code() -> None:
    protocol = load_protocol("papers/log-ratio")
    last = protocol.budget.iterations - 1
    factor = learning_rate_factor(protocol.optimizer, last, protocol.budget.iterations)
    assert protocol.optimizer.trunk.lr * factor == pytest.approx(0.01 / (1 + 1e-4 * last))


# ----------------------------------------------------------------------------------------------- epsilon


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop"])
def test_epsilon_reaches_every_group_and_torchs_own_is_left_where_none_is_named(name: str) -> None:
    class WithProxies(Method):
        name = "proxies"

        def __init__(self) -> None:
            super().__init__()
            self.proxies = nn.Parameter(torch.zeros(2))

    for epsilon in (None, 0.25):
        made = build_optimizer(optimizer(name=name, epsilon=epsilon), nn.Linear(2, 2), nn.Linear(2, 1), WithProxies())
        default = getattr(torch.optim, {"adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}[name])([nn.Parameter()])
        expected = default.defaults["eps"] if epsilon is None else epsilon
        assert [group["eps"] for group in made.param_groups] == [expected] * 3


def test_under_a_large_epsilon_adam_steps_in_proportion_to_the_gradient() -> None:
    steps = {}
    for epsilon in (None, 100.0):
        layer, made = built(optimizer(epsilon=epsilon))
        before = layer.weight.detach().clone()
        layer.weight.grad = torch.tensor([[1e-3, 2e-3, 4e-3]] * 2)
        made.step()
        steps[epsilon] = (before - layer.weight.detach())[0]
    torch.testing.assert_close(steps[None], torch.full((3,), 0.1), rtol=1e-3, atol=0)
    torch.testing.assert_close(steps[100.0], 0.1 * torch.tensor([1e-3, 2e-3, 4e-3]) / 100, rtol=0.02, atol=0)


# ------------------------------------------------------------------------------------------------- moved


def test_a_schedule_moved_to_twice_the_length_has_its_rates_at_twice_the_steps() -> None:
    for own in (
        {"schedule": "steps", "milestones": (30, 60), "factor": 0.1, "warmup": 8},
        {"schedule": "inverse", "decay": 0.02},
        {"schedule": "cosine"},
    ):
        settings = optimizer(**own, trunk_rests=5)
        longer = settings.moved(100, 200)
        assert longer.trunk_rests == 10
        for step in range(own.get("warmup", 0), 100):
            found = learning_rate_factor(longer, 2 * step, 200)
            assert found == pytest.approx(learning_rate_factor(settings, step, 100))


def test_a_schedule_moved_nowhere_stays() -> None:
    settings = optimizer(schedule="steps", milestones=(7, 13), factor=0.5, warmup=3, trunk_rests=2)
    assert settings.moved(20, 20) == settings
    assert settings.moved(20, 1).milestones == (1,)


# ------------------------------------------------------------------------------------------------ errors

GROUPS = {part: {"lr": 0.1} for part in ("trunk", "embedder", "method")}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": "sgd", "epsilon": 0.1}, r"optimizer\.epsilon.*found 0\.1; sgd takes none: null is allowed, or .*adam"),
    ({"epsilon": 0.0}, r"optimizer\.epsilon.*found 0\.0.*greater than 0"),
    ({"schedule": "inverse"}, r"optimizer.*schedule 'inverse' needs 'decay'"),
    ({"decay": 0.1}, r"optimizer.*schedule 'inverse' needs 'decay', and no other schedule has it"),
    ({"schedule": "inverse", "decay": -1.0}, r"optimizer\.decay.*found -1\.0.*greater than 0"),
    ({"schedule": "linear"}, r"optimizer\.schedule.*'linear'.*'steps' or 'inverse'"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=str)
def test_what_makes_no_sense_is_refused_with_the_way_out(tiny: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_protocol(tiny(optimizer={"name": "adam", **GROUPS, **changes}))


def test_the_keys_are_part_of_the_hash_only_where_they_say_something(tiny: Any) -> None:
    def found(**changes: Any) -> str:
        return load_protocol(tiny(optimizer=changes)).hash

    plain = load_protocol(tiny()).hash
    assert found(epsilon=None, decay=None) == plain
    others = [found(epsilon=1.0), found(schedule="inverse", decay=0.1), found(schedule="inverse", decay=0.2)]
    assert len({plain, *others}) == 4
