"""Divide and Conquer, its margin loss, and the clusters that it shares with other methods."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bench import clusters, pairs, registry
from bench.protocol import Batch as BatchShape
from bench.toy import EPOCH, SHAPE, Toy
from tests.methods import toy
from tests.methods.test_losses import batches
from tests.methods.test_parity import GRADIENT, LOSS, Case, cases, cast, source

examples = settings(max_examples=40, deadline=None)
VECTORS = "divide_and_conquer"


def relative(mine: Any, theirs: NDArray[Any]) -> float:
    """Largest difference over the largest entry."""
    own = np.asarray(mine.detach() if isinstance(mine, Tensor) else mine, dtype=np.float64)
    return float(np.abs(own - theirs).max(initial=0) / max(np.abs(theirs).max(initial=0), 1e-3))


# The margin loss on the nearest negatives


@examples
@given(batches(), st.sampled_from([0.0, 0.5, 1.3]))
def test_nearest_negatives_beyond_the_cutoff(batch: tuple[Tensor, Tensor], cutoff: float) -> None:
    x, labels = batch[0].double(), batch[1].tolist()
    triplets = source("margin_nearest").nearest_beyond(x, batch[1], cutoff).tolist()
    d = [[max(float((a - b).norm()), 1e-2) for b in x] for a in x]
    images = range(len(labels))
    wanted = sum(i != j and labels[i] == labels[j] for i in images for j in images) // len(labels)
    for i in images:
        positives = [j for j in images if j != i and labels[j] == labels[i]]
        keys = sorted((d[i][j] < cutoff, d[i][j]) for j in images if labels[j] != labels[i])
        taken = [(p, n) for anchor, p, n in triplets if anchor == i]
        count = min(len(positives), wanted, len(keys))
        assert [p for p, _ in taken] == positives[:count]
        negatives = [n for _, n in taken]
        assert negatives == sorted(set(negatives))
        assert all(labels[n] != labels[i] for n in negatives)
        if count == min(wanted, len(keys)):  # else the list of negatives, in the order of the batch, is cut
            found = sorted((d[i][n] < cutoff, d[i][n]) for n in negatives)
            assert np.allclose(found, keys[:count], atol=1e-6)


def test_margin_nearest_by_hand() -> None:
    """Four points on a quarter of the circle: of each anchor's two terms, three pushes and no pull are active."""
    angles = torch.tensor([0.0, 50.0, 90.0, 91.0]).double().deg2rad()
    x = torch.stack([angles.cos(), angles.sin()], 1)
    d = pairs.distances(x)  # 0-1: 0.85, 1-2: 0.68, 1-3: 0.70, 0-2: 1.41, 0-3: 1.43, 2-3: 0.02
    got = float(toy.method("margin_nearest", 2, 2).loss(toy.batch(x, torch.tensor([0, 0, 1, 1]))))
    # one positive an anchor, so one negative: 0 and 2 (inactive), 1 and 2, 2 and 1, 3 and 1
    assert got == pytest.approx(float(3 * 1.4 - d[1, 2] - d[2, 1] - d[3, 1]) / 3, abs=1e-7)


@pytest.mark.parity
@pytest.mark.parametrize("case", cases("divide_and_conquer/margin_loss.npz"))
def test_official_triplets_and_loss(case: Case, record_property: Any) -> None:
    labels = torch.from_numpy(case["labels"])
    official = np.stack([case["legacy_anchor"], case["legacy_pos"], case["legacy_neg"]], 1)
    cutoff = float(case["cutoff"])
    d = pairs.distances(torch.from_numpy(case["emb"]), 1e-2).numpy()
    anchor, _, negative = official.T
    if (case["labels"][anchor] == case["labels"][negative]).any() or (d[anchor, negative] < cutoff).any():
        pytest.skip("too few negatives beyond the cut-off: official code takes excluded images")
    mine = source("margin_nearest").nearest_beyond(torch.from_numpy(case["emb"]), labels, cutoff)
    assert np.array_equal(mine.numpy(), official)
    if float(case["nu"]) or int(case["class_specific_beta"]):
        return  # options that only `margin` has
    for precision, bits in {"f32": "32", "f64": "64"}.items():
        beta, margin = float(case["beta0"]), float(case["margin"])
        built = toy.method("margin_nearest", margin=margin, beta=beta, cutoff=cutoff)
        built.beta = float(np.float32(beta))  # float32 in the float64 runs too
        value, (gradient, *_) = toy.loss_and_gradients(built, cast(case["emb"], precision), case["labels"])
        error = relative(value, case[f"legacy_loss{bits}"])
        assert error <= LOSS[precision]
        if f"legacy_grad_emb{bits}" in case:
            slope = relative(gradient, case[f"legacy_grad_emb{bits}"])
            assert slope <= GRADIENT[precision]
            error = max(error, slope)
        name = {"method": "margin_nearest", "vectors": f"{VECTORS}/margin_loss {case['name']}"}
        record_property("parity", {**name, "precision": precision, "error": error})


# Clusters


def test_kmeans_finds_separate_groups_and_repeats_itself() -> None:
    torch.manual_seed(0)
    group = torch.arange(2).repeat(20)
    features = 5 * torch.randn(2, 7)[group] + torch.randn(40, 7)
    found = clusters.kmeans(features, 2, 20)
    assert torch.equal(found, group) or torch.equal(found, 1 - group)
    assert torch.equal(found, clusters.kmeans(features, 2, 20))
    assert sorted(clusters.kmeans(features[:3], 5, 20).tolist()) == [0, 1, 2]  # fewer rows than clusters


@st.composite
def assignments(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    count = draw(st.integers(1, 4))
    size = draw(st.integers(1, 12))
    rows = st.lists(st.integers(-1, count - 1), min_size=size, max_size=size)
    return count, draw(rows), draw(rows)


@examples
@given(assignments())
def test_renamed_keeps_as_many_images_as_any_permutation(given: tuple[int, list[int], list[int]]) -> None:
    count, current, previous = given
    got = clusters.renamed(torch.tensor(current), torch.tensor(previous), count).tolist()
    names = dict(zip(current, got, strict=True))
    assert names.get(-1, -1) == -1
    assert len(set(names.values())) == len(names)  # one name a cluster

    def kept(renaming: Any) -> int:
        return sum(c >= 0 and renaming[c] == p for c, p in zip(current, previous, strict=True))

    assert kept(names) == max(kept(permutation) for permutation in itertools.permutations(range(count)))


def test_the_inverse_renaming_is_wrong_unless_it_is_its_own_inverse() -> None:
    previous = torch.arange(4).repeat(5)
    cycle, swap = (previous + 1) % 4, previous ^ 1
    assert torch.equal(clusters.renamed(cycle, previous, 4), previous)
    assert not (clusters.renamed(cycle, previous, 4, inverse=True) == previous).any()
    assert torch.equal(clusters.renamed(swap, previous, 4, inverse=True), previous)


@examples
@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 3)), min_size=1, max_size=15))
def test_lone_images_sit_out(images: list[tuple[int, int]]) -> None:
    counts = Counter(images)
    found = clusters.without_lone_images(*(torch.tensor(column) for column in zip(*images, strict=True)))
    assert found.tolist() == [k if counts[k, c] > 1 else -1 for k, c in images]


@pytest.mark.parity
@pytest.mark.parametrize("case", cases("divide_and_conquer/reassign.npz"))
def test_official_renaming(case: Case, record_property: Any) -> None:
    """The relabelling that the official assignment means, and the inverse one that the official code applies."""
    current, previous = torch.from_numpy(case["C_curr"]), torch.from_numpy(case["C_prev"])
    count = int(current.max()) + 1
    got = clusters.renamed(current, previous, count)
    if len(case["costs"]) < count:  # the official matrix has lost a cluster that was empty before
        assert (got == previous).double().mean() >= float(case["agree_matched"])
        return
    assert np.array_equal(got.numpy(), case["C_curr_to_prev_matched"])
    released = clusters.renamed(current, previous, count, inverse=True)
    assert np.array_equal(released.numpy(), case["C_reassigned_official"])
    name = {"method": "divide_and_conquer", "vectors": f"{VECTORS}/reassign {case['name']}"}
    record_property("parity", {**name, "precision": "f64", "error": 0.0})


@pytest.mark.parity
@pytest.mark.parametrize("case", cases("divide_and_conquer/clustered_split.npz"))
def test_official_split(case: Case, record_property: Any) -> None:
    found = torch.from_numpy(case["kmeans_labels"])
    if "C_prev" in case:
        found = clusters.renamed(found, torch.from_numpy(case["C_prev"]), int(case["K"]), inverse=True)
    got = clusters.without_lone_images(found, torch.from_numpy(case["class_labels"]))
    assert np.array_equal(got.numpy(), case["C_out"])
    name = {"method": "divide_and_conquer", "vectors": f"{VECTORS}/clustered_split {case['name']}"}
    record_property("parity", {**name, "precision": "f64", "error": 0.0})


@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5, 9])
def test_balanced_batches_of_few_classes(classes: int) -> None:
    labels = np.arange(10 * classes) % classes
    rows = np.flatnonzero(np.arange(10 * classes) % 2 == 0) if classes % 2 else np.arange(10 * classes)
    shape = BatchShape(classes=4, per_class=3)
    drawn = clusters.balanced_batches(labels, rows, shape, np.random.default_rng(0))
    for batch in itertools.islice(drawn, 5):
        assert batch.shape == (12,)
        assert set(batch.tolist()) <= set(rows.tolist())
        sizes = Counter(labels[batch].tolist())
        assert len(sizes) == min(classes, 4)
        assert max(sizes.values()) <= -(-12 // len(sizes))


@pytest.mark.parity
@pytest.mark.parametrize("case", cases("divide_and_conquer/batching.npz"))
def test_official_batching(case: Case) -> None:
    """Its batches hold as many classes and images of each as ours; its loaders take turns as our clusters do."""
    if "order" in case:
        loaders = case["order"][:, 0]
        assert np.array_equal(loaders, np.arange(len(loaders)) % len(case["lens"]))
        return
    ys, per_class = case["ys"], int(case["per_class"])
    shape = BatchShape(classes=int(case["batch_size"]) // per_class, per_class=per_class)
    drawn = clusters.balanced_batches(ys, np.arange(len(ys)), shape, np.random.default_rng(0))
    few = len(np.unique(ys)) < shape.classes
    for official, mine in zip(case["epoch1"], drawn, strict=False):
        assert mine.shape == official.shape
        if few:  # there, some classes twice; here, all of them with more images each
            assert set(ys[official]) <= set(ys[mine]) == set(ys)
        else:
            sizes = [sorted(Counter(ys[batch].tolist()).values()) for batch in (official, mine)]
            assert sizes[0] == sizes[1] == [per_class] * shape.classes


# The method


def test_slices_have_unit_length_and_cover_the_embedding() -> None:
    for parts, size, widths in ((4, 64, [16] * 4), (3, 16, [6, 6, 4]), (16, 8, [1] * 8), (8, 10, [2] * 5)):
        method = registry.get("divide_and_conquer").cls(parts=parts)
        embedder = method.embedder(20, size)
        slices = torch.split(embedder(torch.randn(5, 20)), -(-size // parts), 1)
        assert [part.shape[1] for part in slices] == widths
        assert all(torch.allclose(part.norm(dim=1), torch.ones(5)) for part in slices)
        method.build(toy.context(3, size))
        assert len(method.losses) == len(widths) + 1


def run(steps: int, **values: Any) -> list[tuple[NDArray[np.int64], NDArray[np.int64], Tensor]]:
    """Of each step: its images, the clusters in force, and the gradient of the loss with respect to raw embeddings."""
    trained = Toy(registry.get("divide_and_conquer").cls, values=values)
    seen = []
    with trained.streams.world("method"):
        for step in range(steps):
            if step % EPOCH == 0:
                images = trained.begin_epoch()
            rows = next(images)
            trained.step = step
            raw = trained.embedder(trained.features(torch.from_numpy(rows))).detach().requires_grad_()
            batch = trained.artificial(raw, torch.from_numpy(rows))
            loss = trained.method.loss(
                type(batch)(**{**vars(batch), "embeddings": F.normalize(raw), "raw_embeddings": raw})
            )
            seen.append((rows, trained.method.assigned.numpy().copy(), torch.autograd.grad(loss, raw)[0]))
    return seen


def test_three_stages() -> None:
    """Of 100 steps: 40 on a slice, to 95 on the whole vector within clusters, then on everything."""
    moved = Counter()
    for step, (rows, assigned, gradient) in enumerate(run(100)):
        inside = set(assigned[rows].tolist())
        touched = {k for k in range(4) if gradient[:, 2 * k : 2 * k + 2].abs().sum() > 0}
        if step < 95:
            assert len(inside) == 1
            assert inside != {-1}
        if step < 40:
            assert touched <= inside
            moved.update(touched)
        if step >= 40:
            assert len(touched) in (0, 4)
        if step >= 95:
            assert len(inside) > 1
    assert set(moved) == {0, 1, 2, 3}


def test_clusters_take_turns_and_change_every_second_epoch() -> None:
    seen = run(5 * EPOCH)
    order = [int(assigned[rows[0]]) for rows, assigned, _ in seen]
    assert order == [step % 4 for step in range(5 * EPOCH)]  # all four hold two classes here
    for epoch in range(4):
        same = np.array_equal(seen[epoch * EPOCH][1], seen[(epoch + 1) * EPOCH][1])
        assert same or epoch % 2 == 1


def test_a_base_with_parameters_of_its_own() -> None:
    """Proxies as wide as each learner's slice, one more set for the whole vector, at the base's own rate."""
    trained = Toy(registry.get("divide_and_conquer").cls, values={"base": "proxy_anchor", "parts": 3}, size=8)
    assert [tuple(p.shape) for p in trained.method.parameters()] == [(32, 3), (32, 3), (32, 2), (32, 8)]
    assert {group["lr"] for group in trained.optimizer.param_groups} == {0.01}
    assert np.isfinite(trained.train(2 * EPOCH)).all()


def test_small_training_sets_do_not_stop_the_run() -> None:
    """Clusters of one class or of lone images give no batches; without any other, all images do."""
    method = registry.get("divide_and_conquer").cls()
    method.build(toy.context(8, 16))
    labels = np.arange(8).repeat(4)
    method.assigned.copy_(torch.from_numpy(np.where(labels == 0, 0, -1)))
    drawn = next(method.batches(labels, SHAPE, np.random.default_rng(0)))
    assert len(set(labels[drawn])) == 8
    method.assigned.copy_(torch.from_numpy(np.where(labels == 0, 0, np.where(labels < 3, 2, -1))))
    for batch in itertools.islice(method.batches(labels, SHAPE, np.random.default_rng(0)), 3):
        assert set(labels[batch]) == {1, 2}
    leaf = F.normalize(torch.randn(32, 16)).requires_grad_()
    assert method.loss(toy.batch(leaf, torch.from_numpy(labels))).isfinite()  # images of no cluster


@pytest.mark.parity
@pytest.mark.parametrize("case", cases("divide_and_conquer/embedding_and_step.npz"))
def test_official_step(case: Case, record_property: Any) -> None:
    """The official layer's output, and one step on a slice and on the whole vector from its weights."""
    count, size = int(case["nb_clusters"]), int(case["sz_embedding"])
    method = registry.get("divide_and_conquer").cls(parts=count)
    embedder = method.embedder(case["features"].shape[1], size)
    embedder.load_state_dict({"linear.weight": torch.from_numpy(case["W"]), "linear.bias": torch.from_numpy(case["b"])})
    method.build(toy.context(8, size))
    features, labels = torch.from_numpy(case["features"]), torch.from_numpy(case["labels"])
    worst = relative(embedder(features), case["forward_eval"])
    assert worst <= 1e-5
    for tag, step in (("split", 0), ("split_c0", 0), ("full", 40)):
        learner = int(case[f"{tag}_learner"])
        if size % count and tag != "full":
            continue  # the official network and its loss cut different slices
        raw = embedder(features)
        given = raw if tag == "full" else torch.split(raw, size // count, 1)[learner]
        _, negative = pairs.pair_masks(labels)
        if (negative & (pairs.distances(F.normalize(given)) >= 0.5)).sum(1).min() < 3:
            continue  # too few negatives beyond the cut-off: official code takes excluded images
        method.assigned.fill_(learner)
        batch = toy.batch(F.normalize(raw), labels)
        loss = method.loss(type(batch)(**{**vars(batch), "raw_embeddings": raw, "step": step}))
        weight, bias = torch.autograd.grad(loss, [embedder.linear.weight, embedder.linear.bias])
        errors = [
            relative(loss, case[f"{tag}_loss"]),
            relative(weight, case[f"{tag}_grad_W"]),
            relative(bias, case[f"{tag}_grad_b"]),
        ]
        assert max(errors) <= 1e-5
        worst = max(worst, *errors)
    name = {"method": "divide_and_conquer", "vectors": f"{VECTORS}/embedding_and_step {case['name']}"}
    record_property("parity", {**name, "precision": "f32", "error": worst})
