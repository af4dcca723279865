"""The training images as a method sees them between epochs; every use is counted."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.training.inputs import Inputs
from bench.training.learner import Learner
from bench.training.parts import Part


class CountedView:
    """A `bench.method.TrainView`; `embedded` is the number of images it has embedded so far."""

    def __init__(self, learner: Learner, inputs: Inputs, part: Part) -> None:
        self.labels, self.superlabels, self.targets = part.tensors(learner.device)
        self.embedded = 0
        self._learner, self._inputs = learner, inputs

    def __len__(self) -> int:
        return len(self.labels)

    def features(self) -> Tensor:
        """Trunk features of all training images: float32 (N, F)."""
        return self._embed()[0]

    def embeddings(self) -> Tensor:
        """Embeddings of all training images: float32 (N, D)."""
        return self._embed()[1]

    def _embed(self) -> tuple[Tensor, Tensor]:
        self.embedded += len(self)
        features, embeddings = self._learner.embed(self._inputs, len(self))
        device = self._learner.device
        return torch.from_numpy(features).to(device), torch.from_numpy(embeddings).to(device)
