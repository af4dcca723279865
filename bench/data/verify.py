"""A thorough look at a data set: every image is decoded, copies of one picture are searched for."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bench import machine
from bench.data.dataset import Dataset
from bench.data.decode import decode
from bench.errors import DataError


@dataclass(frozen=True)
class Finding:
    """Something found. A 'problem' makes results wrong or runs fail; a 'warning' is a known blemish."""

    severity: Literal["problem", "warning"]
    kind: str
    message: str
    images: tuple[str, ...]


def verify(dataset: Dataset, progress: bool = True) -> list[Finding]:
    """Decode every image and compare their pixels.

    Problems: an image that cannot be decoded; one picture on both sides of the split. Warnings: one picture under
    two labels of a side; left-over `._` files.

    Args:
        dataset: opened, so its counts and labels are checked already.
        progress: show a progress bar.
    """
    from tqdm import tqdm

    findings: list[Finding] = []
    rows_of: dict[bytes, list[int]] = defaultdict(list)
    with ThreadPoolExecutor(machine.cores()) as pool:
        rows = range(len(dataset.labels))
        digests = pool.map(lambda row: _digest(dataset, row), rows)
        for row, digest in enumerate(
            tqdm(digests, "verify", len(rows), unit="image", disable=None if progress else True)
        ):
            if isinstance(digest, DataError):
                findings.append(Finding("problem", "unreadable", str(digest), (_name(dataset, row),)))
            else:
                rows_of[digest].append(row)
    findings += [finding for rows_ in rows_of.values() if (finding := _copies(dataset, rows_))]
    return findings + _left_overs(dataset)


def _digest(dataset: Dataset, row: int) -> bytes | DataError:
    images = dataset.images
    try:
        pixels = images[row] if isinstance(images, np.ndarray) else decode(images[row], None, 3)
    except DataError as error:
        return error
    return hashlib.sha256(f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()).digest()


def _copies(dataset: Dataset, rows: list[int]) -> Finding | None:
    classes = {dataset.class_names[dataset.labels[row]] for row in rows}
    if len(classes) < 2:
        return None
    names = tuple(_name(dataset, row) for row in rows)
    what = f"{' = '.join(names)}: the same pixels under {len(classes)} classes ({', '.join(sorted(classes))})"
    on_train_side = np.isin(rows, dataset.split.train)
    if on_train_side.any() and not on_train_side.all():
        return Finding("problem", "copy across the split", f"{what}, on both sides of the split.", names)
    return Finding("warning", "copy across classes", f"{what}.", names)


def _left_overs(dataset: Dataset) -> list[Finding]:
    if isinstance(dataset.images, np.ndarray):
        return []
    folders = sorted({path.parent for path in dataset.images})
    files = tuple(str(path) for folder in folders for path in sorted(folder.glob("._*")))
    if not files:
        return []
    message = f"{len(files)} files left by a macOS archive, ignored: {files[0]} and so on; they can be deleted."
    return [Finding("warning", "._ files", message, files)]


def _name(dataset: Dataset, row: int) -> str:
    return f"image {row}" if isinstance(dataset.images, np.ndarray) else _short(dataset.images[row])


def _short(path: Path) -> str:
    return "/".join(path.parts[-2:])
