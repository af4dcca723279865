"""Batches around one anchor: what each holds, that partners are drawn evenly, and the facts of official batches."""

from __future__ import annotations

import tracemalloc
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.data.neighbours import anchored
from bench.errors import DataError
from tests.methods.test_parity import cases


def ranks(targets: NDArray[Any]) -> NDArray[np.int64]:
    """(N, N) place of each image in the row's ascending order of label distance, the image itself -1."""
    found = np.full((len(targets), len(targets)), -1)
    for i, row in enumerate(targets):
        order = sorted((j for j in range(len(targets)) if j != i), key=lambda j: ((targets[j] - row) ** 2).sum())
        found[i, order] = np.arange(len(order))
    return found


def holds(partners: NDArray[np.int64], near: int, pool: int, count: int) -> bool:
    """The facts about the ranks of an anchor's partners; an image that occurs twice would repeat a rank."""
    return (
        (np.diff(partners) > 0).all()
        and partners[0] >= 0
        and partners[-1] <= count - 2
        and (partners < pool).sum() == near
    )


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(2, 30), width=st.integers(1, 3), seed=st.integers(0, 2**32))
def test_each_batch_is_an_anchor_its_neighbours_and_others_by_rank(
    data: st.DataObject, count: int, width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pool = data.draw(st.integers(0, count - 1))
    near = data.draw(st.integers(0, pool))
    rest = data.draw(st.integers(0, count - 1 - pool))
    targets = rng.standard_normal((count, width)).round(data.draw(st.sampled_from([0, 6]))).astype(np.float32)  # ties
    order = ranks(targets)
    batches = list(islice(anchored(targets, 1 + near + rest, near, pool, rng), count + 1))
    for batch in batches:
        assert batch.dtype == np.int64
        assert batch.shape == (1 + near + rest,)
        assert len(batch) == 1 or holds(order[batch[0], batch[1:]], near, pool, count)
    assert sorted(batch[0] for batch in batches[:count]) == list(range(count))  # a pass: each image once an anchor


def test_partners_are_drawn_evenly_from_both_sides_of_the_pool() -> None:
    targets = np.random.default_rng(0).standard_normal((25, 2)).astype(np.float32)
    order = ranks(targets)
    drawn = np.zeros(24)
    for batch in islice(anchored(targets, 9, 3, 10, np.random.default_rng(1)), 8_000):
        drawn[order[batch[0], batch[1:]]] += 1
    np.testing.assert_allclose(drawn[:10] / 8_000, 3 / 10, atol=0.03)
    np.testing.assert_allclose(drawn[10:] / 8_000, 5 / 14, atol=0.03)


def test_same_stream_same_batches() -> None:
    targets = np.random.default_rng(0).standard_normal((20, 2)).astype(np.float32)
    one, two = (list(islice(anchored(targets, 8, 3, 3, np.random.default_rng(5)), 30)) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_a_stored_state_of_the_stream_gives_the_same_batches_again() -> None:
    targets, rng = np.random.default_rng(0).standard_normal((20, 2)).astype(np.float32), np.random.default_rng(5)
    for _ in islice(anchored(targets, 8, 3, 3, rng), 7):  # an epoch that ends within a pass
        pass
    state = rng.bit_generator.state
    first = list(islice(anchored(targets, 8, 3, 3, rng), 30))
    resumed = np.random.default_rng()
    resumed.bit_generator.state = state
    np.testing.assert_array_equal(list(islice(anchored(targets, 8, 3, 3, resumed), 30)), first)
    assert resumed.bit_generator.state == rng.bit_generator.state


def test_memory_does_not_grow_with_the_square_of_the_images() -> None:
    targets = np.random.default_rng(0).standard_normal((4_000, 3)).astype(np.float32)
    tracemalloc.start()
    for _ in islice(anchored(targets, 150, 5, 5, np.random.default_rng(0)), 20):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000**2 / 8  # bytes: far below one byte a pair


@pytest.mark.parametrize(("size", "near", "pool"), [(5, 5, 5), (12, 2, 8), (4, 3, 2)])
def test_impossible_batches_are_refused_at_once(size: int, near: int, pool: int) -> None:
    targets = np.zeros((12, 1), dtype=np.float32)
    with pytest.raises(DataError, match=rf"a batch of {size} images cannot have an anchor, {near} of its {pool}"):
        anchored(targets, size, near, pool, np.random.default_rng(0))


@pytest.mark.parity
@pytest.mark.parametrize("case", cases("log_ratio/batch_sampling.npz"))
def test_official_batches_hold_the_same_facts(case: dict[str, NDArray[Any]]) -> None:
    """And where the labels are stored, our partners lie at the official distances of their ranks."""
    if "pose" in case:
        order = ranks(case["pose"])
    else:
        order = np.full((len(case["list_nn"]), len(case["list_nn"])), -1)
        np.put_along_axis(order, case["list_nn"], np.arange(case["list_nn"].shape[1])[None], 1)
    count, near = len(order), int(case["num_nn"])
    for batch in case["dense_idx"]:
        assert holds(order[batch[0], batch[1:]], near, near, count)
    for batch in case.get("naive_idx", []):  # positives and negatives are each in random order there
        assert holds(np.sort(order[batch[0], batch[1:]]), 5, 30, count)
    if "pose" not in case:
        return
    batches = {
        batch[0]: batch for batch in islice(anchored(case["pose"], 20, near, near, np.random.default_rng(0)), count)
    }
    for batch, distances in zip(case["dense_idx"], case["dense_dist"], strict=True):
        ours = batches[batch[0]]
        np.testing.assert_array_equal(ours[: 1 + near], batch[: 1 + near])
        own = np.linalg.norm(case["pose"][ours[1 : 1 + near]] - case["pose"][ours[0]], axis=1)
        np.testing.assert_allclose(own, distances[:near], rtol=1e-5)
