"""Cars196 (Krause et al., 3D Object Representations for Fine-Grained Categorization, 2013): 196 car models.

Classes 1-98 of the official order train, 99-196 test: 8,054 and 8,131 photographs. The official order is not
alphabetical, so it is kept in `cars196_classes.txt` and every layout is mapped to it. Recognised by probing:

- combined: `car_ims/` and `cars_annos.mat`;
- devkit: `cars_train/`, `cars_test/`, `devkit/` and `cars_test_annos_withlabels.mat`;
- class folders: `images/<class name>/`, or `car_data/car_data/{train,test}/<class name>/` with `anno_*.csv`.
"""

from __future__ import annotations

import csv
import difflib
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from bench.data.dataset import Dataset
from bench.data.decode import is_image
from bench.data.official import Benchmark, Photo, again, build, candidates
from bench.errors import DataError

CLASSES = 196
TRAIN_CLASSES = 98
TRAIN_IMAGES, TEST_IMAGES = 8_054, 8_131

_COMBINED = "combined (car_ims, cars_annos.mat)"
_DEVKIT = "devkit (cars_train, cars_test)"
_FOLDERS = "class folders"
_SPLIT_FOLDERS = "class folders under train and test (car_data)"

_MISSING = """data set 'cars196' was not found in {data} (nor in a folder cars196* or stanford_cars* there).
Get one of these, about 1.9 GB, and unpack it in {data}/cars196:
  - car_ims.tgz (MD5 d5c8f0aa497503f355e17dc7886c3f14) and cars_annos.mat (MD5 b407c6086d669747186bd1d764ff9dbc),
    which give car_ims/000001.jpg ... 016185.jpg and cars_annos.mat;
  - cars_train.tgz (MD5 065e5b463ae28d29e77c1b4b166cfe61), cars_test.tgz (MD5 4ce7ebf6a94d07f1952d94dd34c4d501),
    car_devkit.tgz (MD5 c3b158d763b6e2245038c8ad08e45376) and cars_test_annos_withlabels.mat
    (MD5 b0a2b23655a3edd16d84508592a98d10);
  - a copy with one folder a class: images/<class name>/*.jpg, or car_data/car_data/train and test.
The official addresses (ai.stanford.edu) are gone since 2023: use a mirror and check the MD5 sums.
Elsewhere? Name the folder with --data DIR (make: DATA=DIR) or in the environment variable BENCH_DATA."""


BENCHMARK = Benchmark(
    "cars196",
    "Cars196",
    images={"train": TRAIN_IMAGES, "query": TEST_IMAGES},
    classes={"train": TRAIN_CLASSES, "query": CLASSES - TRAIN_CLASSES},
    missing=_MISSING,
)


@cache
def official_names() -> tuple[str, ...]:
    """The 196 class names; the official id of a class is its position plus one."""
    return tuple(Path(__file__).with_name("cars196_classes.txt").read_text("utf-8").splitlines())


def load(data: Path) -> Dataset:
    """Find Cars196 in `data`, or in a folder `cars196*` or `stanford_cars*` of it; whole or partial.

    A part of the set is named so in `partial`, and never compared with published numbers.

    Raises:
        DataError: not found (says what to get and where to put it); a listed image or a label file is missing; a
            class is not one of the 196; one side of the split has no image.
    """
    for root in candidates(data, "cars196", "stanford_cars"):
        for layout, probe in _LAYOUTS.items():
            photos = probe(root)
            if photos is not None:
                return build(BENCHMARK, root, layout, photos, dict(enumerate(official_names(), 1)))
    raise BENCHMARK.not_found(data)


def _photo(class_id: int, path: PurePosixPath) -> Photo:
    return Photo(class_id, path, "train" if class_id <= TRAIN_CLASSES else "query")


def _combined(root: Path) -> list[Photo] | None:
    if not (root / "cars_annos.mat").is_file() and not (root / "car_ims").is_dir():
        return None
    annotations = _annotations(root / "cars_annos.mat", "relative_im_path")
    return [_photo(class_id, PurePosixPath(path)) for class_id, path in annotations]


def _devkit(root: Path) -> list[Photo] | None:
    halves = {
        "cars_train": ("devkit/cars_train_annos.mat", "cars_train_annos.mat"),
        "cars_test": ("cars_test_annos_withlabels.mat", "devkit/cars_test_annos_withlabels.mat"),
    }
    present = [half for half in halves if (root / half).is_dir()]
    if not present:
        return None
    photos = []
    for half in present:
        places = [root / place for place in halves[half]]
        path = next((place for place in places if place.is_file()), places[0])
        # Some archives repeat the folder: cars_train/cars_train/00001.jpg.
        folder = PurePosixPath(half, half) if (root / half / half).is_dir() else PurePosixPath(half)
        photos += [_photo(class_id, folder / name) for class_id, name in _annotations(path, "fname")]
    return photos


def _annotations(path: Path, name_field: str) -> list[tuple[int, str]]:
    """(official class id, file name) of each row; fields are found by name, as their order differs by layout."""
    from scipy.io import loadmat

    if not path.is_file():
        raise DataError(f"{path}: is missing, and with it the labels of the photographs. {again(path.parent)}")
    try:
        content: dict[str, Any] = loadmat(path, squeeze_me=True)
        rows = np.atleast_1d(content["annotations"])
        found = [(int(row["class"]), str(row[name_field])) for row in rows]
    except Exception as error:  # whatever a damaged file makes scipy's parser raise
        raise DataError(
            f"{path}: is not a Cars196 annotation file with the fields 'class' and '{name_field}' "
            f"({type(error).__name__}: {error}). {again(path.parent)}"
        ) from None
    for class_id, name in found:
        if not 1 <= class_id <= CLASSES:
            raise DataError(f"{path}: class {class_id} of {name} is not an official id (1-{CLASSES}). Get it again.")
    listed = tuple(str(name) for name in np.atleast_1d(content.get("class_names", ())))
    if listed and listed != official_names():
        raise DataError(
            f"{path}: its class names are not the official ones in the official order, so its ids would be cut into "
            "the wrong split. Get the released file."
        )
    return found


def _class_folders(root: Path) -> list[Photo] | None:
    for parent in (PurePosixPath("images"), PurePosixPath()):
        folders = _subfolders(root / parent)
        if any(_class_id(name) for name in folders):
            return _in_folders(root, parent)
    return None


def _split_folders(root: Path) -> list[Photo] | None:
    for parent in (PurePosixPath("car_data/car_data"), PurePosixPath("car_data")):
        halves = [half for half in ("train", "test") if (root / parent / half).is_dir()]
        if halves:
            photos = [photo for half in halves for photo in _in_folders(root, parent / half)]
            for half in halves:
                _agree_with_list(root / f"anno_{half}.csv", parent / half, photos)
            return photos
    return None


def _in_folders(root: Path, parent: PurePosixPath) -> list[Photo]:
    photos = []
    for name in _subfolders(root / parent):
        class_id = _class_id(name)
        if class_id is None:
            near = difflib.get_close_matches(name, official_names(), n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise DataError(f"{root / parent / name}: is not named after a class of Cars196.{hint} Rename or move it.")
        files = sorted(path.name for path in (root / parent / name).iterdir() if is_image(path))
        photos += [_photo(class_id, parent / name / file) for file in files]
    return photos


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")


@cache
def _ids_by_key() -> dict[str, int]:
    return {_key(name): class_id for class_id, name in enumerate(official_names(), 1)}


def _class_id(folder: str) -> int | None:
    return _ids_by_key().get(_key(folder))


def _key(name: str) -> str:
    # A slash cannot be part of a folder name; copies write '-', '_' or nothing, and spaces as '_'.
    return "".join(character for character in name.casefold() if character.isalnum())


def _agree_with_list(path: Path, folder: PurePosixPath, photos: list[Photo]) -> None:
    """Check the rows `file, x1, y1, x2, y2, class` of a list, where there is one, against the folders."""
    if not path.is_file():
        return
    in_folders = {photo.path.name: photo.class_id for photo in photos if photo.path.parent.parent == folder}
    with path.open(newline="", encoding="utf-8-sig") as file:
        for line, row in enumerate(csv.reader(file), 1):
            if len(row) != 6 or not row[5].strip().isdigit():
                raise DataError(f"{path}: line {line} is not 'file,x1,y1,x2,y2,class': {','.join(row)}. Get it again.")
            if row[0] not in in_folders:
                raise DataError(f"{path}: line {line} lists {row[0]}: it is in no class folder. {again(path.parent)}")
            if in_folders[row[0]] != int(row[5]):
                raise DataError(
                    f"{path}: line {line} gives {row[0]} class {row[5]}, but it lies in the folder of class "
                    f"{in_folders[row[0]]}. {again(path.parent)}"
                )


_LAYOUTS = {_COMBINED: _combined, _DEVKIT: _devkit, _SPLIT_FOLDERS: _split_folders, _FOLDERS: _class_folders}
