"""Groups of training images found by k-means: making, renaming and thinning them, and drawing batches inside them.

A cluster is a number 0..K-1 an image, int64 (N,); -1 stands for none.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import protocol
from bench.data.samplers import classes_times_images
from bench.evaluation.clustering import cluster


def kmeans(features: Tensor, count: int, iterations: int) -> Tensor:
    """Cluster of each row by k-means over all rows, int64 (N,).

    One start, always from faiss's default seed: equal features give equal clusters.

    Args:
        features: (N, F), finite.
        count: clusters; no more than there are rows.
        iterations: of k-means.
    """
    settings = protocol.Clustering(iterations=iterations, restarts=1, seed=1234)
    rows = features.detach().float().cpu().numpy()
    return torch.from_numpy(cluster(rows, min(count, len(rows)), settings)).to(features.device)


def renamed(current: Tensor, previous: Tensor, count: int, inverse: bool = False) -> Tensor:
    """Current clusters under the names of the previous ones that they overlap best.

    The names are a permutation with the smallest sum of symmetric differences (Hungarian algorithm),
    that is, with the most images that keep their cluster. Images in no cluster count for neither side.

    Args:
        current: int64 (N,), in -1..count-1.
        previous: int64 (N,), in -1..count-1.
        count: clusters K.
        inverse: apply the permutation the wrong way round, as some released code does; the same
            only where the permutation is its own inverse.
    """
    from scipy.optimize import linear_sum_assignment

    columns = torch.arange(count, device=current.device)
    now, then = ((side[:, None] == columns).double() for side in (current, previous))  # (N, K) membership
    difference = now.sum(0)[:, None] + then.sum(0) - 2 * now.T @ then
    rows, names = linear_sum_assignment(difference.cpu().numpy())
    table = np.empty(count, dtype=np.int64)
    if inverse:
        table[names] = rows
    else:
        table[rows] = names
    return torch.where(current < 0, current, torch.from_numpy(table).to(current.device)[current])


def without_lone_images(assigned: Tensor, labels: Tensor) -> Tensor:
    """The clusters, with -1 for images that are the only one of their class in their cluster."""
    cells = assigned * (int(labels.max()) + 1) + labels
    _, cell, size = torch.unique(cells, return_inverse=True, return_counts=True)
    return assigned.masked_fill(size[cell] == 1, -1)


def balanced_batches(
    labels: NDArray[np.int64], rows: NDArray[np.int64], shape: protocol.Shape, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Endless batches of P classes with K images each out of some of the images.

    Where these show fewer than P classes, each gives as many more images as fill the batch, rounded up: the last
    classes may then come short or not at all. A class of fewer images than that repeats them. Classes come from
    shuffled passes, whatever the protocol's sampler.

    Args:
        labels: int64 (N,).
        rows: int64 (M,), M > 0, positions of the admitted images in `labels`.
        shape: P and K.
        rng: the 'batches' stream.

    Yields:
        int64 (P * K,) positions in `labels`.
    """
    classes = min(shape.classes, len(np.unique(labels[rows])))
    wanted = protocol.Shape(classes=classes, per_class=-(-shape.size // classes))
    for picked in classes_times_images(labels[rows], wanted, rng):
        yield rows[picked[: shape.size]]
