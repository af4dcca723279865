"""The same losses in pytorch-metric-learning. It normalises inside: batches here are normalised too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers
from torch import Tensor

from bench import miners as own_miners
from bench import pairs
from tests.methods import toy

CASES = {
    "balanced": [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4],
    "unbalanced": [0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 4],
    "one class": [2, 2, 2, 2],
    "singletons": [0, 1, 2, 3, 4],
}


def agree(name: str, labels: list[int], theirs: Any, spread: float = 0.5, **values: Any) -> None:
    """Value, and gradients with respect to unnormalised embeddings and to proxies."""
    classes = torch.tensor(labels)
    rows = toy.unit_rows(np.random.default_rng(len(labels)), len(labels), 16, spread) * 1.7
    built = toy.method(name, 5, 16, **values).double()
    value, gradients = toy.loss_and_gradients(built, rows, classes, normalize=True)
    leaf = rows.clone().requires_grad_()
    expected = theirs(leaf, classes, *(p.detach().clone().requires_grad_() for p in built.parameters()))
    assert value == pytest.approx(float(expected.detach()), rel=1e-9, abs=1e-12)
    (gradient,) = torch.autograd.grad(expected, leaf, allow_unused=True, materialize_grads=True)
    assert (gradients[0] - gradient).abs().max() <= 1e-9 * max(1.0, float(gradient.abs().max()))


@pytest.mark.parametrize("case", CASES)
def test_contrastive(case: str) -> None:
    """The library's form subtracts the margin: the same gradient, and 0.5 less for each active negative."""
    labels = CASES[case]
    loss = losses.ContrastiveLoss(1, 0.5, distance=distances.CosineSimilarity(), reducer=reducers.SumReducer())

    def theirs(x: Tensor, y: Tensor) -> Tensor:
        s = pairs.similarities(torch.nn.functional.normalize(x))
        active = (pairs.pair_masks(y)[1] & (s > 0.5)).sum()
        return (loss(x, y) + 0.5 * active) / len(y)

    agree("contrastive", labels, theirs)


@pytest.mark.parametrize("case", CASES)
def test_multi_similarity(case: str) -> None:
    miner, loss = miners.MultiSimilarityMiner(0.1), losses.MultiSimilarityLoss(2, 40, 0.5)
    agree("multi_similarity", CASES[case], lambda x, y: loss(x, y, miner(x, y)))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("squared", [False, True])
def test_triplet(case: str, squared: bool) -> None:
    distance = distances.LpDistance(power=2 if squared else 1)
    miner = miners.TripletMarginMiner(0.1, "semihard", distance=distance)
    loss = losses.TripletMarginLoss(0.1, distance=distance)
    agree("triplet", CASES[case], lambda x, y: loss(x, y, miner(x, y)), margin=0.1, squared=squared)


@pytest.mark.parametrize("case", CASES)
def test_proxy_anchor(case: str) -> None:
    loss = losses.ProxyAnchorLoss(5, 16, margin=0.1, alpha=32).double()

    def theirs(x: Tensor, y: Tensor, proxies: Tensor) -> Tensor:
        loss.proxies.data = proxies.data
        return loss(x, y)

    agree("proxy_anchor", CASES[case], theirs)


@pytest.mark.parametrize("case", CASES)
def test_proxy_nca(case: str) -> None:
    loss = losses.ProxyNCALoss(5, 16, softmax_scale=9).double()

    def theirs(x: Tensor, y: Tensor, proxies: Tensor) -> Tensor:
        loss.proxies.data = proxies.data
        return loss(x, y)

    agree("proxy_nca", CASES[case], theirs, denominator="all", scale=3.0)


@pytest.mark.parametrize("case", CASES)
def test_normalized_softmax(case: str) -> None:
    loss = losses.NormalizedSoftmaxLoss(5, 16, temperature=0.05).double()

    def theirs(x: Tensor, y: Tensor, proxies: Tensor) -> Tensor:
        loss.W.data = proxies.data.T
        return loss(x, y)

    agree("normalized_softmax", CASES[case], theirs)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("per_class", [False, True])
def test_margin(case: str, per_class: bool) -> None:
    """On our triplets. The library takes plain distances, ours add 1e-8 under the root."""
    labels = CASES[case]
    x = toy.unit_rows(np.random.default_rng(2), len(labels), 16, 0.5)
    y = torch.tensor(labels)
    torch.manual_seed(4)
    triplets = tuple(own_miners.distance_weighted(x, y, 0.5, 1.4).T)
    loss = losses.MarginLoss(0.2, 0, 1.2, learn_beta=per_class, num_classes=5 if per_class else None)
    leaf = x.clone().requires_grad_()
    expected = loss(leaf, y, triplets)
    built = toy.method("margin", 5, 16, per_class=per_class).double()
    torch.manual_seed(4)
    value, gradients = toy.loss_and_gradients(built, x, y, normalize=True)
    (gradient,) = torch.autograd.grad(expected, leaf, allow_unused=True, materialize_grads=True)
    assert value == pytest.approx(float(expected.detach()), rel=1e-6, abs=1e-12)
    assert torch.allclose(gradients[0], gradient, atol=1e-6)


def test_mined_pairs_and_triplets_are_the_library_s() -> None:
    x = toy.unit_rows(np.random.default_rng(1), 20, 16, 0.4)
    y = torch.tensor(CASES["balanced"])
    positive, negative = own_miners.multi_similarity(pairs.similarities(x), *pairs.pair_masks(y), 0.1)
    a1, p, a2, n = miners.MultiSimilarityMiner(0.1)(x, y)
    assert set(zip(a1.tolist(), p.tolist(), strict=True)) == set(map(tuple, positive.nonzero().tolist()))
    assert set(zip(a2.tolist(), n.tolist(), strict=True)) == set(map(tuple, negative.nonzero().tolist()))
    anchor, other, chosen = own_miners.semi_hard(pairs.distances(x), *pairs.pair_masks(y), 0.2)
    pair, third = chosen.nonzero(as_tuple=True)
    ours = set(zip(anchor[pair].tolist(), other[pair].tolist(), third.tolist(), strict=True))
    theirs = miners.TripletMarginMiner(0.2, "semihard")(x, y)
    assert ours == set(zip(*(column.tolist() for column in theirs), strict=True))
    assert ours
