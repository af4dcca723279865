"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): 70,000 grey pictures of ten kinds of clothing, 28 x 28 pixels.

The split is by class and ours: of the 60,000 training and 10,000 test pictures together, classes 0-4 (T-shirt/top,
trouser, pullover, dress, coat) train and 5-9 (sandal, shirt, sneaker, bag, ankle boot) test, as everywhere in this
benchmark on unseen classes. It is not the closed-set split of the authors: numbers of classifiers do not compare.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.dataset import Dataset, Split
from bench.data.manifest import manifest_of_arrays
from bench.data.official import Benchmark, PhotoSide, again, candidates, partial
from bench.errors import DataError

NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
SIDE = 28  # pixels
PARTS = {"train": 60_000, "t10k": 10_000}  # official names of the closed-set parts
TRAIN_CLASSES = 5

_MISSING = """data set 'fashion_mnist' was not found in {data} (nor in a folder fashion_mnist* or FashionMNIST there).
Get these four files (31 MB together, from github.com/zalandoresearch/fashion-mnist) and put them in
{data}/fashion_mnist, unpacked or not; torchvision's folder FashionMNIST/raw is found as it is:
  train-images-idx3-ubyte.gz (MD5 8d4fb7e6c68d591d4c3dfef9ec88bf0d)
  train-labels-idx1-ubyte.gz (MD5 25c81989df183df01b3e8a0aad5dffbe)
  t10k-images-idx3-ubyte.gz (MD5 bef4ecab320f06d8554ea6380940ec79)
  t10k-labels-idx1-ubyte.gz (MD5 bb300cfdad3c16e7a12a480ee83cd310)
Elsewhere? Name the folder with --data DIR (make: DATA=DIR) or in the environment variable BENCH_DATA."""

BENCHMARK = Benchmark(
    "fashion_mnist",
    "Fashion-MNIST",
    images={"train": 35_000, "query": 35_000},
    classes={"train": TRAIN_CLASSES, "query": len(NAMES) - TRAIN_CLASSES},
    missing=_MISSING,
    default_protocol="few-classes",
)


def load(data: Path) -> Dataset:
    """Find the idx files in `data`, or in a folder `fashion_mnist*`, `fashion-mnist*` or `FashionMNIST` of it.

    Raises:
        DataError: not found; a file is damaged, not what its name says, or missing while its partner is there; the
            files are MNIST's, which have the same names.
    """
    for root in _roots(data):
        files = {part: (_file(root, part, "images", 3), _file(root, part, "labels", 1)) for part in PARTS}
        if any(images or labels for images, labels in files.values()):
            return _dataset(root, files)
    raise BENCHMARK.not_found(data)


def _roots(data: Path) -> Iterator[Path]:
    for folder in candidates(data, "fashion_mnist", "fashion-mnist", "fashionmnist"):
        yield from (folder, folder / "raw", folder / "FashionMNIST" / "raw")


def _file(root: Path, part: str, kind: str, dimensions: int) -> Path | None:
    names = (f"{part}-{kind}{dot}idx{dimensions}-ubyte{packed}" for packed in ("", ".gz") for dot in "-.")
    return next((root / name for name in names if (root / name).is_file()), None)


def _dataset(root: Path, files: dict[str, tuple[Path | None, Path | None]]) -> Dataset:
    all_images, all_labels = [], []
    for part, (image_file, label_file) in files.items():
        if image_file is None and label_file is None:
            continue
        if image_file is None or label_file is None:
            kind = "images-idx3" if image_file is None else "labels-idx1"
            raise DataError(f"{root}: {part}-{kind}-ubyte is missing. {again(root)}")
        all_images.append(read_idx(image_file, (SIDE, SIDE), PARTS[part]))
        all_labels.append(read_idx(label_file, (), PARTS[part]))
        _check(part, image_file, label_file, all_images[-1], all_labels[-1])
    images, kinds = np.concatenate(all_images), np.concatenate(all_labels)
    counts = np.bincount(kinds, minlength=len(NAMES))
    if not (counts[:TRAIN_CLASSES].any() and counts[TRAIN_CLASSES:].any()):
        raise DataError(f"{root}: holds no image of classes 0-4, or none of 5-9: one side is empty. {again(root)}")
    ids, inverse = np.unique(kinds, return_inverse=True)
    labels = inverse.astype(np.int64)
    split = Split(*(np.flatnonzero(side) for side in (ids[labels] < TRAIN_CLASSES, ids[labels] >= TRAIN_CLASSES)))
    sides: dict[PhotoSide, slice] = {"train": slice(TRAIN_CLASSES), "query": slice(TRAIN_CLASSES, None)}
    return Dataset(
        name=BENCHMARK.name,
        title=BENCHMARK.title,
        images=images,
        labels=labels,
        class_ids=tuple(int(class_id) for class_id in ids),
        class_names=tuple(NAMES[class_id] for class_id in ids),
        split=split,
        manifest=manifest_of_arrays(images, labels, split, layout="idx files"),
        default_protocol=BENCHMARK.default_protocol,
        photographs=False,
        partial=partial(
            BENCHMARK,
            {side: int((counts[classes] > 0).sum()) for side, classes in sides.items()},
            {side: int(counts[classes].sum()) for side, classes in sides.items()},
        ),
        notes=("split by class, over both official parts: classes 0-4 train, 5-9 test (not the closed-set split)",),
    )


def _check(part: str, image_file: Path, label_file: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    if len(images) != len(labels):
        raise DataError(
            f"{label_file}: has {len(labels)} labels, but {image_file.name} has {len(images)} images. "
            f"{again(label_file.parent)}"
        )
    if len(labels) and labels.max() >= len(NAMES):
        row = int(np.argmax(labels >= len(NAMES)))
        raise DataError(f"{label_file}: label {labels[row]} of image {row} is not one of 0-9. Get it again.")
    counts = np.bincount(labels, minlength=len(NAMES))
    if len(labels) == PARTS[part] and (counts != PARTS[part] // len(NAMES)).any():
        raise DataError(
            f"{label_file}: has {counts.min()} to {counts.max()} images a class, Fashion-MNIST has "
            f"{PARTS[part] // len(NAMES)} of each here. MNIST has files of the same names: get those of Fashion-MNIST."
        )


def read_idx(path: Path, item: tuple[int, ...], most: int) -> NDArray[np.uint8]:
    """Bytes of an idx file, plain or gzipped: uint8 (N, *item).

    torchvision reads this format too, but checks by `assert`, trusts the sizes in the header, and wants unpacked
    files. Here no more is read than the header may claim, so a forged one costs no memory.

    Args:
        path: the file; `.gz` at its end says that it is gzipped.
        item: shape of each item that the header must state.
        most: largest N allowed.

    Raises:
        DataError: another type or shape, or more or fewer bytes than the header states.
    """
    words = 2 + len(item)
    magic = 0x0801 + len(item)  # unsigned bytes, number of dimensions
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4 * words)
            if len(head) < 4 * words:
                raise DataError(f"{path}: ends within its header. Get it again.")
            found, count, *shape = struct.unpack(f">{words}I", head)
            if found != magic:
                raise DataError(
                    f"{path}: begins with {found}, not {magic}: not the idx file of its name. Get it again."
                )
            if tuple(shape) != item or count > most:
                raise DataError(
                    f"{path}: says it holds {' x '.join(map(str, (count, *shape)))} bytes, expected "
                    f"{' x '.join(map(str, (f'up to {most:,}', *item)))}. Get it again."
                )
            size = count * math.prod(item)
            body = file.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}). Get it again.") from None
    if len(body) != size:
        state = "fewer" if len(body) < size else "more"
        raise DataError(f"{path}: holds {state} bytes than the {size:,} of its header: it is cut off or changed.")
    return np.frombuffer(body, np.uint8).reshape(count, *item)
