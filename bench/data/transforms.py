"""Batches of trunk input from decoded images: random resized crop and flip for training, centre or whole otherwise.

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
from bench.protocol import Fit, TrainImages

CPU = torch.device("cpu")
_TRIES = 10  # as torchvision
_SMALL = 64  # pixels: up to this side, one dense product over the batch beats a resize for each image


def train_batch(
    store: ImageStore,
    positions: NDArray[np.int64],
    images: TrainImages,
    fmt: InputFormat,
    rng: np.random.Generator,
    device: torch.device = CPU,
    spare: Tensor | None = None,
) -> Tensor:
    """Randomly cropped and flipped images.

    Photographs are resized one by one with pixels rounded to 8 bits as torchvision does; small images, and all
    images on an accelerator, in one batched product without rounding (within one level of the former).

    Args:
        store: decoded images, with as many channels as `fmt`.
        positions: int64 (B,) positions in the store.
        images: size of the crop, and the ranges it is drawn from.
        fmt: channels, mean and standard deviation that the trunk expects.
        rng: the 'augmentation' stream; draws depend on B only, not on the device.
        device: where the crops are resized and normalised; pixels travel there as 8 bits.
        spare: an earlier result that nobody needs any more; where it fits, the new one is written over it, as
            the system takes long to hand out as much memory anew.

    Returns:
        float32 (B, C, size, size), normalised, channels last, on `device`.
    """
    boxes, flips = random_crops(store.sizes[positions], images, rng)
    return _scaled(store, positions, boxes, flips, images.size, fmt, device, spare)


def _scaled(
    store: ImageStore,
    positions: NDArray[np.int64],
    boxes: NDArray[np.int64],
    flips: NDArray[np.bool_],
    size: int,
    fmt: InputFormat,
    device: torch.device,
    spare: Tensor | None = None,
) -> Tensor:
    """Boxes of images, scaled to squares and flipped: as `train_batch`."""
    _check_channels(store, fmt)
    uniform = store.uniform
    if uniform is not None and max(uniform.shape[1:3]) <= _SMALL:
        pixels = torch.from_numpy(uniform[positions])
    elif device.type != "cpu":
        pixels, boxes = corner_crops(store, positions, boxes)
    else:
        shape = (len(positions), fmt.channels, size, size)
        if spare is None or spare.shape != shape:
            spare = torch.empty(shape, memory_format=torch.channels_last)
        _resize_each(store, positions, boxes, flips, fmt, spare)
        return spare
    return _normalized(resample(pixels.to(device), boxes, flips, size).permute(0, 2, 3, 1), fmt)


def eval_batch(
    store: ImageStore,
    positions: NDArray[np.int64],
    crop: int,
    fmt: InputFormat,
    device: torch.device = CPU,
    fit: Fit = "crop",
) -> Tensor:
    """Images without randomness: float32 (B, C, crop, crop), normalised, channels last.

    Centre crops, where no side may be shorter than `crop`; under the fit "stretch" whole images, scaled.
    """
    _check_channels(store, fmt)
    sizes = store.sizes[positions]
    if fit == "stretch" and (sizes != crop).any():
        whole, upright = np.pad(sizes, ((0, 0), (2, 0))), np.zeros(len(sizes), dtype=np.bool_)
        return _scaled(store, positions, whole, upright, crop, fmt, device)
    corners = np.rint((sizes - crop) / 2).astype(np.int64)
    uniform = store.uniform
    if uniform is not None:
        top, left = corners[0] if len(corners) else (0, 0)
        batch = torch.from_numpy(uniform[positions, top : top + crop, left : left + crop])
    else:
        boxes = np.concatenate([corners, np.full_like(corners, crop)], axis=1)
        batch, _ = corner_crops(store, positions, boxes)
    return _normalized(batch.to(device), fmt)


def random_crops(
    sizes: NDArray[np.int64], images: TrainImages, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Crop boxes and flips of a batch.

    The crop's area is uniform in `crop_area` of the image's, its aspect ratio log-uniform in `crop_aspect`; of
    ten tries the first that fits is taken, else the largest centred crop of an allowed aspect ratio. With the
    probability `whole` it is all of the image instead.

    Args:
        sizes: int64 (B, 2) height and width.
        images: the ranges.
        rng: gives B x 23 uniform numbers, or B x 24 where some crops are whole images.

    Returns:
        int64 (B, 4) top, left, height, width; bool (B,) flip.
    """
    uniform = rng.random((len(sizes), 2 * _TRIES + (4 if images.whole else 3)))
    area_at, aspect_at, rest = np.split(uniform, [_TRIES, 2 * _TRIES], axis=1)
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
    box = np.where(rest[:, 3:] < images.whole, sizes, box) if images.whole else box
    room = sizes - box
    corner = np.floor(rest[:, :2] * (room + 1)).astype(np.int64)
    corner = np.where(fits.any(axis=1)[:, None], corner, room // 2)
    return np.concatenate([corner, box], axis=1), rest[:, 2] < images.flip


def _centred(sizes: NDArray[np.int64], images: TrainImages) -> NDArray[np.int64]:
    height, width = sizes[:, 0], sizes[:, 1]
    low, high = images.crop_aspect
    aspect = width / height
    cut_height = np.where(aspect < low, np.rint(width / low), height)
    cut_width = np.where(aspect > high, np.rint(height * high), width)
    return np.stack([cut_height, cut_width], axis=1).astype(np.int64)


def resample(images: Tensor, boxes: NDArray[np.int64], flips: NDArray[np.bool_], size: int) -> Tensor:
    """Crop, resize and flip images of one size by two batched products, bilinear with antialiasing.

    Args:
        images: uint8 (B, H, W, C), on any device.
        boxes: int64 (B, 4) top, left, height, width.
        flips: bool (B,).
        size: side of the result.

    Returns:
        float32 (B, C, size, size) of 0..255, not rounded, on the images' device.
    """
    rows = _weights(boxes[:, 0], boxes[:, 2], images.shape[1], size, images.device)
    columns = _weights(boxes[:, 1], boxes[:, 3], images.shape[2], size, images.device)
    flipped = torch.from_numpy(flips).to(images.device)[:, None, None]
    columns = torch.where(flipped, columns.flip(1), columns)
    return rows[:, None] @ images.permute(0, 3, 1, 2).to(torch.float32) @ columns[:, None].mT


def _weights(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], pixels: int, size: int, device: torch.device
) -> Tensor:
    """Antialiased bilinear weights (B, size, pixels) that map an interval of `pixels` inputs to `size` outputs."""
    scale = lengths / size
    centres = starts[:, None] + (np.arange(size) + 0.5) * scale[:, None] - 0.5

    def there(values: NDArray[np.float64] | NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(device)[..., None]

    inputs = torch.arange(pixels, dtype=torch.float32, device=device)
    inside = (inputs >= there(starts)) & (inputs < there(starts + lengths))
    weights = inputs - there(centres)
    weights.abs_().mul_(there(1 / np.maximum(scale, 1))[:, None]).neg_().add_(1).clamp_(min=0).mul_(inside[:, None])
    if device.type == "cpu":  # numpy sums in one order on all processors, torch does not
        return weights.div_(torch.from_numpy(weights.numpy().sum(axis=2, keepdims=True)))
    return weights.div_(weights.sum(2, keepdim=True))


def corner_crops(
    store: ImageStore, positions: NDArray[np.int64], boxes: NDArray[np.int64]
) -> tuple[Tensor, NDArray[np.int64]]:
    """Crops of any size in one tensor, to be resized together.

    Args:
        store: decoded images.
        positions: int64 (B,) positions in the store.
        boxes: int64 (B, 4) top, left, height, width in each image.

    Returns:
        uint8 (B, H, W, C), each crop at the top left, zeros elsewhere; int64 (B, 4) boxes of the crops in it.
    """
    height, width = boxes[:, 2:].max(axis=0, initial=1)
    canvas = np.zeros((len(boxes), height, width, store.channels), dtype=np.uint8)
    for row, position in enumerate(positions):
        crop = _cut(store, position, *boxes[row].tolist())
        canvas[row, : crop.shape[0], : crop.shape[1]] = crop
    moved = boxes.copy()
    moved[:, :2] = 0
    return torch.from_numpy(canvas), moved


def _resize_each(
    store: ImageStore,
    positions: NDArray[np.int64],
    boxes: NDArray[np.int64],
    flips: NDArray[np.bool_],
    fmt: InputFormat,
    out: Tensor,
) -> None:
    """Fill `out` (B, C, S, S), channels last, with crops that were resized to 8-bit pixels one by one."""
    size = out.shape[2]
    factor, offset = _scaling(fmt, size, CPU)
    lines = out.permute(0, 2, 3, 1).view(len(out), size, size * fmt.channels)
    for row, position in enumerate(positions):
        pixels = torch.from_numpy(np.ascontiguousarray(_cut(store, position, *boxes[row].tolist())))
        # As torch counts strides, this is channels last; a view of the whole image would not be, and resize slower.
        crop = pixels.unsqueeze(0).permute(0, 3, 1, 2)
        if crop.shape[2:] != (size, size):
            crop = functional.interpolate(crop, (size, size), mode="bilinear", antialias=True)
        if flips[row]:
            crop = crop.flip(3)
        # An image at a time: its floats are still in the processor's cache when they are scaled.
        floats = lines[row].copy_(crop.permute(0, 2, 3, 1).reshape(size, -1))
        torch.addcmul(offset, floats, factor, out=floats)


def _cut(store: ImageStore, position: np.int64, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
    image: NDArray[np.uint8] = store.image(int(position)).permute(1, 2, 0).numpy()
    return image[top : top + height, left : left + width]


def _check_channels(store: ImageStore, fmt: InputFormat) -> None:
    if store.channels != fmt.channels:
        raise ValueError(f"the images have {store.channels} channels, the trunk expects {fmt.channels}")


def _scaling(fmt: InputFormat, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Factor and offset that normalise a row of pixels 0..255, each (columns * C,)."""
    # One row of pixels at a time: broadcasting over an innermost dimension of 3 is not vectorised.
    factor = (1 / (255 * torch.tensor(fmt.std))).repeat(columns)
    offset = (-torch.tensor(fmt.mean) / torch.tensor(fmt.std)).repeat(columns)
    return factor.to(device), offset.to(device)


def _normalized(batch: Tensor, fmt: InputFormat) -> Tensor:
    """(B, S, S, C) of 0..255 to normalised float32 (B, C, S, S), channels last."""
    count, rows, columns, channels = batch.shape
    factor, offset = _scaling(fmt, columns, batch.device)
    floats = batch.reshape(count, rows, columns * channels).to(torch.float32)
    torch.addcmul(offset, floats, factor, out=floats)
    return floats.view(count, rows, columns, channels).permute(0, 3, 1, 2)
