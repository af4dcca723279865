"""PKU VehicleID (Liu et al., Deep Relative Distance Learning, CVPR 2016): vehicles seen by surveillance cameras.

13,164 vehicles train (113,346 photographs); the test lists of 800, 1,600 and 2,400 vehicles (6,493, 13,377 and 19,777
photographs) are three data sets here. Two evaluations of a test list go by one name in papers, and both are made:

- every image is a query against all others, like on other data sets: Recall@K and MAP@R;
- one image of each vehicle is the gallery and all others are queries, averaged over ten draws: CMC@K. The draws follow
  from the images' ids by a hash (`bench.data.draws`), so that they are the same for everyone and for ever.

Recognised: `image/<id>.jpg` and `train_test_split/{train_list,test_list_800,test_list_1600,test_list_2400}.txt`, rows
`<image id> <vehicle id>`. The list train_50000.txt that some copies hold instead of train_list.txt is a part of it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bench.data.dataset import Dataset
from bench.data.draws import gallery_draws
from bench.data.lists import fault, positive, read_rows, unique
from bench.data.official import Benchmark, Photo, PhotoSide, again, build, candidates
from bench.errors import DataError

_LISTS = PurePosixPath("train_test_split")
_TRAIN, _RECUT = "train_list.txt", "train_50000.txt"
_LAYOUT = "image, train_test_split"
_RECUT_LAYOUT = f"image, train_test_split with {_RECUT}"

_MISSING = """data set '{name}' was not found in {{data}} (nor in a folder VehicleID* or vehicle_id* there).
PKU VehicleID is given on request only, for research, by the group at Peking University that made it: there is no
public download. Unpack what you get in {{data}}/VehicleID_V1.0, so that these are there:
  - image/0000001.jpg and so on, all photographs in one folder;
  - train_test_split/train_list.txt and train_test_split/test_list_{vehicles}.txt.
Elsewhere? Name the folder with --data DIR (make: DATA=DIR) or in the environment variable BENCH_DATA."""


def _benchmark(size: str, vehicles: int, images: int) -> Benchmark:
    name = f"vehicleid_{size}"
    return Benchmark(
        name,
        f"PKU VehicleID ({size})",
        images={"train": 113_346, "query": images},
        classes={"train": 13_164, "query": vehicles},
        missing=_MISSING.format(name=name, vehicles=vehicles),
    )


SMALL = _benchmark("small", 800, 6_493)
MEDIUM = _benchmark("medium", 1_600, 13_377)
LARGE = _benchmark("large", 2_400, 19_777)


class _Row(NamedTuple):
    line: int
    image: str
    vehicle: int


def load_small(data: Path) -> Dataset:
    """PKU VehicleID with the test list of 800 vehicles, found in `data` or in a folder `VehicleID*` of it.

    Raises:
        DataError: not found (says what to get and where to put it); a list is missing or damaged; a listed image is
            missing; a vehicle or an image is on both sides.
    """
    return _load(SMALL, data)


def load_medium(data: Path) -> Dataset:
    """The same with the test list of 1,600 vehicles."""
    return _load(MEDIUM, data)


def load_large(data: Path) -> Dataset:
    """The same with the test list of 2,400 vehicles."""
    return _load(LARGE, data)


def _load(benchmark: Benchmark, data: Path) -> Dataset:
    for root in candidates(data, "vehicleid", "vehicle_id"):
        lists = root / _LISTS
        if any((lists / name).is_file() for name in (_TRAIN, _RECUT, _test_list(benchmark))):
            found = _read(benchmark, root)
            return replace(found, draws=gallery_draws(found))
        if root != data and ((root / "image").is_dir() or lists.is_dir()):
            raise _list_missing(root, _TRAIN)
    raise benchmark.not_found(data)


def _read(benchmark: Benchmark, root: Path) -> Dataset:
    test_list = root / _LISTS / _test_list(benchmark)
    train_list = root / _LISTS / _TRAIN
    recut = not train_list.is_file() and train_list.with_name(_RECUT).is_file()
    if recut:
        train_list = train_list.with_name(_RECUT)
    for path in (train_list, test_list):
        if not path.is_file():
            raise _list_missing(root, path.name)
    train, test = _rows(train_list), _rows(test_list)
    _apart(train_list, train, test_list, test)
    sides: tuple[tuple[PhotoSide, list[_Row]], ...] = (("train", train), ("query", test))
    photos = [
        Photo(row.vehicle, PurePosixPath("image", f"{row.image}.jpg"), side) for side, rows in sides for row in rows
    ]
    names = {row.vehicle: str(row.vehicle) for _, rows in sides for row in rows}
    notes = (f"trained on {_RECUT}, a partial re-cut of the official {_TRAIN}",) if recut else ()
    return build(benchmark, root, _RECUT_LAYOUT if recut else _LAYOUT, photos, names, notes=notes)


def _test_list(benchmark: Benchmark) -> str:
    return f"test_list_{benchmark.classes['query']}.txt"


def _list_missing(root: Path, name: str) -> DataError:
    return DataError(f"{root / _LISTS / name}: is missing, and with it the labels of photographs. {again(root)}")


def _rows(path: Path) -> list[_Row]:
    rows: list[_Row] = []
    seen: dict[object, int] = {}
    for line, (image, vehicle) in read_rows(path, 2):
        if not re.fullmatch(r"[0-9]{7}", image):
            raise fault(path, line, f"image id must be 7 digits, but is {image!r}")
        unique(path, line, "image", image, seen)
        rows.append(_Row(line, image, positive(path, line, "vehicle id", vehicle)))
    lone = len(rows) < 2 or rows[-1].vehicle != rows[-2].vehicle
    if lone and not path.read_bytes().endswith(b"\n"):
        # Photographs of a vehicle stand together, so a lone last one may be what is left of a longer number.
        raise DataError(
            f"{path}: line {rows[-1].line}: may be cut off: it has no line break, and vehicle {rows[-1].vehicle} is "
            "not the one before. Get the file again, or add a line break if nothing is missing."
        )
    return rows


def _apart(train_list: Path, train: list[_Row], test_list: Path, test: list[_Row]) -> None:
    """Check that no image and no vehicle of the training list is in the test list."""
    image_line = {row.image: row.line for row in train}
    vehicle_line = {row.vehicle: row.line for row in train}
    for row in test:
        if row.image in image_line:
            raise fault(test_list, row.line, f"image {row.image} is in {train_list} too, line {image_line[row.image]}")
        if row.vehicle in vehicle_line:
            where = f"{train_list} too, line {vehicle_line[row.vehicle]}"
            raise fault(test_list, row.line, f"vehicle {row.vehicle} is in {where}: training and test must differ")
