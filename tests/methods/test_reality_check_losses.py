"""Pair and histogram losses beside brute-force loops, pytorch-metric-learning and official code."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pytorch_metric_learning import losses, regularizers
from torch import Tensor
from torch.nn import functional as F

from bench import pairs, registry
from bench.pair_method import PairMethod
from tests.methods import toy
from tests.methods.test_library import CASES, agree
from tests.methods.test_losses import batches, cosine, value
from tests.methods.test_parity import Case, cases, cast

examples = settings(max_examples=30, deadline=None)
Batch = tuple[Tensor, Tensor]


def anchors(labels: list[int]) -> Iterator[tuple[int, list[int], list[int]]]:
    """Every image with its positives and its negatives."""
    everyone = range(len(labels))
    for i in everyone:
        positives = [j for j in everyone if j != i and labels[j] == labels[i]]
        yield i, positives, [j for j in everyone if labels[j] != labels[i]]


def mean(terms: list[float]) -> float:
    return sum(terms) / max(len(terms), 1)


def cosines(batch: Batch) -> tuple[list[list[float]], list[int]]:
    x, labels = batch[0].tolist(), batch[1].tolist()
    return [[cosine(a, b) for b in x] for a in x], labels


def source(name: str) -> Any:
    """The module of a shipped method."""
    return inspect.getmodule(registry.get(name).cls)


# Brute force


@examples
@given(batches())
def test_nt_xent(batch: Batch) -> None:
    s, labels = cosines(batch)
    terms = []
    for i, positives, negatives in anchors(labels):
        for p in positives:
            total = sum(math.exp(s[i][k] / 0.07) for k in [p, *negatives])
            terms.append(-math.log(math.exp(s[i][p] / 0.07) / total))
    assert value("nt_xent", batch) == pytest.approx(mean(terms), rel=1e-8, abs=1e-9)


@examples
@given(batches())
def test_supcon(batch: Batch) -> None:
    s, labels = cosines(batch)
    terms = []
    for i, positives, negatives in anchors(labels):
        if positives:
            total = sum(math.exp(s[i][a] / 0.1) for a in positives + negatives)
            terms.append(-mean([math.log(math.exp(s[i][p] / 0.1) / total) for p in positives]))
    assert value("supcon", batch) == pytest.approx(mean(terms), rel=1e-8, abs=1e-9)


@examples
@given(batches())
def test_circle(batch: Batch) -> None:
    """Moderate gamma: the loop multiplies the sums as they stand, which overflows otherwise."""
    s, labels = cosines(batch)
    terms = []
    for i, positives, negatives in anchors(labels):
        if positives and negatives:
            near = sum(math.exp(-16 * max(1.4 - s[i][p], 0) * (s[i][p] - 0.6)) for p in positives)
            far = sum(math.exp(16 * max(s[i][k] + 0.4, 0) * (s[i][k] - 0.4)) for k in negatives)
            terms.append(math.log1p(near * far))
    assert value("circle", batch, gamma=16.0) == pytest.approx(mean(terms), rel=1e-8, abs=1e-9)


def test_circle_weights_are_constants_to_the_gradient() -> None:
    """One positive and one negative an anchor: dL/ds_p = -Z g a_p, dL/ds_n = Z g a_n."""
    s = torch.tensor([[0.0, 0.7, 0.3]], dtype=torch.float64, requires_grad=True)
    masks = torch.tensor([[[False, True, False]], [[False, False, True]]])
    built = toy.method("circle", margin=0.25, gamma=10.0)
    assert isinstance(built, PairMethod)
    built.pair_loss(s, *masks).backward()
    a_p, a_n = 1.25 - 0.7, 0.3 + 0.25
    z = 1 / (1 + math.exp(10 * a_p * (0.7 - 0.75) - 10 * a_n * (0.3 - 0.25)))
    np.testing.assert_allclose(s.grad, [[0, -z * 10 * a_p, z * 10 * a_n]], rtol=1e-12)


def test_circle_is_level_on_its_circle() -> None:
    """One pair each: the boundary is (s_n)^2 + (s_p - 1)^2 = 2 m^2, where the loss is log 2."""
    angle = torch.linspace(0.3, 1.2, 7, dtype=torch.float64)
    radius = math.sqrt(2) * 0.4
    s = torch.stack([1 - radius * angle.cos(), radius * angle.sin()], 1)
    masks = torch.tensor([[True, False], [False, True]])[:, None].expand(2, 7, 2)
    built = toy.method("circle")
    assert isinstance(built, PairMethod)
    for row in range(7):
        loss = built.pair_loss(s[row : row + 1], masks[0, :1], masks[1, :1])
        assert float(loss) == pytest.approx(math.log(2), rel=1e-12)


@pytest.mark.parametrize("features", ["raw", "unit"])
@examples
@given(batch=batches(), scales=st.lists(st.floats(0.5, 3.0), min_size=12, max_size=12))
def test_snr(batch: Batch, scales: list[float], features: str) -> None:
    """Rows of different lengths; `features` chooses between the two forms of the embeddings."""
    unit, labels = batch
    raw = unit * torch.tensor(scales, dtype=torch.float64)[: len(unit), None]
    built = toy.method("snr", features=features, pos_margin=0.2, neg_margin=1.1, zero_mean=0.3)
    x = (raw if features == "raw" else unit).numpy()
    assume(x.var(1, ddof=1).min() > 1e-3)  # the formula has no floor under the variance
    pull, push = [], []
    for i, positives, negatives in anchors(labels.tolist()):
        d = [np.var(x[i] - y) / np.var(x[i]) for y in x]
        pull += [d[p] - 0.2 for p in positives if d[p] > 0.2]
        push += [1.1 - d[k] for k in negatives if d[k] < 1.1]
    expected = mean(pull) + mean(push) + 0.3 * np.abs(x.sum(1)).mean()
    assert float(built.loss(replace(toy.batch(unit, labels), raw_embeddings=raw))) == pytest.approx(
        expected, rel=1e-8, abs=1e-9
    )


def test_snr_is_blind_to_a_common_scale() -> None:
    x = toy.unit_rows(np.random.default_rng(0), 12, 5)
    labels = torch.arange(4).repeat(3)
    built = toy.method("snr", zero_mean=0.0)
    small, large = (float(built.loss(toy.batch(factor * x, labels))) for factor in (0.1, 50.0))
    assert small == pytest.approx(large, rel=1e-9)


def triangle(s: float, node: int, bins: int) -> float:
    return max(0.0, 1 - abs(s - (-1 + 2 * node / bins)) * bins / 2)


@examples
@given(batches(), st.sampled_from([10, 37, 200]))
def test_histogram(batch: Batch, bins: int) -> None:
    s, labels = cosines(batch)
    near = [min(max(s[i][p], -1), 1) for i, positives, _ in anchors(labels) for p in positives]
    far = [min(max(s[i][k], -1), 1) for i, _, negatives in anchors(labels) for k in negatives]
    expected, below = 0.0, 0.0
    for node in range(bins + 1):
        below += mean([triangle(v, node, bins) for v in near])
        expected += below * mean([triangle(v, node, bins) for v in far])
    assert value("histogram", batch, bins=bins) == pytest.approx(expected, rel=1e-8, abs=1e-9)


def test_histogram_estimates_the_share_of_reversed_pairs() -> None:
    """With fine steps the loss is the probability that a negative exceeds a positive, the paper's claim."""
    generator = np.random.default_rng(3)
    near = torch.from_numpy(np.clip(generator.normal(0.4, 0.2, 500), -1, 1))
    far = torch.from_numpy(np.clip(generator.normal(0.1, 0.2, 700), -1, 1))
    histogram = source("histogram").histogram
    loss = (histogram(far, 400) * histogram(near, 400).cumsum(0)).sum()
    assert float(loss) == pytest.approx(float((far[:, None] > near[None]).double().mean()), abs=0.01)
    for values in (near, torch.tensor([-1.0, 1.0, 1.0 + 1e-7]), torch.linspace(-1, 1, 401)):
        assert float(histogram(values, 400).sum()) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("name", ["nt_xent", "supcon", "circle", "histogram"])
def test_references_need_not_be_the_anchors(name: str) -> None:
    """Columns in neither mask change nothing, and there may be fewer anchors than references."""
    x = toy.unit_rows(np.random.default_rng(5), 12, 5)
    labels = torch.arange(4).repeat(3)
    s, (positive, negative) = pairs.similarities(x), pairs.pair_masks(labels)
    built = toy.method(name)
    assert isinstance(built, PairMethod)
    square = built.pair_loss(s, positive, negative)
    unused = torch.zeros(12, 7, dtype=torch.bool)
    wide = torch.cat([s, torch.full((12, 7), 0.9, dtype=s.dtype)], 1)
    padded = built.pair_loss(wide, torch.cat([positive, unused], 1), torch.cat([negative, unused], 1))
    part = built.pair_loss(wide[:5], torch.cat([positive, unused], 1)[:5], torch.cat([negative, unused], 1)[:5])
    assert float(padded) == pytest.approx(float(square), rel=1e-12)
    assert part.isfinite()


# pytorch-metric-learning


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("temperature", [0.02, 0.07, 0.5])
def test_library_nt_xent(case: str, temperature: float) -> None:
    agree("nt_xent", CASES[case], losses.NTXentLoss(temperature), temperature=temperature)


@pytest.mark.parametrize("case", [case for case in CASES if case != "one class"])  # there the library says 0
def test_library_supcon(case: str) -> None:
    agree("supcon", CASES[case], losses.SupConLoss(0.1))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_library_circle(case: str, spread: float) -> None:
    agree("circle", CASES[case], losses.CircleLoss(0.25, 64), spread, margin=0.25, gamma=64.0)


@pytest.mark.parametrize("case", CASES)
def test_library_snr(case: str) -> None:
    loss = losses.SignalToNoiseRatioContrastiveLoss(
        pos_margin=0.1,
        neg_margin=0.8,
        embedding_regularizer=regularizers.ZeroMeanRegularizer(),
        embedding_reg_weight=0.2,
    )
    # Its regulariser takes embeddings as they come.
    agree("snr", CASES[case], lambda x, y: loss(F.normalize(x), y), pos_margin=0.1, neg_margin=0.8, zero_mean=0.2)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
@pytest.mark.parametrize("bins", [20, 100, 200])
def test_library_histogram(bins: int) -> None:
    """The library places its nodes in float32, and leaves out pairs of images that both lack a positive."""
    labels = torch.tensor(CASES["balanced"])
    x = toy.unit_rows(np.random.default_rng(7), len(labels), 16, 0.5)
    leaf = x.clone().requires_grad_()
    expected = losses.HistogramLoss(bins)(leaf, labels)
    (gradient,) = torch.autograd.grad(expected, leaf)
    got, gradients = toy.loss_and_gradients(toy.method("histogram", bins=bins), x, labels, normalize=True)
    assert got == pytest.approx(float(expected.detach()), rel=1e-6)
    np.testing.assert_allclose(gradients[0], gradient, atol=1e-5 * float(gradient.abs().max()))


# Official code


def having(key: str, pattern: str) -> list[Any]:
    """The stored cases that have this key; a skip where there are no such files."""
    return [case for case in cases(pattern) if case.values[0] is None or key in case.values[0]]


def relative(got: Any, stored: NDArray[Any]) -> float:
    """Largest difference relative to the largest stored number."""
    return float(np.abs(np.asarray(got) - stored).max() / np.abs(stored).max())


@pytest.mark.parity
@pytest.mark.parametrize("case", having("npairs_loss", "divide_and_conquer/improved_tpami.npz"))
def test_n_pairs_of_the_improved_divide_and_conquer_is_supcon(case: Case, record_property: Any) -> None:
    """Several positives, temperature 1; the slope along its learned factor follows from the gradient."""
    emb = cast(case["emb"], "f32")
    got, (gradient,) = toy.loss_and_gradients(toy.method("supcon", temperature=1.0), emb, case["labels"])
    error = max(relative(got, case["npairs_loss"]), relative(gradient, case["npairs_grad_emb"]))
    record_property(
        "parity",
        {
            "method": "supcon",
            "vectors": f"divide_and_conquer/improved_tpami {case['name']} npairs",
            "precision": "f32",
            "error": error,
        },
    )
    assert error <= 1e-5
    # Scaling all embeddings by c scales the logits by c^2, as a factor c^2 does.
    assert float((gradient * emb).sum() / 2) == pytest.approx(float(case["npairs_grad_alpha"][0]), rel=1e-4)
