"""From a list of photographs to a data set: what all official benchmarks share.

A loader probes for the layouts of its data set and returns photographs with official class ids and sides; here they
are checked (files there, no photograph twice, classes of the two sides apart), put in official order and counted
against the official numbers. What is not the whole set is named partial, and never compared with published numbers.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np

from bench.data.dataset import Dataset, Split
from bench.data.manifest import manifest_of_files
from bench.errors import DataError

PhotoSide = Literal["train", "query", "gallery"]
SIDES: tuple[PhotoSide, ...] = ("train", "query", "gallery")


class Photo(NamedTuple):
    """A photograph: `path` lies under the data set's folder, `source` says which list names it, and on which line.

    A test set without a gallery is all queries.
    """

    class_id: int
    path: PurePosixPath
    side: PhotoSide
    superclass: str = ""
    source: str = "the annotations"


@dataclass(frozen=True)
class Benchmark:
    """An official data set.

    Attributes:
        name: as in `--dataset`.
        title: as in reports.
        images: official number of photographs a side.
        classes: official number of classes a side.
        missing: what to get and where to put it; `{data}` is replaced.
        default_protocol: used when the caller names none.
    """

    name: str
    title: str
    images: Mapping[PhotoSide, int]
    classes: Mapping[PhotoSide, int]
    missing: str
    default_protocol: str = "frozen-trunk"

    def not_found(self, data: Path) -> DataError:
        """The error that says what to get."""
        return DataError(self.missing.format(data=data))


def candidates(data: Path, *prefixes: str) -> Iterator[Path]:
    """The data folder itself, then its folders whose names begin with a prefix, in any case; exact names first."""
    if not data.is_dir():
        return
    yield data
    named = [path for path in sorted(data.iterdir()) if path.is_dir()]
    for prefix in prefixes:
        matching = [path for path in named if path.name.lower().startswith(prefix)]
        yield from sorted(matching, key=lambda path: (path.name.lower() != prefix, path.name))


class NamesakeError(DataError):
    """Another data set that uses the same names, or another edition: named only where the right one is nowhere."""


Probe = Callable[[Path], "list[Photo] | None"]


class Found(NamedTuple):
    """What a probe recognised, and where."""

    root: Path
    layout: str
    photos: list[Photo]


def search(benchmark: Benchmark, data: Path, prefixes: Sequence[str], layouts: Mapping[str, Probe]) -> Found:
    """The first layout found in the data folder, in its folders named after the data set, or one level below these.

    Raises:
        DataError: nowhere (says what to get), or only a namesake; whatever a probe that recognised its layout raises.
    """
    namesake: NamesakeError | None = None
    for near in candidates(data, *prefixes):
        for root in [near] if near == data else candidates(near, *prefixes):
            for layout, probe in layouts.items():
                try:
                    photos = probe(root)
                except NamesakeError as error:
                    namesake = namesake or error
                    break
                if photos is not None:
                    return Found(root, layout, photos)
    raise namesake or benchmark.not_found(data)


def again(root: Path) -> str:
    """The way out of a damaged copy."""
    return f"Unpack the archives into {root} again, or remove that folder to be told what to get."


def build(
    benchmark: Benchmark,
    root: Path,
    layout: str,
    photos: Sequence[Photo],
    class_names: Mapping[int, str],
    *,
    notes: tuple[str, ...] = (),
) -> Dataset:
    """The data set of these photographs, ordered by official class id, then path.

    Args:
        benchmark: official numbers.
        root: the data set's folder.
        layout: as recognised, for the manifest.
        photos: all that the lists or folders name.
        class_names: name of each official class id among the photographs.
        notes: shown by `verify` and stored in records.

    Raises:
        DataError: no photograph, or none on a side; one listed twice or missing; a class on both sides; super-classes
            for some photographs only.
    """
    if not photos:
        raise DataError(f"{root}: looks like {benchmark.title} ({layout}) but holds no image. {again(root)}")
    ordered = sorted(photos, key=lambda photo: (photo.class_id, str(photo.path)))
    _once(root, ordered)
    files = tuple(root / photo.path for photo in ordered)
    sizes = _sizes(root, files, ordered)
    ids = sorted({photo.class_id for photo in ordered})
    labels = np.searchsorted(ids, [photo.class_id for photo in ordered]).astype(np.int64)
    sides = np.array([SIDES.index(photo.side) for photo in ordered])
    rows = {side: np.flatnonzero(sides == number) for number, side in enumerate(SIDES)}
    for side in benchmark.images:
        if len(rows[side]) == 0:
            called = "test" if side == "query" and "gallery" not in benchmark.images else side
            raise DataError(f"{root}: holds no {called} image of {benchmark.title} ({layout}). {again(root)}")
    split = Split(rows["train"], rows["query"], rows["gallery"] if "gallery" in benchmark.images else None)
    both = np.intersect1d(labels[split.train], labels[split.test])
    if len(both):
        raise DataError(
            f"{root}: class {class_names[ids[both[0]]]} is on the training and on the test side ({len(both)} such "
            f"classes), which {benchmark.title} does not have. {again(root)}"
        )
    names = tuple(class_names[class_id] for class_id in ids)
    supers = sorted({photo.superclass for photo in ordered})
    if "" in supers and len(supers) > 1:
        lone = next(photo for photo in ordered if not photo.superclass)
        raise DataError(f"{root}: {lone.path} has no super-class, but others have. {again(root)}")
    return Dataset(
        name=benchmark.name,
        title=benchmark.title,
        images=files,
        labels=labels,
        class_ids=tuple(ids),
        class_names=names,
        split=split,
        manifest=manifest_of_files(root, files, sizes, names, labels, split, layout),
        default_protocol=benchmark.default_protocol,
        photographs=True,
        partial=partial(
            benchmark,
            {side: len(np.unique(labels[rows[side]])) for side in benchmark.images},
            {side: len(rows[side]) for side in benchmark.images},
        ),
        superlabels=np.array([supers.index(photo.superclass) for photo in ordered]) if supers != [""] else None,
        superclass_names=tuple(supers) if supers != [""] else (),
        notes=notes,
    )


def partial(benchmark: Benchmark, classes: Mapping[PhotoSide, int], images: Mapping[PhotoSide, int]) -> str | None:
    """None where numbers a side are the official ones, else what is there, for people to read."""
    searching = [side for side in images if side != "gallery"]  # classes of a gallery are those of the queries
    totals = (
        ("classes", sum(classes[side] for side in searching), sum(benchmark.classes[side] for side in searching)),
        ("images", sum(images.values()), sum(benchmark.images.values())),
    )
    for what, found, official in totals:
        if found != official:
            return f"partial ({found:,} of {official:,} {what})"
    for side in images:
        if (images[side], classes[side]) != (benchmark.images[side], benchmark.classes[side]):
            return (
                f"partial ({images[side]:,} {side} images of {classes[side]:,} classes instead of "
                f"{benchmark.images[side]:,} of {benchmark.classes[side]:,})"
            )
    return None


def _once(root: Path, photos: Sequence[Photo]) -> None:
    seen: set[str] = set()  # of strings: hashing paths is slow, and there may be 100,000
    for photo in photos:
        if str(photo.path) in seen:
            raise DataError(f"{root}: {photo.path} is listed more than once, again in {photo.source}. {again(root)}")
        seen.add(str(photo.path))


def _sizes(root: Path, files: Sequence[Path], photos: Sequence[Photo]) -> list[int]:
    sizes = []
    for path, photo in zip(files, photos, strict=True):
        try:
            found = path.stat()
        except OSError as error:
            raise DataError(
                f"{path}: is listed in {photo.source} but cannot be read ({error.strerror}). {again(root)}"
            ) from None
        if not stat.S_ISREG(found.st_mode):
            raise DataError(f"{path}: is listed in {photo.source} but is no file. {again(root)}")
        sizes.append(found.st_size)
    return sizes
