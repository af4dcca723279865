"""What a data set is to the harness: images, labels in official order, a split, and a manifest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Manifest:
    """Counts and content hash of what was found; two data sets with one hash hold the same images and labels."""

    classes: int
    images: int
    train_classes: int
    train_images: int
    test_classes: int
    test_images: int
    layout: str
    content: str  # SHA-256 over (name, size or pixels, label, split) of every image

    @property
    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 over all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Split:
    """Image indices of the two sides. `gallery` None: every query is searched among the other queries."""

    train: Labels
    query: Labels
    gallery: Labels | None = None

    @property
    def test(self) -> Labels:
        """All images of the test side: queries, then gallery."""
        return self.query if self.gallery is None else np.concatenate([self.query, self.gallery])


@dataclass(frozen=True)
class Dataset:
    """A loaded data set (no pixels read yet for files).

    Attributes:
        images: uint8 array (N, H, W) or (N, H, W, 3), or one path an image.
        labels: int64 (N,), 0-based position of the class in the official order.
        class_ids: official id of each label (`class_ids[label]`).
        class_names: name of each label.
        split: train and test sides; their classes are disjoint.
        partial: None when complete, else e.g. "partial (98 of 196 classes)".
        superlabels: int64 (N,) or None; `superclass_names` names them.
        nuisance: int64 (N,) or None: a label that must not matter (a font face, a camera).
        targets: float64 (N, T) or None: continuous labels.
        class_groups: int64 (C,) or None: classes of one group stay on one side of every fold.
        draws: int64 (D, T) or None: rows of `images`; each draw is a gallery of one image of each of the T test
            classes, in label order, and all other test images are its queries (`bench.data.draws`).
        default_protocol: used when the caller names none.
    """

    name: str
    title: str
    images: NDArray[np.uint8] | tuple[Path, ...]
    labels: Labels
    class_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    split: Split
    manifest: Manifest
    default_protocol: str
    photographs: bool
    partial: str | None = None
    superlabels: Labels | None = None
    superclass_names: tuple[str, ...] = ()
    nuisance: Labels | None = None
    targets: NDArray[np.float64] | None = None
    class_groups: Labels | None = None
    draws: Labels | None = None
    notes: tuple[str, ...] = field(default=())
