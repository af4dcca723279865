"""Batches of trunk input from decoded images: random resized crop and flip for training, centre crop otherwise.

Crops follow torchvision's RandomResizedCrop and CenterCrop, bilinear with antialiasing, but their parameters are
drawn for a whole batch at once from a numpy generator, always in the same number of draws.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bench.data.cache import ImageStore
from bench.data.input_format import InputFormat
from bench.protocol import TrainImages

_TRIES = 10  # as torchvision
_SMALL = 64  # pixels: up to this side, one dense product over the batch beats a resize for each image


def train_batch(
    store: ImageStore,
    positions: NDArray[np.int64],
    images: TrainImages,
    fmt: InputFormat,
    rng: np.random.Generator,
) -> Tensor:
    """Randomly cropped and flipped images.

    Args:
        store: decoded images, with as many channels as `fmt`.
        positions: int64 (B,) positions in the store.
        images: size of the crop, and the ranges it is drawn from.
        fmt: channels, mean and standard deviation that the trunk expects.
        rng: the 'augmentation' stream; draws depend on B only.

    Returns:
        float32 (B, C, size, size), normalised, channels last.
    """
    boxes, flips = random_crops(store.sizes[positions], images, rng)
    size = images.size
    uniform = store.uniform
    if uniform is not None and max(uniform.shape[1:3]) <= _SMALL:
        return _normalized(_resample(uniform[positions], boxes, flips, size).permute(0, 2, 3, 1), fmt)
    batch = torch.empty(len(positions), size, size, store.channels, dtype=torch.uint8)
    for row, (position, (top, left, height, width)) in enumerate(zip(positions, boxes.tolist(), strict=True)):
        crop = store.image(position)[None, :, top : top + height, left : left + width]
        if (height, width) != (size, size):
            crop = functional.interpolate(crop, (size, size), mode="bilinear", antialias=True)
        batch[row] = (crop.flip(3) if flips[row] else crop)[0].permute(1, 2, 0)
    return _normalized(batch, fmt)


def eval_batch(store: ImageStore, positions: NDArray[np.int64], crop: int, fmt: InputFormat) -> Tensor:
    """Centre crops: float32 (B, C, crop, crop), normalised, channels last. No side may be shorter than `crop`."""
    corners = np.rint((store.sizes[positions] - crop) / 2).astype(np.int64)
    uniform = store.uniform
    if uniform is not None:
        top, left = corners[0] if len(corners) else (0, 0)
        batch = torch.from_numpy(uniform[positions, top : top + crop, left : left + crop])
    else:
        batch = torch.empty(len(positions), crop, crop, store.channels, dtype=torch.uint8)
        for row, (position, (top, left)) in enumerate(zip(positions, corners.tolist(), strict=True)):
            batch[row] = store.image(position)[:, top : top + crop, left : left + crop].permute(1, 2, 0)
    return _normalized(batch, fmt)


def random_crops(
    sizes: NDArray[np.int64], images: TrainImages, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Crop boxes and flips of a batch.

    The crop's area is uniform in `crop_area` of the image's, its aspect ratio log-uniform in `crop_aspect`; of
    ten tries the first that fits is taken, else the largest centred crop of an allowed aspect ratio.

    Args:
        sizes: int64 (B, 2) height and width.
        images: the ranges.
        rng: gives B x 23 uniform numbers.

    Returns:
        int64 (B, 4) top, left, height, width; bool (B,) flip.
    """
    uniform = rng.random((len(sizes), 2 * _TRIES + 3))
    area_at, aspect_at = uniform[:, :_TRIES], uniform[:, _TRIES : 2 * _TRIES]
    full_height, full_width = sizes[:, :1], sizes[:, 1:]
    low, high = images.crop_area
    area = full_height * full_width * (low + (high - low) * area_at)
    log_low, log_high = np.log(images.crop_aspect)
    aspect = np.exp(log_low + (log_high - log_low) * aspect_at)
    width = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    height = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (width > 0) & (width <= full_width) & (height > 0) & (height <= full_height)
    first = (np.arange(len(sizes)), fits.argmax(axis=1))
    box = np.where(fits.any(axis=1)[:, None], np.stack([height[first], width[first]], 1), _centred(sizes, images))
    room = sizes - box
    corner = np.floor(uniform[:, -3:-1] * (room + 1)).astype(np.int64)
    corner = np.where(fits.any(axis=1)[:, None], corner, room // 2)
    return np.concatenate([corner, box], axis=1), uniform[:, -1] < images.flip


def _centred(sizes: NDArray[np.int64], images: TrainImages) -> NDArray[np.int64]:
    height, width = sizes[:, 0], sizes[:, 1]
    low, high = images.crop_aspect
    aspect = width / height
    cut_height = np.where(aspect < low, np.rint(width / low), height)
    cut_width = np.where(aspect > high, np.rint(height * high), width)
    return np.stack([cut_height, cut_width], axis=1).astype(np.int64)


def _resample(images: NDArray[np.uint8], boxes: NDArray[np.int64], flips: NDArray[np.bool_], size: int) -> Tensor:
    """Crop, resize and flip images (B, H, W, C) of one size by two batched products: float32 (B, C, size, size)."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).to(torch.float32)
    rows = _weights(boxes[:, 0], boxes[:, 2], images.shape[1], size)
    columns = _weights(boxes[:, 1], boxes[:, 3], images.shape[2], size)
    columns[flips] = columns[flips, ::-1]
    down = torch.from_numpy(rows)[:, None] @ batch
    return down @ torch.from_numpy(columns)[:, None].mT


def _weights(starts: NDArray[np.int64], lengths: NDArray[np.int64], pixels: int, size: int) -> NDArray[np.float32]:
    """Antialiased bilinear weights (B, size, pixels) that map an interval of `pixels` inputs to `size` outputs."""
    scale = lengths / size
    centres = starts[:, None] + (np.arange(size) + 0.5) * scale[:, None]
    inputs = np.arange(pixels, dtype=np.float32)
    inside = (inputs >= starts[:, None]) & (inputs < (starts + lengths)[:, None])
    weights = inputs - (centres[:, :, None] - 0.5).astype(np.float32)
    np.abs(weights, out=weights)
    weights *= (1 / np.maximum(scale, 1)).astype(np.float32)[:, None, None]
    np.subtract(1, weights, out=weights)
    np.maximum(weights, 0, out=weights)
    weights *= inside[:, None]
    weights /= weights.sum(axis=2, keepdims=True)
    return weights


def _normalized(batch: Tensor, fmt: InputFormat) -> Tensor:
    """(B, S, S, C) of 0..255 to normalised float32 (B, C, S, S), channels last."""
    count, rows, columns, channels = batch.shape
    if channels != fmt.channels:
        raise ValueError(f"the images have {channels} channels, the trunk expects {fmt.channels}")
    # One row of pixels at a time: broadcasting over an innermost dimension of 3 is not vectorised.
    factor = (1 / (255 * torch.tensor(fmt.std))).repeat(columns)
    offset = (-torch.tensor(fmt.mean) / torch.tensor(fmt.std)).repeat(columns)
    floats = batch.reshape(count, rows, columns * channels).to(torch.float32)
    torch.addcmul(offset, floats, factor, out=floats)
    return floats.view(count, rows, columns, channels).permute(0, 3, 1, 2)
