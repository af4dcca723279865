"""CUB-200-2011 (Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011): 200 bird species.

Classes 1-100 train, 101-200 test: 5,864 and 5,924 photographs. The closed-set `train_test_split.txt` is another task
and never read. Class folders begin with the official id; `cub200_classes.txt` holds their names. Recognised by probing:

- official lists: `images.txt` and `image_class_labels.txt`, joined by image id, over `images/<class folder>/`;
- `train.txt` and `test.txt` of `path,label`, or of `image_id class_id path`, whose labels count from 0;
- class folders without lists, in `images/` or in the folder itself.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Hashable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath

from bench.data import lists
from bench.data.dataset import Dataset
from bench.data.decode import is_image
from bench.data.official import Benchmark, NamesakeError, Photo, build, search
from bench.errors import DataError

CLASSES = 200
TRAIN_CLASSES = 100
TRAIN_IMAGES, TEST_IMAGES = 5_864, 5_924

_MISSING = """data set 'cub200' was not found in {data} (nor in a folder CUB_200_2011, cub200* or cub2011* there).
Get CUB_200_2011.tgz (MD5 97eceeb196236b17998738112f37df78, about 1.1 GB) and unpack it in {data}: it gives
{data}/CUB_200_2011 with images/, images.txt and image_class_labels.txt. A copy with class folders only
(images/001.Black_footed_Albatross/*.jpg ...) does too. The archive is on data.caltech.edu, record 65de6-vp158.
Not the edition of 2010 (CUB-200, 6,033 images), which has the same classes.
Elsewhere? Name the folder with --data DIR (make: DATA=DIR) or in the environment variable BENCH_DATA."""

_PREFIXES = ("cub_200_2011", "cub200", "cub2011", "cub")
_NUMBERED = re.compile(r"\d{3}\.")
# Files of 2010 end in a photograph number of Flickr with 8 digits or more, those of 2011 in at most 6.
_FILE_OF_2010 = re.compile(r"_\d{8,}\.\w+$")
_IMAGES_OF_2010 = range(5_500, 6_500)

BENCHMARK = Benchmark(
    "cub200",
    "CUB-200-2011",
    images={"train": TRAIN_IMAGES, "query": TEST_IMAGES},
    classes={"train": TRAIN_CLASSES, "query": CLASSES - TRAIN_CLASSES},
    missing=_MISSING,
)


@cache
def official_names() -> tuple[str, ...]:
    """The 200 class folders; the official id of a class is its position plus one, and the number in its name."""
    return tuple(Path(__file__).with_name("cub200_classes.txt").read_text("utf-8").splitlines())


def load(data: Path) -> Dataset:
    """Find CUB-200-2011 in `data`, or in a folder named after it there; whole or partial.

    Raises:
        DataError: not found (says what to get and where to put it); the edition of 2010; lists that are damaged, or
            do not agree with each other or with the folders; a listed image is missing; a side without images.
    """
    root, layout, photos = search(BENCHMARK, data, _PREFIXES, _LAYOUTS)
    return build(BENCHMARK, root, layout, photos, dict(enumerate(official_names(), 1)))


def _photo(class_id: int, path: PurePosixPath, source: str = "its folder") -> Photo:
    return Photo(class_id, path, "train" if class_id <= TRAIN_CLASSES else "query", source=source)


def _official(root: Path) -> list[Photo] | None:
    listed, labelled = root / "images.txt", root / "image_class_labels.txt"
    if not labelled.is_file() and not (listed.is_file() and _parent(root)):
        return None
    _check_names(root / "classes.txt")
    labels: dict[int, tuple[int, int]] = {}  # image id: line, class id
    seen: dict[Hashable, int] = {}
    for line, (image, label) in lists.read_rows(labelled, 2):
        number = lists.positive(labelled, line, "image id", image)
        lists.unique(labelled, line, "image id", number, seen)
        labels[number] = line, lists.positive(labelled, line, "class id", label)
    photos = []
    listed_ids: dict[Hashable, int] = {}
    places: dict[Hashable, int] = {}
    for line, (image, text) in lists.read_rows(listed, 2):
        number = lists.positive(listed, line, "image id", image)
        lists.unique(listed, line, "image id", number, listed_ids)
        place, class_id = _place(listed, line, text)
        lists.unique(listed, line, "path", place, places)
        if number not in labels:
            raise lists.fault(listed, line, f"image id {number} has no class in {labelled.name}")
        if labels[number][1] != class_id:
            raise lists.fault(
                listed,
                line,
                f"{text} lies in the folder of class {class_id}, but line {labels[number][0]} of {labelled.name} gives "
                f"image id {number} class {labels[number][1]}",
            )
        photos.append(_photo(class_id, "images" / place, f"line {line} of {listed.name}"))
    for number, (line, _) in labels.items():
        if number not in listed_ids:
            raise lists.fault(labelled, line, f"image id {number} is not in {listed.name}")
    return photos


def _check_names(path: Path) -> None:
    """Where `classes.txt` is there, it must give the official ids and names (of all classes, or of some)."""
    if not path.is_file():
        return
    for line, (number, name) in lists.read_rows(path, 2):
        class_id = lists.positive(path, line, "class id", number)
        if class_id > CLASSES or official_names()[class_id - 1] != name:
            raise lists.fault(path, line, f"class {class_id} is not officially called {name!r}")


def _place(path: Path, line: int, text: str) -> tuple[PurePosixPath, int]:
    """`<class folder>/<file>` of a listed image, and the class."""
    place = lists.relative(path, line, text)
    if len(place.parts) < 2 or not is_image(Path(place.name)):
        raise lists.fault(path, line, f"expected <class folder>/<image file>, but found {text!r}")
    folder = place.parts[-2]
    class_id = _class_id(folder)
    if class_id is None:
        raise lists.fault(path, line, f"'{folder}' is not a class folder of CUB-200-2011.{_near(folder)}")
    return PurePosixPath(*place.parts[-2:]), class_id


def _train_and_test(root: Path) -> list[Photo] | None:
    halves = [root / "train.txt", root / "test.txt"]
    parent = _parent(root)
    if parent is None or not any(path.is_file() for path in halves):
        return None
    photos = []
    for path, first in zip(halves, (1, TRAIN_CLASSES + 1), strict=True):
        places: dict[Hashable, int] = {}
        start = None  # class id of label 0
        for line, text, label in _labelled(path):
            place, class_id = _place(path, line, text)
            lists.unique(path, line, "path", place, places)
            start = start or class_id - label
            if class_id - label != start or start not in (1, first):
                raise lists.fault(path, line, f"label {label} does not belong to class {class_id} of {text}")
            if (class_id <= TRAIN_CLASSES) != (first == 1):
                raise DataError(
                    f"{path}: line {line}: class {class_id} is on the other side of the split (1-{TRAIN_CLASSES} | "
                    f"{TRAIN_CLASSES + 1}-{CLASSES}). Is this a list for classification? Remove {halves[0].name} and "
                    f"{halves[1].name}: the class folders are enough."
                )
            photos.append(_photo(class_id, parent / place, f"line {line} of {path.name}"))
    return photos


def _labelled(path: Path) -> Iterator[tuple[int, str, int]]:
    """(line, path, label from 0) of a list, in either of its two forms."""
    columns = lists.header(path)
    if columns == ["image_id", "class_id", "path"]:
        seen: dict[Hashable, int] = {}
        for line, (image, label, text) in lists.read_rows(path, 3, skip=1):
            lists.unique(path, line, "image_id", lists.positive(path, line, "image_id", image), seen)
            yield line, text, lists.positive(path, line, "class_id", label, least=0)
    elif len(columns) == 1 and "," in columns[0]:
        for line, (row,) in lists.read_rows(path, 1):
            text, _, label = row.rpartition(",")
            yield line, text, lists.positive(path, line, "label", label, least=0)
    else:
        raise DataError(
            f"{path}: line 1: is neither 'path,label' nor the header 'image_id class_id path': {' '.join(columns)!r}. "
            f"Get the lists again, or remove {path.name}: the class folders are enough."
        )


def _class_folders(root: Path) -> list[Photo] | None:
    parent = _parent(root)
    if parent is None:
        return None
    photos = []
    files = {name: _image_names(root / parent / name) for name in _subfolders(root / parent)}
    _not_of_2010(root, files)
    for name, images in files.items():
        class_id = _class_id(name)
        if class_id is None:
            if parent.name != "images" and not _NUMBERED.match(name):
                continue  # beside class folders, not among them: parts/, attributes/
            raise DataError(
                f"{root / parent / name}: is not named after a class of CUB-200-2011.{_near(name)} Rename or move it."
            )
        photos += [_photo(class_id, parent / name / image) for image in images]
    return photos


def _not_of_2010(root: Path, files: dict[str, list[str]]) -> None:
    count = sum(map(len, files.values()))
    typical = next((image for images in files.values() for image in images if _FILE_OF_2010.search(image)), None)
    whole = sum(bool(images) for images in files.values()) >= CLASSES
    if typical or (whole and count in _IMAGES_OF_2010):
        raise NamesakeError(
            f"{root}: is CUB-200, the edition of 2010 ({count:,} images of {len(files)} classes"
            f"{f', such as {typical}' if typical else ''}), not CUB-200-2011, which has "
            f"{TRAIN_IMAGES + TEST_IMAGES:,} images of the same classes. Get CUB_200_2011.tgz (MD5 "
            f"97eceeb196236b17998738112f37df78) and unpack it beside this folder."
        )


def _parent(root: Path) -> PurePosixPath | None:
    """Where the class folders are: `images`, or the root itself; None where neither holds one."""
    for parent in (PurePosixPath("images"), PurePosixPath()):
        if any(_class_id(name) for name in _subfolders(root / parent)):
            return parent
    return None


def _subfolders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")


def _image_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if is_image(path))


@cache
def _ids() -> dict[str, int]:
    return {name: class_id for class_id, name in enumerate(official_names(), 1)}


def _class_id(folder: str) -> int | None:
    return _ids().get(folder)


def _near(folder: str) -> str:
    near = difflib.get_close_matches(folder, official_names(), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


_LAYOUTS = {
    "official lists (images.txt, image_class_labels.txt)": _official,
    "lists train.txt and test.txt": _train_and_test,
    "class folders": _class_folders,
}
