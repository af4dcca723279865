"""Cars196 whole, in all its layouts: the official numbers of images, names and halves, pictures generated."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.data.catalog import open_dataset
from tests.data.replicas import HardLinks
from tests.data.test_cars196 import annotations, folder_name, names_cell

TRAIN_HALF, TEST_HALF = 8_144, 8_041  # of the classification split, which is not the one used here

# (class id, in the classification's training half) of each of the 16,185 photographs, in class order
Cars = list[tuple[int, bool]]
Place = Callable[[Path], object]


def cars() -> Cars:
    """As many photographs a side as there are, spread evenly over its 98 classes."""
    ids = [first + number % 98 for first, images in ((1, 8_054), (99, 8_131)) for number in range(images)]
    trains = [True] * TRAIN_HALF + [False] * TEST_HALF
    random.Random(0).shuffle(trains)
    return list(zip(sorted(ids), trains, strict=True))


def combined(root: Path, place: Place) -> None:
    rows = [(f"car_ims/{number:06}.jpg", class_id) for number, (class_id, _) in enumerate(cars(), 1)]
    for name, _ in rows:
        place(root / name)
    annotations(root / "cars_annos.mat", rows, "relative_im_path", class_names=names_cell())


def halves() -> dict[str, list[tuple[str, int]]]:
    """Names that restart in each half, as the development kit has them."""
    found: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for class_id, trains in cars():
        half = found["train" if trains else "test"]
        half.append((f"{len(half) + 1:05}.jpg", class_id))
    return found


def devkit(root: Path, place: Place) -> None:
    files = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    for half, rows in halves().items():
        for name, _ in rows:
            place(root / f"cars_{half}" / name)
        annotations(root / files[half], rows, "fname")


def class_folders(root: Path, place: Place) -> None:
    for number, (class_id, _) in enumerate(cars()):
        place(root / "images" / folder_name(class_id) / f"{number:06}.jpg")


def split_folders(root: Path, place: Place) -> None:
    for half, rows in halves().items():
        for name, class_id in rows:
            place(root / "car_data/car_data" / half / folder_name(class_id) / name)
        lines = "".join(f"{name},1,2,3,4,{class_id}\n" for name, class_id in rows)
        (root / f"anno_{half}.csv").write_text(lines)


@pytest.mark.parametrize("layout", [combined, devkit, class_folders, split_folders])
def test_official_numbers(tmp_path: Path, layout: Callable[[Path, Place], None]) -> None:
    link = HardLinks(tmp_path)

    def place(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        link(path)

    layout(tmp_path / "cars196", place)
    found = open_dataset("cars196", tmp_path)
    assert found.partial is None
    manifest = found.manifest
    assert (manifest.train_classes, manifest.train_images) == (98, 8_054)
    assert (manifest.test_classes, manifest.test_images) == (98, 8_131)
    assert set(np.array(found.class_ids)[found.labels[found.split.train]]) == set(range(1, 99))
