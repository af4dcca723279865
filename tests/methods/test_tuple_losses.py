"""Losses over tuples (n-pair, angular, quadruplet): brute force, pytorch-metric-learning, official n-pair code."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses
from torch.nn import functional as F

from bench import pairs
from tests.methods import toy
from tests.methods.test_library import CASES, agree
from tests.methods.test_losses import batches, cosine, softplus_sum, value
from tests.methods.test_parity import Case, cast
from tests.methods.test_reality_check_losses import Batch, anchors, examples, having, mean, relative, source

# Brute force


def n_pair_rounds(labels: list[int]) -> list[list[tuple[int, int]]]:
    """Round r: of each class with two images or more, the r-th and the next, cyclically."""
    members: dict[int, list[int]] = {}
    for i, label in enumerate(labels):
        members.setdefault(label, []).append(i)
    classes = [own for own in members.values() if len(own) > 1]
    turns = max(map(len, classes), default=0)
    return [[(own[r % len(own)], own[(r + 1) % len(own)]) for own in classes] for r in range(turns)]


@examples
@given(batches(), st.floats(0.5, 6.0))
def test_n_pair(batch: Batch, length: float) -> None:
    x, labels = (length * batch[0]).tolist(), batch[1].tolist()
    terms = []
    for pairs_ in n_pair_rounds(labels):
        for a, p in pairs_:
            others = [cosine(x[a], x[q]) - cosine(x[a], x[p]) for _, q in pairs_ if q != p]
            terms.append(softplus_sum(others) + 0.02 * (cosine(x[a], x[a]) + cosine(x[p], x[p])))
    assert value("n_pair", (length * batch[0], batch[1])) == pytest.approx(mean(terms), rel=1e-8, abs=1e-9)


def test_n_pair_uses_each_image_once_as_anchor_and_once_as_positive() -> None:
    labels = torch.randperm(24, generator=torch.Generator().manual_seed(0)) // 4
    anchor, positive = source("n_pair").rounds(labels)
    assert anchor.shape == (4, 6)
    assert sorted(anchor.ravel().tolist()) == sorted(positive.ravel().tolist()) == list(range(24))
    assert (labels[anchor] == labels[positive]).all()
    assert all(len(set(row)) == 6 for row in labels[anchor].tolist())


@examples
@given(batches())
def test_angular(batch: Batch) -> None:
    x, labels = batch[0].tolist(), batch[1].tolist()
    tan2 = math.tan(math.radians(40)) ** 2
    terms = []
    for i, positives, negatives in anchors(labels):
        for p in positives:
            sums = [a + b for a, b in zip(x[i], x[p], strict=True)]
            own = 2 * (1 + tan2) * cosine(x[i], x[p])
            terms.append(softplus_sum([4 * tan2 * cosine(sums, x[k]) - own for k in negatives]))
    assert value("angular", batch, alpha=40.0) == pytest.approx(mean(terms), rel=1e-8, abs=1e-9)


def test_angular_bounds_the_angle_at_the_negative() -> None:
    """f = |a - p|^2 - 4 tan^2(alpha) |n - c|^2 + constant, c the middle of a and p: the paper's geometry."""
    a, p, n = toy.unit_rows(np.random.default_rng(1), 3, 4)
    tan2 = math.tan(math.radians(45)) ** 2
    loss = value("angular", (torch.stack([a, p, n]), torch.tensor([0, 0, 1])))
    geometry = (a - p).square().sum() - 4 * tan2 * (n - (a + p) / 2).square().sum()
    constant = 2 - 4 * tan2 * (1 + 0.5)
    assert math.log(math.expm1(loss)) == pytest.approx(float(geometry) - constant, rel=1e-9)


def test_angular_with_n_pair_is_the_sum() -> None:
    batch = (toy.unit_rows(np.random.default_rng(2), 12, 5), torch.arange(4).repeat(3))
    joint = value("angular", batch, n_pair=0.5)
    assert joint == pytest.approx(value("angular", batch) + 0.5 * value("n_pair", batch), rel=1e-12)


@pytest.mark.parametrize("squared", [False, True])
@examples
@given(batch=batches())
def test_quadruplet(batch: Batch, squared: bool) -> None:
    labels = batch[1].tolist()
    d = (pairs.squared_distances if squared else pairs.distances)(batch[0]).tolist()
    sides = list(anchors(labels))
    shared, apart = [], []
    for i, positives, negatives in sides:
        for j in positives:
            shared += [d[i][j] - d[i][k] + 0.3 for k in negatives]
            for probe in negatives:
                gap, k = min((d[probe][k], k) for k in sides[probe][2])
                if labels[k] != labels[i]:
                    apart.append(d[i][j] - gap + 0.1)
    expected = mean([t for t in shared if t > 0]) + mean([t for t in apart if t > 0])
    got = value("quadruplet", batch, margin=0.3, margin_apart=0.1, squared=squared)
    assume(not _ties(d, labels))
    assert got == pytest.approx(expected, rel=1e-8, abs=1e-9)


def _ties(d: list[list[float]], labels: list[int]) -> bool:
    """Two negatives of different classes at one distance: which is the nearest is a matter of rounding."""
    for i, _, negatives in anchors(labels):
        nearest = min((d[i][k] for k in negatives), default=0.0)
        if len({labels[k] for k in negatives if d[i][k] <= nearest + 1e-9}) > 1:
            return True
    return False


def test_quadruplet_needs_three_classes_for_its_second_term() -> None:
    """Two classes: no negative pair avoids the anchor's class. A third brings the term."""
    x = toy.unit_rows(np.random.default_rng(4), 6, 3)
    narrow = [value("quadruplet", (x, torch.tensor([0, 0, 0, 1, 1, 1])), margin_apart=m) for m in (0.02, 1.0)]
    wide = [value("quadruplet", (x, torch.tensor([0, 0, 1, 1, 2, 2])), margin_apart=m) for m in (0.02, 1.0)]
    assert narrow[0] == narrow[1]
    assert wide[0] < wide[1]


# pytorch-metric-learning


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("normalized", [False, True])
def test_library_n_pairs(case: str, normalized: bool) -> None:
    """Round by round, on our pairs; the library's classes are in a round what ours are."""
    loss = losses.NPairsLoss(distance=distances.DotProductSimilarity(normalize_embeddings=normalized))
    labels = torch.tensor(CASES[case])
    x = toy.unit_rows(np.random.default_rng(6), len(labels), 16, 0.5) * (1 if normalized else 3)
    leaf = x.clone().requires_grad_()
    rounds = n_pair_rounds(labels.tolist())
    total = leaf.sum() * 0
    for pairs_ in rounds:
        a, p = torch.tensor(pairs_).T
        none = torch.empty(0, dtype=torch.int64)
        squares = leaf[a].square().sum(1) + leaf[p].square().sum(1)
        total = total + (loss(leaf, labels, (a, p, none, none)) + 0.02 * squares.mean()) / len(rounds)
    (expected,) = torch.autograd.grad(total, leaf, allow_unused=True, materialize_grads=True)
    got, gradients = toy.loss_and_gradients(toy.method("n_pair"), x, labels)
    assert got == pytest.approx(float(total.detach()), rel=1e-9, abs=1e-12)
    if not normalized:  # the library's gradient has no radial part otherwise
        np.testing.assert_allclose(gradients[0], expected, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("alpha", [40.0, 45.0, 55.0])
def test_library_angular(case: str, alpha: float) -> None:
    """The library normalises anchors and positives, but leaves the negatives as they come."""
    loss = losses.AngularLoss(alpha)
    agree("angular", CASES[case], lambda x, y: loss(F.normalize(x), y), alpha=alpha)


# Official code


@pytest.mark.parity
@pytest.mark.parametrize("case", having("tuples", "mic/triplet_npair.npz"))
def test_n_pair_of_the_baselines_on_its_tuples(case: Case, record_property: Any) -> None:
    anchor, positive = torch.from_numpy(case["tuples"].astype(np.int64))[:, :2].T
    negatives = np.sort(case["tuples"][:, 2:], axis=1)
    others = np.stack([np.sort(np.delete(positive.numpy(), c)) for c in range(len(positive))])
    assert np.array_equal(negatives, others)  # the tuples are ours: positives of the other classes
    leaf = cast(case["emb"], "f32").requires_grad_()
    loss = source("n_pair").n_pair_loss(leaf, anchor[None], positive[None], float(case["l2"]))
    loss.backward()
    error = max(relative(loss.detach(), case["loss"]), relative(leaf.grad, case["grad_emb"]))
    record_property(
        "parity",
        {"method": "n_pair", "vectors": f"mic/triplet_npair {case['name']}", "precision": "f32", "error": error},
    )
    assert error <= 1e-5
