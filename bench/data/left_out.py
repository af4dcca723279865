"""Damaged images that a user chose to leave out, as a list for exactly one content of a data set.

`bench data verify NAME --leave-out` writes the list; `open_dataset` leaves its images out, and says so in the
manifest's hash, in `partial` and in the notes. The list is named after the whole set's manifest hash: once a file is
replaced by one of another size, the content is another one and the list has no effect.
"""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench import home
from bench.data.dataset import Dataset
from bench.data.decode import Fault
from bench.errors import DataError

FAULTS: frozenset[Fault] = frozenset({"empty", "truncated", "unreadable", "too large", "more than 8 bits"})

_FORMAT = 1
_NAMED = 5  # images named in the notes of a data set


@dataclass(frozen=True)
class LeftOut:
    """Rows of the whole data set, ascending, and the file and fault of each."""

    rows: tuple[int, ...]
    images: tuple[str, ...]
    reasons: tuple[str, ...]

    def what(self) -> str:
        """For people: how many."""
        return f"{len(self.rows):,} damaged image{'s' if len(self.rows) > 1 else ''} left out"

    def partial(self, before: str | None) -> str:
        """How the data set is named without these images.

        >>> LeftOut((3,), ("a/3.png",), ("it is empty",)).partial("partial (98 of 196 classes)")
        'partial (98 of 196 classes; 1 damaged image left out)'
        """
        return f"{before.removesuffix(')')}; {self.what()})" if before else f"partial ({self.what()})"

    def note(self) -> str:
        """The first few by name."""
        more = f" and {len(self.images) - _NAMED:,} more" if len(self.images) > _NAMED else ""
        return f"{self.what()}: {', '.join(self.images[:_NAMED])}{more}"

    def check(self, dataset: Dataset) -> None:
        """Refuse to leave out all that a class or a side has.

        Raises:
            DataError: names the class or side, and the way out.
        """
        left = np.ones(len(dataset.labels), dtype=bool)
        left[list(self.rows)] = False
        way_out = "Get these files again; they cannot be left out."
        for label in np.flatnonzero(np.bincount(dataset.labels[left], minlength=len(dataset.class_names)) == 0):
            lost = self.images[int(np.flatnonzero(dataset.labels[list(self.rows)] == label)[0])]
            raise DataError(
                f"class '{dataset.class_names[label]}' of '{dataset.name}' would lose all its images ({lost} and so "
                f"on are damaged). {way_out}"
            )
        for side in ("train", "query", "gallery"):
            rows = getattr(dataset.split, side)
            if rows is not None and not left[rows].any():
                raise DataError(f"all {side} images of '{dataset.name}' are damaged ({self.note()}). {way_out}")


def place(dataset: Dataset) -> Path:
    """Where the list for this content of a whole data set lies."""
    return home.cache_folder() / "left_out" / f"{dataset.name}-{dataset.manifest.hash}.json"


def read(dataset: Dataset) -> LeftOut | None:
    """The list for a whole data set, or None where there is none.

    Raises:
        DataError: the list cannot be read, or is not one for this data set.
    """
    if isinstance(dataset.images, np.ndarray):
        return None
    path = place(dataset)
    try:
        content = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, dataset, str(error)) from None
    return _checked(content, path, dataset)


def write(dataset: Dataset, listed: LeftOut) -> Path:
    """Store the list, whole or not at all.

    Raises:
        DataError: a class or a side would lose all its images, or the cache folder is not writable.
    """
    listed.check(dataset)
    path = place(dataset)
    content = {
        "format": _FORMAT,
        "name": dataset.name,
        "hash": dataset.manifest.hash,
        "images": [
            {"row": row, "image": image, "reason": reason}
            for row, image, reason in zip(listed.rows, listed.images, listed.reasons, strict=True)
        ],
    }
    half = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        half.replace(path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror}). Free some space there, or name another folder in the "
            "environment variable BENCH_CACHE."
        ) from None
    return path


def remove(dataset: Dataset) -> bool:
    """Delete the list for this content; whether there was one."""
    try:
        place(dataset).unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise DataError(f"{place(dataset)}: cannot be deleted ({error.strerror}); delete it yourself.") from None
    return True


def short(path: Path) -> str:
    """How reports name an image file: its folder and its name."""
    return "/".join(path.parts[-2:])


def _checked(content: Any, path: Path, dataset: Dataset) -> LeftOut:
    try:
        if content["format"] != _FORMAT or content["hash"] != dataset.manifest.hash:
            raise ValueError(f"it is for content {content['hash']}, in format {content['format']}")
        rows = tuple(entry["row"] for entry in content["images"])
        images = tuple(entry["image"] for entry in content["images"])
        reasons = tuple(str(entry["reason"]) for entry in content["images"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, dataset, f"{type(error).__name__}: {error}") from None
    if not rows or any(type(row) is not int or not 0 <= row < len(dataset.images) for row in rows):
        raise _damaged(path, dataset, "'row' must number an image of the data set, and one image at least be listed")
    if any(second <= first for first, second in itertools.pairwise(rows)):
        raise _damaged(path, dataset, "the rows are not ascending")
    for row, image in zip(rows, images, strict=True):
        if image != short(Path(dataset.images[row])):
            raise _damaged(path, dataset, f"row {row} is {short(Path(dataset.images[row]))}, not {image}")
    return LeftOut(rows, images, reasons)


def _damaged(path: Path, dataset: Dataset, fault: str) -> DataError:
    return DataError(
        f"{path}: is not a list of images to leave out ({fault}). Delete it to use all images, or write it again with "
        f"`bench data verify {dataset.name} --data DIR --leave-out`."
    )
