"""What a study computes, whatever the machine: floating-point operations of trunk and embedder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from bench.models.trunks import build_trunk, trunk_dim, trunk_input
from bench.protocol import Protocol


@dataclass(frozen=True)
class Operations:
    """Operations for one image, a multiply-add counted twice; those of losses, miners and searches are not in them.

    Attributes:
        step: forward, and backward as twice the forward, of what is trained, at the size of a training crop.
        evaluation: of one evaluation.
        preparing: of the features that a frozen trunk computes once; 0 where the trunk is trained.
    """

    step: int
    evaluation: int
    preparing: int


def operations(protocol: Protocol) -> Operations:
    """Counted over one forward pass with random weights.

    >>> from bench.protocol import load_protocol
    >>> operations(load_protocol("frozen-trunk")).evaluation == 2 * 1280 * 512
    True
    """
    from torch.utils.flop_counter import FlopCounterMode

    def counted(net: nn.Module, *shape: int) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(torch.zeros(2, *shape))  # batch norm in training needs two
        return int(counter.get_total_flops()) // 2

    width, size = trunk_dim(protocol.trunk.name), protocol.embedding.size
    channels, crop, train = trunk_input(protocol.trunk.name).channels, protocol.images.crop, protocol.images.train
    trunk = build_trunk(protocol.trunk.model_copy(update={"weights": "none"}), crop)
    embedder = nn.Linear(width, size)
    whole = nn.Sequential(trunk, embedder)
    if train is None:
        head = counted(embedder, width)
        return Operations(3 * head, head, counted(trunk, channels, crop, crop))
    step = 3 * counted(whole, channels, train.size, train.size)
    return Operations(step, counted(whole, channels, crop, crop), 0)
