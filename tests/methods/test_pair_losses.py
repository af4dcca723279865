"""Pair losses of the founding code bases beside brute-force loops and pytorch-metric-learning."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning import losses
from torch import Tensor

from bench import pairs
from bench.pair_method import PairMethod
from tests.methods import toy
from tests.methods.test_library import CASES
from tests.methods.test_library import agree as agree_with_library
from tests.methods.test_losses import batches, examples

NAMES = [
    "lifted",
    "lifted_modified",
    "binomial",
    "nca",
    "hard_mining",
    "generalized_lifted",
    "general_pair_weighting",
]


def pair_method(name: str, **values: Any) -> PairMethod:
    built = toy.method(name, **values)
    assert isinstance(built, PairMethod)
    return built


def anchors(batch: tuple[Tensor, Tensor], table: Tensor) -> list[tuple[list[float], list[float]]]:
    """Entries of a pairwise table for the positives and the negatives of each image."""
    labels, rows = batch[1].tolist(), table.tolist()
    indices = range(len(labels))
    return [
        (
            [rows[i][j] for j in indices if j != i and labels[j] == labels[i]],
            [rows[i][j] for j in indices if labels[j] != labels[i]],
        )
        for i in indices
    ]


def mined(positive: list[float], negative: list[float], slack: float = 0.1) -> tuple[list[float], list[float]]:
    if not positive or not negative:
        return [], []
    kept = [p for p in positive if p - slack < max(negative)], [n for n in negative if n + slack > min(positive)]
    assert bool(kept[0]) == bool(kept[1])
    return kept


def logsumexp(terms: list[float]) -> float:
    return math.log(sum(math.exp(term) for term in terms))


def softplus(term: float) -> float:
    return math.log1p(math.exp(term))


def mean(terms: list[float]) -> float:
    return sum(terms) / max(len(terms), 1)


def check(name: str, batch: tuple[Tensor, Tensor], expected: float, **values: Any) -> None:
    got = pair_method(name, **values).loss(toy.batch(*batch))
    assert float(got) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@examples
@given(batches())
def test_lifted(batch: tuple[Tensor, Tensor]) -> None:
    """The sum over unordered pairs, each with the negatives of both members."""
    d, labels = pairs.distances(batch[0]).tolist(), batch[1].tolist()
    count = len(labels)
    terms = []
    for i in range(count):
        for j in range(i + 1, count):
            if labels[i] == labels[j]:
                rivals = [d[m][k] for m in (i, j) for k in range(count) if labels[k] != labels[m]]
                violation = d[i][j] + logsumexp([1 - r for r in rivals]) if rivals else 0
                terms.append(max(violation, 0) ** 2)
    check("lifted", batch, mean(terms) / 2)


@pytest.mark.parametrize("mine", [False, True])
@examples
@given(batch=batches())
def test_lifted_modified(batch: tuple[Tensor, Tensor], mine: bool) -> None:
    terms = []
    for positive, negative in anchors(batch, pairs.similarities(batch[0])):
        p, n = mined(positive, negative) if mine else (positive, negative)
        complete = bool(p) and bool(n)
        terms.append(logsumexp([-2 * s for s in p]) + logsumexp([40 * s for s in n]) / 20 if complete else 0)
    check("lifted_modified", batch, mean(terms), mined=mine)


@pytest.mark.parametrize("mine", [False, True])
@examples
@given(batch=batches())
def test_binomial(batch: tuple[Tensor, Tensor], mine: bool) -> None:
    terms = []
    for positive, negative in anchors(batch, pairs.similarities(batch[0])):
        p, n = mined(positive, negative) if mine else (positive, negative)
        pull = mean([softplus(-2 * (s - 0.5)) for s in p])
        push = mean([softplus(40 * (s - 0.5)) for s in n])
        terms.append((pull + (push / 20 if mine else push)) if p and n else 0)
    check("binomial", batch, mean(terms), mined=mine)


@pytest.mark.parametrize("objective", ["log", "probability"])
@examples
@given(batch=batches())
def test_nca(batch: tuple[Tensor, Tensor], objective: str) -> None:
    batch = batch[0] * torch.linspace(0.5, 1.5, len(batch[0]), dtype=torch.float64)[:, None], batch[1]
    terms = []
    for positive, negative in anchors(batch, torch.cdist(batch[0], batch[0]).square()):
        own, others = (sum(math.exp(-8 * d) for d in distances) for distances in (positive, negative))
        if positive:
            terms.append(-math.log(own / (own + others)) if objective == "log" else 1 - own / (own + others))
    check("nca", batch, mean(terms), objective=objective)


@examples
@given(batches())
def test_hard_mining(batch: tuple[Tensor, Tensor]) -> None:
    kept = [mined(*sides) for sides in anchors(batch, pairs.similarities(batch[0]))]
    check("hard_mining", batch, mean([mean([1 - s for s in p]) + mean(n) for p, n in kept]))


@examples
@given(batches())
def test_hard_mining_from_the_easiest_positive(batch: tuple[Tensor, Tensor]) -> None:
    terms = []
    for positive, negative in anchors(batch, pairs.similarities(batch[0])):
        pull = [1 - s for s in positive if negative and s < max(negative) + 0.1]
        push = [s for s in negative if s > max([0.6, *positive]) - 0.1]
        terms.append(sum(pull) + sum(push))
    check("hard_mining", batch, mean(terms), rule="easiest")


@examples
@given(batches())
def test_generalized_lifted(batch: tuple[Tensor, Tensor]) -> None:
    terms = []
    for positive, negative in anchors(batch, pairs.distances(batch[0])):
        far = logsumexp(positive) if positive else 0
        near = logsumexp([1 - d for d in negative]) if negative else 0
        terms.append(max(far + near, 0))
    check("generalized_lifted", batch, mean(terms))


def test_one_positive_and_one_negative() -> None:
    """Soft extrema over a single pair are the pair itself."""
    s = torch.tensor([[0.9, 0.3]], dtype=torch.float64)
    positive, negative = torch.tensor([[True, False]]), torch.tensor([[False, True]])

    def value(name: str, **values: Any) -> float:
        return float(pair_method(name, **values).pair_loss(s, positive, negative))

    d_positive, d_negative = math.sqrt(0.2), math.sqrt(1.4)
    assert value("lifted_modified") == pytest.approx(2 * (0.3 - 0.9))
    assert value("generalized_lifted") == pytest.approx(d_positive - d_negative + 1)
    # The reference of the positive pair has no negatives of its own among the anchors.
    assert value("lifted") == pytest.approx((d_positive - d_negative + 1) ** 2 / 2)
    assert value("nca", scale=1.0) == pytest.approx(math.log1p(math.exp(2 * (0.3 - 0.9))))
    assert value("binomial") == pytest.approx(math.log1p(math.exp(-0.8)) + math.log1p(math.exp(-8)))
    assert value("hard_mining") == 0
    assert value("hard_mining", margin=0.7) == pytest.approx(0.1 + 0.3)


@examples
@given(batches(), st.sampled_from([1.0, 16.0, 150.0]), st.sampled_from([0, 1]))
def test_masked_logits_vanish_outside_the_mask(batch: tuple[Tensor, Tensor], scale: float, dim: int) -> None:
    """To the last bit the log-sum-exp over admitted entries, gradients included."""
    logits = (scale * pairs.similarities(batch[0])).requires_grad_()
    for mask in pairs.pair_masks(batch[1]):
        values = pairs.masked_logits(logits, mask, dim).logsumexp(dim), pairs.masked_logsumexp(logits, mask, dim)
        assert torch.equal(*values)
        assert torch.equal(*(torch.autograd.grad(value.sum(), logits)[0] for value in values))


@pytest.mark.parametrize("name", NAMES)
@examples
@given(batch=batches())
def test_references_beyond_the_batch(name: str, batch: tuple[Tensor, Tensor]) -> None:
    """The batch against itself is `loss`, and references in neither mask do not exist."""
    built, (x, labels) = pair_method(name), batch
    positive, negative = pairs.pair_masks(labels)
    s = pairs.similarities(x)
    expected = float(built.loss(toy.batch(x, labels)))
    assert float(built.pair_loss(s, positive, negative)) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    nobody = torch.zeros(len(s), 3, dtype=torch.bool)
    wide = torch.cat([torch.ones(len(s), 3, dtype=s.dtype), s], 1)
    value = built.pair_loss(wide, torch.cat([nobody, positive], 1), torch.cat([nobody, negative], 1))
    assert float(value) == pytest.approx(float(built.pair_loss(s, positive, negative)), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("name", "theirs", "values"),
    [
        ("lifted", losses.LiftedStructureLoss(neg_margin=1), {}),
        ("lifted", losses.LiftedStructureLoss(neg_margin=0.4), {"margin": 0.4}),
        ("generalized_lifted", losses.GeneralizedLiftedStructureLoss(neg_margin=1), {}),
        ("generalized_lifted", losses.GeneralizedLiftedStructureLoss(neg_margin=0.4), {"margin": 0.4}),
        ("nca", losses.NCALoss(softmax_scale=8), {}),
        ("nca", losses.NCALoss(softmax_scale=1), {"scale": 1.0}),
    ],
)
def test_library(name: str, theirs: Any, values: dict[str, Any], case: str) -> None:
    if name == "nca" and case == "singletons":
        pytest.skip("the library's loss is NaN where no image has a positive")
    agree_with_library(name, CASES[case], theirs, **values)


def all_triplets(s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    hinges = (s[:, None, :] - s[:, :, None] + 0.1).clamp(min=0)  # anchor, positive, negative
    return (hinges * (positive[:, :, None] & negative[:, None, :])).sum() / len(s)


def lifted_on_similarities(s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    total = 0 * s.sum()
    for row, p, n in zip(s, positive, negative, strict=True):
        if p.any() and n.any():
            total = total + ((0.1 - row[p]).logsumexp(0) + row[n].logsumexp(0)).clamp(min=0)
    return total / len(s)


def contrastive(s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    return ((1 - s[positive]).sum() + s[negative & (s > 0.5)].sum()) / len(s)


@pytest.mark.parametrize(
    ("weighting", "loss"),
    [
        ("contrastive", contrastive),
        ("triplet", all_triplets),
        ("lifted", lifted_on_similarities),
        ("binomial", None),
        ("multi_similarity", None),
    ],
)
@examples
@given(batch=batches())
def test_weights_are_the_derivatives_of_the_loss(
    weighting: str, loss: Callable[[Tensor, Tensor, Tensor], Tensor] | None, batch: tuple[Tensor, Tensor]
) -> None:
    reference = loss or pair_method(weighting).pair_loss
    s = pairs.similarities(batch[0]).requires_grad_()
    masks = pairs.pair_masks(batch[1])
    (expected,) = torch.autograd.grad(reference(s, *masks), s)
    built = pair_method("general_pair_weighting", weighting=weighting)
    (got,) = torch.autograd.grad(built.pair_loss(s, *masks), s)
    assert torch.allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_binomial_separates_classes_late() -> None:
    """Negatives weigh twenty times as much as positives: crowded classes part only after they have been scattered."""
    torch.manual_seed(0)
    labels = torch.arange(5).repeat(4)
    points = torch.nn.functional.normalize(torch.randn(20, 5) + 2)
    built = pair_method("binomial")
    for _ in range(600):
        _, (gradient,) = toy.loss_and_gradients(built, points, labels, normalize=True)
        points = torch.nn.functional.normalize(points - 0.1 * gradient / gradient.norm())
    d = pairs.distances(points).fill_diagonal_(9)
    assert (labels[d.argmin(1)] == labels).all()
