"""Losses over class vectors and proxies, and the hyperbolic pair loss: brute force, the library, and properties."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from pytorch_metric_learning import losses, regularizers
from torch import Tensor
from torch.nn.functional import normalize

from bench import pairs, registry
from bench.method import Batch
from tests.methods import toy
from tests.methods.test_library import CASES, agree
from tests.methods.test_losses import batches, cosine, value
from tests.methods.test_parity import cast, compare, files, load, tags, with_proxies

examples = settings(max_examples=40, deadline=None)

NAMES = [
    "cosface",
    "arcface",
    "soft_triple",
    "proxy_nca_pp",
    "hyp",
    "center_contrastive",
    "potential_field",
]


def unit_proxies(name: str, size: int, **values: Any) -> list[Any]:
    """The method's initial proxies, normalised: (C, D), or (C, K, D)."""
    return normalize(toy.method(name, 5, size, **values).double().proxies.detach(), dim=-1).tolist()


def cross_entropy(logits: list[float], label: int) -> float:
    return math.log(sum(math.exp(z - logits[label]) for z in logits))


def source(name: str) -> Any:
    return inspect.getmodule(registry.get(name).cls)


@examples
@given(batches())
def test_cosface(batch: tuple[Tensor, Tensor]) -> None:
    x, labels = batch[0].tolist(), batch[1].tolist()
    own = unit_proxies("cosface", len(x[0]))
    total = 0.0
    for row, label in zip(x, labels, strict=True):
        total += cross_entropy([64 * (cosine(row, p) - 0.35 * (c == label)) for c, p in enumerate(own)], label)
    assert value("cosface", batch) == pytest.approx(total / len(x), rel=1e-9)


@examples
@given(batches())
def test_arcface(batch: tuple[Tensor, Tensor]) -> None:
    """With angles, where the method uses none."""
    x, labels = batch[0].tolist(), batch[1].tolist()
    own = unit_proxies("arcface", len(x[0]))
    margin = math.radians(28.6)
    total = 0.0
    for row, label in zip(x, labels, strict=True):
        angles = [math.acos(min(1.0, max(-1.0, cosine(row, p)))) for p in own]
        logits = [64 * math.cos(angle) for angle in angles]
        if angles[label] + margin <= math.pi:
            logits[label] = 64 * math.cos(angles[label] + margin)
        else:
            logits[label] -= 64 * margin * math.sin(margin)
        total += cross_entropy(logits, label)
    assert value("arcface", batch) == pytest.approx(total / len(x), rel=1e-6)


@pytest.mark.parametrize("degrees", [0.0, 10.0, 28.6, 60.0])
def test_arcface_never_rewards_a_wider_angle(degrees: float) -> None:
    angles = torch.linspace(0, math.pi, 2001, dtype=torch.float64)
    logits = source("arcface").widened(angles.cos(), math.radians(degrees))
    assert (logits.diff() <= 0).all()
    assert logits[0] == pytest.approx(math.cos(math.radians(degrees)), abs=1e-3)


@pytest.mark.parametrize("centres", [1, 2, 4])
@examples
@given(batch=batches())
def test_soft_triple(batch: tuple[Tensor, Tensor], centres: int) -> None:
    x, labels = batch[0].tolist(), batch[1].tolist()
    own = unit_proxies("soft_triple", len(x[0]), centres=centres)
    total = 0.0
    for row, label in zip(x, labels, strict=True):
        logits = []
        for c, rows in enumerate(own):
            s = [cosine(row, w) for w in rows]
            weights = [math.exp(a / 0.1) for a in s]
            similarity = sum(a * w for a, w in zip(s, weights, strict=True)) / sum(weights)
            logits.append(20 * (similarity - 0.01 * (c == label)))
        total += cross_entropy(logits, label)
    spread = 0.0
    for rows in own:
        for k in range(centres):
            for j in range(k):
                spread += math.sqrt(max(2 - 2 * cosine(rows[k], rows[j]), 0) + 1e-5)
    expected = total / len(x) + 0.2 * spread / max(1, 5 * centres * (centres - 1))
    assert value("soft_triple", batch, centres=centres) == pytest.approx(expected, rel=1e-8)


def test_soft_triple_merges_superfluous_centres() -> None:
    """Descending the penalty alone, the centres of a class meet and those of other classes do not care."""
    built = toy.method("soft_triple", 3, 8, centres=4)
    points = built.proxies.detach().clone()
    before = float(built.spread(normalize(points, dim=2)))
    for _ in range(60):
        leaf = points.requires_grad_()
        (gradient,) = torch.autograd.grad(built.spread(normalize(leaf, dim=2)), leaf)
        points = (leaf - 0.2 * gradient).detach()
    centres = normalize(points, dim=2)
    assert float(built.spread(centres)) < 0.1 * before
    assert pairs.distances(centres.mean(1)).fill_diagonal_(9).min() > 0.3


@examples
@given(batches())
def test_proxy_nca_pp(batch: tuple[Tensor, Tensor]) -> None:
    x, labels = batch[0].tolist(), batch[1].tolist()
    own = unit_proxies("proxy_nca_pp", len(x[0]))
    total = 0.0
    for row, label in zip(x, labels, strict=True):
        total += cross_entropy([-9 * math.dist(row, p) ** 2 for p in own], label)
    assert value("proxy_nca_pp", batch) == pytest.approx(total / len(x), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize(
    ("name", "values"),
    [("normalized_softmax", {"temperature": 1 / 18}), ("proxy_nca", {"scale": 3.0, "denominator": "all"})],
)
def test_proxy_nca_pp_is_another_name_for_two_older_forms(name: str, values: dict[str, Any]) -> None:
    x, labels = toy.unit_rows(np.random.default_rng(4), 12, 6), torch.arange(12) % 5
    assert value("proxy_nca_pp", (x, labels)) == pytest.approx(value(name, (x, labels), **values), rel=1e-9)


@examples
@given(batches())
def test_center_contrastive(batch: tuple[Tensor, Tensor]) -> None:
    x, labels = batch[0].tolist(), batch[1].tolist()
    own = unit_proxies("center_contrastive", len(x[0]))
    total = 0.0
    for row, label in zip(x, labels, strict=True):
        total += cross_entropy([64 * (cosine(row, p) - 0.2 * (c == label)) for c, p in enumerate(own)], label)
        total += math.dist(row, own[label]) ** 2
    assert value("center_contrastive", batch) == pytest.approx(total / len(x), rel=1e-8)


@pytest.mark.parametrize("delta", [0.1, 0.3])
@examples
@given(batch=batches())
def test_potential_field(batch: tuple[Tensor, Tensor], delta: float) -> None:
    """The total energy as the paper writes it, less what pairs of classes add beyond `delta`."""
    values = {"proxies_per_class": 3, "delta": delta, "decay": 3.0, "core": 0.5}
    x, labels = batch[0].tolist(), batch[1].tolist()
    points, classes = list(x), list(labels)
    for c, rows in enumerate(unit_proxies("potential_field", len(x[0]), **values)):
        points += rows
        classes += [c] * 3
    energy = 0.0
    for i in range(len(points)):
        for j in range(len(points)):
            if i != j:
                d = math.sqrt(math.dist(points[i], points[j]) ** 2 + 1e-8)
                if classes[i] == classes[j]:
                    energy -= 1 / max(d, delta) ** 3
                else:
                    energy += 1 / max(min(d, delta), 0.5 * delta) ** 3 - 1 / delta**3
    expected = delta**3 * energy / len(x)
    assert value("potential_field", batch, **values) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("distance", "attracts", "repels"), [(0.1, False, True), (0.3, True, False)])
def test_potential_field_forces_end_at_delta(distance: float, attracts: bool, repels: bool) -> None:
    """Two images, proxies out of reach: attraction acts beyond `delta` only, repulsion within it only."""
    turned = torch.tensor([[1.0, 0, 0], [math.cos(distance), math.sin(distance), 0]], dtype=torch.float64)
    for labels, moves in ((torch.tensor([0, 0]), attracts), (torch.tensor([0, 1]), repels)):
        built = toy.method("potential_field", 4, 3, proxies_per_class=1, delta=0.2).double()
        built.proxies.data[:] = torch.tensor([0.0, 0, -1])  # at a right angle to both, the strongest far attraction
        built.proxies.data[2:] = torch.tensor([0.0, 0, 1])
        leaf = turned.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(built.loss(toy.batch(leaf, labels)), leaf)
        along = float(gradient[0, 1])  # sideways: only the other image pulls or pushes there
        assert (abs(along) > 1e-6) == moves
        if moves:
            assert (along < 0) == bool(labels[0] == labels[1])  # descending moves towards, or away


def poincare(x: Tensor, y: Tensor, c: float) -> float:
    """The distance by its hyperbolic cosine, not by the Moebius sum."""
    gap = 2 * c * float((x - y).square().sum())
    room = (1 - c * float(x.square().sum())) * (1 - c * float(y.square().sum()))
    return max(math.acosh(1 + gap / room), 2 * math.atanh(1e-4)) / math.sqrt(c)  # the method's floor


def in_ball(u: Tensor, c: float, radius: float) -> Tensor:
    norm = float(u.norm())
    if norm == 0:
        return u
    return u / norm * math.tanh(math.sqrt(c) * min(norm, radius)) / math.sqrt(c)


@pytest.mark.parametrize("values", [{}, {"curvature": 1.0, "radius": 1.5, "temperature": 0.5}])
@examples
@given(batch=batches())
def test_hyp(batch: tuple[Tensor, Tensor], values: dict[str, float]) -> None:
    lengths = torch.linspace(0.3, 4.0, len(batch[0]), dtype=torch.float64)[:, None]  # some beyond the clipping radius
    x, labels = batch[0] * lengths, batch[1].tolist()
    c, radius = values.get("curvature", 0.1), values.get("radius", 2.3)
    temperature = values.get("temperature", 0.2)
    points = [in_ball(row, c, radius) for row in x]
    total, classes = 0.0, {k for k in labels if labels.count(k) > 1}
    for i, a in enumerate(labels):
        rivals = [math.exp(-poincare(points[i], points[k], c) / temperature) for k, b in enumerate(labels) if b != a]
        for p, b in enumerate(labels):
            if p != i and a == b:
                mine = math.exp(-poincare(points[i], points[p], c) / temperature)
                total -= math.log(mine / (mine + sum(rivals)))
    got = value("hyp", (x, batch[1]), **values)
    assert got == pytest.approx(total / max(len(classes), 1), rel=1e-6, abs=1e-9)


def test_hyp_by_hand() -> None:
    """Points on one diameter: the distance from the origin is twice the (clipped) length of the raw embedding."""
    hyperbolic = source("hyp")
    raw = torch.tensor([[0.0, 0], [0.5, 0], [-1.0, 0], [7.0, 0]], dtype=torch.float64)
    d = hyperbolic.ball_distances(hyperbolic.to_ball(raw, 0.1, 2.3), 0.1)
    assert d[0].tolist() == pytest.approx([0, 1, 2, 4.6], abs=1e-3)
    assert d[1, 2] == pytest.approx(3)
    assert d[1, 3] == pytest.approx(3.6)


def test_hyp_of_two_images_a_class_is_the_official_form() -> None:
    """Two columns of images: each row against its partner, all of the other column and the rest of its own."""
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(6, 2, 4, generator=generator, dtype=torch.float64)
    expected = torch.zeros((), dtype=torch.float64)
    for i, j in ((0, 1), (1, 0)):
        total = 0.0
        for a in range(6):
            anchor = in_ball(z[a, i], 0.1, 2.3)
            across = [-poincare(anchor, in_ball(z[b, j], 0.1, 2.3), 0.1) / 0.2 for b in range(6)]
            within = [-poincare(anchor, in_ball(z[b, i], 0.1, 2.3), 0.1) / 0.2 for b in range(6) if b != a]
            total += cross_entropy(across + within, a)
        expected += total / 6
    labels = torch.arange(6).repeat_interleave(2)
    assert value("hyp", (z.flatten(0, 1), labels)) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize(("length", "same"), [(3.0, True), (0.5, False)])
def test_hyp_ranks_as_the_cosine_where_all_embeddings_are_clipped(length: float, same: bool) -> None:
    hyperbolic = source("hyp")
    generator = np.random.default_rng(6)
    raw = toy.unit_rows(generator, 30, 4) * torch.from_numpy(generator.uniform(1, 2, (30, 1))) * length
    d = hyperbolic.ball_distances(hyperbolic.to_ball(raw, 0.1, 2.3), 0.1)
    ranking = pairs.similarities(normalize(raw)).argsort(1, descending=True)
    assert torch.equal(d.argsort(1), ranking) == same


def test_hyp_sees_raw_embeddings() -> None:
    raw = torch.randn(8, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    labels = torch.arange(4).repeat(2)
    built = toy.method("hyp")

    def loss(unit: Tensor, raw: Tensor) -> float:
        return float(built.loss(Batch(unit, raw, raw, labels, torch.arange(8), 0)))

    assert loss(normalize(raw), raw) == loss(torch.zeros_like(raw), raw)
    assert loss(normalize(raw), raw) != pytest.approx(loss(normalize(raw), 2 * raw))


LIBRARY: dict[str, tuple[dict[str, Any], Callable[[], losses.BaseMetricLossFunction]]] = {
    "cosface": ({}, lambda: losses.CosFaceLoss(5, 16, margin=0.35, scale=64)),
    "arcface": ({}, lambda: losses.ArcFaceLoss(5, 16, margin=28.6, scale=64)),
    "soft_triple": ({"merging": 0.0}, lambda: losses.SoftTripleLoss(5, 16, 10, la=20, gamma=0.1, margin=0.01)),
    "proxy_nca_pp": ({}, lambda: losses.NormalizedSoftmaxLoss(5, 16, temperature=1 / 18)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", LIBRARY)
def test_library(name: str, case: str) -> None:
    values, make = LIBRARY[name]
    loss = make().double()
    weights = loss.fc if name == "soft_triple" else loss.W

    def theirs(x: Tensor, y: Tensor, proxies: Tensor) -> Tensor:
        weights.data = proxies.data.flatten(0, -2).T
        return loss(x, y)

    agree(name, CASES[case], theirs, **values)


def test_library_penalty_on_centres() -> None:
    """The library adds another constant under the root, so to four digits."""
    built = toy.method("soft_triple", 5, 16).double()
    centres = normalize(built.proxies.detach(), dim=2)
    theirs = regularizers.SparseCentersRegularizer(5, 10)(centres.flatten(0, 1))
    assert float(built.spread(centres)) == pytest.approx(float(theirs), rel=1e-4)


@pytest.mark.parity
@pytest.mark.parametrize("path", files("proxy_anchor/b*.npz"))
def test_proxy_nca_pp_is_the_library_form_that_official_code_uses(path: Path, record_property: Any) -> None:
    case = load(path)
    for tag, (scale,) in tags(case, r"pml_proxynca_s([\d.]+)"):

        def run(precision: str, temperature: float = 1 / scale) -> tuple[float, list[Tensor]]:
            built = with_proxies("proxy_nca_pp", case["proxies"], precision, temperature=temperature)
            return toy.loss_and_gradients(built, cast(case["emb"], precision), case["labels"], normalize=True)

        compare(case, tag, run, ["grad_emb", "grad_proxies"])
        got, (emb, proxies) = run("f32")
        errors = [abs(got / float(case[f"{tag}__loss_f32"]) - 1)]
        for mine, theirs in ((emb, case[f"{tag}__grad_emb_f32"]), (proxies, case[f"{tag}__grad_proxies_f32"])):
            errors.append(float(np.abs(mine.numpy() - theirs).max() / np.abs(theirs).max()))
        vectors = f"proxy_anchor/{path.stem} {tag}"
        found = {"method": "proxy_nca_pp", "vectors": vectors, "precision": "f32", "error": max(errors)}
        record_property("parity", found)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [0.0, 1e-6, 30.0])
def test_embeddings_of_any_length_give_finite_gradients(name: str, length: float) -> None:
    rows = toy.unit_rows(np.random.default_rng(8), 10, 4).float()
    rows[5:7] = rows[0]  # duplicates within and across classes
    built = toy.method(name, 5, 4)
    leaf = (length * rows).requires_grad_()
    loss = built.loss(toy.batch(leaf, torch.arange(10) % 5))
    gradients = torch.autograd.grad(loss, [leaf, *built.parameters()], allow_unused=True, materialize_grads=True)
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", ["proxy_nca", "cosface", "soft_triple", "potential_field"])
def test_proxies_learn_at_their_own_rate_with_the_protocols_decay(name: str) -> None:
    built = toy.method(name, 5, 4, proxy_lr=0.3)
    groups = built.parameter_groups({"params": list(built.parameters()), "lr": 1e-6, "weight_decay": 1e-4})
    assert [(len(group["params"]), group["lr"], group["weight_decay"]) for group in groups] == [(1, 0.3, 1e-4)]
