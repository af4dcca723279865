"""Each loss beside a brute-force loop and beside pytorch-metric-learning, on arbitrary small batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench import miners, pairs, registry
from tests.methods import toy

examples = settings(max_examples=40, deadline=None)

# Methods that need nothing but a batch. The others have tests of their own, and `bench validate` runs all of them.
TRAINED = [
    name
    for name, info in registry.methods().items()
    if info.cls.trains
    and info.cls.variant_of is None
    and not info.cls.needs_targets
    and not {"own embedder", "own batches", "sees training images between epochs"} & set(info.cls.departures())
]
# The definition takes weights, targets or past embeddings as constants, or (embedding_expansion) an image without a
# partner ties with its own copies: the gradient is not the slope of the value. Their own tests check it otherwise.
NOT_SLOPES = {"circle", "general_pair_weighting", "xbm", "s2sd", "embedding_expansion"}


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Float64 unit rows with labels: lonely classes, one class, crowded and duplicate rows included."""
    count = draw(st.integers(1, 12))
    labels = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = toy.unit_rows(generator, count, draw(st.sampled_from([2, 5])), draw(st.sampled_from([1.0, 0.5, 0.1])))
    for source, target in draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=3)):
        rows[target] = rows[source]
    return rows, torch.tensor(labels)


def value(name: str, batch: tuple[Tensor, Tensor], **values: object) -> float:
    built = toy.method(name, 5, batch[0].shape[1], **values).double()
    return float(built.loss(toy.batch(*batch)).detach())


def proxies(name: str, size: int) -> list[list[float]]:
    rows = toy.method(name, 5, size).double().proxies.detach()
    return torch.nn.functional.normalize(rows).tolist()


def softplus_sum(terms: list[float]) -> float:
    return math.log1p(sum(math.exp(term) for term in terms))


def cosine(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


@examples
@given(batches())
def test_contrastive(batch: tuple[Tensor, Tensor]) -> None:
    x, labels = batch[0].tolist(), batch[1].tolist()
    total = 0.0
    for i in range(len(x)):
        for j in range(len(x)):
            s = cosine(x[i], x[j])
            if i != j and labels[i] == labels[j]:
                total += 1 - s
            elif labels[i] != labels[j] and s > 0.5:
                total += s
    assert value("contrastive", batch) == pytest.approx(total / len(x), abs=1e-9)


@examples
@given(batches())
def test_multi_similarity(batch: tuple[Tensor, Tensor]) -> None:
    x, labels = batch[0].tolist(), batch[1].tolist()
    total = 0.0
    for i in range(len(x)):
        s = [cosine(x[i], y) for y in x]
        positive = [s[j] for j in range(len(x)) if j != i and labels[j] == labels[i] and s[j] < 1 - 1e-5]
        negative = [s[j] for j in range(len(x)) if labels[j] != labels[i]]
        if positive and negative:
            hard_positive = [p for p in positive if p - 0.1 < max(negative)]
            hard_negative = [n for n in negative if n + 0.1 > min(positive)]
            total += softplus_sum([-2 * (p - 0.5) for p in hard_positive]) / 2
            total += softplus_sum([40 * (n - 0.5) for n in hard_negative]) / 40
    assert value("multi_similarity", batch) == pytest.approx(total / len(x), abs=1e-9)


@pytest.mark.parametrize("squared", [False, True])
@examples
@given(batch=batches())
def test_triplet(batch: tuple[Tensor, Tensor], squared: bool) -> None:
    labels = batch[1].tolist()
    d = (pairs.squared_distances if squared else pairs.distances)(batch[0]).tolist()
    terms = []
    for i in range(len(d)):
        for p in range(len(d)):
            for k in range(len(d)):
                if i != p and labels[i] == labels[p] != labels[k] and 0 < d[i][k] - d[i][p] <= 0.1:
                    terms.append(d[i][p] - d[i][k] + 0.1)
    expected = sum(terms) / max(len(terms), 1)
    assert value("triplet", batch, margin=0.1, squared=squared) == pytest.approx(expected, abs=1e-9)


@examples
@given(batches())
def test_proxy_anchor(batch: tuple[Tensor, Tensor]) -> None:
    x, labels = batch[0].tolist(), batch[1].tolist()
    pull, push = 0.0, 0.0
    own = proxies("proxy_anchor", len(x[0]))
    for c, proxy in enumerate(own):
        s = [cosine(row, proxy) for row in x]
        pull += softplus_sum([-32 * (s[i] - 0.1) for i in range(len(x)) if labels[i] == c])
        push += softplus_sum([32 * (s[i] + 0.1) for i in range(len(x)) if labels[i] != c])
    expected = pull / len(set(labels)) + push / len(own)
    assert value("proxy_anchor", batch) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("denominator", ["others", "all"])
@examples
@given(batch=batches())
def test_proxy_nca(batch: tuple[Tensor, Tensor], denominator: str) -> None:
    x, labels = batch[0].tolist(), batch[1].tolist()
    total = 0.0
    for row, label in zip(x, labels, strict=True):
        d = [sum((3 * a - 3 * b) ** 2 for a, b in zip(row, p, strict=True)) for p in proxies("proxy_nca", len(row))]
        rivals = [d[c] for c in range(len(d)) if c != label or denominator == "all"]
        total += d[label] + math.log(sum(math.exp(-r) for r in rivals))
    assert value("proxy_nca", batch, denominator=denominator) == pytest.approx(total / len(x), rel=1e-8, abs=1e-8)


@examples
@given(batches())
def test_normalized_softmax(batch: tuple[Tensor, Tensor]) -> None:
    x, labels = batch[0].tolist(), batch[1].tolist()
    total = 0.0
    for row, label in zip(x, labels, strict=True):
        logits = [cosine(row, p) / 0.05 for p in proxies("normalized_softmax", len(row))]
        total += math.log(sum(math.exp(z - logits[label]) for z in logits))
    assert value("normalized_softmax", batch) == pytest.approx(total / len(x), rel=1e-9)


@examples
@given(batches(), st.booleans())
def test_margin(batch: tuple[Tensor, Tensor], per_class: bool) -> None:
    """The method's value is the formula on the triplets that its sampler draws under the same generator."""
    x, labels = batch[0].tolist(), batch[1].tolist()
    torch.manual_seed(7)
    triplets = miners.distance_weighted(*batch, 0.5, 1.4).tolist()
    built = toy.method("margin", 5, len(x[0]), per_class=per_class, nu=0.01).double()
    with torch.no_grad():
        built.beta += 0.1 * torch.arange(len(built.beta))
    torch.manual_seed(7)
    got = float(built.loss(toy.batch(*batch)).detach())
    total, active = 0.0, 0
    for i, p, k in triplets:
        beta = 1.2 + 0.1 * labels[i] * per_class
        d_ip = math.sqrt(math.dist(x[i], x[p]) ** 2 + 1e-8)
        d_ik = math.sqrt(math.dist(x[i], x[k]) ** 2 + 1e-8)
        terms = [max(d_ip - beta + 0.2, 0), max(beta - d_ik + 0.2, 0)]
        active += sum(term > 0 for term in terms)
        total += sum(terms) + 0.01 * beta
    assert got == pytest.approx(total / max(active, 1), rel=1e-6, abs=1e-9)


@examples
@given(batches())
def test_distance_weighted_triplets_are_the_positive_pairs_with_a_negative(batch: tuple[Tensor, Tensor]) -> None:
    labels = batch[1].tolist()
    triplets = miners.distance_weighted(*batch).tolist()
    expected = [
        (i, p)
        for i in range(len(labels))
        for p in range(len(labels))
        if i != p and labels[i] == labels[p] and len(set(labels)) > 1
    ]
    assert [(i, p) for i, p, _ in triplets] == expected
    assert all(labels[k] != labels[i] for i, _, k in triplets)


def test_distance_weighted_negatives_follow_their_probabilities() -> None:
    x = toy.unit_rows(np.random.default_rng(3), 12, 4)
    labels = torch.arange(3).repeat_interleave(4)
    weights = miners.distance_weights(pairs.distances(x), pairs.pair_masks(labels)[1], 4, 0.5, 1.4)
    torch.manual_seed(0)
    drawn = torch.zeros(12, 12)
    for _ in range(400):
        anchor, _, negative = miners.distance_weighted(x, labels, 0.5, 1.4).T
        drawn.index_put_((anchor, negative), torch.ones(()), accumulate=True)
    np.testing.assert_allclose((drawn / 1200).numpy(), weights.numpy(), atol=5 * math.sqrt(0.25 / 1200))
    d = pairs.distances(x)
    near = pairs.pair_masks(labels)[1] & (d <= 1.4)
    assert (drawn[near.any(1)] * ~near[near.any(1)]).sum() == 0


def test_distance_weights_undo_the_density_of_distances() -> None:
    """Uniform points on the sphere in four dimensions: drawn distances are uniform, where raw ones are not."""
    x = toy.unit_rows(np.random.default_rng(5), 4000, 4).double()
    d = pairs.distances(torch.cat([x[:1], x]))[:1, 1:]
    weights = miners.distance_weights(d, torch.ones_like(d, dtype=torch.bool), 4, 0.5)
    counts, _ = np.histogram(d[0].numpy(), bins=6, range=(0.5, 1.8), weights=weights[0].numpy())
    raw, _ = np.histogram(d[0].numpy(), bins=6, range=(0.5, 1.8))
    assert counts.max() / counts.min() < 1.25
    assert raw.max() / raw.min() > 2


@pytest.mark.parametrize("name", TRAINED)
@examples
@given(batch=batches())
def test_loss_and_gradients_are_finite_and_connected(name: str, batch: tuple[Tensor, Tensor]) -> None:
    for dtype in (torch.float32, torch.float64):
        built = toy.method(name, 5, batch[0].shape[1]).to(dtype)
        leaf = batch[0].to(dtype).requires_grad_()
        loss = built.loss(toy.batch(leaf, batch[1]))
        assert loss.ndim == 0
        assert loss.isfinite()
        gradients = torch.autograd.grad(loss, [leaf, *built.parameters()])
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", [name for name in TRAINED if name not in NOT_SLOPES])
def test_gradient_is_the_slope(name: str) -> None:
    """Away from the places where pairs enter or leave, the loss changes as its gradient says."""
    x = toy.unit_rows(np.random.default_rng(11), 12, 5)
    labels = torch.arange(4).repeat(3)
    built = toy.method(name, 5, 5).double()

    def loss(rows: Tensor) -> Tensor:
        torch.manual_seed(1)
        return built.loss(toy.batch(rows, labels))

    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    assert gradient.abs().max() > 1e-4
    direction = torch.from_numpy(np.random.default_rng(12).standard_normal(x.shape))
    step = 1e-6
    slope = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    assert float(slope.detach()) == pytest.approx(float((gradient * direction).sum()), rel=1e-4)


@pytest.mark.parametrize("name", TRAINED)
def test_descending_the_gradient_separates_classes(name: str) -> None:
    """The sign is right: free points move until the nearest neighbour of each is of its class."""
    torch.manual_seed(0)
    labels = torch.arange(5).repeat(4)
    points = torch.nn.Parameter(torch.randn(20, 5) + 2)  # crowded: all cosines are high
    built = toy.method(name, 5, 5)
    optimizer = torch.optim.Adam([*built.parameters(), points], lr=0.02)
    for _ in range(300):
        loss = built.loss(toy.batch(torch.nn.functional.normalize(points), labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    d = pairs.distances(torch.nn.functional.normalize(points.detach())).fill_diagonal_(9)
    assert (labels[d.argmin(1)] == labels).double().mean() >= 0.8
