"""Galleries of one image a class, drawn by a hash: the re-identification evaluation of `bench.evaluation.drawn`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.data.dataset import Dataset, Labels

DRAWS = 10


def gallery_draws(dataset: Dataset) -> Labels:
    """Ten galleries on the test side of a data set of files, int64 (10, T), one row of each class in label order.

    The id of an image is its file's name without the ending.
    """
    rows = dataset.split.test
    return rows[draw([Path(dataset.images[row]).stem for row in rows], dataset.labels[rows])]


def draw(images: Sequence[str], labels: Labels) -> Labels:
    """Draw d takes of each class the image for which SHA-256 of "d/<image id>" is smallest, for d from 0 to 9.

    Nothing but the ids of a class decides: no generator, no order of files, no other class. The rule never changes:
    numbers made under another one could not be compared.

    >>> draw(["0000001", "0000002", "0000003"], np.array([0, 0, 1]))[:, 0].tolist()
    [0, 1, 0, 0, 1, 0, 0, 0, 0, 0]

    Args:
        images: ids, with their leading zeros.
        labels: int64 (N,), class of each image.

    Returns:
        int64 (10, T), positions in `images`, classes in the order of labels.
    """
    draws = []
    for number in range(DRAWS):
        digests = [hashlib.sha256(f"{number}/{image}".encode()).digest() for image in images]
        order = np.array(sorted(range(len(images)), key=lambda i: (labels[i], digests[i])), dtype=np.int64)
        draws.append(order[np.unique(labels[order], return_index=True)[1]])
    return np.stack(draws)
