"""The image pipeline beside torchvision's: from JPEG, from the decoded cache, and for glyphs; one thread, so one core.

Photographs come from BENCH_DATA (a folder with Cars196 or a part of it); without it, only glyphs are timed.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from bench.data.cache import ImageStore, open_images
from bench.data.catalog import open_dataset, restrict
from bench.data.dataset import Dataset
from bench.data.decode import decode
from bench.data.input_format import InputFormat
from bench.data.samplers import classes_times_images
from bench.data.transforms import eval_batch, random_crops, train_batch
from bench.errors import DataError
from bench.protocol import Batch, Subset, TrainImages

ROUNDS = 7
RGB = InputFormat(3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY = InputFormat(1, (0.5,), (0.5,))
AREA = (0.16, 1.0)  # of the photographs' crops


def main() -> None:
    """Print images per second of each step, ours and torchvision's, measured in turn."""
    torch.set_num_threads(1)
    glyphs = open_dataset("glyphs", Path("data"))
    _sampler(glyphs)
    _crops("glyphs: train crops, 32 px", open_images(glyphs, "train", 32, 1), 32, GREY, (0.6, 1.0), 128)
    try:
        photographs = open_dataset("cars196", Path(os.environ.get("BENCH_DATA", "data")))
    except DataError:
        print("photographs: left out, BENCH_DATA holds no Cars196")
        return
    _decoding(photographs)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["BENCH_CACHE"] = cache
        few = restrict(photographs, Subset(train_classes=10, test_classes=1))
        store = open_images(few, "train", 256, 3, progress=False)
        for size in (128, 224):
            _crops(f"photographs: train crops, {size} px, from cache", store, size, RGB, AREA, 64)
        for size in (128, 224):
            _from_files(few, store, size, 64)


def _sampler(dataset: Dataset) -> None:
    labels = dataset.labels[dataset.split.train]
    batches = classes_times_images(labels, Batch(classes=32, per_class=4), np.random.default_rng(0))
    (seconds,) = _best(lambda: [next(batches) for _ in range(500)])
    print(f"sampler, 32 x 4: {seconds / 500 * 1e6:.0f} microseconds a batch")


def _decoding(dataset: Dataset) -> None:
    files = _files(dataset)[:100]
    resize = v2.Resize(256)

    def theirs() -> None:
        for path in files:
            with Image.open(path) as image:
                v2.functional.pil_to_tensor(resize(image.convert("RGB")))

    _print(
        "photographs: decode and resize to 256", len(files), *_best(lambda: [decode(f, 256, 3) for f in files], theirs)
    )


def _crops(title: str, store: ImageStore, size: int, fmt: InputFormat, area: tuple[float, float], count: int) -> None:
    settings = TrainImages(size=size, crop_area=area)
    rng = np.random.default_rng(0)
    positions = rng.integers(0, len(store), count)
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(size, area, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(fmt.mean, fmt.std),
        ]
    )
    ours = _trained(store, positions, settings, fmt)
    _print(title, count, *_best(ours, lambda: [transform(store.image(position)) for position in positions]))
    (centre,) = _best(lambda: eval_batch(store, positions, size, fmt))
    print(f"  centre crops of the same: {count / centre:,.0f} images/s")


def _from_files(dataset: Dataset, store: ImageStore, size: int, count: int) -> None:
    """The cache against what most training scripts do, open the file at each step; the crops are the same."""
    settings = TrainImages(size=size, crop_area=AREA)
    positions = np.random.default_rng(0).integers(0, len(store), count)
    files = [_files(dataset)[position] for position in positions]
    boxes, flips = random_crops(store.sizes[positions], settings, np.random.default_rng(1))
    resize = v2.Resize(256)
    finish = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(RGB.mean, RGB.std)])

    def theirs() -> Tensor:
        batch = []
        for path, box, flip in zip(files, boxes.tolist(), flips, strict=True):
            with Image.open(path) as opened:
                image = resize(opened.convert("RGB"))
            image = functional.resized_crop(image, *box, [size, size])
            batch.append(finish(functional.horizontal_flip(image) if flip else image))
        return torch.stack(batch)

    ours = _trained(store, positions, settings, RGB)
    levels = float((ours() - theirs()).abs().mean()) * 255 * float(np.mean(RGB.std))
    title = f"photographs: train crops, {size} px, from cache and from files"
    _print(title, count, *_best(ours, theirs))
    print(f"  the same crops: they differ by {levels:.2f} of 255 levels in the mean")


def _trained(
    store: ImageStore, positions: NDArray[np.int64], settings: TrainImages, fmt: InputFormat
) -> Callable[[], Tensor]:
    """Training batches as a run draws them, each over the memory of the one before; always the same crops."""
    last: list[Tensor | None] = [None]

    def batch() -> Tensor:
        rng = np.random.default_rng(1)
        last[0] = drawn = train_batch(store, positions, settings, fmt, rng, spare=last[0])
        return drawn

    return batch


def _files(dataset: Dataset) -> list[Path]:
    return [Path(dataset.images[row]) for row in dataset.split.train]


def _best(*works: Callable[[], object]) -> list[float]:
    """Shortest time of each, seconds; measured in turn, so that a busy machine slows all alike."""
    seconds = []
    for _ in range(ROUNDS + 1):
        for work in works:
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
    return [min(seconds[len(works) + i :: len(works)]) for i in range(len(works))]


def _print(title: str, images: int, ours: float, theirs: float) -> None:
    print(
        f"{title}: {images / ours:,.0f} images/s a core, torchvision {images / theirs:,.0f}, ratio {theirs / ours:.1f}"
    )


if __name__ == "__main__":
    main()
