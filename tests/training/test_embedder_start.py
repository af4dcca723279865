"""How the embedder's linear layers start: the spread that a protocol names, the same for every method of a seed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bench.errors import UsageError
from bench.method import Method
from bench.protocol import Embedding, load_protocol
from bench.training.learner import build_learner, start_layers
from bench.training.parts import Part
from bench.training.streams import Streams

PART = Part(np.arange(4), np.array([0, 0, 1, 1]), None, None)
IN, OUT = 1024, 512
XAVIER = {"init": "xavier_uniform", "gain": 0.5}


class Deep(Method):
    """A method with an embedder of its own, without a bias in one layer."""

    name = "deep"

    def embedder(self, trunk_dim: int, size: int) -> nn.Module:
        """Two layers."""
        return nn.Sequential(nn.Linear(trunk_dim, 64, bias=False), nn.ReLU(), nn.Linear(64, size))


def started(tiny: Any, method: Method, seed: int = 0, **embedding: Any) -> list[nn.Linear]:
    protocol = load_protocol(tiny(embedding={"size": OUT, **embedding}))
    learner = build_learner(protocol, method, None, IN, PART, Streams(seed), torch.device("cpu"))
    return [layer for layer in learner.embedder.modules() if isinstance(layer, nn.Linear)]


def spread(layer: nn.Linear) -> float:
    return float(layer.weight.detach().std())


def test_kaiming_normal_spreads_by_the_width_of_the_embedding(tiny: Any) -> None:
    (layer,) = started(tiny, Method(), init="kaiming_normal")
    assert spread(layer) == pytest.approx(math.sqrt(2 / OUT), rel=0.01)
    assert layer.weight.abs().max() > 4 * math.sqrt(2 / OUT)  # normal, not uniform
    assert not layer.bias.any()


@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_xavier_uniform_stays_within_its_bound(tiny: Any, gain: float) -> None:
    (layer,) = started(tiny, Method(), init="xavier_uniform", gain=gain)
    bound = gain * math.sqrt(6 / (IN + OUT))
    assert bound * 0.999 < layer.weight.abs().max() <= bound
    assert spread(layer) == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert not layer.bias.any()


def test_the_recipes_of_mxnet_start_as_its_xavier_of_magnitude_two() -> None:
    for name in ("embedding-expansion", "loop"):
        layer = nn.Linear(IN, OUT)
        start_layers(layer, load_protocol(f"papers/{name}").embedding)
        bound = math.sqrt(2 / ((IN + OUT) / 2))  # the root of magnitude by the mean of both widths
        assert bound * 0.999 < layer.weight.abs().max() <= bound * (1 + 1e-6)


def test_every_layer_of_a_methods_own_embedder_starts_so(tiny: Any) -> None:
    first, second = started(tiny, Deep(), init="kaiming_normal")
    assert spread(first) == pytest.approx(math.sqrt(2 / 64), rel=0.02)
    assert spread(second) == pytest.approx(math.sqrt(2 / OUT), rel=0.02)
    assert first.bias is None
    assert not second.bias.any()


def test_pytorchs_start_is_left_as_it_was_drawn(tiny: Any) -> None:
    (found,) = started(tiny, Method())
    streams = Streams(0)
    with streams.world("init"):
        expected = nn.Linear(IN, OUT)
    assert torch.equal(found.weight, expected.weight)
    assert torch.equal(found.bias, expected.bias)


@pytest.mark.parametrize("embedding", [{"init": "kaiming_normal"}, XAVIER], ids=str)
def test_a_seed_starts_all_methods_alike_and_moves_nothing_else(tiny: Any, embedding: dict[str, Any]) -> None:
    class Other(Method):
        name = "other"

        def build(self, context: Any) -> None:
            self.drawn = torch.rand(3)

    torch.manual_seed(5)
    outer = torch.get_rng_state()
    (one,), (other,) = (started(tiny, method, **embedding) for method in (Method(), Other()))
    (new_seed,) = started(tiny, Method(), seed=1, **embedding)
    assert torch.equal(one.weight, other.weight)
    assert not torch.equal(one.weight, new_seed.weight)
    assert torch.equal(torch.get_rng_state(), outer)
    drawn = []
    for values in ({}, embedding):
        method = Other()
        started(tiny, method, **values)
        drawn.append(method.drawn)
    assert torch.equal(*drawn)


def test_a_gain_without_xavier_is_refused_with_the_way_out(tiny: Any) -> None:
    with pytest.raises(UsageError, match=r"gain 0\.5 belongs to init 'xavier_uniform', found 'kaiming_normal': leave"):
        load_protocol(tiny(embedding={"init": "kaiming_normal", "gain": 0.5}))
    with pytest.raises(UsageError, match=r"embedding\.init.*'orthogonal'.*'kaiming_normal' or 'xavier_uniform'"):
        load_protocol(tiny(embedding={"init": "orthogonal"}))
    assert Embedding(size=8).content() == {"size": 8, "normalize": True}
    assert Embedding(size=8, **XAVIER).content() == {"size": 8, "normalize": True, **XAVIER}
