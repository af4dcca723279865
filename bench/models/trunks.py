"""Building a trunk with its weights and its batch-norm mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from bench.models import weights
from bench.models.catalog import TrunkInfo, trunk_dim, trunk_info, trunk_input, trunk_names
from bench.models.pooling import MEAN, Descriptors, GlobalPool
from bench.protocol import Trunk

__all__ = ["TrunkModule", "build_trunk", "trunk_dim", "trunk_info", "trunk_input", "trunk_names"]


class TrunkModule(nn.Module):
    """A network from images (B, C, H, W) to pooled features (B, dim).

    With `batch_norm='frozen'` every batch-norm layer stays in evaluation mode whatever `train()` is
    called with: it normalises with its stored statistics and never updates them. Its scale and shift
    are still trained.
    """

    def __init__(self, info: TrunkInfo, net: nn.Module, batch_norm: Literal["train", "frozen"], dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.input = info.input
        self.batch_norm = batch_norm
        self.net = net
        self.train(self.training)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, dim) of normalised images (B, C, H, W)."""
        features: Tensor = self.net(images)
        return features

    def train(self, mode: bool = True) -> TrunkModule:
        """Switch mode, except for frozen batch norm."""
        super().train(mode)
        if self.batch_norm == "frozen":
            for module in self.net.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def build_trunk(spec: Trunk, crop: int, descriptors: Descriptors = MEAN) -> TrunkModule:
    """A trunk as a protocol asks for it, channels-last, its random weights drawn from torch's global generator.

    Args:
        spec: name, weights ('none', 'imagenet' or a local file) and batch-norm mode.
        crop: side of the evaluation crop in pixels; EfficientNet-Lite derives its uneven padding from it.
        descriptors: how the last feature maps are pooled; several are concatenated. The usual one stands for what
            the protocol says.

    Raises:
        UsageError: unknown trunk, or weights that are missing, unreadable or of another network.
    """
    info = trunk_info(spec.name)
    source = weights.locate(spec.name, spec.weights)
    net = _BUILDERS[spec.name](crop)
    if source is not None:
        weights.load(net, source, spec.name)
    _train_depthwise_in_full_precision(net)
    net.avgpool = GlobalPool((spec.pooling,) if descriptors == MEAN else descriptors)
    trunk = TrunkModule(info, net, spec.batch_norm, info.dim * len(descriptors))
    return trunk.to(memory_format=torch.channels_last)


class _FullPrecision(nn.Module):
    """A layer that trains in float32 on a CPU, also under autocast.

    The backward pass of depthwise convolutions is several times slower in bfloat16 than in float32
    there; without a backward pass bfloat16 is the faster one.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, maps: Tensor) -> Tensor:
        """The layer's output; float32 where a gradient is wanted on a CPU."""
        if maps.device.type != "cpu" or not torch.is_grad_enabled():
            return self.layer(maps)  # type: ignore[no-any-return]
        with torch.autocast("cpu", enabled=False):
            return self.layer(maps.float())  # type: ignore[no-any-return]


def _train_depthwise_in_full_precision(net: nn.Module) -> None:
    for parent in list(net.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels:
                setattr(parent, name, _FullPrecision(layer))


def _conv4(crop: int) -> nn.Module:
    from bench.models.conv import ConvNet

    return ConvNet()


def _resnet(name: str) -> Callable[[int], nn.Module]:
    def build(crop: int) -> nn.Module:
        from torchvision import models

        net: nn.Module = getattr(models, name)(weights=None)
        net.fc = nn.Identity()
        return net

    return build


def _googlenet(crop: int) -> nn.Module:
    from torchvision import models

    net: nn.Module = models.googlenet(weights=None, aux_logits=False, transform_input=False, init_weights=False)
    net.dropout = nn.Identity()
    net.fc = nn.Identity()
    return net


def _bn_inception(crop: int) -> nn.Module:
    from bench.models.bn_inception import build

    return build(crop)


def _efficientnet_lite0(crop: int) -> nn.Module:
    from bench.models.efficientnet import build

    return build(crop)


_BUILDERS: dict[str, Callable[[int], nn.Module]] = {
    "conv4": _conv4,
    "resnet18": _resnet("resnet18"),
    "resnet34": _resnet("resnet34"),
    "resnet50": _resnet("resnet50"),
    "googlenet": _googlenet,
    "bn_inception": _bn_inception,
    "efficientnet_lite0": _efficientnet_lite0,
}
