"""What each sampler's batches hold, how fairly, what a pass covers, restarts, and what is refused."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench import clusters
from bench.data.samplers import ByClass, classes_times_images, shuffled_passes
from bench.errors import DataError, UsageError
from bench.method import Method
from bench.protocol import Batch, Shape, load_protocol

EVEN = ("passes", "uniform", "groups")  # a class repeats no image before all were given
DISTINCT = (*EVEN, "chunks")  # classes of a batch are distinct
SAMPLERS = (*DISTINCT, "with_replacement", "shuffled")
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=12)
SHIPPED = {
    "ci": "cadadc5fd2f4",
    "finetune-cpu": "84735ea36bd5",
    "frozen-trunk": "3399db4f5013",
    "graded": "da9888a6b2b7",
    "quick": "82a5dd41d8e7",
}


def labelled(sizes: list[int], rng: np.random.Generator) -> NDArray[np.int64]:
    """Any integers as labels, in any order."""
    return rng.permutation(np.repeat(np.arange(len(sizes)) * 7 - 3, sizes))


def drawn(labels: NDArray[np.int64], shape: Shape, count: int, seed: int = 0) -> NDArray[np.int64]:
    """The first batches of a fresh stream, (count, P * K)."""
    return np.stack(list(islice(classes_times_images(labels, shape, np.random.default_rng(seed)), count)))


def repeats_evenly(images: NDArray[np.int64], class_size: int) -> bool:
    """Whether all images of a class were given before any was repeated."""
    counts = np.unique(images, return_counts=True)[1]
    rounds = -(-len(images) // class_size)
    return len(counts) == min(class_size, len(images)) and counts.max() == rounds and counts.min() >= rounds - 1


@settings(max_examples=60, deadline=None)
@given(
    sampler=st.sampled_from(SAMPLERS), sizes=SIZES, per_class=st.integers(1, 12), data=st.data(), seed=st.integers(0)
)
def test_each_batch_has_p_times_k_images_by_its_samplers_rule(
    sampler: Any, sizes: list[int], per_class: int, data: st.DataObject, seed: int
) -> None:
    labels = labelled(sizes, np.random.default_rng(seed))
    most = len(sizes) if sampler in DISTINCT else 2 * len(sizes)
    shape = Shape(classes=data.draw(st.integers(1, most)), per_class=per_class, sampler=sampler)
    if sampler == "shuffled" and shape.size > len(labels):
        with pytest.raises(DataError, match=rf"needs {shape.size} different images, but there are {len(labels)} "):
            classes_times_images(labels, shape, np.random.default_rng(seed))
        return
    for batch in drawn(labels, shape, 5, seed):
        assert batch.shape == (shape.size,)
        assert batch.dtype == np.int64
        if sampler == "shuffled":
            assert len(set(batch)) == shape.size
            continue
        rows = batch.reshape(shape.classes, per_class)
        assert (labels[rows] == labels[rows[:, :1]]).all()
        if sampler in DISTINCT:
            assert len(set(labels[rows[:, 0]])) == shape.classes
        if sampler in EVEN:
            assert all(repeats_evenly(row, (labels == labels[row[0]]).sum()) for row in rows)


@settings(max_examples=60, deadline=None)
@given(sampler=st.sampled_from(SAMPLERS), sizes=SIZES, taken=st.integers(0, 20), seed=st.integers(0, 2**32))
def test_a_stored_state_of_the_stream_gives_the_same_batches_again(
    sampler: Any, sizes: list[int], taken: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels, shape = labelled(sizes, rng), Shape(classes=1, per_class=min(3, sum(sizes)), sampler=sampler)
    for _ in islice(classes_times_images(labels, shape, rng), taken):  # an epoch that ends within a pass
        pass
    state = rng.bit_generator.state
    first = np.stack(list(islice(classes_times_images(labels, shape, rng), 9)))
    resumed = np.random.default_rng()
    resumed.bit_generator.state = state
    np.testing.assert_array_equal(np.stack(list(islice(classes_times_images(labels, shape, resumed), 9))), first)
    assert resumed.bit_generator.state == rng.bit_generator.state


def test_a_pass_shows_each_class_once() -> None:
    labels = np.repeat(np.arange(10), 5)
    batches = drawn(labels, Shape(classes=3, per_class=2), 6)
    for first in (0, 3):
        assert len(set(labels[batches[first : first + 3, ::2]].ravel())) == 9


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, per_class=st.integers(1, 5), seed=st.integers(0, 2**32))
def test_a_pass_of_groups_shows_each_image_once_but_for_rests_and_small_classes(
    sizes: list[int], per_class: int, seed: int
) -> None:
    labels = labelled(sizes, np.random.default_rng(seed))
    groups = sum(max(1, size // per_class) for size in sizes)
    shape = Shape(classes=1, per_class=per_class, sampler="groups")
    for batches in np.split(drawn(labels, shape, 2 * groups, seed), 2):
        for label in set(labels):
            shown = batches[labels[batches[:, 0]] == label].ravel()
            size = (labels == label).sum()
            assert len(shown) == per_class * max(1, size // per_class)
            assert repeats_evenly(shown, size)


def test_a_pass_of_groups_ends_where_too_few_classes_are_left() -> None:
    labels = np.repeat(np.arange(3), [8, 4, 4])
    batches = drawn(labels, Shape(classes=2, per_class=2, sampler="groups"), 400)
    assert set(np.bincount(batches.ravel(), minlength=16) > 0) == {True}
    even = drawn(np.repeat(np.arange(4), 6), Shape(classes=4, per_class=2, sampler="groups"), 9)
    for batches in np.split(even, 3):
        assert sorted(batches.ravel()) == list(range(24))


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 40), data=st.data(), seed=st.integers(0, 2**32))
def test_a_shuffled_pass_shows_each_image_once_but_for_the_last_few(count: int, data: st.DataObject, seed: int) -> None:
    size = data.draw(st.integers(1, count))
    whole = count // size
    shape = Shape(classes=size, per_class=1, sampler="shuffled")
    for batches in np.split(drawn(np.zeros(count, dtype=np.int64), shape, 3 * whole, seed), 3):
        assert len(set(batches.ravel())) == whole * size
    expected = islice(shuffled_passes(count, size, np.random.default_rng(seed)), 3 * whole)
    np.testing.assert_array_equal(np.stack(list(expected)), drawn(np.arange(count), shape, 3 * whole, seed))


@pytest.mark.parametrize("sampler", ["passes", "uniform", "with_replacement"])
@pytest.mark.parametrize(("classes", "per_class"), [(4, 4), (2, 1)])
def test_classes_and_images_of_a_class_are_equally_likely(sampler: Any, classes: int, per_class: int) -> None:
    sizes = [5, 20, 20, 3]
    labels = np.repeat(np.arange(4), sizes)
    batches = drawn(labels, Shape(classes=classes, per_class=per_class, sampler=sampler), 8_000, 1)
    counts = np.bincount(batches.ravel(), minlength=len(labels)) / 8_000
    for label, size in enumerate(sizes):
        np.testing.assert_allclose(counts[labels == label], classes / 4 * per_class / size, rtol=0.2)


@pytest.mark.parametrize("sampler", ["groups", "shuffled"])
def test_images_of_all_classes_are_equally_likely_in_passes_over_images(sampler: Any) -> None:
    labels = np.repeat(np.arange(4), [6, 18, 18, 6])
    batches = drawn(labels, Shape(classes=1, per_class=3, sampler=sampler), 16_000, 2)
    np.testing.assert_array_equal(np.bincount(batches.ravel()), 1_000)


def test_uniform_batches_do_not_know_the_batch_before_and_passes_do() -> None:
    labels = np.repeat(np.arange(6), 3)
    shared = {}
    for sampler in ("uniform", "passes"):
        classes = labels[drawn(labels, Shape(classes=3, per_class=1, sampler=sampler), 4_000)]
        shared[sampler] = np.mean([len(set(a) & set(b)) for a, b in zip(classes[::2], classes[1::2], strict=True)])
    assert abs(shared["uniform"] - 3 * 3 / 6) < 0.06
    assert shared["passes"] == 0


def test_with_replacement_repeats_classes_and_images_by_chance() -> None:
    labels = np.repeat(np.arange(5), 4)
    batches = drawn(labels, Shape(classes=3, per_class=2, sampler="with_replacement"), 4_000)
    classes = labels[batches[:, ::2]]
    all_distinct = np.mean([len(set(row)) == 3 for row in classes])
    assert abs(all_distinct - 4 / 5 * 3 / 5) < 0.03
    assert abs(np.mean(batches[:, ::2] == batches[:, 1::2]) - 1 / 4) < 0.02
    more = drawn(labels, Shape(classes=9, per_class=2, sampler="with_replacement"), 1)
    assert more.shape == (1, 18)


@pytest.mark.parametrize("sampler", DISTINCT)
def test_too_few_classes_names_both_numbers_and_the_way_out(sampler: Any) -> None:
    shape = Shape(classes=4, per_class=2, sampler=sampler)
    with pytest.raises(DataError, match=r"needs 4 different classes, but there are 3 .* lower batch.classes"):
        classes_times_images(np.array([0, 1, 2, 2]), shape, np.random.default_rng(0))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_images_are_refused_at_once(sampler: Any) -> None:
    with pytest.raises(DataError, match="but there are 0 training"):
        classes_times_images(np.array([], dtype=np.int64), Shape(classes=1, per_class=1, sampler=sampler), None)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 2**32))
def test_the_index_by_class_holds_each_image_under_its_class(sizes: list[int], seed: int) -> None:
    labels = labelled(sizes, np.random.default_rng(seed))
    classes = ByClass.of(labels)
    for c, label in enumerate(sorted(set(labels))):
        np.testing.assert_array_equal(classes.members(c), np.flatnonzero(labels == label))


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, data=st.data(), seed=st.integers(0, 2**32))
def test_batches_of_a_cluster_hold_more_images_a_class_where_classes_are_few(
    sizes: list[int], data: st.DataObject, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = labelled(sizes, rng)
    rows = rng.permutation(len(labels))[: data.draw(st.integers(1, len(labels)))]
    shape = Shape(classes=data.draw(st.integers(1, 8)), per_class=data.draw(st.integers(1, 5)), sampler="shuffled")
    there = len(set(labels[rows]))
    one, two = (
        list(islice(clusters.balanced_batches(labels, rows, shape, np.random.default_rng(seed)), 4)) for _ in range(2)
    )
    np.testing.assert_array_equal(one, two)
    for batch in one:
        assert batch.shape == (shape.size,)
        assert set(batch) <= set(rows)
        found, counts = np.unique(labels[batch], return_counts=True)
        each = -(-shape.size // min(shape.classes, there))
        assert counts.max() <= each
        assert len(found) == -(-shape.size // each)  # as many as such shares fill the batch
        assert all(repeats_evenly(batch[labels[batch] == c], (labels[rows] == c).sum()) for c in found)


def test_a_method_without_batches_of_its_own_gets_the_protocols() -> None:
    labels = np.repeat(np.arange(3), 4)
    shape = Batch(classes=5, per_class=2, sampler="with_replacement")
    batch = next(Method().batches(labels, shape, np.random.default_rng(3)))
    np.testing.assert_array_equal(batch, drawn(labels, shape, 1, 3)[0])


def test_the_key_is_part_of_the_hash_only_where_it_is_not_the_default(tiny: Any) -> None:
    plain = load_protocol(tiny()).hash
    hashes = {sampler: load_protocol(tiny(batch={"sampler": sampler})).hash for sampler in SAMPLERS}
    assert hashes.pop("passes") == plain
    assert len({plain, *hashes.values()}) == len(SAMPLERS)
    with pytest.raises(UsageError, match=r"batch\.sampler.*'sorted'"):
        load_protocol(tiny(batch={"sampler": "sorted"}))


@pytest.mark.parametrize("name", SHIPPED)
def test_protocols_shipped_before_the_key_keep_their_hash(name: str) -> None:
    assert load_protocol(name).hash == SHIPPED[name]
