"""Methods whose loss is a function of a similarity matrix and of two masks over it."""

from __future__ import annotations

from torch import Tensor

from bench import pairs
from bench.method import Batch, Method


class PairMethod(Method):
    """Base of pair losses: `pair_loss` is the loss, for any anchors against any references.

    Because anchors and references need not be the same images, other methods can build on a pair
    loss: with a memory of past batches as references, or with synthetic negatives.
    """

    def pair_loss(self, s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The scalar to minimise.

        Args:
            s: similarities (A, R), dot products of anchors and references.
            positive: bool (A, R), same class; never the pair of an image with itself.
            negative: bool (A, R), another class. An entry in neither mask does not exist.
        """
        raise NotImplementedError(f"method '{self.name}' defines no pair_loss")

    def loss(self, batch: Batch) -> Tensor:
        """The pair loss of the batch against itself."""
        positive, negative = pairs.pair_masks(batch.labels)
        return self.pair_loss(pairs.similarities(batch.embeddings), positive, negative)
