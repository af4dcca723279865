"""The small convolutional trunk for 32-pixel grey images: seconds of training on one CPU core."""

from __future__ import annotations

from torch import Tensor, nn

from bench.models.pooling import GlobalPool

WIDTHS = (16, 32, 64, 128)


class ConvNet(nn.Module):
    """Four blocks of 3 x 3 convolution, batch norm, ReLU and 2 x 2 max pooling, then the mean over what is left.

    The width doubles as the maps shrink: large maps cost memory traffic, which is what a CPU core runs
    out of first.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, width in zip((1, *WIDTHS[:-1]), WIDTHS, strict=True):
            layers += [
                nn.Conv2d(before, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            ]
        self.blocks = nn.Sequential(*layers)
        self.avgpool = GlobalPool()

    def forward(self, images: Tensor) -> Tensor:
        """Grey images (B, 1, H, W), H and W at least 16, to features (B, 128), a descriptor each."""
        features: Tensor = self.avgpool(self.blocks(images))
        return features
