"""Opening one side of a data set as network input, under what the protocol says about the trunk."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import nn

from bench.data.cache import open_images, prepare_images
from bench.data.dataset import Dataset
from bench.models.features import open_features, prepare_features
from bench.models.pooling import MEAN, Descriptors
from bench.models.trunks import build_trunk, trunk_dim, trunk_input
from bench.protocol import Protocol
from bench.training.inputs import FeatureInputs, ImageInputs, Inputs


def prepare(
    dataset: Dataset,
    protocol: Protocol,
    device: torch.device,
    progress: bool = True,
    descriptors: Iterable[Descriptors] = (MEAN,),
) -> None:
    """Decode all images once, and embed them once where the trunk is frozen; quick when it is done already."""
    images, form = protocol.images, trunk_input(protocol.trunk.name)
    prepare_images(dataset, images.resize, form.channels, progress, images.fit)
    if protocol.trunk.frozen:
        for wanted in dict.fromkeys(descriptors):
            prepare_features(dataset, protocol, device, progress, wanted)


def open_side(
    dataset: Dataset,
    side: Literal["train", "test"],
    protocol: Protocol,
    device: torch.device,
    descriptors: Descriptors = MEAN,
) -> tuple[Inputs, int]:
    """Network inputs of a side and the width of the trunk's features.

    Raises:
        SealedError: the test side, while a run is training.
    """
    if protocol.trunk.frozen:
        features = open_features(dataset, side, protocol, descriptors)
        return FeatureInputs(features.to(device)), features.shape[1]
    form = trunk_input(protocol.trunk.name)
    store = open_images(dataset, side, protocol.images.resize, form.channels, fit=protocol.images.fit)
    return ImageInputs(store, protocol.images, form, device), trunk_dim(protocol.trunk.name) * len(descriptors)


def trunk_builder(protocol: Protocol, descriptors: Descriptors = MEAN) -> Callable[[], nn.Module] | None:
    """Builds the trunk, or None where it is frozen and its features are the input."""
    if protocol.trunk.frozen:
        return None
    return lambda: build_trunk(protocol.trunk, protocol.images.crop, descriptors)
