"""scikit-learn's handwritten digits: 1,797 grey images of 8 x 8 pixels, 10 classes; the tiniest data set.

Classes 0-4 train, 5-9 test. Near its ceiling in Recall@1 before any training: for smoke tests, read MAP@R.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.data.dataset import Dataset, Split
from bench.data.manifest import manifest_of_arrays


def load(data: Path) -> Dataset:
    """The whole data set; `data` is not used, the images come with scikit-learn."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images = np.round(source.images * (255 / 16)).astype(np.uint8)  # stored as counts 0..16
    labels = source.target.astype(np.int64)
    split = Split(train=np.flatnonzero(labels < 5), query=np.flatnonzero(labels >= 5))
    return Dataset(
        name="digits",
        title="Digits (8 x 8)",
        images=images,
        labels=labels,
        class_ids=tuple(range(10)),
        class_names=tuple(str(digit) for digit in range(10)),
        split=split,
        manifest=manifest_of_arrays(images, labels, split, layout="shipped with scikit-learn"),
        default_protocol="few-classes",
        photographs=False,
    )
