"""Decoded images: each side of a data set is decoded once, to a memory-mapped file that all runs share.

A cache is a folder of `pixels.bin` (uint8, one image after the other, each H x W x channels) and `sizes.npy`
(int32 (N, 2): height, width). It is named after all that decides its content, written under another name by one
process at a time and renamed when whole, so a killed build leaves no half cache. Images that are in memory already
are not written.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from bench import home
from bench.data import left_out, seal
from bench.data.dataset import Dataset, Labels
from bench.data.decode import DamagedImage, decode, pixels, resized
from bench.data.threads import in_order
from bench.errors import DataError
from bench.protocol import Fit

if TYPE_CHECKING:
    from torch import Tensor

Side = Literal["train", "test"]

_FORMAT = 1  # raised when decoding or the files' layout changes
_HEADERS = 512  # files whose size is looked at to estimate that of the cache
_WAY_OUT = "Free some space there, or name another folder in the environment variable BENCH_CACHE."


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


def prepare_images(dataset: Dataset, resize: int, channels: int, progress: bool = True, fit: Fit = "crop") -> None:
    """Decode both sides, unless they are cached. Two processes may do this at once: one waits for the other.

    Args:
        dataset: whose images.
        resize: shorter side in pixels.
        channels: 1 (grey) or 3 (RGB).
        progress: show a progress bar.
        fit: whether images keep their shape, or are stretched to a square.

    Raises:
        DataError: an image is damaged (the message names it, and both ways out: get it again, leave it out), or the
            cache folder is not writable, full, or too small by an estimate made before.
        SealedError: a run is training in this process.
    """
    seal.check(f"the images of '{dataset.name}'")
    for side in ("train", "test"):
        if not isinstance(dataset.images, np.ndarray):
            _built(dataset, side, resize, channels, progress, fit)


def open_images(
    dataset: Dataset, side: Side, resize: int, channels: int, progress: bool = True, fit: Fit = "crop"
) -> ImageStore:
    """Decoded images of one side; decodes them first if they are not cached.

    Raises:
        DataError: as `prepare_images`.
        SealedError: side is "test" while a run is training in this process.
    """
    if side == "test":
        seal.check(f"the test images of '{dataset.name}'")
    if isinstance(dataset.images, np.ndarray):
        return _in_memory(dataset.images[_rows(dataset, side)], resize, channels, fit)
    folder = _built(dataset, side, resize, channels, progress, fit)
    sizes = np.load(folder / "sizes.npy", allow_pickle=False).astype(np.int64)
    # Copy-on-write: torch wants writable memory, the file stays as it is.
    flat = np.memmap(folder / "pixels.bin", dtype=np.uint8, mode="c")
    return ImageStore(flat, sizes, channels)


def _rows(dataset: Dataset, side: Side) -> Labels:
    return dataset.split.train if side == "train" else dataset.split.test


def _in_memory(images: NDArray[np.uint8], resize: int, channels: int, fit: Fit) -> ImageStore:
    from PIL import Image

    if images.ndim == 3:
        images = images[..., None]
    height, width = images.shape[1:3]
    if images.shape[3] != channels or resized(width, height, resize, fit) != (width, height):
        squeezed = images[..., 0] if images.shape[3] == 1 else images
        images = np.stack([pixels(Image.fromarray(image), resize, channels, fit) for image in squeezed])
    sizes = np.tile(np.array(images.shape[1:3], dtype=np.int64), (len(images), 1))
    return ImageStore(np.ascontiguousarray(images).reshape(-1), sizes, channels)


def _built(dataset: Dataset, side: Side, resize: int, channels: int, progress: bool, fit: Fit) -> Path:
    from filelock import FileLock

    shape = f"{resize}px" if fit == "crop" else f"{resize}x{resize}px"
    key = f"{dataset.name}-{dataset.manifest.hash}-{side}-{shape}-{channels}ch-v{_FORMAT}"
    folder = home.cache_folder() / "images" / key
    rows = _rows(dataset, side)
    if _is_whole(folder, len(rows), channels):
        return folder
    half = folder.with_name(key + ".tmp")
    files = [dataset.images[row] for row in rows]
    title = f"{dataset.name}: decode {side} images"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(key + ".lock")):
            if _is_whole(folder, len(files), channels):
                return folder
            for left in (half, folder):  # of a killed build, or damaged; the lock says it is nobody's
                shutil.rmtree(left, ignore_errors=True)
            _check_space(files, folder.parent, resize, channels, fit)
            half.mkdir()
            try:
                make = partial(decode, resize=resize, channels=channels, fit=fit)
                _decode_all(files, make, half, title, progress)
                half.replace(folder)
            except BaseException:
                shutil.rmtree(half, ignore_errors=True)
                raise
    except DamagedImage as error:
        leave_out = ", or leave damaged images out" if error.fault in left_out.FAULTS else ""
        raise DataError(
            f"{error} Get the file again{leave_out}: `bench data verify {dataset.name} --data DIR` lists all damaged "
            f"images{', and leaves them out with --leave-out' if leave_out else ''}."
        ) from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DataError(
            f"the image cache in {folder.parent} cannot be written: {'the disk is full' if full else error.strerror}. "
            f"{_WAY_OUT}"
        ) from None
    return folder


def _is_whole(folder: Path, images: int, channels: int) -> bool:
    """Whether a cache is there with all its bytes; one that was cut short later, by hand or a bad disk, is not."""
    try:
        sizes = np.load(folder / "sizes.npy", allow_pickle=False).astype(np.int64)
        stored = (folder / "pixels.bin").stat().st_size
    except (OSError, ValueError, EOFError):
        return False
    return sizes.shape == (images, 2) and int(sizes.prod(axis=1).sum()) * channels == stored


def _check_space(files: Sequence[Path], folder: Path, resize: int, channels: int, fit: Fit) -> None:
    """Fail before hours of decoding where the disk is too small.

    Raises:
        DataError: gives the numbers.
    """
    needed, free = _estimate(files, resize, channels, fit), shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"the image cache in {folder} needs about {needed / 1e9:,.2f} GB for {len(files):,} images, but "
            f"{free / 1e9:,.2f} GB are free. {_WAY_OUT}"
        )


def _estimate(files: Sequence[Path], resize: int, channels: int, fit: Fit) -> int:
    """Bytes of the decoded images, from the headers of some; damaged ones are left to the decoder to name."""
    from PIL import Image

    areas = []
    for path in files[:: max(1, len(files) // _HEADERS)]:
        try:
            with Image.open(path) as image:
                width, height = resized(*image.size, resize, fit)
                areas.append(width * height)
        except Exception:  # damaged files make Pillow's parsers raise nearly anything
            continue
    return int(np.mean(areas) * len(files) * channels) if areas else 0


def _decode_all(
    files: Sequence[Path], make: Callable[[Path], NDArray[np.uint8]], folder: Path, title: str, progress: bool
) -> None:
    from tqdm import tqdm

    sizes = np.zeros((len(files), 2), dtype=np.int32)
    decoded = in_order(make, files)
    with open(folder / "pixels.bin", "wb") as out, closing(decoded):
        for row, image in enumerate(tqdm(decoded, title, len(files), unit="image", disable=None if progress else True)):
            sizes[row] = image.shape[:2]
            out.write(np.ascontiguousarray(image).data)
        out.flush()
        os.fsync(out.fileno())
    np.save(folder / "sizes.npy", sizes, allow_pickle=False)
    for file in folder.iterdir():
        file.chmod(0o444)  # runs share it
