"""Decoded images: each side of a data set is decoded once, to a memory-mapped file that all runs share.

A cache is a folder of `pixels.bin` (uint8, one image after the other, each H x W x channels) and `sizes.npy`
(int32 (N, 2): height, width). It is named after all that decides its content, written under another name and
renamed when whole, so a killed build leaves no half cache. Images that are in memory already are not written.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from bench import home, machine
from bench.data import seal
from bench.data.dataset import Dataset, Labels
from bench.data.decode import decode, pixels
from bench.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Side = Literal["train", "test"]

_FORMAT = 1  # raised when decoding or the files' layout changes
_BLOCK = 256  # images in flight: bounds memory when the disk is slower than the decoders


@dataclass(frozen=True)
class ImageStore:
    """Decoded images of one side; position j is the j-th image of that side of the split.

    Attributes:
        flat: uint8, the images one after the other, each (H, W, channels).
        sizes: int64 (N, 2) height and width.
        channels: 1 or 3.
    """

    flat: NDArray[np.uint8]
    sizes: NDArray[np.int64]
    channels: int

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum(self.sizes[:, 0] * self.sizes[:, 1] * self.channels)

    @cached_property
    def uniform(self) -> NDArray[np.uint8] | None:
        """All images as (N, H, W, channels) if they are of one size, else None."""
        if len(self.sizes) == 0 or (self.sizes != self.sizes[0]).any():
            return None
        return self.flat.reshape(len(self), *self.sizes[0], self.channels)

    def image(self, position: int) -> Tensor:
        """One image, uint8 (channels, H, W), channels last in memory; a view, not to be written to."""
        import torch

        height, width = self.sizes[position]
        end = self._ends[position]
        array = self.flat[end - height * width * self.channels : end].reshape(height, width, self.channels)
        return torch.from_numpy(array).permute(2, 0, 1)


def prepare_images(dataset: Dataset, resize: int, channels: int, progress: bool = True) -> None:
    """Decode both sides, unless they are cached. Two processes may do this at once: one waits for the other.

    Args:
        dataset: whose images.
        resize: shorter side in pixels.
        channels: 1 (grey) or 3 (RGB).
        progress: show a progress bar.

    Raises:
        DataError: an image is damaged (the message names it), or the cache folder is full or not writable.
        SealedError: a run is training in this process.
    """
    seal.check(f"the images of '{dataset.name}'")
    for side in ("train", "test"):
        if not isinstance(dataset.images, np.ndarray):
            _built(dataset, side, resize, channels, progress)


def open_images(dataset: Dataset, side: Side, resize: int, channels: int, progress: bool = True) -> ImageStore:
    """Decoded images of one side; decodes them first if they are not cached.

    Raises:
        DataError: as `prepare_images`.
        SealedError: side is "test" while a run is training in this process.
    """
    if side == "test":
        seal.check(f"the test images of '{dataset.name}'")
    if isinstance(dataset.images, np.ndarray):
        return _in_memory(dataset.images[_rows(dataset, side)], resize, channels)
    folder = _built(dataset, side, resize, channels, progress)
    sizes = np.load(folder / "sizes.npy", allow_pickle=False).astype(np.int64)
    # Copy-on-write: torch wants writable memory, the file stays as it is.
    flat = np.memmap(folder / "pixels.bin", dtype=np.uint8, mode="c")
    return ImageStore(flat, sizes, channels)


def _rows(dataset: Dataset, side: Side) -> Labels:
    return dataset.split.train if side == "train" else dataset.split.test


def _in_memory(images: NDArray[np.uint8], resize: int, channels: int) -> ImageStore:
    from PIL import Image

    if images.ndim == 3:
        images = images[..., None]
    if images.shape[3] != channels or min(images.shape[1:3]) != resize:
        squeezed = images[..., 0] if images.shape[3] == 1 else images
        images = np.stack([pixels(Image.fromarray(image), resize, channels) for image in squeezed])
    sizes = np.tile(np.array(images.shape[1:3], dtype=np.int64), (len(images), 1))
    return ImageStore(np.ascontiguousarray(images).reshape(-1), sizes, channels)


def _built(dataset: Dataset, side: Side, resize: int, channels: int, progress: bool) -> Path:
    from filelock import FileLock

    key = f"{dataset.name}-{dataset.manifest.hash}-{side}-{resize}px-{channels}ch-v{_FORMAT}"
    folder = home.cache_folder() / "images" / key
    if folder.is_dir():
        return folder
    half = folder.with_name(key + ".tmp")
    files = [dataset.images[row] for row in _rows(dataset, side)]
    title = f"{dataset.name}: decode {side} images"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(key + ".lock")):
            if folder.is_dir():
                return folder
            shutil.rmtree(half, ignore_errors=True)  # left by a killed build; the lock says it is nobody's
            half.mkdir()
            try:
                _decode_all(files, half, resize, channels, title, progress)
                half.replace(folder)
            except BaseException:
                shutil.rmtree(half, ignore_errors=True)
                raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DataError(
            f"the image cache in {folder.parent} cannot be written: {'the disk is full' if full else error.strerror}. "
            "Free some space there, or name another folder in the environment variable BENCH_CACHE."
        ) from None
    return folder


def _decode_all(files: Sequence[Path], folder: Path, resize: int, channels: int, title: str, progress: bool) -> None:
    from tqdm import tqdm

    sizes = np.zeros((len(files), 2), dtype=np.int32)
    with open(folder / "pixels.bin", "wb") as out:
        decoded = _decoded(files, resize, channels)
        for row, image in enumerate(tqdm(decoded, title, len(files), unit="image", disable=None if progress else True)):
            sizes[row] = image.shape[:2]
            out.write(np.ascontiguousarray(image).data)
        out.flush()
        os.fsync(out.fileno())
    np.save(folder / "sizes.npy", sizes, allow_pickle=False)


def _decoded(files: Sequence[Path], resize: int, channels: int) -> Iterator[NDArray[np.uint8]]:
    # Threads, not processes: Pillow decodes and resizes without holding the interpreter lock.
    with ThreadPoolExecutor(machine.cores()) as pool:
        for first in range(0, len(files), _BLOCK):
            yield from pool.map(partial(decode, resize=resize, channels=channels), files[first : first + _BLOCK])
