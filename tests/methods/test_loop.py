"""LoOp: its arcs beside a grid search, its losses beside plain loops, both beside values of the official code."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from bench import arcs, positive_pairs
from tests.methods import toy
from tests.methods.test_parity import cast, files, load

examples = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**32 - 1)
spreads = st.sampled_from([1.0, 0.5, 0.1])


def unit(seed: int, count: int, size: int, spread: float = 1.0) -> Tensor:
    return toy.unit_rows(np.random.default_rng(seed), count, size, spread)


def all_distances(rows: Tensor) -> Tensor:
    """Rows are ends of arcs, two by two."""
    ends = rows[::2], rows[1::2]
    return arcs.distances(ends, ends)


@examples
@given(seeds, st.sampled_from([2, 3, 6]), spreads)
def test_nearest_points_of_arcs_are_those_of_a_grid(seed: int, size: int, spread: float) -> None:
    x, y, v, w = unit(seed, 4, size, spread).numpy()

    def points(start: Any, end: Any, shares: Any) -> Any:
        angle = np.arccos(np.clip(start @ end, -1, 1))
        return (np.sin((1 - shares) * angle)[:, None] * start + np.sin(shares * angle)[:, None] * end) / np.sin(angle)

    best, width = math.inf, 1.0
    middle: list[Any] = [0.5, 0.5]
    for _ in range(4):  # each grid is 10 times finer than the last
        shares = [np.clip(np.linspace(m - width / 2, m + width / 2, 61), 0, 1) for m in middle]
        gaps = points(x, y, shares[0])[:, None] - points(v, w, shares[1])
        d = np.linalg.norm(gaps, axis=2)
        i, j = np.unravel_index(d.argmin(), d.shape)
        best, middle, width = d[i, j], [shares[0][i], shares[1][j]], width / 10
    got = float(all_distances(torch.from_numpy(np.stack([x, y, v, w])))[0, 1])
    assert got <= best + 1e-4  # the floor of distances
    assert got == pytest.approx(best, abs=2e-3)


@examples
@given(seeds, st.sampled_from([3, 8]), spreads)
def test_arcs_do_not_depend_on_their_order_or_direction(seed: int, size: int, spread: float) -> None:
    rows = unit(seed, 10, size, spread)
    d = all_distances(rows)
    assert torch.allclose(d, d.T, atol=1e-7)
    turned = arcs.distances((rows[1::2], rows[::2]), (rows[::2], rows[1::2]))
    assert torch.allclose(d, turned, atol=1e-7)


@examples
@given(seeds, st.sampled_from([3, 8]), spreads)
def test_arcs_are_never_farther_apart_than_their_ends(seed: int, size: int, spread: float) -> None:
    rows = unit(seed, 10, size, spread)
    ends = torch.cdist(rows, rows).view(5, 2, 5, 2).amin((1, 3))
    assert (all_distances(rows) <= ends.clamp(min=1e-4) + 1e-9).all()


def test_arcs_that_cross_and_arcs_on_one_circle() -> None:
    x, y, z = torch.eye(3, dtype=torch.float64)
    half = math.sqrt(0.5)
    crossing = torch.stack([(x + y) * half, (x - y) * half, (x + z) * half, (x - z) * half])
    assert float(all_distances(crossing)[0, 1]) == pytest.approx(1e-4)
    circle = torch.stack([x, y, -x, -y])  # two quarters of one circle, a quarter apart at either end
    assert float(all_distances(circle)[0, 1]) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize("seed", range(5))
def test_gradient_is_that_of_the_nearest_distance(seed: int) -> None:
    """Although the angles of the nearest points are taken as constants."""
    rows = unit(seed, 8, 4).requires_grad_()
    kept = all_distances(rows).detach() > 0.05

    def total(x: Tensor) -> Tensor:
        return all_distances(F.normalize(x))[kept].sum()

    (gradient,) = torch.autograd.grad(total(rows), rows)
    steps = 1e-6 * torch.eye(rows.numel(), dtype=torch.float64).view(-1, *rows.shape)
    with torch.no_grad():
        numeric = [float(total(rows + step) - total(rows - step)) / 2e-6 for step in steps]
    assert torch.allclose(gradient.flatten(), torch.tensor(numeric, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_degenerate_arcs_have_finite_gradients(dtype: torch.dtype) -> None:
    x, y, z = torch.eye(3, dtype=dtype)
    near = F.normalize(x + 1e-5 * y, dim=0)
    for ends, bound in ([x, y, z, near], 100.0), ([x, y, z, near, -x], math.inf):  # opposite ends: no direction
        start, end = torch.stack([torch.stack(pair) for pair in itertools.product(ends, repeat=2)], 1)
        start, end = start.requires_grad_(), end.requires_grad_()
        d = arcs.distances((start, end), (start, end))
        assert d.isfinite().all()
        for gradient in torch.autograd.grad(d.sum(), [start, end]):
            assert gradient.isfinite().all()
            assert gradient.abs().max() < bound


@examples
@given(st.lists(st.integers(0, 4), max_size=14))
def test_pairs_are_consecutive_images_of_a_class(labels: list[int]) -> None:
    waiting: dict[int, int] = {}
    expected = []
    for place, label in enumerate(labels):
        if label in waiting:
            expected.append((waiting.pop(label), place))
        else:
            waiting[label] = place
    classes = torch.tensor(labels, dtype=torch.int64)
    assert positive_pairs.consecutive(classes).tolist() == [list(pair) for pair in sorted(expected)]
    partner = dict(expected) | {second: first for first, second in expected}
    assert positive_pairs.partners(classes).tolist() == [partner.get(place, place) for place in range(len(labels))]


def loss(rows: Tensor, labels: list[int], **values: Any) -> float:
    built = toy.method("loop", 8, rows.shape[1], **values)
    return float(built.loss(toy.batch(rows, torch.tensor(labels))))


def softplus_sum(terms: list[float]) -> float:
    return math.log1p(sum(math.exp(term) for term in terms))


def multi_similarity(own: list[float], near: list[float], far: list[float]) -> float:
    """One pair's term: similarities to the positives of its images, and to the arcs of other classes."""
    del own
    near, far = [1 - d * d / 2 for d in near], [1 - d * d / 2 for d in far]
    pull = softplus_sum([-2 * (s - 0.4) for s in near if s < max(far) - 0.02])
    push = softplus_sum([50 * (s - 0.4) for s in far if s > min(near) + 0.02])
    return pull / 2 + push / 50


def lifted(own: list[float], near: list[float], far: list[float]) -> float:
    return max(0.0, max(near) + math.log(sum(math.exp(-d) for d in far)) + 0.3)


FORMULAS: dict[str, tuple[dict[str, Any], Callable[[list[float], list[float], list[float]], float]]] = {
    "hphn": ({"margin": 0.3}, lambda _, near, far: max(0.0, max(near) - min(far) + 0.3)),
    "soft": ({"base": "hphn", "soft": True}, lambda _, near, far: softplus_sum([max(near) - min(far)])),
    "lifted": ({"margin": 0.3}, lifted),
    "multi_similarity": ({"threshold": 0.4, "epsilon": -0.02}, multi_similarity),
    "n_pair": ({}, lambda own, _, far: softplus_sum([s - own[0] for s in far])),
}


@pytest.mark.parametrize("formula", FORMULAS)
@examples
@given(seed=seeds, labels=st.lists(st.integers(0, 3), min_size=2, max_size=12), spread=spreads)
def test_losses(formula: str, seed: int, labels: list[int], spread: float) -> None:
    rows = unit(seed, len(labels), 5, spread)
    values, term = FORMULAS[formula]
    pairs = positive_pairs.consecutive(torch.tensor(labels)).tolist()
    d = all_distances(rows[[k for pair in pairs for k in pair]]).tolist()
    expected = 0.0
    for at, (i, j) in enumerate(pairs):
        others = [pair for pair in pairs if labels[pair[0]] != labels[i]]
        if formula == "n_pair":
            far = [max(float(rows[a] @ rows[b]) for a in (i, j) for b in other) for other in others]
        else:
            far = [d[at][k] for k, other in enumerate(pairs) if other in others]
        near = [
            float((rows[a] - rows[p]).norm())
            for a in (i, j)
            for p in range(len(labels))
            if labels[p] == labels[i] and p != a and (a, p) != (j, i)
        ]
        if others:
            expected += term([float(rows[i] @ rows[j])], near, far)
    assert loss(rows, labels, **{"base": formula, **values}) == pytest.approx(expected, rel=1e-8, abs=1e-9)


def test_triplet_matches_the_halves_of_the_batch() -> None:
    rows = unit(3, 12, 5)
    labels = [0, 0, 1, 1, 2, 2, 0, 0, 3, 3, 4, 4]  # the first pair meets its own class
    d = all_distances(rows)
    expected = sum(float((rows[2 * a] - rows[2 * a + 1]).norm() - d[a, a + 3] + 2.5) for a in (1, 2))
    assert loss(rows, labels, base="triplet", margin=1.0) == pytest.approx(expected - 2 * 1.5, rel=1e-9)


@pytest.mark.parametrize("base", ["hphn", "lifted", "multi_similarity", "n_pair"])
def test_classes_may_stand_in_any_order_and_between_each_other(base: str) -> None:
    rows, labels = unit(5, 12, 6, 0.5), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    shuffled = [8, 4, 0, 9, 1, 5, 6, 2, 10, 3, 11, 7]  # the images of a class remain in order
    moved = loss(rows[shuffled], [labels[k] for k in shuffled], base=base)
    assert moved == pytest.approx(loss(rows, labels, base=base), rel=1e-9)


def test_pairs_of_near_duplicates_are_left_out() -> None:
    rows = unit(7, 8, 6, 0.5)
    rows[1] = rows[0]
    labels = [0, 0, 1, 1, 2, 2, 3, 3]
    assert loss(rows, labels, soft=True) == pytest.approx(loss(rows[2:], labels[2:], soft=True), rel=1e-12)
    rows[[3, 5]] = rows[[2, 4]]  # only class 3 spans an arc now: first images are compared
    nearest = torch.cdist(rows[::2], rows[::2]).fill_diagonal_(math.inf).amin(1)
    near = torch.tensor([0.0, 0.0, 0.0, float((rows[6] - rows[7]).norm())])
    assert loss(rows, labels, soft=True) == pytest.approx(float(F.softplus(near - nearest).sum()), rel=1e-9)


@pytest.mark.parametrize("base", ["hphn", "lifted", "multi_similarity", "triplet", "n_pair"])
def test_degenerate_batches_are_finite(base: str) -> None:
    points = unit(9, 8, 6).float()
    pairs_of_classes, one, alone = [0, 0, 1, 1, 2, 2, 3, 3], [0] * 8, list(range(8))
    cases = [
        (points, one),
        (points, alone),
        (points[:1].repeat(8, 1), pairs_of_classes),
        (points[:1].repeat(8, 1), one),
    ]
    cases += [
        (torch.cat([half, half]), pairs_of_classes) for half in (points[:4], points[4:].repeat_interleave(2, 0)[:4])
    ]
    cases += [(torch.stack([points[:4], -points[:4]], 1).flatten(0, 1), pairs_of_classes)]  # opposite partners
    for rows, labels in cases:
        value, (gradient, *_) = toy.loss_and_gradients(toy.method("loop", base=base), rows, labels)
        assert math.isfinite(value)
        assert gradient.isfinite().all()


# The official code, in float32 and float64.

VARIANTS: dict[str, dict[str, Any]] = {
    "hphn": {"base": "hphn", "margin": 0.2},
    "hphn_soft": {"base": "hphn", "soft": True},
    "lifted_patched": {"base": "lifted", "margin": 0.2},
    "npair": {"base": "n_pair"},
    "ms": {"base": "multi_similarity", "threshold": 0.4, "epsilon": -0.02},
    "triplet": {"base": "triplet", "margin": 0.1},
    "triplet_m1": {"base": "triplet", "margin": 1.0},
}
# Stored rows have unit length but for the rounding to float32. There the official gradient follows the angles
# of the nearest points too, on which the distance between arcs of unit vectors does not depend.
VALUE = {"f32": 1e-5, "f64": 1e-10}
GRADIENT = {"f32": 1e-5, "f64": 1e-6}


def error(found: Any, expected: Any, least: float = 1e-3) -> float:
    return float(np.abs(found - expected).max(initial=0) / np.abs(expected).max(initial=least))


@pytest.mark.parity
@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize("tag", VARIANTS)
@pytest.mark.parametrize("path", files("loop/b*.npz"))
def test_official_losses(path: Path, tag: str, precision: str, record_property: Callable[[str, Any], None]) -> None:
    case = load(path)
    if f"{tag}__loss_vec_{precision}" not in case:
        pytest.skip("not stored: the official code raises an error, or was not run")
    built = toy.method("loop", **VARIANTS[tag])
    value, (gradient, *_) = toy.loss_and_gradients(built, cast(case["emb"], precision), case["labels"])
    worst = error(value, case[f"{tag}__loss_vec_{precision}"].sum())
    assert worst <= VALUE[precision]
    # Duplicates tie maxima, and the official framework passes the whole gradient to each of them.
    if len(np.unique(case["emb"], axis=0)) == len(case["emb"]) or tag in ("ms", "triplet", "triplet_m1"):
        off = error(gradient.numpy(), case[f"{tag}__grad_sum_{precision}"])
        assert off <= GRADIENT[precision]
        worst = max(worst, off)
    if f"{tag}__grad_fd_f64" in case and precision == "f64":
        assert error(gradient.numpy(), case[f"{tag}__grad_fd_f64"]) <= GRADIENT[precision]
    seen = {"method": "loop", "vectors": f"loop/{path.stem} {tag}", "precision": precision, "error": worst}
    record_property("parity", seen)


@pytest.mark.parity
@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize("path", files("loop/b*.npz"))
def test_official_distances_of_pairs(path: Path, precision: str) -> None:
    case = load(path)
    if f"pair_dist_{precision}" not in case:
        pytest.skip("not stored")
    rows = cast(case["emb"], precision)
    curved = (rows[::2] * rows[1::2]).sum(1) < math.cos(1e-3)
    if curved.sum() < 2:
        pytest.skip("no two arcs")
    ends = rows[::2][curved], rows[1::2][curved]
    found = arcs.distances(ends, ends).numpy()
    a, b = (case[f"pair_idx_{side}_{precision}"] for side in "ab")
    assert error(found[a, b], case[f"pair_dist_{precision}"]) <= VALUE[precision]
    least: dict[int, float] = defaultdict(lambda: math.inf)
    for i, j, d in zip(a, b, found[a, b], strict=True):
        least[int(i)], least[int(j)] = min(least[int(i)], d), min(least[int(j)], d)
    assert error(np.array([least[i] for i in sorted(least)]), case[f"dist_an_min_{precision}"]) <= VALUE[precision]


@pytest.mark.parity
@pytest.mark.parametrize("precision", ["f32", "f64"])
@pytest.mark.parametrize("path", files("loop/arcs_*.npz"))
def test_official_arcs(path: Path, precision: str, record_property: Callable[[str, Any], None]) -> None:
    case = load(path)
    rows = [cast(case[f"X{i}"].T.copy(), precision).requires_grad_() for i in range(1, 5)]
    d = arcs.distances((rows[0], rows[1]), (rows[2], rows[3])).diagonal()
    official = case[f"dist_{precision}"]
    apart = official > 0.05  # arcs that meet: distances are known to the floor, gradients have no direction
    assert np.abs(d.detach().numpy() - official)[~apart].max(initial=0) <= 1e-3
    assert (d.detach().numpy() <= case["grid_min_dist"] + 1e-3).all()
    worst = error(d.detach().numpy()[apart], official[apart])
    assert worst <= VALUE[precision]
    gradients = torch.autograd.grad(d.sum(), rows)
    shortest = min(case["alpha0_f64"].min(), case["beta0_f64"].min(), 1.0)
    for i, gradient in enumerate(gradients, 1):
        off = error(gradient.numpy().T[:, apart], case[f"grad_X{i}_{precision}"][:, apart])
        assert off <= GRADIENT[precision] / shortest**2  # short arcs magnify what rounding did to their rows
    record_property(
        "parity", {"method": "loop", "vectors": f"loop/{path.stem}", "precision": precision, "error": worst}
    )
