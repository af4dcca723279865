"""Batches for continuous labels: an anchor, near neighbours of it in label space, and others from the rest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bench.data.samplers import shuffled_passes
from bench.errors import DataError


def anchored(
    targets: NDArray[np.float32], size: int, near: int, pool: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Endless batches of one anchor and `size` - 1 other images, by ascending label distance to the anchor.

    Anchors come from shuffled passes over all images. Of the others, `near` are drawn from the `pool` images
    nearest to the anchor (all of these if the two numbers are equal), the rest uniformly from beyond them; an
    image occurs once. Label distance is the Euclidean one between targets; images at equal distance rank by
    their position. Distances are computed row by row: memory is O(N).

    Args:
        targets: (N, T) continuous labels of the training images.
        size: images in a batch.
        near: images from the anchor's neighbourhood.
        pool: size of that neighbourhood.
        rng: the 'batches' stream; nothing else is drawn from it.

    Yields:
        int64 (size,) positions in `targets`, the anchor first.

    Raises:
        DataError: the batch is too small for `near`, or there are too few images beyond the neighbourhood.
    """
    rest = size - 1 - near
    if not 0 <= near <= pool or rest < 0 or pool + rest > len(targets) - 1:
        raise DataError(
            f"a batch of {size} images cannot have an anchor, {near} of its {pool} nearest neighbours and {rest} of "
            f"the {len(targets) - 1 - pool} images beyond them: change the protocol's batch or the method's neighbours."
        )
    return _batches(targets, rest, near, pool, rng)


def _batches(
    targets: NDArray[np.float32], rest: int, near: int, pool: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    beyond = len(targets) - 1 - pool
    for anchor in shuffled_passes(len(targets), 1, rng):
        ranked = np.argsort(np.square(targets - targets[anchor]).sum(1), kind="stable")
        ranked = ranked[ranked != anchor]
        close = rng.choice(pool, near, replace=False, shuffle=False)
        far = pool + rng.choice(beyond, rest, replace=False, shuffle=False)
        yield np.concatenate([anchor, ranked[np.sort(np.concatenate([close, far]))]])
