"""P x K batches: what each batch holds, and that classes come round fairly."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.samplers import classes_times_images
from bench.errors import DataError
from bench.protocol import Batch


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    per_class=st.integers(1, 12),
    data=st.data(),
    seed=st.integers(0, 2**32),
)
def test_each_batch_has_p_classes_with_k_images(
    sizes: list[int], per_class: int, data: st.DataObject, seed: int
) -> None:
    shape = Batch(classes=data.draw(st.integers(1, len(sizes))), per_class=per_class)
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)) * 7 - 3, sizes))  # any integers, in any order
    for batch in islice(classes_times_images(labels, shape, rng), 5):
        assert batch.shape == (shape.size,)
        assert batch.dtype == np.int64
        rows = batch.reshape(shape.classes, per_class)
        assert (labels[rows] == labels[rows[:, :1]]).all()
        assert len(set(labels[rows[:, 0]])) == shape.classes
        for row in rows:
            size = (labels == labels[row[0]]).sum()
            counts = np.bincount(row, minlength=len(labels))[labels == labels[row[0]]]
            assert counts.max() == -(-per_class // size)
            assert counts.max() - counts.min() <= 1


def test_a_pass_shows_each_class_once() -> None:
    labels = np.repeat(np.arange(10), 5)
    batches = list(islice(classes_times_images(labels, Batch(classes=3, per_class=2), np.random.default_rng(0)), 6))
    for first in (0, 3):
        seen = np.concatenate([labels[batch[::2]] for batch in batches[first : first + 3]])
        assert len(set(seen)) == 9


def test_images_of_a_class_are_equally_likely() -> None:
    labels = np.repeat(np.arange(4), [5, 20, 20, 3])
    batches = islice(classes_times_images(labels, Batch(classes=4, per_class=4), np.random.default_rng(1)), 4_000)
    counts = np.bincount(np.concatenate(list(batches)), minlength=len(labels))
    for label, size in enumerate((5, 20, 20, 3)):
        np.testing.assert_allclose(counts[labels == label] / 4_000, 4 / size, rtol=0.1)


def test_same_stream_same_batches() -> None:
    labels = np.repeat(np.arange(8), 6)
    shape = Batch(classes=4, per_class=3)
    one, two = (list(islice(classes_times_images(labels, shape, np.random.default_rng(5)), 9)) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_too_few_classes_names_both_numbers_and_the_way_out() -> None:
    with pytest.raises(DataError, match=r"needs 4 different classes, but there are 3 .* lower batch.classes"):
        classes_times_images(np.array([0, 1, 2, 2]), Batch(classes=4, per_class=2), np.random.default_rng(0))
