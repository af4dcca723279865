"""Stanford Online Products (Oh Song et al., Deep Metric Learning via Lifted Structured Feature Embedding, 2016).

The two lists are the split: `Ebay_train.txt` has class ids 1-11,318 (59,551 photographs), `Ebay_test.txt` 11,319-22,634
(60,502); the twelve kinds of products are super-classes. Recognised by probing:

- official: the lists beside the category folders (`bicycle_final/` ...);
- the lists in `Info_Files/`, the category folders in `images/`.

Lists say `.JPG`; copies hold `.JPG` or `.jpg`, so the case of an extension is that of the file.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bench.data import lists
from bench.data.dataset import Dataset
from bench.data.official import Benchmark, Photo, PhotoSide, again, build, search
from bench.errors import DataError

TRAIN_CLASSES, TEST_CLASSES = 11_318, 11_316
TRAIN_IMAGES, TEST_IMAGES = 59_551, 60_502
COLUMNS = ("image_id", "class_id", "super_class_id", "path")

_MISSING = """data set 'sop' was not found in {data} (nor in Stanford_Online_Products, online_products* or sop* there).
Get Stanford_Online_Products.zip (MD5 7f73d41a2f44250d4779881525aea32e, about 3 GB) and unpack it in {data}: it gives
{data}/Stanford_Online_Products with Ebay_train.txt, Ebay_test.txt and the folders bicycle_final, cabinet_final, ...
A copy with images/bicycle_final ... and Info_Files/Ebay_train.txt, Ebay_test.txt does too.
The official ftp address of cs.stanford.edu often fails: use a mirror and check the MD5 sum.
Elsewhere? Name the folder with --data DIR (make: DATA=DIR) or in the environment variable BENCH_DATA."""

_PREFIXES = ("stanford_online_products", "online_products", "sop")
_LISTS: dict[PhotoSide, str] = {"train": "Ebay_train.txt", "query": "Ebay_test.txt"}
_IDS: dict[PhotoSide, range] = {
    "train": range(1, TRAIN_CLASSES + 1),
    "query": range(TRAIN_CLASSES + 1, TRAIN_CLASSES + TEST_CLASSES + 1),
}

BENCHMARK = Benchmark(
    "sop",
    "Stanford Online Products",
    images={"train": TRAIN_IMAGES, "query": TEST_IMAGES},
    classes={"train": TRAIN_CLASSES, "query": TEST_CLASSES},
    missing=_MISSING,
)


class _Row(NamedTuple):
    line: int
    class_id: int
    super_id: int
    category: str
    name: str


def load(data: Path) -> Dataset:
    """Find Stanford Online Products in `data`, or in a folder named after it there; whole or partial.

    Raises:
        DataError: not found (says what to get and where to put it); a list is missing or damaged, its class ids are
            not those of its side, or a listed image is not there.
    """
    root, layout, photos = search(BENCHMARK, data, _PREFIXES, _LAYOUTS)
    return build(BENCHMARK, root, layout, photos, {photo.class_id: str(photo.class_id) for photo in photos})


def _probe(root: Path, folder: str) -> list[Photo] | None:
    """The photographs, where `folder` of the root holds at least one of the two lists."""
    paths = {side: root / folder / name for side, name in _LISTS.items()}
    if not any(path.is_file() for path in paths.values()):
        return None
    categories: dict[str, tuple[int, str]] = {}  # folder: super-class id, where this was first said
    on_disk = _Files(root)
    photos = []
    for side, path in paths.items():
        for row in _rows(path, side):
            _one_category(path, row, categories)
            superclass = row.category.removesuffix("_final")
            source = f"line {row.line} of {path.name}"
            photos.append(Photo(row.class_id, on_disk.find(path, row), side, superclass, source))
    return photos


def _rows(path: Path, side: PhotoSide) -> Iterator[_Row]:
    """The rows of a list, each checked by itself and against the rows before."""
    lists.check_header(path, COLUMNS)
    images: dict[Hashable, int] = {}
    places: dict[Hashable, int] = {}
    category_of: dict[int, str] = {}
    for line, (image, label, super_class, text) in lists.read_rows(path, len(COLUMNS), skip=1):
        lists.unique(path, line, "image_id", lists.positive(path, line, "image_id", image), images)
        lists.unique(path, line, "path", text, places)
        class_id = lists.positive(path, line, "class_id", label)
        super_id = lists.positive(path, line, "super_class_id", super_class)
        if class_id not in _IDS[side]:
            raise lists.fault(path, line, _wrong_side(class_id, side))
        category, _, name = text.partition("/")
        if "/" in name or category in ("", "..") or not name.lower().endswith((".jpg", ".jpeg")):
            raise lists.fault(path, line, f"path must be <category>/<image file>, but is {text!r}")
        known = category_of.setdefault(class_id, category)
        if known != category:
            raise lists.fault(path, line, f"class {class_id} lies in {known} and in {category}")
        yield _Row(line, class_id, super_id, category, name)


def _wrong_side(class_id: int, side: PhotoSide) -> str:
    ids = _IDS[side]
    official = f"class_id {class_id} is not one of this list's ({ids.start:,}-{ids.stop - 1:,})"
    if side == "query" and class_id in _IDS["train"]:
        return f"{official} but of the training list's: class ids run on from list to list, they do not restart"
    if side == "train" and class_id in _IDS["query"]:
        return f"{official} but of the test list's"
    return official


def _one_category(path: Path, row: _Row, categories: dict[str, tuple[int, str]]) -> None:
    """A super-class id belongs to one folder, and a folder to one id, over both lists."""
    category = row.category
    known = categories.get(category)
    if known is None:
        namesake = next((name for name, (number, _) in categories.items() if number == row.super_id), None)
        if namesake is not None:
            raise lists.fault(
                path, row.line, f"super_class_id {row.super_id} of {category} is that of {namesake} already"
            )
        categories[category] = row.super_id, f"line {row.line} of {path.name}"
    elif known[0] != row.super_id:
        raise lists.fault(
            path, row.line, f"super_class_id of {category} is {row.super_id}, but {known[0]} on {known[1]}"
        )


class _Files:
    """The files of the category folders, each folder read once, found whatever the case of their extension."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._parent = "images/" if (root / "images").is_dir() else ""
        self._folder = cache(self._read)

    def find(self, path: Path, row: _Row) -> PurePosixPath:
        """Where the file of a row is, below the root."""
        exact, any_case = self._folder(row.category)
        alike = [row.name] if row.name in exact else any_case.get(_key(row.name), [])
        if len(alike) == 1:
            return PurePosixPath(f"{self._parent}{row.category}/{alike[0]}")
        place = self._root / self._parent / row.category / row.name
        raise DataError(
            f"{path}: line {row.line} lists {row.category}/{row.name}: "
            + (f"{place} is not there" if not alike else f"{' and '.join(alike)} are both there")
            + f". {again(self._root)}"
        )

    def _read(self, category: str) -> tuple[set[str], dict[str, list[str]]]:
        folder = self._root / self._parent / category
        try:
            with os.scandir(folder) as entries:
                exact = {entry.name for entry in entries}
        except OSError as error:
            raise DataError(
                f"{folder}: cannot be read ({error.strerror}), but the lists name images in it. {again(self._root)}"
            ) from None
        any_case: dict[str, list[str]] = {}
        for name in sorted(exact):
            any_case.setdefault(_key(name), []).append(name)
        return exact, any_case


def _key(name: str) -> str:
    stem, dot, extension = name.rpartition(".")
    return stem + dot + extension.lower()


_LAYOUTS = {
    "official (lists beside category folders)": partial(_probe, folder=""),
    "Info_Files and images": partial(_probe, folder="Info_Files"),
}
