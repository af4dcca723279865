"""Log-ratio loss and its two triplet baselines: loops, properties, official values, and that neighbours are learned."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from bench import registry
from bench.method import Batch, Context, Method
from bench.protocol import Batch as Shape
from tests.methods.test_parity import DTYPE, cases, cast

NAMES = ["log_ratio", "triplet_dense", "triplet_binary"]
examples = settings(max_examples=40, deadline=None)
Case = dict[str, NDArray[Any]]
TOLERANCE = {"32": 1e-5, "64": 1e-7}  # official float64 runs weigh pairs by a float32 number, one over their count


@cache
def cls(name: str) -> type[Method]:
    return registry.get(name).cls


def created(name: str, **values: Any) -> Method:
    return cls(name)(**values)


def batch(rows: Tensor, targets: Tensor) -> Batch:
    """Raw embeddings twice: the methods that need unit length get it from their embedder."""
    position = torch.arange(len(rows))
    return Batch(rows, rows, rows.detach(), position, position, 0, targets)


def value(name: str, rows: Tensor, targets: Tensor, **values: Any) -> float:
    return float(created(name, **values).loss(batch(rows, targets)))


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Float64 rows of any length with 2-d targets, copies of rows and of targets included."""
    count = draw(st.integers(2, 10))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = generator.standard_normal((count, draw(st.sampled_from([2, 5])))) * draw(st.sampled_from([0.01, 1.0, 30.0]))
    targets = generator.standard_normal((count, 2))
    for changed in (rows, targets):
        for source, copy in draw(st.lists(st.tuples(*[st.integers(0, count - 1)] * 2), max_size=2)):
            changed[copy] = changed[source]
    return torch.from_numpy(rows), torch.from_numpy(targets)


def squares(rows: Tensor) -> list[float]:
    x = rows.tolist()
    return [math.dist(x[0], y) ** 2 for y in x[1:]]


@pytest.mark.parametrize("distances", ["plain", "squared"])
@examples
@given(given_batch=batches())
def test_log_ratio(given_batch: tuple[Tensor, Tensor], distances: str) -> None:
    rows, targets = given_batch
    d = [s + 1e-4 / rows.shape[1] for s in squares(rows)]
    g = squares(targets)
    if distances == "plain":
        d, g = [math.sqrt(s) for s in d], [math.sqrt(s) for s in g]
    terms = [
        (math.log((d[i] + 1e-6) / (d[j] + 1e-6)) - math.log((g[i] + 1e-6) / (g[j] + 1e-6))) ** 2
        for i in range(len(d))
        for j in range(i + 1, len(d))
    ]
    expected = sum(terms) / max(len(terms), 1)
    assert value("log_ratio", rows, targets, distances=distances) == pytest.approx(expected, rel=1e-7, abs=1e-12)


@examples
@given(batches())
def test_triplet_dense(given_batch: tuple[Tensor, Tensor]) -> None:
    s = squares(given_batch[0])
    terms = [max(s[i] - s[j] + 0.03, 0) for i in range(len(s)) for j in range(i + 1, len(s))]
    assert value("triplet_dense", *given_batch) == pytest.approx(sum(terms) / max(len(terms), 1), rel=1e-9, abs=1e-12)


@examples
@given(batches(), st.integers(1, 5))
def test_triplet_binary(given_batch: tuple[Tensor, Tensor], positives: int) -> None:
    s = squares(given_batch[0])
    terms = [max(p - n + 0.2, 0) for p in s[:positives] for n in s[positives:]]
    expected = pytest.approx(sum(terms) / max(len(terms), 1), rel=1e-9, abs=1e-12)
    assert value("triplet_binary", *given_batch, positives=positives) == expected


def test_log_ratio_by_hand() -> None:
    """Distances 1 and 4 where the labels say 1 and 2: the ratio is off by a factor of two."""
    rows, targets = torch.tensor([[0.0], [1.0], [-4.0]]).double(), torch.tensor([[0.0], [1.0], [2.0]]).double()
    assert value("log_ratio", rows, targets) == pytest.approx(math.log(2) ** 2, rel=1e-3)
    assert value("log_ratio", rows, targets, distances="squared") == pytest.approx(4 * math.log(2) ** 2, rel=1e-3)


def test_log_ratio_is_0_where_distances_are_proportional_and_ignores_both_scales() -> None:
    targets = torch.from_numpy(np.random.default_rng(0).standard_normal((12, 3)))
    assert value("log_ratio", 100 * targets, targets) == pytest.approx(0, abs=1e-9)
    rows = 100 * torch.from_numpy(np.random.default_rng(1).standard_normal((12, 5)))
    expected = pytest.approx(value("log_ratio", rows, targets), rel=1e-5)
    assert value("log_ratio", 7 * rows, targets) == expected
    assert value("log_ratio", rows, 9 * targets) == expected


@pytest.mark.parametrize("name", NAMES)
@examples
@given(given_batch=batches())
def test_loss_and_gradients_are_finite_and_connected(name: str, given_batch: tuple[Tensor, Tensor]) -> None:
    for rows in (given_batch[0], given_batch[0] * 0):
        for dtype in (torch.float32, torch.float64):
            leaf = rows.to(dtype).requires_grad_()
            loss = created(name).loss(batch(leaf, given_batch[1].to(dtype)))
            (gradient,) = torch.autograd.grad(loss, leaf)
            assert loss.dtype == dtype
            assert loss.isfinite()
            assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_the_slope(name: str) -> None:
    generator = np.random.default_rng(3)
    rows, targets, direction = (torch.from_numpy(generator.standard_normal((12, size))) for size in (5, 2, 5))
    leaf = rows.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(created(name).loss(batch(leaf, targets)), leaf)
    step = 1e-6
    slope = (value(name, rows + step * direction, targets) - value(name, rows - step * direction, targets)) / (2 * step)
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=1e-5)


def built(name: str, targets: Tensor, **values: Any) -> Method:
    method = created(name, **values)
    labels = torch.arange(len(targets))
    method.build(Context(len(labels), labels, 6, 6, 100, torch.device("cpu"), targets))
    return method


@pytest.mark.parametrize("name", NAMES)
def test_batches_are_the_anchor_then_its_neighbours(name: str) -> None:
    """On a line of targets: the nearest are always there, or five of the thirty nearest, and none in between."""
    targets = torch.arange(100.0)[:, None].square()
    labels = np.arange(100)
    method = built(name, targets)
    for rows in islice(method.batches(labels, Shape(classes=5, per_class=4), np.random.default_rng(0)), 50):
        away = (targets[rows] - targets[rows[0]]).abs()[:, 0]
        order = (targets - targets[rows[0]]).abs()[:, 0].sort().values
        assert (away.diff() >= 0).all()
        assert (away[6:] >= order[31 if name == "triplet_binary" else 6]).all()
        if name == "triplet_binary":
            assert away[5] <= order[30]
        else:
            assert torch.equal(away[:6], order[:6])


@pytest.mark.parametrize("name", NAMES[1:])
def test_triplets_embed_at_unit_length(name: str) -> None:
    torch.manual_seed(0)
    raw = created(name).embedder(7, 4)(torch.randn(9, 7))
    assert torch.allclose(raw.norm(dim=1), torch.ones(9))


@pytest.mark.parametrize("name", NAMES)
def test_training_brings_label_neighbours_together(name: str) -> None:
    """Free points under the method's own batches end up with nearest neighbours that are near in label space."""
    torch.manual_seed(0)
    targets = torch.rand(60, 2)
    method = built(name, targets)
    points = torch.randn(60, 6, requires_grad=True)
    label_distance = torch.cdist(targets, targets)

    def embedded() -> Tensor:
        return points if name == "log_ratio" else torch.nn.functional.normalize(points)

    def nearest() -> float:
        order = torch.cdist(embedded(), embedded()).detach().fill_diagonal_(math.inf).argsort(1)[:, :5]
        return float(label_distance.gather(1, order).mean())

    before = nearest()
    drawn = method.batches(np.arange(60), Shape(classes=5, per_class=4), np.random.default_rng(0))
    for rows in islice(drawn, 400):
        chosen = torch.from_numpy(rows)
        loss = method.loss(batch(embedded()[chosen], targets[chosen]))
        (gradient,) = torch.autograd.grad(loss, points)
        with torch.no_grad():
            points -= 2 * gradient
    ideal = float(label_distance.fill_diagonal_(math.inf).sort(1).values[:, :5].mean())
    assert nearest() - ideal < 0.35 * (before - ideal)


def agree(
    case: Case, bits: str, method: Method, targets: Tensor, vectors: str, record: Callable[[str, object], None]
) -> None:
    """Value and gradient of a stored case; where the official loss is NaN, ours stays finite."""
    leaf = cast(case["emb"], f"f{bits}").requires_grad_()
    loss = method.loss(batch(leaf, targets))
    (gradient,) = torch.autograd.grad(loss, leaf)
    if not np.isfinite(case[f"loss{bits}"]):
        assert loss.isfinite()
        assert gradient.isfinite().all()
        return
    errors = [abs(float(loss.detach()) / float(case[f"loss{bits}"]) - 1)]
    if f"grad{bits}" in case:
        expected = case[f"grad{bits}"]
        errors.append(float(np.abs(gradient.numpy() - expected).max() / max(np.abs(expected).max(), 1e-3)))
    assert max(errors) <= TOLERANCE[bits]
    stored = {"vectors": f"log_ratio/{vectors} {case['name']}", "precision": f"f{bits}"}
    record("parity", {"method": method.name, **stored, "error": max(errors)})


@pytest.mark.parametrize("bits", TOLERANCE)
@pytest.mark.parametrize("case", cases("log_ratio/log_ratio_loss.npz"))
@pytest.mark.parity
def test_official_log_ratio(case: Case, bits: str, record_property: Callable[[str, object], None]) -> None:
    targets = cast(np.concatenate([[0], case["gt_dist"]]).astype(np.float32)[:, None], f"f{bits}")
    agree(case, bits, created("log_ratio"), targets, "log_ratio_loss", record_property)


@pytest.mark.parametrize("bits", TOLERANCE)
@pytest.mark.parametrize("case", cases("log_ratio/dense_triplet_loss.npz"))
@pytest.mark.parity
def test_official_triplet_dense(case: Case, bits: str, record_property: Callable[[str, object], None]) -> None:
    method = created("triplet_dense", margin=float(case["margin"]))
    agree(case, bits, method, torch.empty(0), "dense_triplet_loss", record_property)


@pytest.mark.parametrize("case", cases("log_ratio/naive_triplet_step.npz"))
@pytest.mark.parity
def test_official_triplet_binary(case: Case, record_property: Callable[[str, object], None]) -> None:
    method = created("triplet_binary", margin=float(case["margin"]), positives=int(case["num_pos"]))
    agree(case, "32", method, torch.empty(0), "naive_triplet_step", record_property)


@pytest.mark.parametrize("case", cases("log_ratio/schedule_and_norm.npz"))
@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parity
def test_official_unit_length(case: Case, name: str) -> None:
    if "x" not in case:
        pytest.skip("a learning rate: the protocol's")
    layer = created(name).embedder(*[case["x"].shape[1]] * 2)[1]
    for precision in DTYPE:
        x = cast(case["x"], precision).requires_grad_()
        y = layer(x)
        (gradient,) = torch.autograd.grad((y * cast(case["upstream"], precision)).sum(), x)
        np.testing.assert_allclose(y.detach().numpy(), case["y"], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(
            gradient.numpy(), case["grad_x"], rtol=1e-5, atol=1e-5 * np.abs(case["grad_x"]).max()
        )
