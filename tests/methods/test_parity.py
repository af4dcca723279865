"""Values and gradients of official code, stored as reference vectors.

The folder comes from BENCH_VECTORS (default: the copies beside these tests). Cases are found by listing
files and keys, so another folder of the same layout runs the same checks; what it lacks is skipped.
"""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import miners, pairs, registry
from bench.margin_loss import margin_loss
from bench.method import Method
from tests.methods import toy

pytestmark = pytest.mark.parity

VECTORS = Path(os.environ.get("BENCH_VECTORS") or Path(__file__).resolve().parents[1] / "references")
LOSS = {"f32": 1e-5, "f64": 1e-9}
GRADIENT = {"f32": 1e-5, "f64": 1e-8}
DTYPE = {"f32": torch.float32, "f64": torch.float64}

Case = dict[str, NDArray[Any]]


def files(pattern: str) -> list[Any]:
    found = sorted(VECTORS.glob(pattern))
    if not found:
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"{VECTORS / pattern}: no such reference vectors"))]
    return [pytest.param(path, id=path.stem) for path in found]


def tags(case: Case, pattern: str) -> Iterator[tuple[str, list[float]]]:
    """Tags in a file that match, with the numbers in their groups."""
    for tag in sorted({key.split("__")[0] for key in case}):
        if match := re.fullmatch(pattern, tag):
            yield tag, [float(number) for number in match.groups()]


def cases(pattern: str) -> list[Any]:
    """Sub-cases cKK of flat files."""
    found = []
    for path in sorted(VECTORS.glob(pattern)):
        stored = np.load(path)
        for k in range(int(stored["n_cases"])):
            prefix = f"c{k:02d}."
            case = {key.removeprefix(prefix): stored[key] for key in stored.files if key.startswith(prefix)}
            found.append(pytest.param(case, id=str(case["name"])))
    return found or files(pattern)


def load(path: Path) -> Case:
    with np.load(path) as stored:
        return {key: stored[key] for key in stored.files}


Compared = list[tuple[str, float]]  # precision and worst relative error of each comparison of the running test
compared: Compared = []


@pytest.fixture(autouse=True)
def note(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Iterator[None]:
    """Tell the parity report what the test compared; its method stands in the `reproduces` marker."""
    compared.clear()
    yield
    mark = request.node.get_closest_marker("reproduces")
    if mark is None:
        return
    path = request.node.callspec.params.get("path")
    vectors = f"{path.parent.name}/{path.stem}" if path is not None else mark.args[1]
    for precision, error in compared:
        record_property("parity", {"method": mark.args[0], "vectors": vectors, "precision": precision, "error": error})


def agree(got: tuple[float, list[Tensor]], loss: NDArray[Any], gradients: list[NDArray[Any]], precision: str) -> None:
    """Relative error of the value, and of each gradient in the maximum norm."""
    value, own = got
    assert value == pytest.approx(float(loss), rel=LOSS[precision], abs=1e-7 if precision == "f32" else 1e-12)
    worst = abs(value - float(loss)) / max(abs(float(loss)), 1e-3)
    for mine, theirs in zip(own, gradients, strict=False):
        error = float(np.abs(mine.numpy() - theirs).max() / max(np.abs(theirs).max(), 1e-3))
        assert error <= GRADIENT[precision]
        worst = max(worst, error)
    compared.append((precision, worst))


def finite(got: tuple[float, list[Tensor]]) -> None:
    assert math.isfinite(got[0])
    assert all(bool(gradient.isfinite().all()) for gradient in got[1])


def compare(case: Case, tag: str, run: Callable[[str], tuple[float, list[Tensor]]], names: list[str]) -> None:
    """Check a tag in every stored precision; where the official code fails, ours must stay finite."""
    for precision in ("f32", "f64"):
        key = f"{tag}__loss_{precision}"
        if key in case and np.isfinite(case[key]):
            gradients = [case[f"{tag}__{name}_{precision}"] for name in names if f"{tag}__{name}_{precision}" in case]
            assert gradients
            agree(run(precision), case[key], gradients, precision)
        elif key in case or f"{tag}__error_{precision}" in case:
            finite(run(precision))


def with_proxies(name: str, proxies: NDArray[Any], precision: str, **values: Any) -> Method:
    built = toy.method(name, *proxies.shape, **values)
    built.proxies = torch.nn.Parameter(torch.from_numpy(proxies).to(DTYPE[precision]))
    return built


def cast(array: NDArray[Any], precision: str) -> Tensor:
    return torch.from_numpy(array).to(DTYPE[precision])


@pytest.mark.reproduces("contrastive")
@pytest.mark.parametrize("path", files("deep_metric_losses/b*.npz"))
def test_contrastive(path: Path) -> None:
    case = load(path)
    # Rows shorter than 1 make the official code count an image as its own positive.
    lengths = np.linalg.norm(case["emb"].astype(np.float64), axis=1)
    if lengths.min() < 1:
        pytest.skip("official code does not remove self pairs of rows shorter than 1")
    checked = 0
    for tag, (tenths,) in tags(case, r"contrastive_m0?(\d+)"):
        built = toy.method("contrastive", margin=tenths / 10)
        compare(case, tag, lambda p, b=built: toy.loss_and_gradients(b, cast(case["emb"], p), case["labels"]), ["grad"])
        checked += 1
    assert checked


@pytest.mark.reproduces("multi_similarity")
@pytest.mark.parametrize("path", files("multi_similarity/b*.npz"))
def test_multi_similarity(path: Path) -> None:
    case = load(path)
    checked = 0
    for tag, (alpha, beta) in tags(case, r"ms_a([\d.]+)_b([\d.]+)"):
        built = toy.method(
            "multi_similarity", alpha=alpha, beta=beta, base=float(case["thresh"]), epsilon=float(case["margin"])
        )
        compare(case, tag, lambda p, b=built: toy.loss_and_gradients(b, cast(case["emb"], p), case["labels"]), ["grad"])
        checked += 1
        if f"{tag}__pos_mask" in case:
            s = pairs.similarities(torch.from_numpy(case["emb"]))
            positive, negative = pairs.pair_masks(torch.from_numpy(case["labels"]))
            kept = miners.multi_similarity(s, positive & (s < 1 - float(case["self_eps"])), negative, built.epsilon)
            assert np.array_equal(kept[0].numpy(), case[f"{tag}__pos_mask"])
            assert np.array_equal(kept[1].numpy(), case[f"{tag}__neg_mask"])
    assert checked


@pytest.mark.reproduces("proxy_anchor")
@pytest.mark.parametrize("path", files("proxy_anchor/b*.npz"))
def test_proxy_anchor(path: Path) -> None:
    case = load(path)
    checked = 0
    for tag, (delta, alpha) in tags(case, r"pa_m([\d.]+)_a([\d.]+)"):

        def run(p: str, delta: float = delta, alpha: float = alpha) -> tuple[float, list[Tensor]]:
            built = with_proxies("proxy_anchor", case["proxies"], p, delta=delta, alpha=alpha)
            return toy.loss_and_gradients(built, cast(case["emb"], p), case["labels"])

        compare(case, tag, run, ["grad_emb", "grad_proxies"])
        checked += 1
    assert checked


@pytest.mark.reproduces("proxy_anchor")
@pytest.mark.parametrize("path", files("proxy_anchor/two_classes.npz"))
def test_proxy_anchor_on_two_classes_is_the_repaired_form(path: Path) -> None:
    case = load(path)
    built = with_proxies("proxy_anchor", case["proxies"], "f32", delta=float(case["mrg"]), alpha=float(case["alpha"]))
    got = toy.loss_and_gradients(built, case["emb"], case["labels"])
    agree(got, case["onehot__loss_f32"], [case["onehot__grad_emb_f32"]], "f32")


@pytest.mark.parametrize("path", files("proxy_anchor/b*.npz"))
def test_library_forms_used_by_official_code(path: Path) -> None:
    """Proxy-NCA with its own proxy in the denominator, multi-similarity (2, 50), semi-hard triplets."""
    case = load(path)
    labels = case["labels"]

    def run(name: str, precision: str, **values: Any) -> tuple[float, list[Tensor]]:
        if name == "proxy_nca":
            built = with_proxies(name, case["proxies"], precision, **values)
        else:
            built = toy.method(name, **values)
        return toy.loss_and_gradients(built, cast(case["emb"], precision), labels, normalize=True)

    for tag, (scale,) in tags(case, r"pml_proxynca_s([\d.]+)"):
        length = math.sqrt(scale)
        compare(
            case, tag, lambda p, r=length: run("proxy_nca", p, scale=r, denominator="all"), ["grad_emb", "grad_proxies"]
        )
    for tag, (alpha, beta) in tags(case, r"pml_ms_(\d+)_(\d+)"):
        compare(case, tag, lambda p, a=alpha, b=beta: run("multi_similarity", p, alpha=a, beta=b), ["grad_emb"])
    for tag, (tenths,) in tags(case, r"pml_triplet_semihard_m0?(\d+)"):
        compare(case, tag, lambda p, m=tenths / 10: run("triplet", p, margin=m), ["grad_emb"])


def source(name: str) -> Any:
    """The module of a shipped method."""
    return inspect.getmodule(registry.get(name).cls)


def margin_gradients(
    embeddings: Tensor, labels: NDArray[Any], triplets: NDArray[Any], beta: Tensor, margin: float, nu: float
) -> tuple[float, list[Tensor]]:
    """Gradients of the stored triplets' loss with respect to embeddings and boundary."""
    emb, boundary = embeddings.clone().requires_grad_(), beta.clone().requires_grad_()
    chosen = torch.from_numpy(triplets)
    classes = torch.from_numpy(labels)[chosen[:, 0]] if len(beta) > 1 else torch.zeros(len(chosen), dtype=torch.int64)
    value = margin_loss(emb, chosen, boundary[classes], margin, nu)
    value.backward()
    return float(value.detach()), [emb.grad, boundary.grad]


@pytest.mark.reproduces("margin")
@pytest.mark.parametrize("path", files("multi_similarity/marginloss*.npz"))
def test_margin_counts_active_terms(path: Path) -> None:
    case = load(path)

    def run(precision: str) -> tuple[float, list[Tensor]]:
        emb, beta = cast(case["emb"], precision), cast(case["beta"], precision)
        return margin_gradients(emb, case["labels"], case["triplets_apn"], beta, float(case["margin"]), 0.0)

    compare(case, "margin_count", run, ["grad", "grad_beta"])


@pytest.mark.parametrize("path", files("multi_similarity/marginloss*.npz"))
def test_distance_weighted_probabilities(path: Path) -> None:
    case = load(path)
    emb = torch.from_numpy(case["emb"])
    _, negative = pairs.pair_masks(torch.from_numpy(case["labels"]))
    got = miners.distance_weights(pairs.distances(emb), negative, emb.shape[1], float(case["cutoff"]))
    np.testing.assert_allclose(got.numpy(), case["neg_prob_f32"], atol=1e-4)


def official_margin(case: Case, triplets: NDArray[Any], sizes: dict[str, str]) -> None:
    for precision, bits in sizes.items():
        if f"legacy_loss{bits}" not in case or f"legacy_grad_emb{bits}" not in case:
            continue
        # The float64 run of a collapsed batch may have chosen other triplets than the stored ones.
        if bits == "64" and not np.isclose(case["legacy_loss64"], case["legacy_loss32"], rtol=1e-5):
            continue
        gradients = [case[f"legacy_grad_emb{bits}"]]
        classes = len(case["legacy_grad_beta32"]) if "legacy_grad_beta32" in case else 1
        if f"legacy_grad_beta{bits}" in case:
            gradients.append(case[f"legacy_grad_beta{bits}"])
        beta = torch.full((classes,), float(case["beta0"])).to(DTYPE[precision])  # float32 in the float64 runs too
        nu = float(case.get("nu", np.float64(0)))
        emb = cast(case["emb"], precision)
        got = margin_gradients(emb, case["labels"], triplets, beta, float(case["margin"]), nu)
        agree(got, case[f"legacy_loss{bits}"], gradients, precision)


@pytest.mark.reproduces("margin", "divide_and_conquer/margin_loss")
@pytest.mark.parametrize("case", cases("divide_and_conquer/margin_loss.npz"))
def test_margin_of_divide_and_conquer(case: Case) -> None:
    triplets = np.stack([case["legacy_anchor"], case["legacy_pos"], case["legacy_neg"]], 1).astype(np.int64)
    official_margin(case, triplets.reshape(-1, 3), {"f32": "32", "f64": "64"})


@pytest.mark.reproduces("margin", "mic/margin_distance")
@pytest.mark.parametrize("case", cases("mic/margin_distance.npz"))
def test_margin_of_mic(case: Case) -> None:
    official_margin(case, case["triplets"].astype(np.int64), {"f32": "32", "f64": "64"})
    for precision, key, tolerance in (("f32", "prob", 1e-4), ("f64", "prob64", 1e-8)):
        if key not in case:
            continue
        emb = cast(case["emb"], precision)
        _, negative = pairs.pair_masks(torch.from_numpy(case["labels"]))
        floor = math.sqrt(float(case["pdist_eps"]))
        got = miners.distance_weights(
            pairs.distances(emb, floor), negative, emb.shape[1], float(case["lower_cutoff"])
        ).numpy()
        # Rows that are NaN officially (a distance of 2 or more) are finite here.
        official = np.isfinite(case[key]).all(1)
        np.testing.assert_allclose(got[official], case[key][official], atol=tolerance)
        assert np.isfinite(got).all()


@pytest.mark.reproduces("proxy_nca", "mic/proxynca")
@pytest.mark.parametrize("case", cases("mic/proxynca.npz"))
def test_proxy_nca(case: Case) -> None:
    for precision, bits in {"f32": "32", "f64": "64"}.items():
        built = with_proxies("proxy_nca", case["proxies"], precision, scale=float(case["scale"]))
        got = toy.loss_and_gradients(built, cast(case["emb"], precision), case["labels"])
        keys = [f"grad_emb{bits}", f"grad_proxies{bits}"]
        agree(got, case[f"loss{bits}"], [case[key] for key in keys if key in case], precision)


@pytest.mark.reproduces("triplet", "mic/triplet_npair")
@pytest.mark.parametrize("case", cases("mic/triplet_npair.npz"))
def test_triplets_chosen_by_official_samplers(case: Case) -> None:
    """Squared distances, mean over the given triplets, active or not."""
    for key in case:
        match = re.fullmatch(r"((?:random|semihard)_m([\d.]+))_triplets", key)
        if not match:
            continue
        prefix, margin = match[1], float(match[2])
        anchor, positive, negative = torch.from_numpy(case[key].astype(np.int64)).T
        emb = torch.from_numpy(case["emb"]).requires_grad_()
        d = pairs.squared_distances(emb)
        value = source("triplet").hinge(d[anchor, positive], d[anchor, negative], margin).mean()
        value.backward()
        agree((float(value.detach()), [emb.grad]), case[f"{prefix}_loss"], [case[f"{prefix}_grad_emb"]], "f32")
