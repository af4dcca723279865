"""Methods on continuous labels whose batches are one anchor and its partners, by ascending label distance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.data import neighbours
from bench.method import Context, Method
from bench.protocol import Batch as BatchShape


class AnchoredMethod(Method):
    """Row 0 of a batch is the anchor; see `bench.data.neighbours.anchored` for how its partners are drawn."""

    by_default = False
    order_matters = True
    needs_targets = True

    def neighbourhood(self) -> tuple[int, int]:
        """How many partners are near ones, and from how many nearest images they are drawn."""
        raise NotImplementedError(f"method '{self.name}' does not say what its neighbourhoods are")

    def build(self, context: Context) -> None:
        """Keep the labels of the training images: batches are built by them."""
        self.targets: Tensor
        self.register_buffer("targets", context.targets, persistent=False)

    def batches(
        self, labels: NDArray[np.int64], shape: BatchShape, rng: np.random.Generator
    ) -> Iterator[NDArray[np.int64]]:
        """The anchor, its near partners, and images from all the rest."""
        return neighbours.anchored(self.targets.cpu().numpy(), shape.size, *self.neighbourhood(), rng)


class UnitLength(nn.Module):
    """Rows divided by their lengths; smooth at 0."""

    def forward(self, x: Tensor) -> Tensor:
        """X / sqrt(|x|^2 + 1e-10), (B, D) -> (B, D)."""
        return x * (x.square().sum(1, keepdim=True) + 1e-10).rsqrt()


class UnitAnchoredMethod(AnchoredMethod):
    """The same with embeddings of unit length, in training and at test time, whatever the protocol says."""

    def embedder(self, trunk_dim: int, size: int) -> nn.Module:
        """A linear layer, then unit length."""
        return nn.Sequential(nn.Linear(trunk_dim, size), UnitLength())
