"""Ensembles inside one embedding, CGD, HDC and A-BIER: plain loops, a published library, what the papers state."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses, miners
from torch import Tensor

from bench import pairs, registry
from bench.method import Batch
from bench.toy import Toy
from tests.methods import toy
from tests.methods.test_losses import batches

examples = settings(max_examples=30, deadline=None)


def dot(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def normalized(x: Tensor) -> list[list[float]]:
    return torch.nn.functional.normalize(x).tolist()


def named(name: str, **values: Any) -> Toy:
    """Toy training of a method, in 64 dimensions."""
    return Toy(registry.get(name).cls, values=values, size=64)


def rows_and_labels(seed: int, size: int = 16, count: int = 14) -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(seed)
    return toy.unit_rows(generator, count, size, 0.5), torch.from_numpy(generator.integers(0, 4, count))


# --- CGD -------------------------------------------------------------------------------------------------


@examples
@given(batches())
def test_cgd_is_batch_hard_triplets_plus_smoothed_classification(batch: tuple[Tensor, Tensor]) -> None:
    x, labels = batch[0], batch[1].tolist()
    built: Any = toy.method("cgd", 5, x.shape[1]).double()
    d = pairs.distances(x).tolist()
    ranking = 0.0
    for i in range(len(d)):
        near = [d[i][j] for j in range(len(d)) if j != i and labels[j] == labels[i]]
        far = [d[i][j] for j in range(len(d)) if labels[j] != labels[i]]
        if near and far:
            ranking += max(max(near) - min(far) + 0.1, 0)
    classification = 0.0
    weights, bias = built.classifier.weight.tolist(), built.classifier.bias.tolist()
    for row, label in zip(x[:, : built.width].tolist(), labels, strict=True):
        logits = [(dot(w, row) + b) / 0.5 for w, b in zip(weights, bias, strict=True)]
        total = math.log(sum(math.exp(z) for z in logits))
        classification += total - sum((0.9 * (c == label) + 0.1 / 5) * z for c, z in enumerate(logits))
    expected = (ranking + classification) / len(d)
    assert float(built.loss(toy.batch(x, batch[1])).detach()) == pytest.approx(expected, abs=1e-9)


def test_cgd_ranking_is_the_library_s_where_every_anchor_has_both_kinds() -> None:
    x, labels = toy.unit_rows(np.random.default_rng(1), 20, 16, 0.5), torch.arange(5).repeat(4)
    distance = distances.LpDistance()
    mined = miners.BatchHardMiner(distance=distance)(x, labels)
    per_anchor = losses.TripletMarginLoss(0.1, distance=distance)(x, labels, mined)  # mean over violated ones
    violated = (pairs.row_distances(x, mined[0], mined[1]) - pairs.row_distances(x, mined[0], mined[2]) + 0.1 > 0).sum()
    built: Any = toy.method("cgd", 5, 16).double()
    with torch.no_grad():
        for parameter in built.classifier.parameters():
            parameter.zero_()  # leaves log 5
    ranking = float(built.loss(toy.batch(x, labels)).detach()) - math.log(5)
    assert ranking == pytest.approx(float(per_anchor * violated / 20), rel=1e-6)


def test_cgd_branches_see_their_own_descriptor() -> None:
    run = named("cgd")
    features = torch.randn(3, run.trunk_dim)
    changed = features.clone()
    changed[:, run.trunk_dim // 3 : 2 * run.trunk_dim // 3] += 1  # the second descriptor
    before, after = run.embedder(features), run.embedder(changed)
    sizes = [22, 21, 21]
    for k, (one, other) in enumerate(zip(torch.split(before, sizes, 1), torch.split(after, sizes, 1), strict=True)):
        assert torch.allclose(one, other) == (k != 1)
        assert torch.allclose(one.norm(dim=1), torch.tensor(3**-0.5))
    assert torch.allclose(before.norm(dim=1), torch.tensor(1.0))
    assert "mean + max + gem pooled features" in run.method.departures()


# --- HDC -------------------------------------------------------------------------------------------------


def hdc_by_hand(x: Tensor, labels: list[int], released: bool, margin: float, weight: float) -> float:
    slices = [normalized(part) for part in torch.split(x, [6, 5, 5], 1)]
    everything = {
        True: [(i, j) for j in range(len(x)) for i in range(j) if labels[i] == labels[j]],
        False: [(i, j) for j in range(len(x)) for i in range(j) if labels[i] != labels[j]],
    }

    def term(level: int, same: bool, i: int, j: int) -> float:
        d = 2 - 2 * dot(slices[level][i], slices[level][j])
        return d if same else weight * max(margin - d, 0)

    kept, total = everything, 0.0
    for level, share in enumerate((1.0, 0.5, 0.2)):
        if level:
            chosen = {}
            for same, whole in everything.items():
                judge = level if released else level - 1
                pool = [(term(judge, same, i, j), i, j) for i, j in (whole if released else kept[same])]
                hardest = sorted(pool, reverse=True)[: int(share * len(whole))]
                chosen[same] = [(i, j) for t, i, j in hardest if t > 0]
            kept = chosen
        terms = [term(level, same, i, j) for same in kept for i, j in kept[same]]
        total += sum(terms) / max(sum(t > 0 for t in terms), 1)
    return total


@pytest.mark.parametrize("selection", ["cascade", "as_released"])
@examples
@given(seed=st.integers(0, 2**32 - 1), margin=st.sampled_from([0.5, 1.0, 2.0]), weight=st.sampled_from([1.0, 10.0]))
def test_hdc(seed: int, selection: str, margin: float, weight: float) -> None:
    x, labels = rows_and_labels(seed)
    built = toy.method("hdc", 5, 16, selection=selection, margin=margin, negative_weight=weight)
    expected = hdc_by_hand(x, labels.tolist(), selection == "as_released", margin, weight)
    assert float(built.loss(toy.batch(x, labels))) == pytest.approx(expected, abs=1e-9)


def test_hdc_s_hard_pairs_are_the_library_s() -> None:
    """Gradients show which pairs a level uses: at level 2, the library's harder half of all pairs."""
    x, labels = toy.unit_rows(np.random.default_rng(3), 12, 16), torch.arange(3).repeat(4)
    first = torch.nn.functional.normalize(x[:, :6])
    mined = miners.HDCMiner(0.5, distance=distances.LpDistance(power=2))(first, labels)
    built = toy.method("hdc", 5, 16, margin=2.0, hard_3=0.02)  # level 3: no pair is left
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(built.loss(toy.batch(leaf, labels)), leaf)

    other = x.clone().requires_grad_()
    second = torch.nn.functional.normalize(other[:, 6:11])
    d = pairs.squared_distances(second)
    before = pairs.squared_distances(first)
    negative = before[mined[2], mined[3]] < 2.0
    chosen = torch.cat([d[mined[0], mined[1]], (2.0 - d[mined[2], mined[3]]).clamp(min=0)[negative]])
    (expected,) = torch.autograd.grad(chosen.sum() / (chosen > 0).sum(), other)
    assert (gradient[:, 6:11] - expected[:, 6:11]).abs().max() < 1e-9


def test_hdc_embedding_is_three_unit_heads_the_first_of_them_linear() -> None:
    run = named("hdc")
    features = torch.randn(5, run.trunk_dim)
    heads = torch.split(run.embedder(features), [22, 21, 21], 1)
    linear: Any = run.embedder
    expected = torch.nn.functional.normalize(linear.heads[0](features)) / 3**0.5
    assert torch.allclose(heads[0], expected)
    assert all(torch.allclose(head.norm(dim=1), torch.tensor(3**-0.5)) for head in heads)
    shifted = torch.split(run.embedder(-features), [22, 21, 21], 1)  # a deeper head is no linear map: ReLU in between
    assert not torch.allclose(shifted[1], -heads[1], atol=1e-2)


# --- A-BIER ----------------------------------------------------------------------------------------------


def bier_by_hand(x: Tensor, labels: list[int], released: bool) -> float:
    learners = [normalized(part) for part in torch.split(x, [3, 5, 8], 1)]
    n = len(x)
    of = {same: [(i, j) for i in range(n) for j in range(n) if i != j and (labels[i] == labels[j]) == same]
          for same in (True, False)}  # fmt: skip
    total = 0.0
    for same, chosen in of.items():
        y = 1.0 if same else -25.0
        for i, j in chosen:
            weight, ensemble, started = 1.0, 0.0, 0.5
            for m, rows in enumerate(learners, 1):
                s = dot(rows[i], rows[j])
                total += weight * math.log1p(math.exp(-2 * y * (s - 0.5))) / len(chosen) / 3
                if released:
                    started += 0.06 * 2 * y * (s - 0.5)
                    weight = (1 if same else 2) / (1 + math.exp(started))
                else:
                    ensemble += 2 / (m + 1) * (s - ensemble)
                    weight = 1 / (1 + math.exp(2 * y * (ensemble - 0.5)))
    return total


@pytest.mark.parametrize("boosting", ["paper", "as_released"])
@examples
@given(seed=st.integers(0, 2**32 - 1))
def test_boosted_deviance(seed: int, boosting: str) -> None:
    x, labels = rows_and_labels(seed, count=8)
    built = toy.method("a_bier", 5, 16, boosting=boosting, adversarial=0.0)
    expected = bier_by_hand(x, labels.tolist(), boosting == "as_released")
    assert float(built.loss(toy.batch(x, labels))) == pytest.approx(expected, rel=1e-9)


def test_bier_passes_no_gradient_through_its_weights() -> None:
    """The first learner's gradient is that of its own deviance: it does not try to move later learners' weights."""
    x, labels = rows_and_labels(2)
    built = toy.method("a_bier", 5, 16, adversarial=0.0)
    _, (gradient, *_) = toy.loss_and_gradients(built, x, labels)
    leaf = x.clone().requires_grad_()
    s = pairs.similarities(torch.nn.functional.normalize(leaf[:, :3]))
    positive, negative = pairs.pair_masks(labels)
    softplus = torch.nn.functional.softplus
    own = softplus(-2 * (s - 0.5))[positive].mean() + softplus(50 * (s - 0.5))[negative].mean()
    (expected,) = torch.autograd.grad(own / 3, leaf)
    assert (gradient[:, :3] - expected[:, :3]).abs().max() < 1e-9


def test_bier_s_embedding_has_the_ensemble_s_similarity() -> None:
    """Learner m weighs 2m / (M (M + 1)), the weights that the recursion with 2 / (m + 1) leads to."""
    run = named("a_bier")
    linear: Any = run.embedder
    features = torch.randn(6, run.trunk_dim)
    learners = [torch.nn.functional.normalize(part) for part in torch.split(linear.linear(features), [12, 20, 32], 1)]
    ensemble = torch.zeros(6, 6)
    for m, learner in enumerate(learners, 1):
        ensemble += 2 / (m + 1) * (learner @ learner.T - ensemble)
    embedded = linear(features)
    assert torch.allclose(embedded @ embedded.T, ensemble, atol=1e-5)


def test_adversaries_pull_apart() -> None:
    """A step of the regressors raises the products that they seek, a step of the embedder lowers them."""
    run = named("a_bier", adversarial=0.01, norm_weight=100.0)
    run.inputs = run.inputs.double()
    for module in (run.trunk, run.embedder, run.method):
        module.double()
    method: Any = run.method
    batch = run.batch(torch.arange(32))

    def products() -> Any:
        parts = torch.split(method.head.activations(batch.features), [12, 20, 32], 1)
        couples = [(0, 1), (0, 2), (1, 2)]
        return sum(
            (parts[i] * regressor(parts[j])).square().mean()
            for regressor, (i, j) in zip(method.regressors, couples, strict=True)
        )

    def lengths() -> Any:
        layers = [m for m in method.regressors.modules() if isinstance(m, torch.nn.Linear)]
        weights = [layer.weight for layer in layers] + [method.head.linear.weight]
        return sum((w.square().sum(1) - 1).square().mean() for w in weights) + sum(
            (layer.bias.square().sum() - 1).clamp(min=0) for layer in layers
        )

    with_adversaries = method.loss(batch)
    method.adversarial = 0.0
    term = (with_adversaries - method.loss(batch)) / 0.01
    value = products()
    assert float(term.detach()) == pytest.approx(float((100 * lengths() - value).detach()), rel=1e-9)
    wanted = [*method.regressors.parameters(), method.head.linear.weight]
    got = torch.autograd.grad(term - 100 * lengths(), wanted, retain_graph=True)
    raised = torch.autograd.grad(value, wanted)
    for k, (mine, theirs) in enumerate(zip(got, raised, strict=True)):
        sign = 1 if k == len(wanted) - 1 else -1
        assert (mine - sign * theirs).abs().max() < 1e-8
    trunk = torch.autograd.grad(term, list(run.trunk.parameters()))
    assert all(gradient.abs().max() < 1e-12 for gradient in trunk)


def test_bier_without_adversaries_has_no_parameters_of_its_own() -> None:
    assert not named("a_bier", adversarial=0.0).own_parameters()
    assert len(named("a_bier").own_parameters()) == 12


@pytest.mark.parametrize("name", ["cgd", "hdc", "a_bier"])
def test_size_is_split_whatever_it_is(name: str) -> None:
    for size in (3, 7, 100):
        run = Toy(registry.get(name).cls, size=size)
        batch: Batch = run.batch(torch.arange(32))
        assert batch.embeddings.shape == (32, size)
        assert run.method.loss(batch).isfinite()
