"""Operations of a study against sums over the layers, which know their own sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.compute import operations
from bench.models.trunks import build_trunk
from bench.protocol import Protocol, load_protocol


def by_layers(protocol: Protocol, side: int) -> int:
    """Two for each weight and place it is applied at, of convolutions and linear layers."""
    trunk = build_trunk(protocol.trunk.model_copy(update={"weights": "none"}), protocol.images.crop)
    total = 0

    def note(module: nn.Module, _: object, result: torch.Tensor) -> None:
        nonlocal total
        places = result[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
        total += 2 * module.weight.numel() * places  # type: ignore[operator, union-attr]

    for module in trunk.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(note)
    channels = next(m for m in trunk.modules() if isinstance(m, nn.Conv2d)).in_channels
    with torch.no_grad():
        features = trunk(torch.zeros(2, channels, side, side))
    return total + 2 * features.shape[1] * protocol.embedding.size


@pytest.mark.parametrize("name", ["quick", "finetune-cpu", "reality-check", "roth2020"])
def test_a_step_and_an_evaluation(name: str) -> None:
    protocol = load_protocol(name)
    assert protocol.images.train is not None
    found = operations(protocol)
    assert found.step == 3 * by_layers(protocol, protocol.images.train.size)
    assert found.evaluation == by_layers(protocol, protocol.images.crop)
    assert found.preparing == 0


def test_a_frozen_trunk_computes_once() -> None:
    protocol = load_protocol("frozen-trunk")
    found = operations(protocol)
    head = 2 * 1280 * 512
    assert (found.step, found.evaluation) == (3 * head, head)
    assert found.preparing == by_layers(protocol, protocol.images.crop) - head
