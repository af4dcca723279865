"""Class folders in alphabetical order beside the official order: where they differ, naive copies shift all ids."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from bench.data.dataset import Dataset


class Place(NamedTuple):
    """A class folder: its position among the folders that are there, from 1, and the official id of its class."""

    folder: str
    alphabetical: int
    official_id: int


class ClassOrder(NamedTuple):
    """The map from class folders to official ids; `moved` positions differ between the two orders."""

    moved: int
    places: tuple[Place, ...]


def class_order(dataset: Dataset) -> ClassOrder | None:
    """The map of a data set whose classes are folders, None for other layouts.

    One class may have a folder of one name on several sides (`train/<class>`, `test/<class>`).
    """
    if isinstance(dataset.images, np.ndarray):
        return None
    label_of: dict[str, int] = {}
    names: defaultdict[int, set[str]] = defaultdict(set)
    for path, label in zip(dataset.images, dataset.labels.tolist(), strict=True):
        folder = path.parent.name
        names[label].add(folder)
        if label_of.setdefault(folder, label) != label or len(names[label]) > 1:
            return None
    ordered = sorted(label_of)
    ids = [dataset.class_ids[label_of[folder]] for folder in ordered]
    moved = sum(found != official for found, official in zip(ids, sorted(ids), strict=True))
    return ClassOrder(moved, tuple(Place(*entry) for entry in zip(ordered, range(1, len(ids) + 1), ids, strict=True)))
