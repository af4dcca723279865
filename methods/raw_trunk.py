"""Raw trunk: the trunk's features themselves are the embedding. What a frozen, pretrained trunk already knows.

A method that does not beat this row has made the trunk worse. The embedding has the trunk's width, not
the protocol's size.
"""

from __future__ import annotations

from torch import nn

from bench.method import Method


class RawTrunk(Method):
    """Baseline: no embedder, no training."""

    name = "raw_trunk"
    trains = False

    def embedder(self, trunk_dim: int, size: int) -> nn.Module:
        """The identity: embeddings are the features, (B, trunk_dim)."""
        return nn.Identity()
