"""Cross-batch memory: what it holds, what it adds to the loss, official values; and triplets against references."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses, reducers
from torch import Tensor

from bench import miners, pairs, registry
from bench.errors import UsageError
from bench.method import Batch, Context, Method
from tests.methods import toy
from tests.methods.test_losses import batches
from tests.methods.test_parity import agree, cast, files, load, tags

examples = settings(max_examples=30, deadline=None)
BASES = ["contrastive", "multi_similarity", "triplet"]


@cache
def cls() -> type[Method]:
    return registry.get("xbm").cls


def memory(size: int, dim: int, start: float = 0.0, iterations: int = 100, **values: Any) -> Any:
    """A cross-batch memory in float64 that holds `size` images."""
    method = cls()(images=size, start=start, **values)
    labels = torch.arange(8).repeat_interleave(4)
    method.build(Context(8, labels, dim, dim, iterations, torch.device("cpu")))
    return method.double()


def at(step: int, rows: Tensor, labels: Tensor) -> Batch:
    return Batch(rows, rows, rows.detach(), labels, torch.arange(len(rows)), step)


def stream(seed: int, steps: int, count: int, dim: int = 4, classes: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Batches of unit rows, float64."""
    generator = np.random.default_rng(seed)
    return [
        (toy.unit_rows(generator, count, dim, 0.5), torch.from_numpy(generator.integers(0, classes, count)))
        for _ in range(steps)
    ]


def rows_of(method: Any) -> set[tuple[float, ...]]:
    """The memory's filled places: label and row."""
    filled = method.memory_labels >= 0
    return {
        (float(k), *row) for k, row in zip(method.memory_labels[filled], method.memory[filled].tolist(), strict=True)
    }


@examples
@given(size=st.integers(1, 13), counts=st.lists(st.integers(1, 16), max_size=8), seed=st.integers(0, 2**32))
def test_the_memory_holds_the_last_images(size: int, counts: list[int], seed: int) -> None:
    method = memory(size, 4)
    expected: deque[tuple[float, ...]] = deque(maxlen=size)
    for rows, labels in [stream(seed + k, 1, count)[0] for k, count in enumerate(counts)]:
        method.loss(at(0, rows, labels))
        expected += [(float(k), *row) for k, row in zip(labels, rows.tolist(), strict=True)]
        assert rows_of(method) == set(expected)


@pytest.mark.parametrize("queue", ["fifo", "as_released"])
@examples
@given(size=st.integers(6, 20), seed=st.integers(0, 2**32))
def test_contrastive_against_a_list(queue: str, size: int, seed: int) -> None:
    """Sums over all pairs with the memory but an image and its own copy of this step; older copies stay."""
    method = memory(size, 4, queue=queue, weight=0.7)
    held: list[Any] = [None] * size  # (step, row, label) in the order of the places
    place = 0
    first = stream(seed, 1, 6)[0]
    for step, (rows, labels) in enumerate([first, *stream(seed + 1, 4, 6), first]):
        batch = [(step, row, k) for row, k in zip(rows.tolist(), labels.tolist(), strict=True)]
        if queue == "as_released" and place + 6 > size:
            held[-6:] = batch
            place = 0
        else:
            for entry in batch:
                held[place % size] = entry
                place += 1
            place = place % size if queue == "fifo" else place
        total = 0.0
        for references in (batch, held):
            for _, x, k in batch:
                for when, y, other in filter(None, references):
                    s = sum(a * b for a, b in zip(x, y, strict=True))
                    if k != other:
                        total += s * (s > 0.5) * (0.7 if references is held else 1)
                    elif (when, y) != (step, x):
                        total += (1 - s) * (0.7 if references is held else 1)
        assert float(method.loss(at(step, rows, labels))) == pytest.approx(total / 6, abs=1e-9)


@pytest.mark.parametrize("base", BASES)
def test_on_its_first_step_the_memory_is_the_batch(base: str) -> None:
    """Both terms are equal then; duplicates of an image within the batch stay positives of both."""
    rows, labels = stream(3, 1, 12)[0]
    rows[5], labels[5] = rows[0], labels[0]
    alone = toy.method(base).loss(at(0, rows, labels))
    for size in (12, 40):
        loss = memory(size, 4, base=base, weight=3).loss(at(0, rows, labels))
        assert float(loss) == pytest.approx(4 * float(alone), rel=1e-9)
    assert float(alone) > 0


def test_nothing_is_memorised_before_the_start() -> None:
    """A tenth of twenty steps: the third is the first with a memory, of that step's images alone."""
    method, alone = memory(50, 4, start=0.1, iterations=20), toy.method("contrastive")
    for step, (rows, labels) in enumerate(stream(0, 4, 6)):
        batch = at(step, rows, labels)
        loss, own = float(method.loss(batch)), float(alone.loss(batch))
        assert (method.memory_labels >= 0).sum() == 6 * max(step - 1, 0)
        assert loss == pytest.approx(own * (1 if step < 2 else 2), abs=1e-12) or step == 3
    assert loss > 2 * own


@pytest.mark.parametrize("base", BASES)
def test_gradients_flow_through_the_batch_only(base: str) -> None:
    """The gradient is that of the batch's term plus that of anchors against constant references."""
    method, inner = memory(40, 4, base=base), toy.method(base)
    (past, past_labels), (rows, labels) = stream(1, 2, 12)
    past.requires_grad_()
    method.loss(at(0, past, past_labels))
    leaf = rows.clone().requires_grad_()
    loss = method.loss(at(1, leaf, labels))
    gradient, through_past = torch.autograd.grad(loss, [leaf, past], allow_unused=True)
    assert through_past is None
    references, all_labels = torch.cat([past.detach(), rows]), torch.cat([past_labels, labels])
    same = labels[:, None] == all_labels
    positive = same.clone()
    positive[range(12), range(12, 24)] = False
    free = rows.clone().requires_grad_()
    expected = inner.loss(at(1, free, labels)) + inner.pair_loss(free @ references.T, positive, ~same)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    torch.autograd.backward(expected)
    np.testing.assert_allclose(gradient, free.grad, atol=1e-9)


def test_library() -> None:
    """Its memory is the same ring and removes the same self pairs; it has the memory's term only, and averages."""
    theirs = losses.CrossBatchMemory(
        losses.ContrastiveLoss(1, 0, distance=distances.CosineSimilarity(), reducer=reducers.SumReducer()), 4, 20
    )
    method, alone = memory(20, 4), toy.method("contrastive", margin=0.0)
    method.inner.margin = 0.0
    for step, (rows, labels) in enumerate(stream(5, 7, 6)):
        leaf, other = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        batch = at(step, torch.nn.functional.normalize(leaf), labels)  # as the library does inside
        ours = method.loss(batch) - alone.loss(batch)
        expected = theirs(other, labels) / len(rows)
        assert float(ours.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
        np.testing.assert_allclose(
            *(torch.autograd.grad(x, y)[0] for x, y in ((ours, leaf), (expected, other))), atol=1e-9
        )
        np.testing.assert_allclose(method.memory, theirs.embedding_memory, atol=1e-12)


@pytest.mark.parametrize("base", BASES)
@examples
@given(batch=batches(), size=st.integers(1, 20))
def test_loss_and_gradients_are_finite_and_connected(base: str, batch: tuple[Tensor, Tensor], size: int) -> None:
    method = memory(size, batch[0].shape[1], base=base)
    for step in range(2):
        leaf = batch[0].clone().requires_grad_()
        loss = method.loss(at(step, leaf, batch[1]))
        (gradient,) = torch.autograd.grad(loss, leaf)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_size_is_a_share_of_the_training_set_or_a_count() -> None:
    for values, expected in (({"share": 0.5}, 16), ({"share": 0.02}, 1), ({"images": 7, "share": 0.5}, 7)):
        method: Any = cls()(**values)
        method.build(toy.context(8, 4))
        assert len(method.memory) == expected


@pytest.mark.parametrize("base", ["proxy_anchor", "xbm"])
def test_only_pair_losses_can_have_a_memory(base: str) -> None:
    with pytest.raises(UsageError, match=f"'base' must be a pair loss, found '{base}'"):
        memory(8, 4, base=base)


@pytest.mark.parametrize("squared", [False, True])
@examples
@given(batches(), batches(), st.data())
def test_triplet_against_references(
    squared: bool, anchors: tuple[Tensor, Tensor], references: tuple[Tensor, Tensor], data: st.DataObject
) -> None:
    """Any masks over anchors x references; an entry in neither does not exist."""
    dim = min(anchors[0].shape[1], references[0].shape[1])
    x, y = (torch.nn.functional.normalize(rows[:, :dim]) for rows in (anchors[0], references[0]))
    s = x @ y.T
    kind = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 3, s.shape)
    value = float(
        toy.method("triplet", margin=0.1, squared=squared).pair_loss(s, *map(torch.from_numpy, (kind == 1, kind == 2)))
    )
    square = (2 - 2 * s).clamp(min=0)
    d = (square if squared else square.clamp(min=1e-8).sqrt()).tolist()
    terms = [
        d[i][p] - d[i][k] + 0.1
        for i in range(len(x))
        for p in range(len(y))
        for k in range(len(y))
        if kind[i, p] == 1 and kind[i, k] == 2 and 0 < d[i][k] - d[i][p] <= 0.1
    ]
    assert value == pytest.approx(sum(terms) / max(len(terms), 1), abs=1e-9)


@pytest.mark.parametrize("squared", [False, True])
def test_triplet_of_a_batch_is_the_pair_loss_of_its_similarities(squared: bool) -> None:
    rows, labels = stream(2, 1, 30, dim=8)[0]
    method = toy.method("triplet", margin=0.3, squared=squared)
    expected = float(method.loss(at(0, rows, labels)))
    assert expected > 0
    assert float(method.pair_loss(rows @ rows.T, *pairs.pair_masks(labels))) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parity
@pytest.mark.parametrize("path", files("xbm/queue_*.npz"))
def test_official_queue(path: Path) -> None:
    """Place by place as released; the ring agrees until the first batch that does not fit."""
    case = load(path)
    size, dim = int(case["size"]), case["feats_in"].shape[2]
    released, ring = memory(size, dim, queue="as_released"), memory(size, dim)
    fits = True
    for step, (rows, labels) in enumerate(zip(case["feats_in"], case["labels_in"], strict=True)):
        for method in (released, ring):
            method.enqueue(cast(rows, "f64"), torch.from_numpy(labels))
        np.testing.assert_array_equal(released.memory, case["feats_after"][step])
        np.testing.assert_array_equal(released.memory_labels.clamp(min=0), case["targets_after"][step])
        assert int(released.pointer) == case["ptr_after"][step]
        fits &= case["ptr_after"][step] > 0
        assert torch.equal(released.memory, ring.memory) or not fits
        filled = released.memory_labels >= 0
        if filled.all() and case["targets_after"][step][-1] == 0:  # full, which the official test cannot see
            assert not case["is_full_after"][step]
        else:
            assert filled.sum() == case["get_len_after"][step]


@pytest.mark.parity
@pytest.mark.parametrize("path", files("xbm/sequence_contrastive.npz"))
def test_official_sequence(path: Path, record_property: Callable[[str, object], None]) -> None:
    case = load(path)
    steps = [int(tag.removeprefix("step").split("_")[0]) for tag in case if tag.endswith("_emb")]
    dim = case["step1_emb"].shape[1]
    start = int(case["start_iteration"]) / len(steps)
    method = memory(
        int(case["size"]), dim, start, len(steps), weight=float(case["weight"]), queue="as_released"
    ).float()
    worst = 0.0
    for k in steps:
        leaf = torch.from_numpy(case[f"step{k}_emb"]).requires_grad_()
        labels = torch.from_numpy(case[f"step{k}_labels"])
        loss = method.loss(at(k - 1, leaf, labels))
        (gradient,) = torch.autograd.grad(loss, leaf)
        value, expected = float(loss.detach()), case[f"step{k}_grad"]
        agree((value, [gradient]), case[f"step{k}_total_loss"], [expected], "f32")
        assert (method.memory_labels >= 0).sum() == case[f"step{k}_get_len"]
        worst = max(worst, abs(value / float(case[f"step{k}_total_loss"]) - 1))
        worst = max(worst, float(np.abs(gradient.numpy() - expected).max() / np.abs(expected).max()))
    stored = {"vectors": f"xbm/{path.stem} total", "precision": "f32"}
    record_property("parity", {"method": "xbm", **stored, "error": worst})


@pytest.mark.parity
@pytest.mark.parametrize("path", files("xbm/losses_*.npz"))
def test_official_losses(path: Path, record_property: Callable[[str, object], None]) -> None:
    """Anchors against a memory that holds them somewhere, and against themselves."""
    case = load(path)
    labels, memory_labels = torch.from_numpy(case["labels"]), torch.from_numpy(case["mem_labels"])
    own = [int(np.flatnonzero((case["mem_emb"] == row).all(1))[0]) for row in case["emb"]]
    same = labels[:, None] == memory_labels
    positive = same.clone()
    positive[range(len(own)), own] = False
    bases = {"contrastive": toy.method("contrastive"), "ms": toy.method("multi_similarity", alpha=2.0, beta=40.0)}
    for tag, _ in tags(case, "|".join(bases)):
        method: Any = bases[tag]
        for precision in ("f32", "f64"):
            references = cast(case["mem_emb"], precision)
            for part in ("mem", "batch"):
                if f"{tag}__{part}_loss_{precision}" not in case:
                    continue
                leaf = cast(case["emb"], precision).requires_grad_()
                loss = (
                    method.pair_loss(leaf @ references.T, positive, ~same)
                    if part == "mem"
                    else method.loss(at(0, leaf, labels))
                )
                (gradient,) = torch.autograd.grad(loss, leaf)
                value, expected = float(loss.detach()), case[f"{tag}__{part}_grad_{precision}"]
                agree((value, [gradient]), case[f"{tag}__{part}_loss_{precision}"], [expected], precision)
                error = max(
                    abs(value / float(case[f"{tag}__{part}_loss_{precision}"]) - 1),
                    float(np.abs(gradient.numpy() - expected).max() / np.abs(expected).max()),
                )
                stored = {"vectors": f"xbm/{path.stem} {tag}_{part}", "precision": precision}
                record_property("parity", {"method": "xbm", **stored, "error": error})
    s = torch.from_numpy(case["emb"] @ case["mem_emb"].T)
    kept = miners.multi_similarity(s, positive & (s < 1 - 1e-5), ~same, 0.1)
    for mask, key in zip(kept, ("ms__mem_pos_mask", "ms__mem_neg_mask"), strict=True):
        if key in case:
            np.testing.assert_array_equal(mask, case[key])
