"""The default batch sampler: P classes with K images each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bench.errors import DataError
from bench.protocol import Batch


def classes_times_images(
    labels: NDArray[np.int64], shape: Batch, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Endless batches of `shape.classes` distinct classes with `shape.per_class` images each.

    Classes come from a shuffled pass over all of them; when fewer than P are left of a pass, they are dropped and
    a new pass begins. The K images of a class are distinct; a class with fewer than K images gives all of them,
    and then repeats, so that no image occurs twice more often than another.

    Args:
        labels: int64 (N,) label of each training image, any integers.
        shape: P classes, K images of each.
        rng: the 'batches' stream; nothing else is drawn from it.

    Yields:
        int64 (P * K,) positions in `labels`, class by class.

    Raises:
        DataError: fewer than P classes.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    if len(classes) < shape.classes:
        raise DataError(
            f"a batch needs {shape.classes} different classes, but there are {len(classes)} training classes: lower "
            "batch.classes in the protocol, or use fewer folds or a data set with more classes."
        )
    return _batches(np.argsort(labels, kind="stable"), sizes, shape, rng)


def _batches(
    by_class: NDArray[np.int64], sizes: NDArray[np.int64], shape: Batch, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    starts = np.cumsum(sizes) - sizes
    width = int(sizes.max())
    columns = np.arange(shape.per_class)
    while True:
        order = rng.permutation(len(sizes))
        for first in range(0, len(sizes) - shape.classes + 1, shape.classes):
            chosen = order[first : first + shape.classes]
            keys = rng.random((shape.classes, width))
            keys[np.arange(width) >= sizes[chosen, None]] = 2.0  # beyond a small class's images: sorted last
            picks = np.argsort(keys, axis=1)
            picked = np.take_along_axis(picks, columns % sizes[chosen, None], axis=1)
            yield by_class[starts[chosen, None] + picked].ravel()
