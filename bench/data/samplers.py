"""Batch samplers: what `batch.sampler` of a protocol may name, and the steps that methods with own batches share.

| sampler | classes of a batch | images of a class | as drawn by |
| --- | --- | --- | --- |
| passes | distinct, from shuffled passes over all classes | distinct | this benchmark |
| uniform | distinct, drawn anew for every batch | distinct | Musgrave et al. 2020, K = 4 or 1 |
| with_replacement | drawn one by one, may repeat | drawn one by one, may repeat | Roth et al. 2020 |
| groups | distinct, of those with images left in a pass | each image once a pass | released code of Multi-Similarity |
| chunks | distinct, likelier with more images left in a pass | once a pass, some twice | released code of XBM |
| shuffled | whatever comes | from shuffled passes over all images | released code of Proxy-Anchor |

Small classes: where the images of a class are distinct, one with fewer than K gives all of them and then repeats
them, so that none occurs twice more often than another; 'chunks' repeats by chance. All draws come from one stream:
a sampler that starts from a stored state of it gives the same batches again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.errors import DataError
from bench.protocol import Shape

Ints = NDArray[np.int64]


def classes_times_images(labels: Ints, shape: Shape, rng: np.random.Generator) -> Iterator[Ints]:
    """Endless batches of P x K images, drawn as `shape.sampler` says.

    Args:
        labels: int64 (N,) label of each training image, any integers.
        shape: P classes, K images of each, and the sampler.
        rng: the 'batches' stream; nothing else is drawn from it.

    Yields:
        int64 (P * K,) positions in `labels`, class by class unless the sampler is 'shuffled'.

    Raises:
        DataError: fewer than P classes for a sampler of distinct ones; no image; or fewer than P * K images for
            'shuffled', whose images are distinct.
    """
    classes = ByClass.of(labels)
    if shape.sampler in ("passes", "uniform", "groups", "chunks"):
        check_classes(len(classes.sizes), shape)
    needed = shape.size if shape.sampler == "shuffled" else 1
    if len(labels) < needed:
        raise DataError(
            f"a batch needs {needed} different images, but there are {len(labels)} training images: lower "
            "batch.classes or batch.per_class in the protocol, or use a data set with more images."
        )
    return _SAMPLERS[shape.sampler](classes, shape, rng)


def check_classes(count: int, shape: Shape) -> None:
    """Raise a DataError that says what to change if there are fewer than P classes."""
    if count < shape.classes:
        raise DataError(
            f"a batch needs {shape.classes} different classes, but there are {count} training classes: lower "
            "batch.classes in the protocol, or use fewer folds or a data set with more classes."
        )


@dataclass(frozen=True)
class ByClass:
    """Positions of images, class by class, classes by ascending label.

    Attributes:
        order: int64 (N,) positions; those of class c are `order[starts[c] : starts[c] + sizes[c]]`, ascending.
        starts: int64 (C,).
        sizes: int64 (C,) images of each class, none empty.
    """

    order: Ints
    starts: Ints
    sizes: Ints

    @classmethod
    def of(cls, labels: Ints) -> ByClass:
        """From labels (N,), any integers; class c is the c-th of the labels that occur."""
        sizes = np.unique(labels, return_counts=True)[1]
        return cls(np.argsort(labels, kind="stable"), np.cumsum(sizes) - sizes, sizes)

    def members(self, c: int) -> Ints:
        """Positions of the images of class c."""
        return self.order[self.starts[c] : self.starts[c] + self.sizes[c]]

    def distinct(self, chosen: Ints, count: int, rng: np.random.Generator) -> Ints:
        """`count` images of each chosen class (P,), distinct but for small classes: int64 (P * count,)."""
        width = int(self.sizes.max())
        keys = rng.random((len(chosen), width))
        keys[np.arange(width) >= self.sizes[chosen, None]] = 2.0  # beyond a small class's images: sorted last
        picks = np.argsort(keys, axis=1)
        picked = np.take_along_axis(picks, np.arange(count) % self.sizes[chosen, None], axis=1)
        images: Ints = self.order[self.starts[chosen, None] + picked].ravel()
        return images


def shuffled_passes(count: int, size: int, rng: np.random.Generator) -> Iterator[Ints]:
    """Endless parts of `size` <= `count` out of shuffled passes over 0..count-1; what a pass has left is dropped."""
    while True:
        order = rng.permutation(count)
        for first in range(0, count - size + 1, size):
            yield order[first : first + size]


def _passes(classes: ByClass, shape: Shape, rng: np.random.Generator) -> Iterator[Ints]:
    """Each class once a pass but for the last few, fewer than P."""
    for chosen in shuffled_passes(len(classes.sizes), shape.classes, rng):
        yield classes.distinct(chosen, shape.per_class, rng)


def _uniform(classes: ByClass, shape: Shape, rng: np.random.Generator) -> Iterator[Ints]:
    """Every set of P classes is equally likely, whatever the batch before held."""
    while True:
        chosen = rng.choice(len(classes.sizes), shape.classes, replace=False)
        yield classes.distinct(chosen, shape.per_class, rng)


def _with_replacement(classes: ByClass, shape: Shape, rng: np.random.Generator) -> Iterator[Ints]:
    """A small class repeats images by chance, as any class does; P may exceed the number of classes."""
    while True:
        chosen = rng.integers(0, len(classes.sizes), shape.classes)[:, None]
        picked = rng.integers(0, classes.sizes[chosen], (shape.classes, shape.per_class))
        yield classes.order[classes.starts[chosen] + picked].ravel()


def _groups(classes: ByClass, shape: Shape, rng: np.random.Generator) -> Iterator[Ints]:
    """A pass cuts the shuffled images of each class into groups of K and ends with fewer than P classes to draw from.

    Images beyond the last whole group wait for the next pass; a small class is one group. Large classes have
    more groups, so they come in more batches.
    """
    class_of = np.repeat(np.arange(len(classes.sizes)), classes.sizes)
    while True:
        shuffled = classes.order[np.lexsort((rng.random(len(class_of)), class_of))]
        left = np.maximum(classes.sizes // shape.per_class, 1)
        while len(open_ := np.flatnonzero(left)) >= shape.classes:
            chosen = rng.choice(open_, shape.classes, replace=False)
            left[chosen] -= 1
            places = left[chosen, None] * shape.per_class + np.arange(shape.per_class)
            yield shuffled[classes.starts[chosen, None] + places % classes.sizes[chosen, None]].ravel()


def _chunks(classes: ByClass, shape: Shape, rng: np.random.Generator) -> Iterator[Ints]:
    """A pass fills up the images of each class with repeats to a multiple of K, shuffles and cuts them into chunks.

    Classes of a batch are drawn one after the other, each in proportion to the chunks that it has left; a pass ends
    with fewer than P classes to draw from.
    """
    chunks = -(-classes.sizes // shape.per_class)
    lengths = chunks * shape.per_class
    starts = np.cumsum(lengths) - lengths
    class_of = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(class_of)) - starts[class_of]
    repeated = place >= classes.sizes[class_of]
    while True:
        place[repeated] = rng.integers(0, classes.sizes[class_of[repeated]])
        filled = classes.order[classes.starts[class_of] + place]
        shuffled = filled[np.lexsort((rng.random(len(class_of)), class_of))]
        left = chunks.copy()
        while len(open_ := np.flatnonzero(left)) >= shape.classes:
            chosen = rng.choice(open_, shape.classes, replace=False, p=left[open_] / left.sum())
            left[chosen] -= 1
            first = starts[chosen] + left[chosen] * shape.per_class
            yield shuffled[first[:, None] + np.arange(shape.per_class)].ravel()


def _shuffled(classes: ByClass, shape: Shape, rng: np.random.Generator) -> Iterator[Ints]:
    """Each image once a pass but for the last few, fewer than P * K; a class may show a single image."""
    return shuffled_passes(len(classes.order), shape.size, rng)


_SAMPLERS: dict[str, Callable[[ByClass, Shape, np.random.Generator], Iterator[Ints]]] = {
    "passes": _passes,
    "uniform": _uniform,
    "with_replacement": _with_replacement,
    "groups": _groups,
    "chunks": _chunks,
    "shuffled": _shuffled,
}
