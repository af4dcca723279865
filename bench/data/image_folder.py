"""A user's own images: a folder of class folders, or `images.csv` with `path,label[,superlabel][,split]`.

Looked for as `image_folder/` in the data folder, else the data folder itself. Without a split, the first half of
the classes in natural order ("class2" before "class10") trains, the second half tests. `split` holds `train` and
`test`, or `train`, `query` and `gallery`. Super-labels come from the CSV only.

Continuous labels come from `targets.npz` beside the images: arrays `path` (N,) and `targets` (N, T), one row an image.
Where they are all there is (each image a class of its own), they are what is evaluated.
"""

from __future__ import annotations

import csv
import re
import stat
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.data import targets
from bench.data.dataset import Dataset, Labels, Split
from bench.data.decode import is_image
from bench.data.manifest import manifest_of_files
from bench.errors import DataError

_COLUMNS = ("path", "label", "superlabel", "split")
_SPLITS = ("train", "test", "query", "gallery")
_NAMED = 8  # classes that a note lists by name
_HOW = (
    "Expected one folder a class with its images inside (DIR/<class>/<image>), or DIR/images.csv with a header "
    "path,label[,superlabel][,split] and paths relative to DIR; DIR is --data, or its folder image_folder."
)


class _Row(NamedTuple):
    path: str
    label: str
    superlabel: str
    split: str


def load(data: Path) -> Dataset:
    """Read `data/image_folder` if it exists, else `data`.

    Raises:
        DataError: no images; a fault in the CSV (names file and line); a listed image is missing; a class on both
            sides of the split; a side without images; continuous labels that are damaged or not those of the images.
    """
    root = data / "image_folder" if (data / "image_folder").is_dir() else data
    if not root.is_dir():
        raise DataError(f"data set 'image_folder': the folder {root} does not exist. {_HOW}")
    table = root / "images.csv"
    notes: list[str] = []
    rows = _from_csv(table) if table.is_file() else _from_folders(root, notes)
    if not rows:
        raise DataError(f"{table if table.is_file() else root}: holds no images. {_HOW}")
    return _dataset(root, rows, "images.csv" if table.is_file() else "class folders", notes)


def _from_folders(root: Path, notes: list[str]) -> list[_Row]:
    rows, empty = [], []
    for folder in sorted(root.iterdir()):
        if not folder.is_dir() or folder.name.startswith((".", "__")):
            continue
        files = sorted(path.name for path in folder.iterdir() if is_image(path) and path.is_file())
        rows += [_Row(f"{folder.name}/{name}", folder.name, "", "") for name in files]
        if not files:
            empty.append(folder.name)
    if empty:
        notes.append(f"folders without images, left out: {', '.join(empty)}")
    return rows


def _from_csv(table: Path) -> list[_Row]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            _check_header(table, list(reader.fieldnames or ()))
            rows = [_row(table, reader.line_num, values) for values in reader]
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{table}: cannot be read as CSV in UTF-8 ({error}).") from None
    twice = [path for path, count in Counter(row.path for row in rows).items() if count > 1]
    if twice:
        raise DataError(f"{table}: lists {twice[0]} more than once; each image is one line.")
    return rows


def _check_header(table: Path, header: list[str]) -> None:
    wrong = [name for name in header if name not in _COLUMNS]
    absent = [name for name in ("path", "label") if name not in header]
    if wrong or absent or len(set(header)) < len(header):
        raise DataError(f"{table}: its header is '{','.join(header)}', expected path,label[,superlabel][,split].")


def _row(table: Path, line: int, values: dict[str | None, str | None]) -> _Row:
    given = {key: (values.get(key) or "").strip() for key in _COLUMNS}
    if None in values or any(values[key] is None for key in values) or not given["path"] or not given["label"]:
        raise DataError(f"{table}: line {line} needs a path and a label, and as many fields as the header.")
    path = Path(given["path"])
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{table}: line {line}: path '{path}' must be relative, and below {table.parent}.")
    if "split" in values and given["split"] not in _SPLITS:
        raise DataError(f"{table}: line {line}: split is '{given['split']}', allowed: {', '.join(_SPLITS)}.")
    if "superlabel" in values and not given["superlabel"]:
        raise DataError(f"{table}: line {line}: superlabel is empty; fill the column, or leave it out.")
    return _Row(path.as_posix(), **{key: given[key] for key in _COLUMNS[1:]})


def _dataset(root: Path, rows: list[_Row], layout: str, notes: list[str]) -> Dataset:
    names = sorted({row.label for row in rows}, key=_natural)
    label_of = {name: label for label, name in enumerate(names)}
    rows = sorted(rows, key=lambda row: (label_of[row.label], _natural(row.path)))
    labels = np.array([label_of[row.label] for row in rows], dtype=np.int64)
    split = _given_split(root, rows) if rows[0].split else _halves(root, labels, len(names))
    files = tuple(root / row.path for row in rows)
    sizes = [_size(path) for path in files]
    supers = sorted({row.superlabel for row in rows}, key=_natural)
    given = targets.beside(root, [row.path for row in rows])
    lone = [names[label] for label in np.flatnonzero(np.bincount(labels) == 1)]
    only_continuous = given is not None and len(lone) == len(names)
    if only_continuous:
        notes.append("each image is a class of its own: only continuous labels are evaluated")
    elif lone:
        more = f" and {len(lone) - _NAMED} more" if len(lone) > _NAMED else ""
        notes.append(
            f"classes of one image (they train by repetition, and are no queries): {', '.join(lone[:_NAMED])}{more}"
        )
    found = Dataset(
        name="image_folder",
        title=f"Image folder '{root.resolve().name}'",
        images=files,
        labels=labels,
        class_ids=tuple(range(len(names))),
        class_names=tuple(names),
        split=split,
        manifest=manifest_of_files(root, files, sizes, names, labels, split, layout),
        default_protocol="graded" if only_continuous else "frozen-trunk",
        photographs=True,
        superlabels=np.array([supers.index(row.superlabel) for row in rows], np.int64) if supers != [""] else None,
        superclass_names=tuple(supers) if supers != [""] else (),
        notes=tuple(notes),
    )
    return found if given is None else targets.with_targets(found, given)


def _size(path: Path) -> int:
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise DataError(
            f"{path}: is listed but cannot be read ({getattr(error, 'strerror', None) or error})."
        ) from None
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path}: is listed as an image but is no file.")
    return found.st_size


def _halves(root: Path, labels: Labels, classes: int) -> Split:
    if classes < 2:
        raise DataError(
            f"{root}: has one class only; training and test classes are different ones, so at least two are needed."
        )
    on_train_side = labels < (classes + 1) // 2
    return Split(train=np.flatnonzero(on_train_side), query=np.flatnonzero(~on_train_side))


def _given_split(root: Path, rows: list[_Row]) -> Split:
    table = root / "images.csv"
    at = {side: np.array([i for i, row in enumerate(rows) if row.split == side], dtype=np.int64) for side in _SPLITS}
    if len(at["test"]) and (len(at["query"]) or len(at["gallery"])):
        raise DataError(f"{table}: column split holds both 'test' and 'query' or 'gallery': use one of the two ways.")
    queries = at["test"] if len(at["test"]) else at["query"]
    for side, found in (("train", at["train"]), ("test (or query)", queries)):
        if len(found) == 0:
            raise DataError(f"{table}: column split never says {side}; both sides need images.")
    if len(at["query"]) and not len(at["gallery"]):
        raise DataError(f"{table}: column split says query but never gallery; write test to search among the queries.")
    sides = defaultdict(set)
    for row in rows:
        sides[row.label].add(row.split == "train")
    both = [label for label, found in sides.items() if len(found) == 2]
    if both:
        raise DataError(
            f"{table}: class '{both[0]}' is on both sides of the split ({len(both)} such classes). Training and test "
            "classes must differ: this benchmark measures unseen classes."
        )
    return Split(at["train"], queries, at["gallery"] if len(at["gallery"]) else None)


def _natural(text: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key under which numbers inside a name count as numbers; the name itself breaks ties."""
    parts = re.findall(r"\d+|\D+", text)
    return [_number(part) if part.isdecimal() else (1, 0, part.casefold()) for part in parts], text


def _number(digits: str) -> tuple[int, int, str]:
    """Sorts as the number does, however many digits it has."""
    significant = digits.lstrip("0")
    return 0, len(significant), significant
