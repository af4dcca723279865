"""A method at work on toy data: a linear trunk, 32 classes of 4 points, the harness's own optimiser and streams.

`bench validate` watches it. The order of calls is that of a run: embedder, build, then per epoch
`on_epoch` and `batches`, then per step `loss`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bench.method import Batch, Context, Method
from bench.protocol import Batch as BatchShape
from bench.protocol import Group, Optimizer
from bench.training.optimizer import build_optimizer
from bench.training.streams import Streams

CLASSES, PER_CLASS = 32, 4
COUNT = CLASSES * PER_CLASS
INPUT_DIM, TRUNK_DIM = 12, 16
SHAPE = BatchShape(classes=8, per_class=4)
EPOCH = 4  # steps
ITERATIONS = 100  # length of the run that methods are told of
OPTIMIZER = Optimizer(
    name="adamw",
    trunk=Group(lr=0.01),
    embedder=Group(lr=0.01),
    method=Group(lr=0.01),
)


class ToyView:
    """The toy training set as a `bench.method.TrainView`."""

    def __init__(self, toy: Toy) -> None:
        self.labels: Tensor = toy.labels
        self.superlabels: Tensor | None = toy.labels // 4
        self.targets: Tensor | None = toy.targets
        self._toy = toy

    def __len__(self) -> int:
        return COUNT

    def features(self) -> Tensor:
        """Trunk features of all points, (N, F)."""
        with torch.no_grad():
            return self._toy.features(torch.arange(COUNT))

    def embeddings(self) -> Tensor:
        """Normalised embeddings of all points, (N, D)."""
        return functional.normalize(self._toy.method.embed(self.features(), self._toy.embedder).detach())


class Toy:
    """One method in training.

    Args:
        cls: the method.
        seed: of all its random streams.
        values: hyper-parameters.
        size: width of the embeddings.
    """

    def __init__(self, cls: type[Method], seed: int = 0, values: dict[str, Any] | None = None, size: int = 8) -> None:
        self.streams = Streams(seed)
        data = np.random.default_rng(0)  # the data set itself does not depend on the seed
        self.labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
        centres = data.standard_normal((CLASSES, INPUT_DIM))[self.labels.numpy()]
        self.inputs = torch.from_numpy(centres + 0.7 * data.standard_normal((COUNT, INPUT_DIM))).float()
        self.targets = torch.from_numpy(data.standard_normal((COUNT, 2))).float()
        self.size, self.step, self.trunk_dim = size, 0, TRUNK_DIM * len(cls.descriptors)
        self.method = cls(**(values or {}))
        with self.streams.world("init"):
            self.trunk = nn.Sequential(nn.Linear(INPUT_DIM, self.trunk_dim), nn.Tanh())
            self.embedder = self.method.embedder(self.trunk_dim, size)
        context = Context(CLASSES, self.labels, self.trunk_dim, size, ITERATIONS, torch.device("cpu"), self.targets)
        with self.streams.world("method"):
            self.method.build(context)
        self.optimizer = build_optimizer(OPTIMIZER, self.trunk, self.embedder, self.method)
        self._epoch_start: Any = None

    def features(self, rows: Tensor) -> Tensor:
        """Trunk features (len(rows), F)."""
        features: Tensor = self.trunk(self.inputs[rows])
        return features

    def batch(self, rows: Tensor) -> Batch:
        """What `loss` gets for these points."""
        features = self.features(rows)
        raw = self.embedder(features)
        return self._batch(functional.normalize(raw), raw, features, rows)

    def artificial(self, embeddings: Tensor, rows: Tensor) -> Batch:
        """A batch with given embeddings (B, D) instead of the network's."""
        features = embeddings.repeat(1, -(-self.trunk_dim // embeddings.shape[1]))[:, : self.trunk_dim]
        return self._batch(embeddings, embeddings, features, rows)

    def batches(self) -> Iterator[NDArray[np.int64]]:
        """The method's batches from the current state of the stream."""
        return self.method.batches(self.labels.numpy(), SHAPE, self.streams.batches)

    def begin_epoch(self) -> Iterator[NDArray[np.int64]]:
        """What happens between epochs; call inside the method's world."""
        self.method.on_epoch(ToyView(self))
        self._epoch_start = self.streams.batches.bit_generator.state
        return self.batches()

    def train(self, steps: int) -> list[float]:
        """Go on for some steps, from wherever it stands; the loss of each."""
        losses = []
        with self.streams.world("method"):
            if self.step % EPOCH:
                batches = self._replayed()
            for _ in range(steps):
                if self.step % EPOCH == 0:
                    batches = self.begin_epoch()
                loss = self.method.loss(self.batch(torch.from_numpy(next(batches))))
                self.optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                self.optimizer.step()
                self.step += 1
                losses.append(float(loss.detach()))
        return losses

    def save(self) -> bytes:
        """A checkpoint, as a run writes it."""
        state = {
            "trunk": self.trunk.state_dict(),
            "embedder": self.embedder.state_dict(),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "streams": self.streams.state(),
            "step": self.step,
            "epoch": self._epoch_start,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return buffer.getvalue()

    def load(self, saved: bytes) -> None:
        """Continue from a checkpoint."""
        state = torch.load(io.BytesIO(saved), weights_only=True)
        self.trunk.load_state_dict(state["trunk"])
        self.embedder.load_state_dict(state["embedder"])
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.streams.load(state["streams"])
        self.step, self._epoch_start = state["step"], state["epoch"]

    def own_parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters that the method brings."""
        shared = {id(p) for module in (self.trunk, self.embedder) for p in module.parameters()}
        return {k: p for k, p in self.method.named_parameters() if p.requires_grad and id(p) not in shared}

    def _batch(self, embeddings: Tensor, raw: Tensor, features: Tensor, rows: Tensor) -> Batch:
        labels = self.labels[rows]
        return Batch(embeddings, raw, features, labels, rows, self.step, self.targets[rows], labels // 4)

    def _replayed(self) -> Iterator[NDArray[np.int64]]:
        self.streams.batches.bit_generator.state = self._epoch_start
        batches = self.batches()
        for _ in range(self.step % EPOCH):
            next(batches)
        return batches
