"""Global descriptors: how a trunk's last feature maps become one vector an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Descriptor = Literal["mean", "max", "gem", "mean_plus_max"]
Descriptors = tuple[Descriptor, ...]
MEAN: Descriptors = ("mean",)
GEM_POWER = 3.0
GEM_FLOOR = 1e-6  # the root of the mean power has no slope at 0


class GlobalPool(nn.Module):
    """Concatenated descriptors of feature maps (B, C, H, W), float32 (B, n * C) in the order given.

    'mean' is average pooling (SPoC), 'max' is MAC, 'gem' the generalised mean with power 3
    (Radenovic et al. 2018, equation 3), 'mean_plus_max' the sum of the first two.
    """

    def __init__(self, descriptors: Descriptors = MEAN) -> None:
        super().__init__()
        self.descriptors = descriptors

    def forward(self, maps: Tensor) -> Tensor:
        """Pool over positions, in float32 whatever the maps' precision."""
        maps = maps.float()
        parts = [_POOLS[name](maps) for name in self.descriptors]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _gem(maps: Tensor) -> Tensor:
    return maps.clamp(min=GEM_FLOOR).pow(GEM_POWER).mean((2, 3)).pow(1 / GEM_POWER)


_POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda maps: maps.mean((2, 3)),
    "max": lambda maps: maps.amax((2, 3)),
    "gem": _gem,
    "mean_plus_max": lambda maps: maps.mean((2, 3)) + maps.amax((2, 3)),
}
