"""Features of a frozen trunk: each image is embedded once, then every run reads the cache.

One file a side, so that a run can read the training features while the test side stays sealed. The
key covers whatever changes a feature: the images, the evaluation transform, the trunk, the content of
its weights and the precision.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from bench import home, machine
from bench.data import seal
from bench.data.cache import ImageStore, open_images
from bench.data.dataset import Dataset
from bench.data.transforms import eval_batch
from bench.models import weights
from bench.models.pooling import MEAN, Descriptors
from bench.models.trunks import TrunkModule, build_trunk, trunk_input
from bench.protocol import Protocol

Side = Literal["train", "test"]

FORMAT = 2  # raised when code here or in the trunks changes features
# On a CPU, small batches keep a layer's maps in the processor's cache and out of the page-fault handler.
BATCH_PIXELS = {"cpu": 16 * 224**2, "cuda": 256 * 224**2}
RANDOM_TRUNK_SEED = 0


def prepare_features(
    dataset: Dataset,
    protocol: Protocol,
    device: torch.device,
    progress: bool = True,
    descriptors: Descriptors = MEAN,
) -> None:
    """Embed both sides with the protocol's frozen trunk and cache the features; at once if they are there.

    Raises:
        UsageError: weights are missing.
        SealedError: a run of this process is training.
    """
    seal.check(f"the test side of {dataset.name}")
    for side in ("train", "test"):
        _ensure(dataset, side, protocol, descriptors, device, progress)


def open_features(dataset: Dataset, side: Side, protocol: Protocol, descriptors: Descriptors = MEAN) -> Tensor:
    """Features float32 (N, F); row j is the trunk's output for position j of the side. Embedded now if not cached.

    Raises:
        SealedError: the test side, while a run is training.
        UsageError: weights are missing.
    """
    if side == "test":
        seal.check(f"the test features of {dataset.name}")
    device = torch.device("cuda" if machine.gpu_name() else "cpu")
    return load_file(_ensure(dataset, side, protocol, descriptors, device, progress=False))["features"]


def features_key(dataset: Dataset, side: Side, protocol: Protocol, descriptors: Descriptors = MEAN) -> str:
    """16 hex digits over whatever changes the features of a side."""
    form = trunk_input(protocol.trunk.name)
    content = {
        "format": FORMAT,
        "manifest": dataset.manifest.hash,
        "side": side,
        "resize": protocol.images.resize,
        "crop": protocol.images.crop,
        "input": [form.channels, form.mean, form.std],
        "trunk": protocol.trunk.name,
        "weights": weights.content_hash(protocol.trunk.name, protocol.trunk.weights),
        "precision": protocol.precision,
        "descriptors": (protocol.trunk.pooling,) if descriptors == MEAN else descriptors,
    }
    if protocol.images.fit != "crop":
        content["fit"] = protocol.images.fit
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _ensure(
    dataset: Dataset, side: Side, protocol: Protocol, descriptors: Descriptors, device: torch.device, progress: bool
) -> Path:
    key = features_key(dataset, side, protocol, descriptors)
    path = home.cache_folder() / "features" / f"{dataset.name}-{side}-{protocol.trunk.name}-{key}.safetensors"
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.is_file():
            form = trunk_input(protocol.trunk.name)
            store = open_images(dataset, side, protocol.images.resize, form.channels, fit=protocol.images.fit)
            features = embed_images(
                _frozen_trunk(protocol, descriptors), store, protocol, device, progress, f"features, {side} side"
            )
            temporary = path.with_suffix(".tmp")
            save_file({"features": features}, temporary)
            os.replace(temporary, path)
    return path


def embed_images(
    trunk: TrunkModule, store: ImageStore, protocol: Protocol, device: torch.device, progress: bool, title: str
) -> Tensor:
    """Trunk features float32 (N, F) of all images of a store, evaluation transform, on all cores."""
    trunk = trunk.to(device).eval()
    settings = protocol.images
    count, size = len(store), max(1, BATCH_PIXELS[device.type] // settings.crop**2)
    features = torch.empty(count, trunk.dim)
    low = protocol.precision == "bfloat16"
    with (
        _all_cores(),
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=low),
        tqdm(total=count, desc=title, unit="image", disable=None if progress else True) as bar,
    ):
        for start in range(0, count, size):
            rows = np.arange(start, min(start + size, count))
            images = eval_batch(store, rows, settings.crop, trunk.input, device, settings.fit)
            features[start : start + len(rows)] = trunk(images).float().cpu()
            bar.update(len(rows))
    return features


def _frozen_trunk(protocol: Protocol, descriptors: Descriptors) -> TrunkModule:
    """The trunk; random weights are the same for all runs, as their features are shared by all seeds."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_TRUNK_SEED)
        return build_trunk(protocol.trunk, protocol.images.crop, descriptors)


@contextmanager
def _all_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(machine.cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)
