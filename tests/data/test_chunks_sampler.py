"""The sampler `chunks` against a slow reading of its rule: what a pass holds, and which classes a batch draws."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, islice, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.data.samplers import classes_times_images
from bench.protocol import Shape

Ints = NDArray[np.int64]


def drawn(labels: Ints, classes: int, per_class: int, count: int, seed: int = 0) -> Ints:
    """The first batches of a fresh stream, (count, P, K)."""
    shape = Shape(classes=classes, per_class=per_class, sampler="chunks")
    batches = classes_times_images(labels, shape, np.random.default_rng(seed))
    return np.stack(list(islice(batches, count))).reshape(count, classes, per_class)


def slowly(sizes: list[int], classes: int, per_class: int, rng: np.random.Generator) -> list[list[list[int]]]:
    """One pass, written down as the rule is told: chunks of each class, classes drawn one by one by what is left."""
    lists, first = {}, 0
    for label, size in enumerate(sizes):
        images = list(range(first, first + size))
        first += size
        while len(images) % per_class:
            images.append(int(rng.integers(first - size, first)))
        rng.shuffle(images)
        lists[label] = [images[i : i + per_class] for i in range(0, len(images), per_class)]
    batches = []
    while len([chunks for chunks in lists.values() if chunks]) >= classes:
        batch: dict[int, list[int]] = {}
        while len(batch) < classes:
            others = [label for label in lists if label not in batch and lists[label]]
            tickets = [label for label in others for _ in lists[label]]
            label = tickets[rng.integers(len(tickets))]
            batch[label] = lists[label][0]
        for label in batch:
            lists[label].pop(0)
        batches.append(list(batch.values()))
    return batches


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8), per_class=st.integers(1, 5), seed=st.integers(0, 2**32)
)
def test_a_pass_shows_each_image_and_repeats_only_what_fills_the_last_chunk(
    sizes: list[int], per_class: int, seed: int
) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) * 5 - 2, sizes))
    chunks = sum(-(-size // per_class) for size in sizes)
    for batches in np.split(drawn(labels, 1, per_class, 2 * chunks, seed), 2):
        for label, size in zip(np.unique(labels), sizes, strict=True):
            shown = batches[labels[batches] == label]
            assert set(shown) == set(np.flatnonzero(labels == label))
            assert len(shown) == -(-size // per_class) * per_class


@pytest.mark.parametrize(
    ("sizes", "classes", "per_class"), [([8, 4, 2, 1], 2, 2), ([9, 3, 3], 3, 2), ([5, 1, 1], 1, 3)]
)
def test_batches_are_as_likely_as_under_the_slow_rule(sizes: list[int], classes: int, per_class: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rng, passes, slow = np.random.default_rng(1), 3_000, []
    for _ in range(passes):
        slow += [sorted(labels[images[0]] for images in batch) for batch in slowly(sizes, classes, per_class, rng)]
    fast = np.sort(labels[drawn(labels, classes, per_class, len(slow), 2)[:, :, 0]], axis=1).tolist()
    found, expected = Counter(map(tuple, fast)), Counter(map(tuple, slow))
    for group in combinations(range(len(sizes)), classes):
        assert abs(found[group] - expected[group]) < 6 * np.sqrt(1 + expected[group]), group


def test_the_first_batch_draws_classes_in_proportion_to_their_chunks() -> None:
    sizes, runs = [6, 4, 2], 6_000
    labels = np.repeat(np.arange(3), sizes)
    firsts = Counter(tuple(labels[drawn(labels, 2, 2, 1, seed)[0, :, 0]]) for seed in range(runs))
    chunks = np.array([3, 2, 1])
    for one, other in permutations(range(3), 2):
        likely = chunks[one] / 6 * chunks[other] / (6 - chunks[one])
        assert abs(firsts[one, other] / runs - likely) < 5 * np.sqrt(likely / runs)


def test_repeats_are_drawn_by_chance_and_may_meet_in_a_chunk() -> None:
    batches = drawn(np.zeros(3, dtype=np.int64), 1, 4, 4_000)[:, 0]
    assert {tuple(sorted(Counter(batch.tolist()).values())) for batch in batches} == {(1, 1, 2)}
    np.testing.assert_allclose(np.bincount(batches.ravel()) / 4_000, 4 / 3, rtol=0.05)
    alone = drawn(np.zeros(1, dtype=np.int64), 1, 4, 3)
    assert (alone == 0).all()
