"""MIC: surrogate labels, the adversarial term, and how the two tasks share a run."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from bench import pairs, registry
from bench.margin_loss import margin_loss
from bench.method import Batch, Method
from bench.toy import EPOCH, SHAPE, Toy
from tests.methods import toy
from tests.methods.test_divide_and_conquer import relative
from tests.methods.test_parity import GRADIENT, LOSS, Case, cases, cast, source

examples = settings(max_examples=30, deadline=None)


class View:
    """Training images that are given by their features."""

    superlabels = targets = None

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.labels, self._features, self.asked = labels, features, 0

    def __len__(self) -> int:
        return len(self.labels)

    def features(self) -> Tensor:
        self.asked += 1
        return self._features

    embeddings = features


def batch(size: int = 16, count: int = 12, seed: int = 0, **changes: Any) -> Batch:
    """Random unit rows, features of their own, three classes."""
    generator = torch.Generator().manual_seed(seed)
    rows = F.normalize(torch.randn(count, size, generator=generator))
    features = torch.randn(count, size, generator=generator)
    plain = Batch(rows, rows, features, torch.arange(count) % 3, torch.arange(count), 0)
    return Batch(**{**vars(plain), **changes})


# Surrogate labels


@examples
@given(st.lists(st.integers(0, 3), min_size=1, max_size=10), st.booleans(), st.integers(0, 100))
def test_without_class(labels: list[int], standardise: bool, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((len(labels), 3))
    got = source("mic").without_class(torch.from_numpy(x), torch.tensor(labels), standardise).numpy()
    for row, label in enumerate(labels):
        own = x[np.array(labels) == label]
        expected = x[row] - own.mean(0)
        if standardise:
            expected = expected / own.std(0) if len(own) > 1 else 0 * expected
        np.testing.assert_allclose(got[row], expected, atol=1e-7)


@pytest.mark.parity
@pytest.mark.parametrize("case", cases("mic/standardise.npz"))
def test_official_standardisation(case: Case, record_property: Any) -> None:
    if "features" not in case:
        return
    mode = str(case["cluster_mode"])  # the official 'no_norm' centres too
    given = torch.from_numpy(case["features"]), torch.from_numpy(case["labels"])
    got = source("mic").without_class(*given, mode == "mstd")
    assert got.isfinite().all()
    official = np.isfinite(case["standardised"])
    error = relative(got[torch.from_numpy(official)], case["standardised"][official])
    assert error <= 1e-5
    name = {"method": "mic", "vectors": f"mic/standardise {case['name']}"}
    record_property("parity", {**name, "precision": "f32", "error": error})


def test_the_first_clusters_are_what_classes_share() -> None:
    """Images of 8 classes, each with the same two looks: k-means of raw features would find classes."""
    labels, look = torch.arange(8).repeat_interleave(4), torch.arange(32) % 2
    torch.manual_seed(0)
    features = 10 * torch.randn(8, 16)[labels] + 2 * torch.randn(2, 16)[look] + 0.01 * torch.randn(32, 16)
    built = toy.method("mic", clusters=2)
    built.on_epoch(View(features, labels))
    assert torch.equal(built.assigned, look) or torch.equal(built.assigned, 1 - look)


@pytest.mark.parametrize("period", [1, 3])
def test_later_clusters_are_those_of_the_auxiliary_head(period: int) -> None:
    built = toy.method("mic", clusters=2, period=period)
    features, look = torch.randn(32, 16), torch.arange(32) % 2
    view = View(features, torch.arange(8).repeat_interleave(4))
    with torch.no_grad():
        features[:, 0] = 2.0 * look - 1
        built.head.weight.mul_(0.1)
        built.head.weight[5, 0] = 1.0  # the head sees little but the look
    for epoch in range(7):
        built.on_epoch(view)
        assert view.asked == epoch // period + 1
        by_head = torch.equal(built.assigned, look) or torch.equal(built.assigned, 1 - look)
        assert by_head == (epoch >= period)


def test_matched_clusters_keep_their_names() -> None:
    features, labels = torch.randn(32, 16), torch.arange(8).repeat_interleave(4)
    names = []
    for match in (False, True):
        built = toy.method("mic", clusters=4, period=1, match=match)
        built.on_epoch(View(features, labels))
        built.on_epoch(View(features, labels))
        found = built.assigned.clone()
        built.assigned.copy_((found + 1) % 4)
        built.on_epoch(View(features, labels))
        names.append(torch.equal(built.assigned, (found + 1) % 4))
    assert names == [False, True]


def test_swapped_labels_change_places() -> None:
    """The same labels, about a fifth of them elsewhere; those of the chosen images only."""
    built = toy.method("mic", swapped=0.2)
    found = torch.arange(4000)
    got = built._swap(found)
    assert sorted(got.tolist()) == found.tolist()
    assert 0.15 < (got != found).double().mean() < 0.25
    built.swapped = 0.0
    assert torch.equal(built._swap(found), found)


# The adversarial term


@pytest.mark.parity
@pytest.mark.parametrize("case", cases("mic/adversarial.npz"))
def test_official_adversarial_term(case: Case, record_property: Any) -> None:
    """The term alone; with it, one official step of the class task: margin loss plus weight times the term."""
    step = "raw_class" in case
    for precision, bits in {"f32": "32", "f64": "64"}.items():
        if precision == "f64" and "loss64" not in case:
            continue
        wide = len(case["W2"]), case["W1"].shape[1]
        built = registry.get("mic").cls(hidden=len(case["W1"]))
        built.build(toy.context(8, wide[0]))
        built.projection = torch.nn.Sequential(
            torch.nn.Linear(wide[1], len(case["W1"])), torch.nn.ReLU(), torch.nn.Linear(len(case["W1"]), wide[0])
        ).to(torch.float64 if precision == "f64" else torch.float32)
        own = list(built.projection.parameters())
        with torch.no_grad():
            for parameter, key in zip(own, ("W1", "b1", "W2", "b2"), strict=True):
                parameter.copy_(torch.from_numpy(case[key]))
        names = ("raw_class", "raw_aux") if step else ("class_emb", "aux_emb")
        first, second = (cast(case[name], precision).requires_grad_() for name in names)
        c, s = (F.normalize(first), F.normalize(second)) if step else (first, second)
        loss = -built.adversarial(c, s)
        wanted = [first, second, *own]
        errors = {f"loss{bits}": loss, "loss_adv": loss}
        if step:
            beta = torch.full((8,), 1.2).requires_grad_()
            triplets = torch.from_numpy(case["triplets"].astype(np.int64))
            anchors = torch.from_numpy(case["labels"])[triplets[:, 0]]
            dml = margin_loss(c, triplets, beta[anchors], 0.2)
            loss = dml + float(case["weight"]) * loss
            wanted.append(beta)
            errors |= {"loss_dml": dml, "loss_total": loss}
        gradients = torch.autograd.grad(loss, wanted)
        of_inputs = ("grad_raw_class", "grad_raw_aux") if step else (f"grad_class{bits}", f"grad_aux{bits}")
        suffix = "" if step else f"_{bits}"
        of_projection = [f"grad_{name}{suffix}" for name in ("W1", "b1", "W2", "b2")]
        errors |= dict(zip([*of_inputs, *of_projection, "grad_beta"], gradients, strict=False))
        worst = {key: relative(value, case[key]) for key, value in errors.items() if key in case}
        assert worst
        for key, error in worst.items():
            assert error <= (LOSS if key.startswith("loss") else GRADIENT)[precision], key
        name = {"method": "mic", "vectors": f"mic/adversarial {case['name']}"}
        record_property("parity", {**name, "precision": precision, "error": max(worst.values())})


def test_projection_raises_the_agreement_that_both_embeddings_lower() -> None:
    built = toy.method("mic").double()
    c, s = (F.normalize(torch.randn(20, 16).double()).requires_grad_() for _ in range(2))
    agreement = built.adversarial(c, s)
    loss = -agreement
    for values in ([c, s], list(built.projection.parameters())):
        gradients = torch.autograd.grad(loss, values, retain_graph=True)
        with torch.no_grad():
            for value, gradient in zip(values, gradients, strict=True):
                value -= 1e-3 / gradient.norm() * gradient
        change = float((built.adversarial(c, s) - agreement).detach())
        assert change < 0 if values[0] is c else change > 0
        with torch.no_grad():
            for value, gradient in zip(values, gradients, strict=True):
                value += 1e-3 / gradient.norm() * gradient


# The two tasks


def test_the_joint_objective_is_the_sum_of_its_parts() -> None:
    """With a base without randomness: two triplet losses and the product by hand, weight for 16 dimensions."""
    built = toy.method("mic", base="triplet", swapped=0.0, weight=640.0, clusters=4).double()
    plain = batch()
    rows = F.normalize(plain.embeddings.double())
    given = batch(embeddings=rows, raw_embeddings=rows, features=plain.features.double())
    built.assigned.copy_(torch.arange(32) // 3 % 4)
    triplet = toy.method("triplet")
    auxiliary = F.normalize(given.features @ built.head.weight.T + built.head.bias)
    by_class = triplet.loss(toy.batch(given.embeddings, given.labels))
    by_cluster = triplet.loss(toy.batch(auxiliary, torch.arange(12) // 3))
    total = 0.0
    for c, r in zip(given.embeddings.tolist(), F.normalize(built.projection(auxiliary)).tolist(), strict=True):
        total += sum((a * b) ** 2 for a, b in zip(c, r, strict=True)) / (12 * 16)
    expected = float((by_class + by_cluster).detach()) - 640.0 * (16 / 128) ** 2 * total
    assert float(built.loss(given).detach()) == pytest.approx(expected, rel=1e-9)


def test_margin_bases_get_a_boundary_for_each_class_and_cluster() -> None:
    built = toy.method("mic", 8, clusters=5)
    assert (len(built.inner.beta), len(built.surrogate.beta)) == (8, 5)
    groups = {id(p): g["lr"] for g in built.parameter_groups(default(built)) for p in g["params"]}
    assert {groups[id(built.inner.beta)], groups[id(built.surrogate.beta)]} == {5e-4}
    assert groups[id(built.head.weight)] == groups[id(built.projection[0].weight)] == 1e-3
    assert len(groups) == len(list(built.parameters()))


@pytest.mark.parametrize("base", ["triplet", "proxy_nca", "margin_nearest"])
def test_other_bases(base: str) -> None:
    trained = Toy(registry.get("mic").cls, values={"base": base, "clusters": 6})
    assert np.isfinite(trained.train(2 * EPOCH)).all()


def default(built: Method) -> Any:
    return {"params": list(built.parameters()), "lr": 0.01, "weight_decay": 0.0}


def test_alternating_steps_serve_one_task_each() -> None:
    built = toy.method("mic_alternating", base="proxy_anchor", task_p=0.5)
    turns = built.turns.tolist()
    assert len(turns) == 100
    assert not turns[0]
    assert not any(a and b for a, b in itertools.pairwise(turns))  # every surrogate step follows one of the class task
    assert 20 <= sum(turns) <= 45  # a third on average: of the class steps, half are followed
    for step in (turns.index(False), turns.index(True)):
        loss = built.loss(batch(step=step))
        proxies = [built.inner.proxies, built.surrogate.proxies]
        reached = torch.autograd.grad(loss, [*proxies, built.head.weight], allow_unused=True)
        assert [gradient is not None for gradient in reached] == [not turns[step], turns[step], True]


def test_alternating_batches_are_balanced_over_what_their_step_learns() -> None:
    trained = Toy(registry.get("mic_alternating").cls, values={"clusters": 4})
    with trained.streams.world("method"):
        trained.step, drawn = 0, []
        for step in range(3 * EPOCH):
            if step % EPOCH == 0:
                images = trained.begin_epoch()
            rows = torch.from_numpy(next(images))
            trained.step = step
            trained.method.loss(trained.batch(rows))
            drawn.append((bool(trained.method.turns[step]), rows, trained.method.assigned.clone()))
    assert {turn for turn, _, _ in drawn} == {False, True}
    for surrogate, rows, assigned in drawn:
        if surrogate:  # four clusters in a batch for eight classes: twice as many images of each
            sizes = Counter(assigned[rows].tolist())
            assert sizes == dict.fromkeys(range(4), SHAPE.size // 4)
        else:
            assert Counter((rows // 4).tolist()) == dict.fromkeys((rows // 4).tolist(), SHAPE.per_class)


def test_only_the_class_embedding_is_used_at_test_time() -> None:
    cls = registry.get("mic").cls
    assert cls.embed is Method.embed
    assert cls.embedder is Method.embedder


def test_embeddings_that_agree_are_pushed_apart() -> None:
    """A projection that copies: the class task alone leaves equal embeddings equal, the term separates them."""
    built = toy.method("mic", weight=5000.0, hidden=32).double()
    torch.manual_seed(0)
    raw = torch.nn.Parameter(torch.randn(12, 16).double())
    with torch.no_grad():
        eye = torch.eye(16).double()
        built.projection[0].weight.copy_(torch.cat([eye, -eye]))
        built.projection[2].weight.copy_(torch.cat([eye, -eye], 1))
        for layer in (built.projection[0], built.projection[2]):
            layer.bias.zero_()
    optimizer = torch.optim.Adam([raw], lr=0.05)
    fixed = F.normalize(raw.detach().clone())
    overlap = []
    for _ in range(100):
        c = F.normalize(raw)
        overlap.append(float((c * fixed).square().sum().detach()))
        optimizer.zero_grad()
        (-built.adversarial(c, fixed)).backward()
        optimizer.step()
    assert overlap[-1] < 0.5 * overlap[0]
    assert pairs.similarities(F.normalize(raw.detach())).isfinite().all()
