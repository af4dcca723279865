"""The training loop beside a bare PyTorch loop on the same network, batches and crops, in one run."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from bench import registry
from bench.data import catalog, transforms
from bench.data.cache import open_images
from bench.data.samplers import classes_times_images
from bench.method import Batch
from bench.models.trunks import build_trunk, trunk_dim, trunk_input
from bench.protocol import load_protocol
from bench.training.inputs import ImageInputs, PartInputs
from bench.training.learner import Learner, build_learner
from bench.training.loop import Training
from bench.training.parts import split_training_side
from bench.training.streams import Streams

STEPS, ROUNDS = 60, 5


def main() -> None:
    """Print milliseconds per step of both loops and the harness's overhead."""
    protocol = load_protocol("quick")
    budget = protocol.budget.model_copy(update={"iterations": STEPS, "evaluate_every": STEPS})
    protocol = protocol.model_copy(update={"budget": budget, "folds": None})
    torch.set_num_threads(protocol.threads)
    dataset = catalog.open_dataset("glyphs", Path("data"))
    part, _ = split_training_side(dataset, None, None)
    form = trunk_input(protocol.trunk.name)
    store = open_images(dataset, "train", protocol.images.resize, form.channels)

    def learner() -> tuple[Learner, Streams]:
        streams = Streams(0)
        method = registry.get("contrastive").cls()
        make = lambda: build_trunk(protocol.trunk, protocol.images.crop)  # noqa: E731
        dim = trunk_dim(protocol.trunk.name)
        return build_learner(protocol, method, make, dim, part, streams, torch.device("cpu")), streams

    def bare() -> float:
        built, streams = learner()
        trunk, head, method = built.trunk, built.embedder, built.method
        assert trunk is not None
        assert protocol.images.train is not None
        rates = protocol.optimizer
        optimizer = torch.optim.AdamW(
            [
                {"params": trunk.parameters(), "lr": rates.trunk.lr, "weight_decay": rates.trunk.weight_decay},
                {"params": head.parameters(), "lr": rates.embedder.lr, "weight_decay": rates.embedder.weight_decay},
            ]
        )
        labels = torch.from_numpy(part.labels)
        batches = classes_times_images(part.labels, protocol.batch, streams.batches)
        trunk.train()
        began = time.perf_counter()
        for step in range(STEPS):
            positions = next(batches)
            x = transforms.train_batch(store, positions, protocol.images.train, form, streams.augmentation)
            features = trunk(x)
            raw = head(features)
            rows = torch.from_numpy(positions)
            batch = Batch(functional.normalize(raw, dim=1), raw, features, labels[rows], rows, step)
            loss = method.loss(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return (time.perf_counter() - began) / STEPS

    def harness() -> float:
        built, streams = learner()
        inputs = PartInputs(ImageInputs(store, protocol.images, form), np.arange(len(part.labels)))
        with tempfile.TemporaryDirectory() as folder:
            quiet = lambda *_: None  # noqa: E731
            training = Training(built, inputs, part, None, streams, Path(folder), quiet, lambda: False)
            began = time.perf_counter()
            training.fit()
            return (time.perf_counter() - began) / STEPS

    times: dict[str, list[float]] = {"bare": [], "harness": []}
    for _ in range(ROUNDS):
        times["bare"].append(bare())
        times["harness"].append(harness())
    low, high = min(times["bare"]), min(times["harness"])
    setting = f"{protocol.trunk.name}, batch {protocol.batch.size}, {protocol.threads} thread(s), best of {ROUNDS}"
    print(f"training loop, {setting}")
    print(f"  bare PyTorch loop  {1000 * low:8.2f} ms a step  {protocol.batch.size / low:8.0f} images/s")
    print(f"  bench              {1000 * high:8.2f} ms a step  {protocol.batch.size / high:8.0f} images/s")
    print(f"  overhead           {100 * (high / low - 1):8.1f} %  (checkpoint at the end included)")


if __name__ == "__main__":
    main()
