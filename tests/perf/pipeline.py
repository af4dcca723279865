"""The image pipeline beside torchvision's: from JPEG, from the decoded cache, and for glyphs; one thread.

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
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from bench.data.cache import ImageStore, open_images
from bench.data.catalog import open_dataset, restrict
from bench.data.dataset import Dataset
from bench.data.decode import decode
from bench.data.input_format import InputFormat
from bench.data.samplers import classes_times_images
from bench.data.transforms import eval_batch, train_batch
from bench.errors import DataError
from bench.protocol import Batch, Subset, TrainImages

ROUNDS = 7
RGB = InputFormat(3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY = InputFormat(1, (0.5,), (0.5,))


def main() -> None:
    """Print images per second of each step, ours and torchvision's, measured in turn."""
    torch.set_num_threads(1)
    glyphs = open_dataset("glyphs", Path("data"))
    _sampler(glyphs)
    _compare("glyphs: train crops, 32 px", open_images(glyphs, "train", 32, 1), 32, GREY, (0.6, 1.0), 128)
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
            _compare(f"photographs: train crops, {size} px, from cache", store, size, RGB, (0.16, 1.0), 64)


def _sampler(dataset: Dataset) -> None:
    labels = dataset.labels[dataset.split.train]
    batches = classes_times_images(labels, Batch(classes=32, per_class=4), np.random.default_rng(0))
    seconds = _best(lambda: [next(batches) for _ in range(500)])
    print(f"sampler, 32 x 4: {seconds / 500 * 1e6:.0f} microseconds a batch")


def _decoding(dataset: Dataset) -> None:
    files = [dataset.images[row] for row in dataset.split.train[:100]]
    resize = v2.Resize(256)

    def theirs() -> None:
        for path in files:
            with Image.open(path) as image:
                v2.functional.pil_to_tensor(resize(image.convert("RGB")))

    ours = _best(lambda: [decode(Path(path), 256, 3) for path in files])
    _print("photographs: decode and resize to 256", len(files) / ours, len(files) / _best(theirs))


def _compare(title: str, store: ImageStore, size: int, fmt: InputFormat, area: tuple[float, float], count: int) -> None:
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

    def theirs() -> Tensor:
        return torch.stack([transform(store.image(position)) for position in positions])

    ours = _best(lambda: train_batch(store, positions, settings, fmt, rng))
    _print(title, count / ours, count / _best(theirs))
    centre = _best(lambda: eval_batch(store, positions, size, fmt))
    print(f"  centre crops of the same: {count / centre:,.0f} images/s")


def _best(work: Callable[[], object]) -> float:
    work()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _print(title: str, ours: float, theirs: float) -> None:
    print(f"{title}: {ours:,.0f} images/s, torchvision {theirs:,.0f}, ratio {ours / theirs:.1f}")


if __name__ == "__main__":
    main()
