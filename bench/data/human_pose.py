"""The human-pose set of the log-ratio paper (Kim et al., CVPR 2019): people, and how far apart their poses are.

Two folders of images, the first in alphabetical order for training (12,366), the second for validation (9,919); the
order of file names is the index of an image. Of the second, the first 1,919 search the other 8,000. No image shares a
class with another: only continuous labels are evaluated, and each image is a class of its own here.

The released labels are label distances: ranked lists of the training images, a matrix of the validation images.
Methods and metrics here work on coordinates, so these are recovered from the distances, which is refused where it
would change them. No distance between the folders is known: each is recovered by itself, and coordinates of different
folders cannot be compared. Nothing compares them. A `targets.npz` beside the folders is taken instead of all this.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from bench import home
from bench.data import targets
from bench.data.dataset import Dataset
from bench.data.decode import is_image
from bench.data.official import Benchmark, Photo, PhotoSide, again, build, candidates
from bench.errors import DataError

TRAIN, QUERIES, GALLERY = 12_366, 1_919, 8_000
VALIDATION_MATRIX = "dist_pose_val"

_FORMAT = 1  # raised when recovered coordinates change
_CHUNK = 256  # rows at a time
_MARKS = ("list_nn.npz", "dist_nn.npz", "list_nn.pkl", "dist_nn.pkl", f"{VALIDATION_MATRIX}.mat")
_CONVERT = """The released list_nn.pkl and dist_nn.pkl are pickles, and opening one runs whatever program is in it, so
they are never opened here. If you trust your copies, convert them once, in their folder, with Python:
  import pickle, numpy
  for name in ("list_nn", "dist_nn"): numpy.savez(name + ".npz", **pickle.load(open(name + ".pkl", "rb")))"""

_MISSING = f"""data set 'human_pose' was not found in {{data}} (nor in a folder human_pose* or fullbody* there).
Get the archive that the authors of 'Deep Metric Learning Beyond Binary Supervision' link to, and unpack it in
{{data}}/human_pose: two folders of images, list_nn.pkl, dist_nn.pkl and dist_pose_val.mat. {_CONVERT}
With joint coordinates of your own, put a targets.npz (path, targets) beside the two folders of images instead.
Elsewhere? Name the folder with --data DIR (make: DATA=DIR) or in the environment variable BENCH_DATA."""

BENCHMARK = Benchmark(
    "human_pose",
    "Human pose",
    images={"train": TRAIN, "query": QUERIES, "gallery": GALLERY},
    classes={"train": TRAIN, "query": QUERIES, "gallery": GALLERY},
    missing=_MISSING,
    default_protocol="graded",
)

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]


def load(data: Path) -> Dataset:
    """Find the two folders with their distances in `data`, or in a folder `human_pose*` or `fullbody*` of it.

    Raises:
        DataError: not found, or still pickled (says what to get or to do); not two folders of images; lists or
            matrices that are damaged, of another size, or no Euclidean distances.
    """
    for folder in candidates(data, "human_pose", "fullbody"):
        for root in (folder, folder / "fullbody"):
            halves = [half for half in _subfolders(root) if _images(root, half)]
            marked = any((root / name).is_file() for name in _MARKS)
            if marked or (len(halves) == 2 and (root / targets.FILE).is_file()):
                return _dataset(root, halves)
    raise BENCHMARK.not_found(data)


def _subfolders(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def _images(root: Path, half: str) -> list[PurePosixPath]:
    """Images of a folder in the order of their index: folder by folder, as torchvision's ImageFolder lists them."""
    found = [path.relative_to(root) for path in (root / half).rglob("*") if is_image(path)]
    return [PurePosixPath(path.as_posix()) for path in sorted(found, key=lambda path: (str(path.parent), path.name))]


def _dataset(root: Path, halves: list[str]) -> Dataset:
    if len(halves) != 2:
        raise DataError(
            f"{root}: has {len(halves)} folders of images ({', '.join(halves) or 'none'}), expected two: training and "
            f"validation, in alphabetical order. {again(root)}"
        )
    train, validation = (_images(root, half) for half in halves)
    queries = max(1, round(len(validation) * QUERIES / (QUERIES + GALLERY)))
    ends: tuple[tuple[PhotoSide, int], ...] = (("train", len(train)), ("query", len(train) + queries))
    paths = [*train, *validation]
    photos = [
        Photo(row, path, next((side for side, end in ends if row < end), "gallery")) for row, path in enumerate(paths)
    ]
    given = targets.beside(root, [str(path) for path in paths])
    notes = ["each image is a class of its own: class metrics are not defined, label distances are evaluated"]
    if given is not None:
        notes.append(f"continuous labels from {targets.FILE}: label distances are in its unit")
    else:
        given, dimensions = _recovered(root, len(train), len(validation))
        notes.append(
            f"coordinates in {dimensions} dimensions recovered from label distances, for each folder by itself; label "
            "distances are in the unit of the files (the paper prints 224/288 of them)"
        )
    names = {row: str(path) for row, path in enumerate(paths)}
    layout = f"{halves[0]} (training) and {halves[1]} (validation)"
    return targets.with_targets(build(BENCHMARK, root, layout, photos, names, notes=tuple(notes)), given)


def _recovered(root: Path, train: int, validation: int) -> tuple[Doubles, int]:
    """Coordinates of all images, training first, and their number; kept in the cache, as the full set takes a while."""
    place = _cache_file(_sources(root), train, validation)
    if place.is_file():
        try:
            (points,) = targets.read_arrays(place, "points")
            if points.dtype == np.float64 and points.ndim == 2 and len(points) == train + validation:
                return points, points.shape[1]
        except DataError:
            pass  # damaged: made again
    halves = [
        targets.coordinates(_training(root, train), str(root / "dist_nn.npz (trn)")),
        targets.coordinates(*_validation(root, validation)),
    ]
    dimensions = max(enough for _, enough in halves)
    points = np.zeros((train + validation, dimensions))
    for start, (found, _) in zip((0, train), halves, strict=True):
        kept = found[:, :dimensions]
        points[start : start + len(kept), : kept.shape[1]] = kept
    _store(place, points)
    return points, dimensions


def _sources(root: Path) -> list[Path]:
    """The files with distances.

    Raises:
        DataError: one is missing.
    """
    lists = [root / "list_nn.npz", root / "dist_nn.npz"]
    absent = [path for path in lists if not path.is_file()]
    if absent:
        pickled = any(path.with_suffix(".pkl").is_file() for path in absent)
        raise DataError(f"{absent[0]}: is missing. {_CONVERT if pickled else again(root)}")
    matrix = root / f"{VALIDATION_MATRIX}.mat"
    return [*lists, matrix] if matrix.is_file() else lists


def _cache_file(sources: Sequence[Path], train: int, validation: int) -> Path:
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    key = hashlib.sha256(repr((stats, train, validation)).encode()).hexdigest()[:16]
    return home.cache_folder() / "targets" / f"human_pose-{key}-v{_FORMAT}.npz"


def _store(place: Path, points: Doubles) -> None:
    half = place.with_suffix(f".{os.getpid()}.tmp")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with half.open("wb") as file:
            np.savez(file, points=points)
        half.replace(place)
    except OSError:  # a full or read-only cache costs time at the next opening, nothing else
        half.unlink(missing_ok=True)


def _training(root: Path, count: int) -> Floats:
    return _from_lists(root, "trn", count)


def _validation(root: Path, count: int) -> tuple[Floats, str]:
    """The distances among the validation images: from the matrix, or from the lists where there is none."""
    path = root / f"{VALIDATION_MATRIX}.mat"
    if not path.is_file():
        return _from_lists(root, "val", count), f"{root / 'dist_nn.npz'} (val)"
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=[VALIDATION_MATRIX])[VALIDATION_MATRIX]
        with np.errstate(over="ignore"):  # becomes infinite, which is refused
            matrix = np.asarray(content, dtype=np.float32)
    except Exception as error:  # whatever a damaged file makes scipy's parser raise
        raise DataError(
            f"{path}: is not a MATLAB file with the variable {VALIDATION_MATRIX} ({type(error).__name__}: {error}). "
            f"Version 7.3 cannot be read: save it with -v7. {again(root)}"
        ) from None
    if matrix.shape != (count, count):
        raise DataError(f"{path}: is {matrix.shape}, but there are {count} validation images. {again(root)}")
    return matrix, str(path)


def _from_lists(root: Path, key: str, count: int) -> Floats:
    """The matrix (N, N) from the other images of each image, ranked (list_nn), and their distances (dist_nn)."""
    order_file, file = root / "list_nn.npz", root / "dist_nn.npz"
    (order,), (ranked,) = targets.read_arrays(order_file, key), targets.read_arrays(file, key)
    for path, array, kinds in ((order_file, order, "iu"), (file, ranked, "fiu")):
        if array.shape != (count, count - 1) or array.dtype.kind not in kinds:
            raise DataError(
                f"{path}: array '{key}' is {array.dtype} {array.shape}, expected {(count, count - 1)}: for each of the "
                f"{count} images all others, in {'whole ' if kinds == 'iu' else ''}numbers. {again(root)}"
            )
    matrix = np.zeros((count, count), dtype=np.float32)
    for start in range(0, count, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, count))[:, None]
        listed = np.sort(order[rows[:, 0]], axis=1)
        others = np.arange(count - 1) + (np.arange(count - 1) >= rows)
        if not np.array_equal(listed, others):
            row = start + int(np.argmax((listed != others).any(1)))
            raise DataError(
                f"{order_file}: row {row} of '{key}' is not a list of all other images, from 0. {again(root)}"
            )
        with np.errstate(over="ignore"):
            matrix[rows, order[rows[:, 0]]] = ranked[rows[:, 0]]
    return matrix
