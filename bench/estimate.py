"""How long a plan would take: from finished runs of the same kind, else from a short calibration."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from tqdm import tqdm

from bench import machine
from bench.data.dataset import Dataset
from bench.models.trunks import trunk_dim, trunk_input
from bench.plan import Plan
from bench.protocol import Protocol
from bench.store import Store
from bench.training.sides import trunk_builder

CALIBRATION_STEPS = 3


@dataclass(frozen=True)
class Estimate:
    """Seconds of wall-clock time, and what the figure rests on."""

    seconds: float
    basis: str

    @property
    def text(self) -> str:
        """The time in words."""
        return str(tqdm.format_interval(self.seconds))


def estimate(plan: Plan, dataset: Dataset, workers: int) -> Estimate:
    """Wall-clock seconds for the runs of a plan that have no record yet."""
    missing = plan.missing()
    kin = [
        record
        for record in Store(plan.setting.results).records()
        if record.state == "done"
        and record.spec.protocol_hash == plan.protocol.hash
        and record.spec.dataset == plan.specs[0].dataset
        and record.environment.get("cpu") == machine.cpu_model()
        and record.environment.get("gpu") == machine.gpu_name()
    ]
    rounds = math.ceil(len(missing) / workers)
    if kin:
        mean = sum(record.seconds["train"] + record.seconds["test"] for record in kin) / len(kin)
        return Estimate(rounds * mean, f"mean of {len(kin)} finished runs on this machine")
    seconds = _calibrate(plan.protocol, dataset)
    return Estimate(rounds * seconds, f"{CALIBRATION_STEPS} calibration steps; preparing the data comes on top")


def _calibrate(protocol: Protocol, dataset: Dataset) -> float:
    """Seconds of one run: training steps, plus evaluated images at a third of a training image's cost."""
    torch.set_num_threads(protocol.threads)
    device = torch.device("cuda" if machine.gpu_name() else "cpu")
    builder, batch, images = trunk_builder(protocol), protocol.batch.size, protocol.images
    network: torch.nn.Module
    if builder is None or images.train is None:
        dim = trunk_dim(protocol.trunk.name)
        network, x, scale = torch.nn.Linear(dim, protocol.embedding.size), torch.rand(batch, dim), 1 / 3
    else:
        form, size = trunk_input(protocol.trunk.name), images.train.size
        network, x = builder(), torch.rand(batch, form.channels, size, size).to(memory_format=torch.channels_last)
        network = network.to(memory_format=torch.channels_last)
        scale = (images.crop / size) ** 2 / 3
    network, x = network.to(device), x.to(device)
    times = []
    for _ in range(CALIBRATION_STEPS):
        began = time.monotonic()
        with torch.autocast(device.type, torch.bfloat16, enabled=protocol.precision == "bfloat16"):
            features = network(x).float()
        (features @ features.T).square().mean().backward()
        times.append(time.monotonic() - began)
    evaluations = math.ceil(protocol.budget.iterations / protocol.budget.evaluate_every)
    evaluated = dataset.manifest.test_images + dataset.manifest.train_images / 4
    return min(times) * (protocol.budget.iterations + evaluations * evaluated / batch * scale)
