"""Losses built on ranks, and methods that regularise or distil another loss, beside brute-force loops and a library."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning import distances, losses
from torch import Tensor

from bench import margin_loss, miners, pairs, registry
from bench.method import Context
from tests.methods import toy
from tests.methods.test_losses import batches, cosine, examples, value

Rows = tuple[Tensor, Tensor]
EQUAL = torch.arange(5).repeat_interleave(4)
UNEQUAL = torch.tensor([3, 0, 0, 1, 3, 1, 1, 4, 2, 2, 2, 2, 2, 2])
RANKING = ["smooth_ap", "fastap", "recall_surrogate", "roadmap"]
QUERY = st.sampled_from(["excluded", "as_released"])


def g(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))


def mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)


def rankings(batch: Rows) -> list[tuple[list[float], list[bool], float]]:
    """Of each image with a positive: similarities to the others, which are positives, and to itself."""
    x, labels = batch[0].tolist(), batch[1].tolist()
    found = []
    for q in range(len(x)):
        others = [j for j in range(len(x)) if j != q]
        relevant = [labels[j] == labels[q] for j in others]
        if any(relevant):
            found.append(([cosine(x[q], x[j]) for j in others], relevant, cosine(x[q], x[q])))
    return found


def average_precision(s: list[float], relevant: list[bool]) -> float:
    """Exact; a negative that ties with a positive ranks above it."""
    total = 0.0
    for i in range(len(s)):
        if relevant[i]:
            in_class = sum(relevant[j] and (s[j] > s[i] or (s[j] == s[i] and j <= i)) for j in range(len(s)))
            total += in_class / (in_class + sum(not relevant[j] and s[j] >= s[i] for j in range(len(s))))
    return total / sum(relevant)


@examples
@given(batches(), QUERY)
def test_smooth_ap(batch: Rows, query: str) -> None:
    losses = []
    for s, relevant, own in rankings(batch):
        if query == "as_released":
            s, relevant = [*s, own], [*relevant, True]
        total = 0.0
        for i in range(len(s)):
            if relevant[i]:
                ahead = [g((s[j] - s[i]) / 0.01) for j in range(len(s)) if j != i]
                kin = [relevant[j] for j in range(len(s)) if j != i]
                total += (1 + sum(a for a, k in zip(ahead, kin, strict=True) if k)) / (1 + sum(ahead))
        losses.append(1 - total / sum(relevant))
    assert value("smooth_ap", batch, query=query) == pytest.approx(mean(losses), abs=1e-9)


@examples
@given(batches(), st.sampled_from([4, 10, 17]))
def test_fastap(batch: Rows, bins: int) -> None:
    losses = []
    for s, relevant, _ in rankings(batch):
        here, near, everything, total = 0.0, 0.0, 0.0, 0.0
        for edge in range(bins + 1):
            pulse = [max(0.0, 1 - abs(2 - 2 * c - 4 * edge / bins) * bins / 4) for c in s]
            here = sum(p for p, r in zip(pulse, relevant, strict=True) if r)
            near, everything = near + here, everything + sum(pulse)
            total += here * near / everything if everything > 0 else 0.0
        losses.append(1 - total / sum(relevant))
    assert value("fastap", batch, bins=bins) == pytest.approx(mean(losses), abs=1e-9)


@examples
@given(batches(), QUERY, st.sampled_from(["tau1", "as_released"]))
def test_recall_surrogate(batch: Rows, query: str, rank_temperature: str) -> None:
    losses = []
    for s, relevant, own in rankings(batch):
        ranks = []
        for i in range(len(s)):
            if relevant[i]:
                rank = 1 + sum(g((s[j] - s[i]) / 0.01) for j in range(len(s)) if j != i)
                ranks.append(rank + g((own - s[i]) / 0.01) * (query == "as_released"))
        for k in (1, 2, 4, 8, 16):
            width = 2.0 * k if rank_temperature == "as_released" else 2.0
            found = min(sum(g((k - rank) / width) for rank in ranks), k)
            losses.append(1 - found / min(k, len(ranks)))
    got = value("recall_surrogate", batch, tau1=2.0, query=query, rank_temperature=rank_temperature)
    assert got == pytest.approx(mean(losses), abs=1e-9)


def outranks(gap: float, tail: str) -> float:
    """The bounding step of a negative, from its published pieces."""
    if gap > 0.05:
        return 100 * gap + 1.44 if tail == "as_released" else 100 * (gap - 0.05) + g(5.0) + 0.5
    return g(gap / 0.01) + 0.5 * (gap >= 0)


@examples
@given(batches(), QUERY, st.sampled_from(["continuous", "as_released"]))
def test_roadmap(batch: Rows, query: str, tail: str) -> None:
    x, labels = batch[0].tolist(), batch[1].tolist()
    # The similarities of the method itself: a true step tells apart what rounding tells apart.
    table = pairs.similarities(batch[0]).tolist()
    ranking = []
    for q in range(len(x)):
        others = [j for j in range(len(x)) if j != q or query == "as_released"]
        kin = [j for j in others if labels[j] == labels[q]]
        if not any(j != q for j in kin):
            continue
        s, total = table[q], 0.0
        for i in kin:
            in_class = 1 + sum(s[j] >= s[i] for j in kin if j != i)
            total += in_class / (in_class + sum(outranks(s[j] - s[i], tail) for j in others if labels[j] != labels[q]))
        ranking.append(1 - total / len(kin))
    apart = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]
    pull = [0.9 - table[i][j] for i, j in apart if labels[i] == labels[j]]
    push = [table[i][j] - 0.6 for i, j in apart if labels[i] != labels[j]]
    calibration = mean([p for p in pull if p > 0]) + mean([p for p in push if p > 0])
    expected = 0.7 * mean(ranking) + 0.3 * calibration
    assert value("roadmap", batch, weight=0.3, tail=tail, query=query) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@examples
@given(batches())
def test_roadmap_bounds_the_average_precision_loss_from_above(batch: Rows) -> None:
    table = pairs.similarities(batch[0]).tolist()
    labels = batch[1].tolist()
    exact = []
    for q in range(len(labels)):
        others = [j for j in range(len(labels)) if j != q]
        relevant = [labels[j] == labels[q] for j in others]
        if any(relevant):
            # rounding decides between equal images: those of other classes count as behind
            shown = [table[q][j] - 1e-9 * (labels[j] != labels[q]) for j in others]
            exact.append(1 - average_precision(shown, relevant))
    assert value("roadmap", batch, weight=0.0) >= mean(exact) - 1e-12


def test_surrogates_converge_to_the_average_precision_loss() -> None:
    """With sharp steps, or fine bins, and distinct similarities they are the metric."""
    batch = toy.unit_rows(np.random.default_rng(6), 12, 4), torch.tensor([0, 1, 2] * 4)
    exact = mean([1 - average_precision(s, relevant) for s, relevant, _ in rankings(batch)])
    assert 0.2 < exact < 0.8
    assert value("smooth_ap", batch, temperature=0.001) == pytest.approx(exact, abs=0.01)
    coarse, fine = (abs(value("fastap", batch, bins=bins) - exact) for bins in (4, 40))
    assert fine < coarse
    assert fine < 0.05


def separated(count: int = 4) -> Rows:
    """Classes on different axes, near each axis but not on it."""
    generator = torch.Generator().manual_seed(0)
    axes = torch.eye(5, dtype=torch.float64).repeat_interleave(count, 0)
    noise = 0.02 * torch.randn(len(axes), 5, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(axes + noise), torch.arange(5).repeat_interleave(count)


def test_a_perfect_ranking_costs_nothing_or_the_known_floor() -> None:
    batch = separated()
    for query in ("excluded", "as_released"):
        assert value("smooth_ap", batch, query=query) == pytest.approx(0, abs=1e-6)
        assert value("roadmap", batch, query=query) == pytest.approx(0, abs=1e-6)
    assert value("fastap", batch) == pytest.approx(0, abs=1e-6)
    narrow = value("recall_surrogate", separated(2), tau1=0.1)
    assert narrow == pytest.approx(0.5 / 5, abs=1e-3)  # rank 1 counts one half at k = 1, and fully beyond
    assert value("recall_surrogate", separated(2)) == pytest.approx(0.1635, abs=1e-4)


@pytest.mark.parametrize("name", RANKING)
def test_order_does_not_matter(name: str) -> None:
    x, labels = toy.unit_rows(np.random.default_rng(3), 14, 5, 0.5), UNEQUAL
    order = torch.randperm(14, generator=torch.Generator().manual_seed(0))
    assert value(name, (x[order], labels[order])) == pytest.approx(value(name, (x, labels)), rel=1e-9)


@pytest.mark.parametrize("name", RANKING)
def test_other_anchors_and_references_give_the_same_loss(name: str) -> None:
    """A subset of anchors is the mean over these; references that are in neither mask do not exist."""
    x = toy.unit_rows(np.random.default_rng(8), 9, 4, 0.6)
    labels = torch.tensor([0, 1, 2] * 3)
    built: Any = toy.method(name, 3, 4, **({"weight": 0.0} if name == "roadmap" else {})).double()
    s, (positive, negative) = pairs.similarities(x), pairs.pair_masks(labels)
    rows = [float(built.pair_loss(s[i : i + 1], positive[i : i + 1], negative[i : i + 1])) for i in range(9)]
    assert float(built.pair_loss(s, positive, negative)) == pytest.approx(mean(rows), rel=1e-9)
    wider = torch.cat([s, torch.ones(9, 2, dtype=s.dtype)], 1)
    nothing = torch.zeros(9, 2, dtype=torch.bool)
    got = built.pair_loss(wider, torch.cat([positive, nothing], 1), torch.cat([negative, nothing], 1))
    assert float(got) == pytest.approx(mean(rows), rel=1e-9)


# The library.


def against(name: str, labels: Tensor, theirs: Any, **values: Any) -> None:
    rows = toy.unit_rows(np.random.default_rng(len(labels)), len(labels), 16, 0.5) * 1.7
    got, gradients = toy.loss_and_gradients(toy.method(name, 5, 16, **values).double(), rows, labels, normalize=True)
    leaf = rows.clone().requires_grad_()
    expected = theirs(leaf, labels)
    (gradient,) = torch.autograd.grad(expected, leaf)
    assert got == pytest.approx(float(expected.detach()), rel=1e-9)
    assert gradient.abs().max() > 1e-4
    assert (gradients[0] - gradient).abs().max() <= 1e-8 * gradient.abs().max()


@pytest.mark.parametrize("labels", [EQUAL, UNEQUAL])
@pytest.mark.parametrize("bins", [5, 10, 27])
def test_fastap_is_the_library_s(labels: Tensor, bins: int) -> None:
    against("fastap", labels, losses.FastAPLoss(bins), bins=bins)


@pytest.mark.parametrize("size", [2, 4, 5])
@pytest.mark.parametrize("temperature", [0.01, 0.05])
def test_smooth_ap_is_the_library_s_for_as_many_classes_as_images_in_each(size: int, temperature: float) -> None:
    """The library takes classes side by side, and swaps their number and their size: it is right if these are equal."""
    x = toy.unit_rows(np.random.default_rng(7), size * size, 16, 0.5)
    labels = torch.arange(size).repeat_interleave(size)
    leaves = [x.clone().requires_grad_() for _ in range(2)]
    own = toy.method("smooth_ap", 5, 16, temperature=temperature, query="as_released").double()
    got = own.loss(toy.batch(torch.nn.functional.normalize(leaves[0]), labels))
    theirs = losses.SmoothAPLoss(temperature)(leaves[1], labels)
    # It gathers float64 values in a float32 tensor.
    assert float(got.detach()) == pytest.approx(float(theirs.detach()), rel=1e-6)
    gradients = [torch.autograd.grad(loss, leaf)[0] for loss, leaf in zip((got, theirs), leaves, strict=True)]
    assert gradients[1].abs().max() > 1e-4
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-6 * gradients[1].abs().max()


def test_smooth_ap_of_five_classes_of_four_is_in_the_library_that_of_four_classes_of_five() -> None:
    x = toy.unit_rows(np.random.default_rng(7), 20, 16, 0.5)
    theirs = float(losses.SmoothAPLoss()(x, EQUAL))
    assert theirs == pytest.approx(value("smooth_ap", (x, torch.arange(20) // 5), query="as_released"), rel=1e-6)
    assert theirs != pytest.approx(value("smooth_ap", (x, EQUAL), query="as_released"), rel=1e-2)


@pytest.mark.parametrize("labels", [EQUAL, UNEQUAL])
def test_roadmap_calibration_is_the_library_s_contrastive_loss(labels: Tensor) -> None:
    theirs = losses.ContrastiveLoss(0.9, 0.6, distance=distances.CosineSimilarity())
    rows = toy.unit_rows(np.random.default_rng(4), len(labels), 16, 0.5)
    built: Any = toy.method("roadmap", 5, 16)
    got = built.calibration(pairs.similarities(rows), *pairs.pair_masks(labels))
    assert float(got) == pytest.approx(float(theirs(rows, labels)), rel=1e-9)


# Recall with virtual images.


def test_mixup_adds_one_point_between_each_pair_of_a_class() -> None:
    x, labels = toy.unit_rows(np.random.default_rng(9), 7, 3), torch.tensor([1, 0, 1, 2, 0, 1, 0])
    built: Any = toy.method("recall_surrogate", 3, 3, mixup=True)
    torch.manual_seed(3)
    points, classes = built._mixed(x, labels)
    assert torch.equal(points[:7], x)
    assert classes.tolist() == [*labels.tolist(), 1, 1, 0, 0, 1, 0]
    parents = [(0, 2), (0, 5), (1, 4), (1, 6), (2, 5), (4, 6)]
    for virtual, (i, j) in zip(points[7:], parents, strict=True):
        share = float((virtual - x[j]) @ (x[i] - x[j]) / (x[i] - x[j]).square().sum())
        assert 0 < share < 1
        assert torch.allclose(virtual, share * x[i] + (1 - share) * x[j])
    torch.manual_seed(3)
    mixed = float(built.double().loss(toy.batch(x, labels)))
    assert mixed == pytest.approx(value("recall_surrogate", (points, classes)), rel=1e-9)


# Rho-margin.


def test_switched_triplets_push_the_positive_and_keep_the_rest() -> None:
    x = toy.unit_rows(np.random.default_rng(1), 400, 8)
    labels = torch.arange(100).repeat_interleave(4)
    built: Any = toy.method("rho_margin", 100, 8, p_switch=0.3)
    torch.manual_seed(5)
    drawn = miners.distance_weighted(x, labels, margin_loss.LOWER, margin_loss.UPPER)
    torch.manual_seed(5)
    triplets = built.triplets(x, labels)
    switched = (triplets != drawn).any(1)
    assert torch.equal(triplets[~switched], drawn[~switched])
    assert torch.equal(triplets[switched], drawn[switched][:, [0, 0, 1]])
    assert float(switched.double().mean()) == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / len(drawn)))
    assert (labels[triplets[switched]] == labels[triplets[switched]][:, :1]).all()


def test_without_switches_it_is_the_margin_loss_and_with_all_it_only_spreads_classes() -> None:
    x = toy.unit_rows(np.random.default_rng(2), 20, 8, 0.5)
    got = []
    for name, values in (("margin", {}), ("rho_margin", {"p_switch": 0.0})):
        built = toy.method(name, 5, 8, **values).double()
        torch.manual_seed(1)
        got.append(float(built.loss(toy.batch(x, EQUAL)).detach()))
    assert got[0] == got[1]
    built.p_switch = 1.0
    leaf = x.clone().requires_grad_()
    built.loss(toy.batch(leaf, EQUAL)).backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    moved = torch.nn.functional.normalize(x - 1e-3 * leaf.grad)
    near = pairs.pair_masks(EQUAL)[0] & (pairs.distances(x) < 1.4)
    assert near.any()
    assert (pairs.distances(moved) - pairs.distances(x))[near].mean() > 0


# S2SD.


def s2sd(iterations: int = 100, **values: Any) -> Any:
    """Built on features of four dimensions."""
    torch.manual_seed(0)
    built: Any = registry.get("s2sd").cls(**{"heads": 2, "width": 128, **values})
    labels = torch.arange(5).repeat_interleave(4)
    built.build(Context(5, labels, 4, 3, iterations, torch.device("cpu")))
    return built.double()


def s2sd_batch(step: int, seed: int = 0) -> Any:
    generator = np.random.default_rng(seed)
    features = torch.from_numpy(generator.standard_normal((8, 4))).requires_grad_()
    x = toy.unit_rows(generator, 8, 3).requires_grad_()
    given = toy.batch(x, torch.tensor([0, 1, 2, 3] * 2))
    return dataclasses.replace(given, features=features, step=step)


def divergence(student: list[list[float]], teacher: list[list[float]], temperature: float) -> float:
    def rows(x: list[list[float]]) -> list[list[float]]:
        exponents = [[math.exp(cosine(a, b) / math.hypot(*a) / math.hypot(*b) / temperature) for b in x] for a in x]
        return [[e / sum(row) for e in row] for row in exponents]

    terms = [
        p * math.log(p / q)
        for mine, other in zip(rows(student), rows(teacher), strict=True)
        for q, p in zip(mine, other, strict=True)
    ]
    return sum(terms) / len(student) * temperature**2


@pytest.mark.parametrize("step", [9, 10])
@pytest.mark.parametrize("base", ["multi_similarity", "contrastive"])
def test_s2sd(base: str, step: int) -> None:
    built, given = s2sd(base=base, temperature=0.5, gamma=20.0, feature_weight=7.0), s2sd_batch(step)
    wide = [project(given.features) for project in built.projections]
    assert [w.shape[1] for w in wide] == [128, 256]
    unit = [torch.nn.functional.normalize(w).detach() for w in wide]
    single = [value(base, (x, given.labels)) for x in (given.embeddings.detach(), *unit)]
    student = given.embeddings.tolist()
    expected = (single[0] + mean(single[1:])) / 2
    expected += 20 * mean([divergence(student, w.tolist(), 0.5) for w in wide])
    if step == 10:  # a tenth of the run
        expected += 7 * divergence(student, given.features.tolist(), 0.5)
    assert float(built.loss(given).detach()) == pytest.approx(expected, rel=1e-9)


def test_s2sd_teachers_get_no_gradient_from_the_distillation() -> None:
    gradients = []
    for gamma in (1.0, 900.0):
        built, given = s2sd(gamma=gamma), s2sd_batch(50)
        built.loss(given).backward()
        heads = [p.grad for p in built.projections.parameters()]
        gradients.append(([given.features.grad, *heads], given.embeddings.grad))
    assert all(torch.equal(a, b) for a, b in zip(gradients[0][0], gradients[1][0], strict=True))
    assert not torch.allclose(gradients[0][1], gradients[1][1])


def test_s2sd_gives_each_head_its_own_base_and_keeps_the_base_s_rates() -> None:
    built = s2sd(base="margin", heads=3, head_lr=0.002)
    boundaries = [p for name, p in built.named_parameters() if name.endswith("beta")]
    assert len(boundaries) == 4
    groups = built.parameter_groups({"params": list(built.parameters()), "lr": 1.0, "weight_decay": 0.5})
    own = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(own) == sum(len(group["params"]) for group in groups) == len(list(built.parameters()))
    assert {own[id(p)] for p in boundaries} == {(5e-4, 0.0)}
    assert {own[id(p)] for p in built.projections.parameters()} == {(0.002, 0.5)}
