"""BN-Inception (Ioffe & Szegedy 2015), the trunk that many papers of this field started from.

Structure and layer names are those of the published conversion of its Caffe weights, so that the file loads as it
is. That network wants blue, green, red on a scale of 0 to 255 with the mean colour taken off: the scale and the
mean are the trunk's input format, the order of the channels is reversed here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.errors import UsageError
from bench.models.pooling import GlobalPool


class Block(NamedTuple):
    """Output channels of an inception block's layers: branch `double` ends in two layers of 3 x 3.

    Where `one` and `projection` are 0 the block has no 1 x 1 branch, passes its pooled input on as it is, and
    halves the maps.
    """

    name: str
    one: int
    three_reduce: int
    three: int
    double_reduce: int
    double: int
    projection: int
    max_pool: bool = False

    @property
    def stride(self) -> int:
        """Of the last layer of each branch, and of the pooling."""
        return 1 if self.projection else 2

    def width(self, before: int) -> int:
        """Channels of the block's output, given those of its input."""
        return self.one + self.three + self.double + (self.projection or before)


BLOCKS = (
    Block("3a", 64, 64, 64, 64, 96, 32),
    Block("3b", 64, 64, 96, 64, 96, 64),
    Block("3c", 0, 128, 160, 64, 96, 0, max_pool=True),
    Block("4a", 224, 64, 96, 96, 128, 128),
    Block("4b", 192, 96, 128, 96, 128, 128),
    Block("4c", 160, 128, 160, 128, 160, 128),
    Block("4d", 96, 128, 192, 160, 192, 128),
    Block("4e", 0, 128, 192, 192, 256, 0, max_pool=True),
    Block("5a", 352, 192, 320, 160, 224, 128),
    Block("5b", 352, 192, 320, 192, 224, 128, max_pool=True),
)
STEM = 192


class BNInception(nn.Module):
    """The network without its classifier. Its layers lie side by side, named as in the published file."""

    def __init__(self) -> None:
        super().__init__()
        self._add("conv1_7x7_s2", 3, 64, 7, stride=2)
        self._add("conv2_3x3_reduce", 64, 64, 1)
        self._add("conv2_3x3", 64, STEM, 3)
        channels = STEM
        for block in BLOCKS:
            self._add_block(block, channels)
            channels = block.width(channels)
        self.avgpool = GlobalPool()

    def forward(self, images: Tensor) -> Tensor:
        """RGB images (B, 3, H, W) to features (B, 1024), a descriptor each."""
        features: Tensor = self.avgpool(self.maps(images))
        return features

    def maps(self, images: Tensor) -> Tensor:
        """The last feature maps (B, 1024, H / 32, W / 32) of RGB images.

        Raises:
            UsageError: images of a side that the network cannot halve evenly.
        """
        check_sides(*images.shape[2:])
        maps = _halved(self._layer("conv1_7x7_s2", images.flip(1)))
        maps = _halved(self._layers("conv2_", ("3x3_reduce", "3x3"), maps))
        for block in BLOCKS:
            maps = self._block(block, maps)
        return maps

    def _add(self, name: str, before: int, after: int, kernel: int, stride: int = 1) -> None:
        self.add_module(name, nn.Conv2d(before, after, kernel, stride, padding=kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(after))

    def _add_block(self, block: Block, before: int) -> None:
        at = f"inception_{block.name}_"
        if block.one:
            self._add(f"{at}1x1", before, block.one, 1)
        self._add(f"{at}3x3_reduce", before, block.three_reduce, 1)
        self._add(f"{at}3x3", block.three_reduce, block.three, 3, block.stride)
        self._add(f"{at}double_3x3_reduce", before, block.double_reduce, 1)
        self._add(f"{at}double_3x3_1", block.double_reduce, block.double, 3)
        self._add(f"{at}double_3x3_2", block.double, block.double, 3, block.stride)
        if block.projection:
            self._add(f"{at}pool_proj", before, block.projection, 1)

    def _layer(self, name: str, maps: Tensor) -> Tensor:
        normed = self.get_submodule(f"{name}_bn")(self.get_submodule(name)(maps))
        return functional.relu(normed, inplace=True)

    def _layers(self, at: str, names: tuple[str, ...], maps: Tensor) -> Tensor:
        for name in names:
            maps = self._layer(at + name, maps)
        return maps

    def _block(self, block: Block, maps: Tensor) -> Tensor:
        at = f"inception_{block.name}_"
        branches = [self._layer(f"{at}1x1", maps)] if block.one else []
        branches.append(self._layers(at, ("3x3_reduce", "3x3"), maps))
        branches.append(self._layers(at, ("double_3x3_reduce", "double_3x3_1", "double_3x3_2"), maps))
        if block.projection:
            pool = functional.max_pool2d if block.max_pool else functional.avg_pool2d
            branches.append(self._layer(f"{at}pool_proj", pool(maps, 3, stride=1, padding=1)))
        else:
            branches.append(_halved(maps))
        return torch.cat(branches, 1)


def _halved(maps: Tensor) -> Tensor:
    """Caffe's pooling: a window that overhangs the border counts."""
    return functional.max_pool2d(maps, 3, stride=2, ceil_mode=True)


def check_sides(*sides: int) -> None:
    """Refuse images whose maps come out of the branches of a halving block with different sides.

    Raises:
        UsageError: a side that is not from 1 below to 6 above a multiple of 32.
    """
    for side in sides:
        if side < 31 or (side + 1) % 32 > 7:
            low = max(32, (side + 1) // 32 * 32)
            raise UsageError(
                f"trunk 'bn_inception' cannot take images of {side} pixels: its branches would end in maps of "
                "different sizes. A side may be 1 below to 6 above a multiple of 32: "
                f"{low - 1} to {low + 6}, or {low + 31} to {low + 38} "
                "(protocol keys images.crop and images.train.size)."
            )


def build(crop: int) -> nn.Module:
    """The network with random weights.

    Raises:
        UsageError: a crop that it cannot take.
    """
    check_sides(crop)
    return BNInception()
