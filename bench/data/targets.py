"""Continuous labels of images on disk: `targets.npz`, and coordinates recovered from label distances."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from bench.data.dataset import Dataset
from bench.errors import DataError

FILE = "targets.npz"
DIMENSIONS = 64  # most coordinates that recovered targets may have
TOLERANCE = 1e-3  # root mean square error of recovered distances, relative to that of the given ones
_PAIRS = 100_000  # pairs of images on which the number of coordinates is chosen
_CHUNK = 256  # rows of a distance matrix at a time
_MOST_INFLATED = 1_100  # deflate shrinks no further than by 1,032, so a file that claims more lies
_HOW = (
    "Write it with numpy.savez('targets.npz', path=paths, targets=values): N paths as text, values (N, T) as numbers."
)

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]


def beside(root: Path, paths: Sequence[str]) -> Doubles | None:
    """The targets (N, T) of these images out of `targets.npz` in their folder; None where there is no such file.

    Args:
        root: the data set's folder.
        paths: of the images, relative to it, with forward slashes.

    Raises:
        DataError: the file is damaged or holds something else; an image has no target; a target has no image.
    """
    file = root / FILE
    if not file.is_file():
        return None
    names, values = read_arrays(file, "path", "targets")
    if names.dtype.kind != "U" or names.ndim != 1:
        raise DataError(f"{file}: array 'path' must be text (N,), found {names.dtype} {names.shape}. {_HOW}")
    if values.dtype.kind not in "fiu" or values.ndim != 2 or values.shape[1] == 0:
        raise DataError(f"{file}: array 'targets' must be numbers (N, T), found {values.dtype} {values.shape}. {_HOW}")
    if len(names) != len(values):
        raise DataError(f"{file}: has {len(names)} paths but {len(values)} targets. {_HOW}")
    with np.errstate(over="ignore"):
        values = values.astype(np.float64)
    row_of: dict[str, int] = {}
    for row, name in enumerate(names):
        path = PurePosixPath(str(name)).as_posix()
        if not np.isfinite(values[row]).all():
            raise DataError(f"{file}: row {row}: the target of {path} is not finite.")
        if row_of.setdefault(path, row) != row:
            raise DataError(f"{file}: row {row}: {path} is there already, in row {row_of[path]}.")
    without = [path for path in paths if path not in row_of]
    if without:
        raise DataError(f"{file}: has no target of {without[0]} ({len(without)} of {len(paths)} images have none).")
    unknown = row_of.keys() - set(paths)
    if unknown:
        first = min(unknown, key=row_of.__getitem__)
        raise DataError(f"{file}: row {row_of[first]}: {first} is not an image of this data set ({len(unknown)} such).")
    return np.asarray(values[[row_of[path] for path in paths]])


def with_targets(dataset: Dataset, targets: Doubles) -> Dataset:
    """The data set with continuous labels, which become part of its manifest's hash."""
    digest = hashlib.sha256(f"{dataset.manifest.content}/{targets.shape}/".encode())
    digest.update(np.ascontiguousarray(targets, dtype="<f8").tobytes())
    return replace(dataset, targets=targets, manifest=replace(dataset.manifest, content=digest.hexdigest()))


def read_arrays(file: Path, *names: str) -> list[NDArray[Any]]:
    """Arrays of an .npz file by name. Nothing is unpickled, and no memory is taken that the file does not fill.

    Raises:
        DataError: not an .npz file, damaged, or without one of the arrays.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            for name in names:
                _check_size(archive, name, file.stat().st_size)
        with np.load(file, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except Exception as error:  # whatever a damaged file makes zipfile and numpy raise
        reason = str(error).strip("'\"") or type(error).__name__
        raise DataError(f"{file}: cannot be read as .npz with the arrays {', '.join(names)} ({reason}).") from None


def _check_size(archive: zipfile.ZipFile, name: str, file_size: int) -> None:
    """Compare the size that an array's header claims with its bytes, before numpy makes room for it."""
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as data:
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(data)]
        shape, _, dtype = read_header(data)
        size = data.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError(f"array '{name}' holds Python objects, not numbers or text")
    if size != member.file_size or size > _MOST_INFLATED * file_size:
        raise ValueError(f"array '{name}' is {shape} by its header, which is not what the file holds")


def coordinates(distances: Floats, source: str) -> tuple[Doubles, int]:
    """Points (N, at most 64) with these distances, and how many of the coordinates are enough for them.

    Classical multidimensional scaling (Torgerson, 1952): the leading eigenvectors of the doubly centred squared
    distances, by subspace iteration since there are few of them; the strongest coordinate comes first. Enough are
    the fewest whose distances are within `TOLERANCE`.

    Args:
        distances: (N, N), symmetric, zeros on the diagonal.
        source: what to name in errors.

    Raises:
        DataError: not distances, or not Euclidean ones in so few dimensions.
    """
    from sklearn.utils.extmath import randomized_range_finder

    size = _check_distances(distances, source)
    gram = np.square(distances / np.float32(size))
    means = gram.mean(0, dtype=np.float64)
    gram -= means.astype(np.float32)
    gram -= (means - means.mean()).astype(np.float32)[:, None]
    gram *= -0.5
    kept = min(DIMENSIONS, len(gram) - 1)
    basis = randomized_range_finder(gram, size=min(kept + 10, len(gram)), n_iter=4, random_state=0)
    values, vectors = np.linalg.eigh((basis.T @ (gram @ basis)).astype(np.float64))
    strongest = np.argsort(-values)[:kept]
    points = size * (basis @ vectors[:, strongest]) * np.sqrt(np.maximum(values[strongest], 0))
    sampled = _sampled_errors(points, distances)
    for enough in range(1, kept + 1):
        if sampled[enough - 1] <= TOLERANCE and _error(points[:, :enough], distances) <= TOLERANCE:
            return np.asarray(points, dtype=np.float64), enough
    raise DataError(
        f"{source}: its distances are not Euclidean distances of points in up to {kept} dimensions: the nearest such "
        f"points miss them by {sampled.min():.2%} (root mean square), {TOLERANCE:.1%} is allowed. Put a {FILE} with "
        f"the joint coordinates (or other continuous labels) of all images beside it instead. {_HOW}"
    )


def _check_distances(distances: Floats, source: str) -> float:
    """Root mean square of the distances, once they are known to be some."""
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1] or len(distances) < 2:
        raise DataError(f"{source}: is not a square matrix of distances, but {distances.shape}.")
    total = 0.0
    for start, rows in _chunks(distances):
        if not (np.isfinite(rows).all() and rows.min() >= 0):
            row = start + int(np.argmin((np.isfinite(rows) & (rows >= 0)).all(1)))
            raise DataError(f"{source}: row {row} holds a distance that is negative or not a number.")
        total += float(np.square(rows, dtype=np.float64).sum())
    size = math.sqrt(total / (len(distances) * (len(distances) - 1)))
    if not 0 < size < np.finfo(np.float32).max:
        raise DataError(f"{source}: all distances are zero, or too large.")
    if distances.diagonal().max() > TOLERANCE * size:
        row = int(distances.diagonal().argmax())
        raise DataError(f"{source}: image {row} has the distance {distances[row, row]:g} to itself.")
    for start, rows in _chunks(distances):
        unequal = np.argwhere(np.abs(rows - distances[:, start : start + len(rows)].T) > TOLERANCE * size)
        if len(unequal):
            i, j = start + unequal[0, 0], unequal[0, 1]
            raise DataError(f"{source}: says {distances[i, j]:g} from image {i} to {j}, but {distances[j, i]:g} back.")
    return size


def _sampled_errors(points: Doubles, distances: Floats) -> Doubles:
    """Relative error of the distances with the first 1, 2, ... coordinates, over some pairs or all."""
    count = len(distances)
    if count * (count - 1) // 2 <= _PAIRS:
        left, right = np.triu_indices(count, 1)
    else:
        left, right = np.random.default_rng(0).integers(0, count, (2, _PAIRS))
    given = distances[left, right].astype(np.float64)
    found = np.sqrt(np.cumsum(np.square(points[left] - points[right]), axis=1))
    return np.asarray(np.sqrt(np.square(found - given[:, None]).sum(0) / np.square(given).sum()))


def _error(points: Doubles, distances: Floats) -> float:
    """Relative error of the distances, over all pairs."""
    from scipy.spatial.distance import cdist

    wrong = total = 0.0
    for start, rows in _chunks(distances):
        wrong += float(np.square(cdist(points[start : start + len(rows)], points) - rows).sum())
        total += float(np.square(rows, dtype=np.float64).sum())
    return math.sqrt(wrong / total)


def _chunks(distances: Floats) -> Iterator[tuple[int, Floats]]:
    for start in range(0, len(distances), _CHUNK):
        yield start, distances[start : start + _CHUNK]
