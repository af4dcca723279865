"""The data sets by name: opening one, and cutting a tiny benchmark from one."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench.data import seal
from bench.data.dataset import Dataset, Labels, Split
from bench.errors import UsageError, unknown_name
from bench.protocol import Subset

_LOADERS = {
    "glyphs": "bench.data.glyphs",
    "digits": "bench.data.digits",
    "posed_glyphs": "bench.data.posed_glyphs",
    "cars196": "bench.data.cars196",
    "image_folder": "bench.data.image_folder",
}


def dataset_names() -> list[str]:
    """All data sets, the default first."""
    return list(_LOADERS)


def open_dataset(name: str, data: Path) -> Dataset:
    """Find and describe a data set; no pixels of files are read.

    Args:
        name: one of `dataset_names()`.
        data: the data set's own folder, or a folder that holds it.

    Raises:
        UsageError: no such name.
        DataError: not found (the message says what to get and where to put it), or damaged.
        SealedError: a run is training in this process.
    """
    seal.check(f"data set '{name}'")
    if name not in _LOADERS:
        raise unknown_name("data set", name, _LOADERS)
    loaded: Dataset = importlib.import_module(_LOADERS[name]).load(data)
    return loaded


def restrict(dataset: Dataset, subset: Subset) -> Dataset:
    """The data set with fewer classes: on each side, evenly spaced over the official order, all their images.

    Labels are renumbered; the manifest's hash differs from the whole set's.

    Raises:
        UsageError: a side has fewer classes than asked for.
    """
    keep = np.concatenate(
        [
            _evenly(np.unique(dataset.labels[dataset.split.train]), subset.train_classes, dataset.name, "train"),
            _evenly(np.unique(dataset.labels[dataset.split.test]), subset.test_classes, dataset.name, "test"),
        ]
    )
    keep = np.sort(keep)
    rows = np.flatnonzero(np.isin(dataset.labels, keep))
    new_row = np.full(len(dataset.labels), -1)
    new_row[rows] = np.arange(len(rows))
    sides = dataset.split
    split = Split(
        train=_moved(sides.train, new_row),
        query=_moved(sides.query, new_row),
        gallery=None if sides.gallery is None else _moved(sides.gallery, new_row),
    )
    images = dataset.images
    labels = np.searchsorted(keep, dataset.labels[rows])
    content = hashlib.sha256(f"{dataset.manifest.content}/{keep.tolist()}".encode()).hexdigest()
    return replace(
        dataset,
        images=images[rows] if isinstance(images, np.ndarray) else tuple(images[row] for row in rows),
        labels=labels,
        class_ids=tuple(dataset.class_ids[label] for label in keep),
        class_names=tuple(dataset.class_names[label] for label in keep),
        split=split,
        manifest=replace(
            dataset.manifest,
            classes=len(keep),
            images=len(rows),
            train_classes=subset.train_classes,
            train_images=len(split.train),
            test_classes=subset.test_classes,
            test_images=len(split.test),
            content=content,
        ),
        superlabels=None if dataset.superlabels is None else dataset.superlabels[rows],
        nuisance=None if dataset.nuisance is None else dataset.nuisance[rows],
        targets=None if dataset.targets is None else dataset.targets[rows],
        class_groups=None if dataset.class_groups is None else dataset.class_groups[keep],
    )


def _evenly(classes: Labels, count: int, name: str, side: str) -> Labels:
    if count > len(classes):
        raise UsageError(
            f"subset.{side}_classes asks for {count} classes, but the {side} side of '{name}' has {len(classes)}: "
            "lower the number in the protocol."
        )
    return classes[np.arange(count) * len(classes) // count]


def _moved(rows: Labels, new_row: Labels) -> Labels:
    moved = new_row[rows]
    return moved[moved >= 0]
