"""Complete copies of official data sets, with generated pictures: formats, names and counts as released.

`place` makes the file of a photograph: `HardLinks` (one tiny JPEG under all names, so that a hundred thousand take
seconds), `picture` (a picture of its own each) or `Path.touch` (empty files).
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from hypothesis import strategies as st

from bench.data import cub200
from bench.data.catalog import open_dataset
from bench.data.dataset import Dataset
from bench.errors import DataError
from tests.data import photos

Place = Callable[[Path], object]

CATEGORIES = (
    "bicycle",
    "cabinet",
    "chair",
    "coffee_maker",
    "fan",
    "kettle",
    "lamp",
    "mug",
    "sofa",
    "stapler",
    "table",
    "toaster",
)
KINDS = ("MEN/Denim", "MEN/Tees_Tanks", "WOMEN/Blouses_Shirts", "WOMEN/Dresses", "WOMEN/Rompers_Jumpsuits")
_LINKS_A_FILE = 30_000  # file systems allow 65,000 or fewer


class HardLinks:
    """Puts the same tiny JPEG under each path."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._count = 0
        self._source = store

    def __call__(self, path: Path) -> None:
        if self._count % _LINKS_A_FILE == 0:
            self._source = photos.write(self._store / f"source{self._count}.jpg", 1)
        self._count += 1
        os.link(self._source, path)


def picture(path: Path) -> None:
    photos.write(path, sum(path.as_posix().encode()))


def even(images: int, classes: int) -> list[int]:
    """Sizes of classes that add up to a number of images."""
    return [images * (number + 1) // classes - images * number // classes for number in range(classes)]


def cub_sizes() -> dict[int, int]:
    return dict(enumerate(even(5_864, 100) + even(5_924, 100), 1))


def cub_paths(sizes: Mapping[int, int]) -> list[str]:
    """`<class folder>/<file>`, in an order inside classes that is not that of the names."""
    paths = []
    for class_id, size in sizes.items():
        folder = cub200.official_names()[class_id - 1]
        stem = folder[4:].title()
        names = [f"{folder}/{stem}_{number:04}_{number * 7919 % 800_000}.jpg" for number in range(1, size + 1)]
        random.Random(class_id).shuffle(names)
        paths += names
    return paths


def cub_images(folder: Path, paths: Iterable[str], place: Place) -> None:
    _place_all([folder / path for path in paths], place)


def cub(root: Path, sizes: Mapping[int, int], place: Place) -> None:
    """CUB_200_2011 as unpacked: all lists over images/."""
    paths = cub_paths(sizes)
    cub_images(root / "images", paths, place)
    _write(root / "images.txt", (f"{number} {path}" for number, path in enumerate(paths, 1)))
    _write(root / "image_class_labels.txt", (f"{number} {int(path[:3])}" for number, path in enumerate(paths, 1)))
    _write(root / "classes.txt", (f"{number} {cub200.official_names()[number - 1]}" for number in sizes))
    # The split for classification: all classes on both sides.
    _write(root / "train_test_split.txt", (f"{number} {number % 2}" for number in range(1, len(paths) + 1)))
    _write(root / "bounding_boxes.txt", (f"{number} 60.0 27.0 325.0 304.0" for number in range(1, len(paths) + 1)))


def sop_sizes() -> tuple[list[int], list[int]]:
    return even(59_551, 11_318), even(60_502, 11_316)


def sop(
    root: Path,
    train: Sequence[int],
    test: Sequence[int],
    place: Place,
    *,
    first_test_class: int = 11_319,
    info_files: bool = False,
    suffix: str = ".JPG",
) -> None:
    """Stanford_Online_Products as unpacked, or with Info_Files/ and images/; `suffix` is that of files, not of lists.

    Classes of a side fill the categories in order; ids run on from one list to the other.
    """
    images = root / "images" if info_files else root
    lists = root / "Info_Files" if info_files else root
    image_id = 0
    files = []
    for name, sizes, first in (("Ebay_train.txt", train, 1), ("Ebay_test.txt", test, first_test_class)):
        lines = ["image_id class_id super_class_id path"]
        for position, size in enumerate(sizes):
            kind = position * len(CATEGORIES) // len(sizes)
            for number in range(size):
                image_id += 1
                stem = f"{CATEGORIES[kind]}_final/{110_000_000_000 + 7 * (first + position)}_{number}"
                lines.append(f"{image_id} {first + position} {kind + 1} {stem}.JPG")
                files.append(images / f"{stem}{suffix}")
        _write(lists / name, lines)
    _place_all(files, place)


Item = tuple[int, int, int]  # images on each side: train, query, gallery


def inshop_sizes() -> dict[int, Item]:
    """Training and test items take turns, as in the released list."""
    test = list(range(2, 2 * 3_985 + 1, 2))
    train = sorted(set(range(1, 7_983)) - set(test))
    items = {item: (size, 0, 0) for item, size in zip(train, even(25_882, 3_997), strict=True)}
    pairs = zip(even(14_218, 3_985), even(12_612, 3_985), strict=True)
    items |= {item: (0, *pair) for item, pair in zip(test, pairs, strict=True)}
    return dict(sorted(items.items()))


def inshop(
    root: Path,
    items: Mapping[int, Item],
    place: Place,
    *,
    at: str = "Eval/",
    images: str = "img",
    count: int | None = None,
) -> None:
    """In-Shop Clothes: the list under `at`, the pictures in folder `images`; `count` is said in line 1."""
    rows = []
    for item, sizes in items.items():
        number = 0
        for status, size in zip(("train", "query", "gallery"), sizes, strict=True):
            for _ in range(size):
                number += 1
                rows.append((f"{KINDS[item % len(KINDS)]}/id_{item:08}/{number:02}_1_front.jpg", item, status))
    rows.sort()
    _place_all([root / images / path for path, _, _ in rows], place)
    head = [str(len(rows) if count is None else count), "image_name item_id evaluation_status"]
    table = (f"{f'img/{path}':<66}   {f'id_{item:08}':<14}  {status:<8}" for path, item, status in rows)
    _write(root / f"{at}list_eval_partition.txt", [*head, *table])


def opened(name: str, data: Path) -> Dataset | None:
    """The data set, or None where an error says in which file, and on which line if that has any, the fault is."""
    try:
        return open_dataset(name, data)
    except DataError as error:
        text = str(error)
    assert str(data) in text
    assert "line " in text or "holds no row" in text, text
    return None


def opened_damaged(
    name: str, data: Path, file: Path, draw: Callable[[st.SearchStrategy[bytes]], bytes]
) -> Dataset | None:
    """The data set with one of its files damaged, which is put right again; None where an error says the place."""
    whole = file.read_bytes()
    try:
        file.write_bytes(draw(damaged(whole)))
        return opened(name, data)
    finally:
        file.write_bytes(whole)


def edited(name: str, line: int, old: str, new: str) -> Callable[[Path], None]:
    """Puts `new` for `old` in a line, counted from 1, of the list `name` below a folder."""

    def apply(root: Path) -> None:
        lines = (root / name).read_text().splitlines()
        assert old in lines[line - 1]
        lines[line - 1] = lines[line - 1].replace(old, new, 1)
        (root / name).write_text("\n".join(lines))

    return apply


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A list as it may reach someone: cut off, edited, re-encoded, with columns or rows in other places."""
    lines = content.split(b"\n")[:-1]
    at = draw(st.integers(0, len(lines) - 1))
    place = draw(st.integers(0, len(content)))
    fields = lines[at].split()
    one, other = (draw(st.integers(0, len(lines[-1].split()) - 1)) for _ in "ab")
    changes: dict[str, Callable[[], bytes]] = {
        "cut": lambda: content[:place],
        "row gone": lambda: _joined(lines[:at] + lines[at + 1 :]),
        "row twice": lambda: _joined([*lines[:at], lines[at], *lines[at:]]),
        "row moved": lambda: _joined([*lines[:at], *lines[at + 1 :], lines[at]]),
        "columns swapped": lambda: _joined([b" ".join(_swapped(line.split(), one, other)) for line in lines]),
        "field swapped": lambda: _joined([*lines[:at], b" ".join(_swapped(fields, one, other)), *lines[at + 1 :]]),
        "negative": lambda: _joined([*lines[:at], b"-" + lines[at], *lines[at + 1 :]]),
        "zero": lambda: _joined([*lines[:at], b" ".join([b"0", *fields[1:]]), *lines[at + 1 :]]),
        "inserted": lambda: content[:place] + draw(st.sampled_from(_INSERTED)) + content[place:],
        "utf-16": lambda: content.decode().encode("utf-16"),
        "byte-order mark": lambda: b"\xef\xbb\xbf" + content,
        "other line ends": lambda: content.replace(b"\n", b"\r\n"),
        "empty": lambda: b"",
    }
    return changes[draw(st.sampled_from(sorted(changes)))]()


_INSERTED = (b"\xff", b"\xc3\xa9", b"\0", b"\n", b" ", b"\t", b"/", b"../", b"-", b"x", b"\xe2\x80\x8b", b"\x0c")


def _swapped(fields: list[bytes], one: int, other: int) -> list[bytes]:
    moved = list(fields)
    if max(one, other) < len(moved):
        moved[one], moved[other] = moved[other], moved[one]
    return moved


def _joined(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def _write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def _place_all(files: list[Path], place: Place) -> None:
    for folder in {path.parent for path in files}:
        folder.mkdir(parents=True, exist_ok=True)
    for path in files:
        place(path)
