"""The losses as A Metric Learning Reality Check ran them: loops, the library that it used, the ends of its search."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses
from torch import Tensor
from torch.nn import functional as F

from bench import registry
from bench.protocol import Protocol, Range, load_protocol
from bench.tuning.space import space_of, values_of
from tests.methods import toy
from tests.methods.test_library import CASES, agree
from tests.methods.test_losses import batches, value
from tests.methods.test_reality_check_losses import anchors

Batch = tuple[Tensor, Tensor]
examples = settings(max_examples=30, deadline=None)
STUDY = ("reality-check", "reality-check-as-released")


def distances(batch: Batch) -> tuple[list[list[float]], list[int]]:
    """Euclidean distances, none below 1e-4, as the losses have it."""
    x = batch[0].numpy()
    return [[max(float(np.linalg.norm(a - b)), 1e-4) for b in x] for a in x], batch[1].tolist()


def mean_above_zero(terms: list[float]) -> float:
    """Terms so near 0 that rounding decides whether they count are not part of an example."""
    assume(all(abs(term) > 1e-6 for term in terms))
    violated = [term for term in terms if term > 0]
    return sum(violated) / max(len(violated), 1)


@examples
@given(batches(), st.floats(-0.2, 1.0), st.floats(-0.2, 2.0))
def test_contrastive_on_distances(batch: Batch, pos_margin: float, neg_margin: float) -> None:
    d, labels = distances(batch)
    pull, push = [], []
    for i, positives, negatives in anchors(labels):
        pull += [d[i][p] - pos_margin for p in positives]
        push += [neg_margin - d[i][k] for k in negatives]
    got = value("contrastive_distance", batch, pos_margin=pos_margin, neg_margin=neg_margin)
    assert got == pytest.approx(mean_above_zero(pull) + mean_above_zero(push), rel=1e-6, abs=1e-9)


@examples
@given(batches(), st.floats(-0.2, 2.0))
def test_all_violating_triplets(batch: Batch, margin: float) -> None:
    d, labels = distances(batch)
    terms = [d[i][p] - d[i][k] + margin for i, near, far in anchors(labels) for p in near for k in far]
    got = value("triplet", batch, negatives="all", margin=margin)
    assert got == pytest.approx(mean_above_zero(terms), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("pos_margin", "neg_margin"), [(0.0, 1.0), (0.265, 0.541), (-0.2, 0.384)])
def test_library_contrastive(case: str, pos_margin: float, neg_margin: float) -> None:
    loss = losses.ContrastiveLoss(pos_margin, neg_margin)
    agree("contrastive_distance", CASES[case], loss, pos_margin=pos_margin, neg_margin=neg_margin)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("margin", [-0.1, 0.05, 0.3, 2.0])
def test_library_triplet_of_all_violations(case: str, margin: float) -> None:
    agree("triplet", CASES[case], losses.TripletMarginLoss(margin), negatives="all", margin=margin)


def searched() -> list[tuple[str, str, str]]:
    """(protocol, data set, method) of every space that the study's protocols name."""
    found = []
    for name in STUDY:
        for dataset in ("cub200", "cars196", "sop"):
            search = load_protocol(name).on(dataset).search
            assert search is not None
            found += [(name, dataset, method) for method in search.spaces]
    return found


def ends(span: Range, declared: Any) -> tuple[Any, ...]:
    if span.low is None or span.high is None:
        return values_of(span, declared)
    return (int(span.low), int(span.high)) if type(declared.default) is int else (span.low, span.high)


def hard_batches() -> dict[str, Batch]:
    """Ordinary rows, rows in one place, and rows at opposite ends, of 4 classes; singletons; one class only."""
    rows = F.normalize(torch.randn(12, 16, generator=torch.Generator().manual_seed(0)))
    labels = torch.arange(4).repeat(3)
    return {
        "ordinary": (rows, labels),
        "collapsed": (rows[:1].repeat(12, 1), labels),
        "opposite": (torch.cat([rows[:6], -rows[:6]]), labels),
        "duplicates": (rows[:6].repeat(2, 1), labels),
        "singletons": (rows[:4], torch.arange(4)),
        "one class": (rows[:6], torch.zeros(6, dtype=torch.int64)),
    }


@pytest.mark.parametrize(("protocol", "dataset", "method"), searched())
def test_every_corner_of_a_space_is_finite_in_single_precision(protocol: str, dataset: str, method: str) -> None:
    """A search may ask for any of them: an overflow would look like a bad setting."""
    rules: Protocol = load_protocol(protocol).on(dataset)
    space = space_of(registry.get(method).cls, rules)
    declared = registry.get(method).cls.hyperparameters
    for corner in product(*(ends(span, declared[key]) for key, span in space.items())):
        settings_ = dict(zip(space, corner, strict=True))
        for name, (rows, labels) in hard_batches().items():
            built = toy.method(method, 5, 16, **settings_).float()
            torch.manual_seed(0)
            loss, gradients = toy.loss_and_gradients(built, rows, labels)
            assert np.isfinite(loss), (settings_, name)
            assert all(torch.isfinite(gradient).all() for gradient in gradients), (settings_, name)
