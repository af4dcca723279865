"""The data sets by name: opening one, and cutting a tiny benchmark from one."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.data import left_out, seal
from bench.data.dataset import Dataset, Labels, Split
from bench.data.draws import gallery_draws
from bench.data.left_out import LeftOut
from bench.data.official import Benchmark
from bench.errors import DataError, UsageError, unknown_name
from bench.protocol import Subset


class _Entry(NamedTuple):
    loader: str  # module:function
    summary: str


_ENTRIES = {
    "glyphs": _Entry("bench.data.glyphs:load", "characters in many fonts; comes with the package, trains in seconds"),
    "digits": _Entry("bench.data.digits:load", "scikit-learn's handwritten digits; comes with a package"),
    "posed_glyphs": _Entry(
        "bench.data.posed_glyphs:load", "characters in known poses, continuous labels; comes with the package"
    ),
    "cub200": _Entry("bench.data.cub200:load", "CUB-200-2011, 200 bird species, 11,788 photographs"),
    "cars196": _Entry("bench.data.cars196:load", "Cars196, 196 car models, 16,185 photographs"),
    "sop": _Entry("bench.data.sop:load", "Stanford Online Products, 22,634 products, 120,053 photographs"),
    "inshop": _Entry("bench.data.inshop:load", "In-Shop Clothes, 7,982 items, query and gallery, 256-pixel images"),
    "inshop_highres": _Entry("bench.data.inshop:load_highres", "the same from the high-resolution images"),
    "vehicleid_small": _Entry("bench.data.vehicleid:load_small", "PKU VehicleID, tested on the list of 800 vehicles"),
    "vehicleid_medium": _Entry("bench.data.vehicleid:load_medium", "PKU VehicleID, the list of 1,600 vehicles"),
    "vehicleid_large": _Entry("bench.data.vehicleid:load_large", "PKU VehicleID, the list of 2,400 vehicles"),
    "omniglot": _Entry("bench.data.omniglot:load", "Omniglot, handwritten characters of 50 alphabets"),
    "fashion_mnist": _Entry("bench.data.fashion_mnist:load", "Fashion-MNIST, ten kinds of clothing, 28 pixels"),
    "human_pose": _Entry("bench.data.human_pose:load", "people in known poses, continuous labels (log-ratio paper)"),
    "image_folder": _Entry(
        "bench.data.image_folder:load", "your own images: class folders, images.csv, or targets.npz"
    ),
}


def dataset_names() -> list[str]:
    """All data sets, the default first."""
    return list(_ENTRIES)


def summary(name: str) -> str:
    """One line on a data set."""
    return _ENTRIES[name].summary


def open_dataset(name: str, data: Path) -> Dataset:
    """Find and describe a data set; no pixels of files are read.

    Damaged images that the user chose to leave out (`bench data verify --leave-out`) are not in it.

    Args:
        name: one of `dataset_names()`.
        data: the data set's own folder, or a folder that holds it.

    Raises:
        UsageError: no such name.
        DataError: not found (the message says what to get and where to put it), or damaged.
        SealedError: a run is training in this process.
    """
    whole = open_whole(name, data)
    listed = left_out.read(whole)
    return whole if listed is None else without(whole, listed)


def open_whole(name: str, data: Path) -> Dataset:
    """As `open_dataset`, with the images that the user chose to leave out."""
    seal.check(f"data set '{name}'")
    if name not in _ENTRIES:
        raise unknown_name("data set", name, _ENTRIES)
    module, function = _ENTRIES[name].loader.split(":")
    loaded: Dataset = getattr(importlib.import_module(module), function)(data)
    return loaded


def benchmark(name: str) -> Benchmark | None:
    """Official numbers of a data set, which its loader's module keeps as a constant; None where there are none."""
    module = importlib.import_module(_ENTRIES[name].loader.partition(":")[0])
    constants = [value for value in vars(module).values() if isinstance(value, Benchmark)]
    return next((found for found in constants if found.name == name), None)


def without(dataset: Dataset, listed: LeftOut) -> Dataset:
    """The data set without these images, named partial for it.

    Raises:
        DataError: a class or a side loses all its images.
    """
    listed.check(dataset)
    rows = np.setdiff1d(np.arange(len(dataset.labels)), listed.rows)
    kept = keep_rows(dataset, rows, f"without {listed.rows}")
    return replace(kept, partial=listed.partial(dataset.partial), notes=(*dataset.notes, listed.note()))


def halves(dataset: Dataset) -> Dataset:
    """The data set with its first half of the classes, in official order, to train and the other half to test.

    Raises:
        DataError: the test side has a gallery, which this cut would lose.
    """
    if dataset.split.gallery is not None:
        raise DataError(f"data set '{dataset.name}' has queries and a gallery: its classes cannot be cut in halves.")
    trains = dataset.labels < len(dataset.class_ids) // 2
    split = Split(train=np.flatnonzero(trains), query=np.flatnonzero(~trains))
    moved = len(np.setxor1d(split.train, dataset.split.train))
    manifest = replace(
        dataset.manifest,
        train_classes=len(np.unique(dataset.labels[split.train])),
        train_images=len(split.train),
        test_classes=len(np.unique(dataset.labels[split.query])),
        test_images=len(split.query),
        content=hashlib.sha256(f"{dataset.manifest.content}/halves".encode()).hexdigest(),
    )
    note = f"sides cut by halves of the classes: {moved} images lie on another side than in the official split"
    return replace(dataset, split=split, manifest=manifest, notes=(*dataset.notes, note))


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
    return keep_rows(dataset, np.flatnonzero(np.isin(dataset.labels, keep)), str(keep.tolist()))


def keep_rows(dataset: Dataset, rows: Labels, choice: str) -> Dataset:
    """The data set with some of its images; classes that keep none go, labels are renumbered.

    Args:
        dataset: of which to keep a part.
        rows: int64 (n,) images to keep, ascending.
        choice: what was chosen; with the old content hash it makes the new one.
    """
    keep = np.unique(dataset.labels[rows])
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
    content = hashlib.sha256(f"{dataset.manifest.content}/{choice}".encode()).hexdigest()
    part = replace(
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
            train_classes=len(np.unique(labels[split.train])),
            train_images=len(split.train),
            test_classes=len(np.unique(labels[split.test])),
            test_images=len(split.test),
            content=content,
        ),
        superlabels=None if dataset.superlabels is None else dataset.superlabels[rows],
        nuisance=None if dataset.nuisance is None else dataset.nuisance[rows],
        targets=None if dataset.targets is None else dataset.targets[rows],
        class_groups=None if dataset.class_groups is None else dataset.class_groups[keep],
    )
    return part if dataset.draws is None else replace(part, draws=gallery_draws(part))


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
