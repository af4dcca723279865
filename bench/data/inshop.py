"""In-Shop Clothes Retrieval (Liu et al., DeepFashion, 2016): 7,982 items of clothing.

`list_eval_partition.txt` is the split: 3,997 items train; the photographs of the other 3,985 are queries or gallery.
Recognised by probing: the list in `Eval/` or in the folder itself, the images in `img/` or `Img/img/` there. The same
photographs exist with 256 pixels (`img`) and in high resolution (`img_highres`): they score differently, so they are
two data sets. `MEN/Denim` and its like are super-classes.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bench.data import lists
from bench.data.dataset import Dataset
from bench.data.decode import is_image
from bench.data.official import SIDES, Benchmark, NamesakeError, Photo, PhotoSide, again, build, search
from bench.errors import DataError

LIST = "list_eval_partition.txt"
COLUMNS = ("image_name", "item_id", "evaluation_status")
TRAIN_ITEMS, TEST_ITEMS = 3_997, 3_985
TRAIN_IMAGES, QUERY_IMAGES, GALLERY_IMAGES = 25_882, 14_218, 12_612

_MISSING = """data set '{name}' was not found in {{data}} (nor in a folder inshop*, in-shop* or deepfashion* there).
Get the In-shop Clothes Retrieval Benchmark of DeepFashion (its page links a Google Drive folder; some archives need a
password, which its authors give on request) and put into {{data}}/inshop:
  - Eval/list_eval_partition.txt, whose first line is 52712;
  - {images} (unpack {archive}), which holds {folder}/MEN and {folder}/WOMEN.
No MD5 sums were published: the counts are checked instead.
Elsewhere? Name the folder with --data DIR (make: DATA=DIR) or in the environment variable BENCH_DATA."""

_PREFIXES = ("inshop", "in-shop", "in_shop", "deepfashion")
_ITEM = re.compile(r"id_([0-9]{8})")
_SIDES: dict[str, PhotoSide] = {side: side for side in SIDES}


def _benchmark(name: str, title: str, folder: str, images: str) -> Benchmark:
    return Benchmark(
        name,
        title,
        images={"train": TRAIN_IMAGES, "query": QUERY_IMAGES, "gallery": GALLERY_IMAGES},
        classes={"train": TRAIN_ITEMS, "query": TEST_ITEMS, "gallery": TEST_ITEMS},
        missing=_MISSING.format(name=name, images=images, archive=f"Img/{folder}.zip", folder=folder),
    )


BENCHMARK = _benchmark("inshop", "In-Shop", "img", "the 256-pixel images")
HIGHRES = _benchmark("inshop_highres", "In-Shop (high resolution)", "img_highres", "the high-resolution images")
_FOLDERS = {"inshop": "img", "inshop_highres": "img_highres"}


class _Row(NamedTuple):
    line: int
    item: int
    side: PhotoSide
    place: str  # below the image folder
    kind: str


def load(data: Path) -> Dataset:
    """Find In-Shop Clothes with its 256-pixel images in `data`, or in a folder named after it there; whole or partial.

    Raises:
        DataError: not found (says what to get and where to put it); only a list of that name of another data set; a
            damaged or truncated list; a listed image is missing; an item on both sides.
    """
    return _load(BENCHMARK, data)


def load_highres(data: Path) -> Dataset:
    """The same with the high-resolution images.

    Raises:
        DataError: as `load`.
    """
    return _load(HIGHRES, data)


def _load(benchmark: Benchmark, data: Path) -> Dataset:
    layouts = {
        f"{place}, {_FOLDERS[benchmark.name]}": partial(_probe, benchmark=benchmark, place=place)
        for place in (f"Eval/{LIST}", LIST)
    }
    root, layout, photos = search(benchmark, data, _PREFIXES, layouts)
    names = {photo.class_id: f"id_{photo.class_id:08}" for photo in photos}
    return build(benchmark, root, layout, photos, names, notes=_lone_queries(photos))


def _probe(root: Path, benchmark: Benchmark, place: str) -> list[Photo] | None:
    path = root / place
    if not path.is_file():
        return None
    rows = list(_rows(path))
    images = _image_folder(root, benchmark)
    return [
        Photo(row.item, PurePosixPath(f"{images}/{row.place}"), row.side, row.kind, f"line {row.line} of {LIST}")
        for row in rows
    ]


def _rows(path: Path) -> Iterator[_Row]:
    """The rows of the list, each checked by itself and against the rows before, and their number."""
    first = lists.header(path)
    if len(first) == 2 and first[1] in ("0", "1", "2") and is_image(Path(first[0])):
        raise NamesakeError(
            f"{path}: is the list of that name of CelebA (its line 1 is '{' '.join(first)}'), not of In-Shop Clothes, "
            "which begins with the number of images. Get Eval/list_eval_partition.txt of In-shop Clothes Retrieval."
        )
    if len(first) != 1:
        raise lists.fault(path, 1, f"must be the number of images, but is {' '.join(first)[:60]!r}")
    announced = lists.positive(path, 1, "number of images", first[0])
    lists.check_header(path, COLUMNS, line=2)
    places: dict[Hashable, int] = {}
    side_of: dict[int, tuple[bool, int]] = {}
    for line, (image, item_name, status) in lists.read_rows(path, len(COLUMNS), skip=2):
        row = _row(path, line, image, item_name, status)
        lists.unique(path, line, "image_name", image, places)
        on_train_side, earlier = side_of.setdefault(row.item, (row.side == "train", line))
        if on_train_side != (row.side == "train"):
            raise lists.fault(path, line, f"{item_name} is on the training and on the test side (see line {earlier})")
        yield row
    if len(places) != announced:
        raise lists.fault(path, 1, f"announces {announced:,} images, but {len(places):,} rows follow")


def _row(path: Path, line: int, image: str, item_name: str, status: str) -> _Row:
    if status not in _SIDES:
        raise lists.fault(path, line, f"evaluation_status must be one of {', '.join(_SIDES)}, but is {status!r}")
    item = _ITEM.fullmatch(item_name)
    if item is None:
        raise lists.fault(path, line, f"item_id must be id_ and eight digits, but is {item_name!r}")
    parts = image.split("/")
    if len(parts) != 5 or parts[0] != "img" or {"", ".", ".."} & set(parts) or not parts[4].endswith(".jpg"):
        raise lists.fault(path, line, f"image_name must be img/<MEN or WOMEN>/<kind>/<item>/<file>, but is {image!r}")
    if parts[3] != item_name:
        raise lists.fault(path, line, f"{image} lies in the folder of {parts[3]}, but its item_id is {item_name}")
    return _Row(line, int(item[1]), _SIDES[status], image.removeprefix("img/"), f"{parts[1]}/{parts[2]}")


def _image_folder(root: Path, benchmark: Benchmark) -> PurePosixPath:
    """Where the images of this resolution are, below the root."""
    name = _FOLDERS[benchmark.name]
    for parent in (PurePosixPath(), PurePosixPath("Img")):
        folder = parent / name
        if (root / folder / name).is_dir():  # unpacked into a folder of its own name
            folder /= name
        if (root / folder).is_dir():
            return folder
    other = HIGHRES if benchmark is BENCHMARK else BENCHMARK
    places = [root / _FOLDERS[other.name], root / "Img" / _FOLDERS[other.name]]
    hint = f" The images of data set '{other.name}' are there." if any(map(Path.is_dir, places)) else ""
    raise DataError(
        f"{root}: holds {LIST} but no folder {name} nor Img/{name} with its images.{hint} "
        f"Unpack Img/{name}.zip there. {again(root)}"
    )


def _lone_queries(photos: list[Photo]) -> tuple[str, ...]:
    """A note on items that are searched for but have nothing to find."""
    gallery = {photo.class_id for photo in photos if photo.side == "gallery"}
    lone = sorted({photo.class_id for photo in photos if photo.side == "query"} - gallery)
    if not lone:
        return ()
    return (f"{len(lone):,} query items without a gallery image, such as id_{lone[0]:08}: no search can find them",)
