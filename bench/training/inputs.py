"""Where a step's network input comes from: decoded images with fresh crops, or cached trunk features."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.cache import ImageStore
from bench.data.input_format import InputFormat
from bench.data.transforms import CPU, eval_batch, train_batch
from bench.protocol import Images

Positions = NDArray[np.int64]


class Inputs(Protocol):
    """One side of a data set as the network sees it; positions are 0-based within the side."""

    def train(self, positions: Positions, rng: np.random.Generator) -> Tensor:
        """Input of a training step: (B, C, H, W) images with crops drawn from `rng`, or (B, F) features.

        Valid until the next call.
        """

    def evaluation(self, positions: Positions) -> Tensor:
        """The same without randomness: centre crops, or the same features."""


class ImageInputs:
    """Images from the decode cache."""

    def __init__(self, store: ImageStore, settings: Images, form: InputFormat, device: torch.device = CPU) -> None:
        """On `device` crops are resized and normalised; an accelerator gets 8-bit pixels, a quarter of the bytes."""
        self._store, self._settings, self._format, self._device = store, settings, form, device
        self._batch: Tensor | None = None

    def train(self, positions: Positions, rng: np.random.Generator) -> Tensor:
        """Random resized crops, flipped: float32 (B, C, size, size). Valid until the next call writes over it."""
        assert self._settings.train is not None  # the protocol's own check: a trained trunk has training crops
        self._batch = train_batch(
            self._store, positions, self._settings.train, self._format, rng, self._device, self._batch
        )
        return self._batch

    def evaluation(self, positions: Positions) -> Tensor:
        """Centre crops, or stretched images as a whole: float32 (B, C, crop, crop)."""
        images = self._settings
        return eval_batch(self._store, positions, images.crop, self._format, self._device, images.fit)


class FeatureInputs:
    """Features of a frozen trunk, float32 (N, F)."""

    def __init__(self, features: Tensor) -> None:
        self._features = features

    def train(self, positions: Positions, rng: np.random.Generator) -> Tensor:
        """Rows of the features; a frozen trunk has no random crops."""
        return self.evaluation(positions)

    def evaluation(self, positions: Positions) -> Tensor:
        """Rows of the features: float32 (B, F)."""
        return self._features[torch.from_numpy(positions)]


class PartInputs:
    """Some positions of a side, renumbered from 0: the part that trains, or the part that validates."""

    def __init__(self, side: Inputs, part: Positions) -> None:
        self._side, self._part = side, part

    def train(self, positions: Positions, rng: np.random.Generator) -> Tensor:
        """See `Inputs.train`."""
        return self._side.train(self._part[positions], rng)

    def evaluation(self, positions: Positions) -> Tensor:
        """See `Inputs.evaluation`."""
        return self._side.evaluation(self._part[positions])
