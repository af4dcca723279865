"""Which trunks there are and what input each wants; light, so that protocols are checked without loading torch."""

from __future__ import annotations

from dataclasses import dataclass

from bench.data.input_format import InputFormat
from bench.errors import unknown_name

GREY = InputFormat(channels=1, mean=(0.5,), std=(0.5,))
IMAGENET = InputFormat(channels=3, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
HALF = InputFormat(channels=3, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
# Caffe's networks want 0 to 255 and no division by a standard deviation; their blue, green, red is 104, 117, 128.
CAFFE = InputFormat(channels=3, mean=(128 / 255, 117 / 255, 104 / 255), std=(1 / 255, 1 / 255, 1 / 255))


@dataclass(frozen=True)
class TrunkInfo:
    """One trunk: width of its features, wanted input, and whether ImageNet weights exist."""

    name: str
    dim: int
    input: InputFormat
    imagenet: bool
    summary: str


TRUNKS = {
    info.name: info
    for info in (
        TrunkInfo("conv4", 128, GREY, False, "four convolutions for 32-pixel grey images, trained from scratch"),
        TrunkInfo("resnet18", 512, IMAGENET, True, "ResNet-18, average-pooled features (torchvision)"),
        TrunkInfo("resnet34", 512, IMAGENET, True, "ResNet-34, average-pooled features (torchvision)"),
        TrunkInfo("resnet50", 2048, IMAGENET, True, "ResNet-50, average-pooled features (torchvision)"),
        # torchvision rescales ImageNet-normalised input to mean 0.5, std 0.5 inside the network; asked for directly.
        TrunkInfo("googlenet", 1024, HALF, True, "GoogLeNet, average-pooled, no auxiliary heads (torchvision)"),
        TrunkInfo("bn_inception", 1024, CAFFE, True, "BN-Inception, average-pooled features (converted from Caffe)"),
        TrunkInfo("efficientnet_lite0", 1280, HALF, True, "EfficientNet-Lite0: a good trunk on a CPU (optional extra)"),
    )
}  # fmt: skip


def trunk_names() -> list[str]:
    """Names that a protocol may give as `trunk.name`."""
    return sorted(TRUNKS)


def trunk_info(name: str) -> TrunkInfo:
    """What is known about a trunk without building it.

    Raises:
        UsageError: no such trunk.
    """
    if name not in TRUNKS:
        raise unknown_name("trunk", name, TRUNKS)
    return TRUNKS[name]


def trunk_input(name: str) -> InputFormat:
    """Channels, mean and standard deviation that a trunk wants."""
    return trunk_info(name).input


def trunk_dim(name: str) -> int:
    """Width of a trunk's features."""
    return trunk_info(name).dim
