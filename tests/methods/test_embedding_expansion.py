"""Embedding Expansion and its HPHN triplet loss beside plain loops, a library and values of the official code."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses, miners, reducers
from torch import Tensor

from bench import positive_pairs
from bench.errors import UsageError
from tests.methods import toy
from tests.methods.test_losses import batches
from tests.methods.test_parity import cast, files, load, tags

examples = settings(max_examples=30, deadline=None)


@cache
def built(name: str, **values: Any) -> Any:
    return toy.method(name, **values)


def loss(name: str, batch: tuple[Tensor, Tensor], **values: Any) -> float:
    return float(built(name, **values).loss(toy.batch(*batch)))


def versions(batch: tuple[Tensor, Tensor], count: int, normalize: bool) -> list[list[Tensor]]:
    """Each image's own points: itself, then those on the way to its partner."""
    found = []
    for x, y in zip(batch[0], batch[0][positive_pairs.partners(batch[1])], strict=True):
        points = [(k * y + (count + 1 - k) * x) / (count + 1) for k in range(1, count + 1)]
        found.append([x, *(u / (u @ u + 1e-10).sqrt() if normalize else u for u in points)])
    return found


def least(first: list[Tensor], second: list[Tensor]) -> float:
    return min((float((p - q).norm()) for p in first for q in second), default=math.inf)


@pytest.mark.parametrize("scope", ["image", "class"])
@examples
@given(batch=batches(), count=st.integers(0, 3), normalize=st.booleans())
def test_hphn_triplet_on_synthetic_points(
    scope: str, batch: tuple[Tensor, Tensor], count: int, normalize: bool
) -> None:
    rows, labels = batch[0], batch[1].tolist()
    points = versions(batch, count, normalize)
    expected = 0.0
    for i, label in enumerate(labels):
        positive = max(float((rows[i] - rows[p]).norm()) for p in range(len(rows)) if labels[p] == label)
        anchors = [i] if scope == "image" else [k for k in range(len(rows)) if labels[k] == label]
        own = [point for k in anchors for point in points[k]]
        others = [point for k in range(len(rows)) if labels[k] != label for point in points[k]]
        expected += max(0.0, positive - least(own, others) + 0.3)
    found = loss("embedding_expansion", batch, points=count, normalize=normalize, scope=scope, margin=0.3)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-5 * len(rows))  # distances of duplicates are floored


@examples
@given(batch=batches(), count=st.integers(0, 3))
def test_another_pair_loss_sees_the_hardest_pair_of_each_two_classes(batch: tuple[Tensor, Tensor], count: int) -> None:
    rows, labels = batch[0], batch[1].tolist()
    points = versions(batch, count, True)
    classes = {c: [p for k, own in enumerate(points) if labels[k] == c for p in own] for c in labels}
    terms = []
    for i, label in enumerate(labels):
        far = [1 - least(classes[label], classes[c]) ** 2 / 2 for c in classes if c != label]
        for p in range(len(labels)):
            if p != i and labels[p] == label:
                near = float(rows[i] @ rows[p])
                terms.append(math.log1p(sum(math.exp((s - near) / 0.07) for s in far)))
    found = loss("embedding_expansion", batch, base="nt_xent", scope="class", points=count)
    assert found == pytest.approx(sum(terms) / max(len(terms), 1), rel=1e-6, abs=1e-6)


@examples
@given(batches(), st.booleans())
def test_without_points_it_is_the_hphn_triplet_loss(batch: tuple[Tensor, Tensor], same_place: bool) -> None:
    order = torch.arange(len(batch[1])) if same_place else torch.arange(len(batch[1])).flip(0)
    moved = batch[0][order], batch[1][order]
    alone = loss("hphn_triplet", batch, margin=0.2)
    assert loss("embedding_expansion", moved, points=0, margin=0.2) == pytest.approx(alone, rel=1e-7, abs=1e-5)


@examples
@given(batches())
def test_finer_points_never_lower_the_loss(batch: tuple[Tensor, Tensor]) -> None:
    """One point halves a line, three quarter it: all points of the former are among the latter's."""
    values = [loss("embedding_expansion", batch, points=n, normalize=False, margin=0.2) for n in (0, 1, 3, 7)]
    assert all(fewer <= more + 1e-9 for fewer, more in itertools.pairwise(values))


def test_hand_computed() -> None:
    """On a circle: one class at -60 and 60 degrees, its point at 0; the other at 20 and 180, its point at 100."""
    angles = torch.tensor([-60, 60, 20, 180], dtype=torch.float64).deg2rad()
    batch = torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([0, 0, 1, 1])
    between = [(120, 20), (120, 20), (160, 20), (160, 40)]  # angles to the farthest positive, the nearest negative
    chords = [[2 * math.sin(math.radians(angle) / 2) for angle in angles] for angles in between]
    expected = sum(far - near + 0.5 for far, near in chords)
    assert loss("embedding_expansion", batch, points=1, margin=0.5) == pytest.approx(expected, rel=1e-8)


def test_equal_synthetic_points_share_one_gradient() -> None:
    """Each occurs twice; the gradient is that of the value, by central differences."""
    rows = toy.unit_rows(np.random.default_rng(3), 12, 4, 0.5)
    labels = torch.arange(3).repeat_interleave(4)
    method = built("embedding_expansion", margin=0.2)
    value, (gradient, *_) = toy.loss_and_gradients(method, rows, labels)
    assert value > 0
    steps = 1e-6 * torch.eye(rows.numel(), dtype=torch.float64).view(-1, *rows.shape)
    up, down = ([float(method.loss(toy.batch(moved, labels))) for moved in (rows + s * steps)] for s in (1, -1))
    numeric = (torch.tensor(up, dtype=torch.float64) - torch.tensor(down, dtype=torch.float64)) / 2e-6
    assert torch.allclose(gradient.flatten(), numeric, atol=1e-6)


def test_an_image_without_a_partner_has_no_points() -> None:
    rows = toy.unit_rows(np.random.default_rng(1), 3, 4)
    points = built("embedding_expansion").expand(rows, torch.tensor([0, 1, 0]))
    assert torch.allclose(points[:, 1], rows[1].expand(3, 4), atol=1e-9)
    assert torch.allclose(points[1, 0], points[2, 2], atol=1e-12)


@pytest.mark.parametrize("base", ["hphn_triplet", "triplet", "lifted", "multi_similarity", "nt_xent"])
@pytest.mark.parametrize("scope", ["image", "class"])
def test_degenerate_batches_are_finite(base: str, scope: str) -> None:
    points = toy.unit_rows(np.random.default_rng(9), 8, 6).float()
    by_twos, one, alone = [0, 0, 1, 1, 2, 2, 3, 3], [0] * 8, list(range(8))
    opposite = torch.stack([points[:4], -points[:4]], 1).flatten(0, 1)  # partners: the middle has no direction
    same = points[:1].repeat(8, 1)
    cases = ((points, one), (points, alone), (same, by_twos), (same, one), (opposite, by_twos), (opposite, one))
    for rows, labels in cases:
        value, (gradient, *_) = toy.loss_and_gradients(
            built("embedding_expansion", base=base, scope=scope), rows, labels
        )
        assert math.isfinite(value)
        assert gradient.isfinite().all()


def test_base_must_be_a_pair_loss() -> None:
    with pytest.raises(UsageError, match="must be a pair loss, found 'proxy_nca'"):
        toy.method("embedding_expansion", base="proxy_nca")


@pytest.mark.parametrize("labels", [[0, 0, 0, 1, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3]])
def test_hphn_triplet_is_the_library_s_batch_hard_loss(labels: list[int]) -> None:
    classes = torch.tensor(labels)
    rows = toy.unit_rows(np.random.default_rng(len(labels)), len(labels), 16, 0.5)
    method = built("hphn_triplet", margin=0.2)
    value, (gradient, *_) = toy.loss_and_gradients(method, rows, classes, normalize=True)
    leaf = rows.clone().requires_grad_()
    library = losses.TripletMarginLoss(0.2, reducer=reducers.SumReducer())
    theirs = library(leaf, classes, miners.BatchHardMiner()(leaf, classes))
    theirs.backward()
    assert value == pytest.approx(float(theirs.detach()), rel=1e-9)
    assert leaf.grad is not None
    assert torch.allclose(gradient, leaf.grad, atol=1e-9)


@pytest.mark.parity
@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize("path", files("embedding_expansion/b*.npz"))
def test_official_code(path: Path, precision: str, record_property: Callable[[str, Any], None]) -> None:
    case = load(path)
    counts = np.unique(case["labels"], return_counts=True)[1]
    checked = 0
    for tag, _ in tags(case, r"n\d.*"):
        if f"{tag}__loss_vec_{precision}" not in case:
            continue
        points = int(case[f"{tag}__n_inner_pts"])
        method: Any = toy.method(
            "embedding_expansion",
            points=points,
            normalize=bool(case[f"{tag}__l2_norm"]),
            margin=float(case[f"{tag}__margin"]),
        )
        method.inner.soft = bool(case[f"{tag}__soft_margin"])
        value, (gradient, *_) = toy.loss_and_gradients(method, cast(case["emb"], precision), case["labels"])
        checked += 1
        if len(counts) == 1 or (counts.min() == 1 and points):
            # Without negatives the official code takes the farthest image of the class instead; without
            # positives it joins images of different classes.
            assert math.isfinite(value)
            assert gradient.isfinite().all()
            continue
        expected = case[f"{tag}__loss_vec_{precision}"].sum()
        worst = abs(value - expected) / max(abs(expected), 1e-3)
        assert worst <= {"f32": 1e-5, "f64": 1e-10}[precision]
        for key, tolerance in ((f"{tag}__grad_tie_split_f64", 1e-10), (f"{tag}__grad_fd_f64", 1e-8)):
            if key in case:
                off = np.abs(gradient.numpy() - case[key]).max() / max(np.abs(case[key]).max(), 1e-3)
                assert off <= (tolerance if precision == "f64" else 1e-5)
                worst = max(worst, off) if "tie_split" in key else worst
        vectors = f"embedding_expansion/{path.stem} {tag}"
        seen = {"method": "embedding_expansion", "vectors": vectors, "precision": precision, "error": float(worst)}
        record_property("parity", seen)
    if not checked:
        pytest.skip("not stored")
