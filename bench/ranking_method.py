"""Losses on the ranking of a batch by each of its images."""

from __future__ import annotations

import torch
from torch import Tensor

from bench import pairs
from bench.method import Batch, hyper
from bench.pair_method import PairMethod


class RankingMethod(PairMethod):
    """Base of losses that rank the batch for every image; public code of some lets an image rank itself too."""

    query: str = hyper(
        "excluded", choices=("excluded", "as_released"), help="whether a query also ranks itself, as a positive"
    )

    def loss(self, batch: Batch) -> Tensor:
        """The pair loss of the batch against itself."""
        positive, negative = pairs.pair_masks(batch.labels)
        if self.query == "as_released":
            positive = positive | torch.diag(positive.any(1))
        return self.pair_loss(pairs.similarities(batch.embeddings), positive, negative)
