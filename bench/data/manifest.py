"""Manifests: counts of a data set and a hash of its content, cheap enough to be made at each opening."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.dataset import Labels, Manifest, Split


def manifest_of_arrays(
    images: NDArray[np.uint8], labels: Labels, split: Split, layout: str, targets: NDArray[np.float64] | None = None
) -> Manifest:
    """Manifest of images held in memory; the content hash covers every pixel, label (also continuous) and side."""
    digest = hashlib.sha256(f"{images.shape}".encode())
    digest.update(np.ascontiguousarray(images).data)
    if targets is not None:
        digest.update(np.ascontiguousarray(targets, dtype="<f4").data)
    return _manifest(digest.digest(), labels, split, layout)


def manifest_of_files(
    root: Path,
    files: Sequence[Path],
    sizes: Sequence[int],
    class_names: Sequence[str],
    labels: Labels,
    split: Split,
    layout: str,
) -> Manifest:
    """Manifest of image files; the content hash covers relative path, size in bytes, class name, label and side."""
    digest = hashlib.sha256()
    start = len((root / "x").as_posix()) - 1  # relative paths by cutting: relative_to costs more than the rest
    for path, size, label in zip(files, sizes, labels, strict=True):
        line = f"{path.as_posix()[start:]}\0{size}\0{class_names[label]}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    return _manifest(digest.digest(), labels, split, layout)


def _manifest(images: bytes, labels: Labels, split: Split, layout: str) -> Manifest:
    digest = hashlib.sha256(images)
    sides = (split.train, split.query, split.gallery)
    for part in (labels, *(side for side in sides if side is not None)):
        digest.update(np.asarray(part, dtype="<i8").tobytes() + b"|")
    return Manifest(
        classes=len(np.unique(labels)),
        images=len(labels),
        train_classes=len(np.unique(labels[split.train])),
        train_images=len(split.train),
        test_classes=len(np.unique(labels[split.test])),
        test_images=len(split.test),
        layout=layout,
        content=digest.hexdigest(),
    )
