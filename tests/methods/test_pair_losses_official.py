"""Pair losses of the founding code bases beside vectors of the official code: Deep_Metric, and XBM's triplets.

Among the Deep_Metric vectors, `nca_patched*`, `semihard_repaired*` and `triplet_py*` come from files that
do not run as released; they record repaired code and are no references for anything here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import miners, pairs
from bench.pair_method import PairMethod
from tests.methods import toy
from tests.methods.test_pair_losses import pair_method
from tests.methods.test_parity import Case, cast, compare, files, load, tags


def official(built: PairMethod, case: Case, precision: str) -> tuple[float, list[Tensor]]:
    """Value and gradient under the official code's masks, which know an image itself by s >= 1 only."""
    emb = cast(case["emb"], precision).requires_grad_()
    labels = torch.from_numpy(case["labels"])
    same = labels[:, None] == labels[None, :]
    s = pairs.similarities(emb)
    value = built.pair_loss(s, same & (s < 1), ~same)
    return float(value.detach()), list(torch.autograd.grad(value, emb))


def record(
    property_of: Callable[[str, object], None],
    case: Case,
    tag: str,
    name: str,
    stem: str,
    run: Callable[[str], tuple[float, list[Tensor]]],
) -> None:
    """Write the worst relative error of value and gradient, for each stored precision."""
    for precision in ("f32", "f64"):
        value = case.get(f"{tag}__loss_{precision}")
        if value is None or not np.isfinite(value):
            continue
        got, (slope,) = run(precision)
        theirs = case[f"{tag}__grad_{precision}"]
        of_value = abs(got - float(value)) / max(abs(float(value)), 1e-2)  # below, `agree` goes by absolute error
        of_gradient = float(np.abs(slope.numpy() - theirs).max() / max(np.abs(theirs).max(), 1e-3))
        error = max(of_value, of_gradient)
        property_of("parity", {"method": name, "vectors": f"{stem} {tag}", "precision": precision, "error": error})


def settings_of(case: Case) -> list[tuple[str, str, dict[str, Any]]]:
    """Tag, method and hyper-parameters of all that a file of Deep_Metric vectors holds, except contrastive."""
    found: list[tuple[str, str, dict[str, Any]]] = []
    found += [(t, "lifted_modified", {"alpha": a, "beta": b}) for t, (a, b) in tags(case, r"lifted_a(\d+)_b(\d+)")]
    found += [
        (t, "lifted_modified", {"alpha": a, "beta": b, "mined": True})
        for t, (a, b) in tags(case, r"lifted_mined_a(\d+)_b(\d+)")
    ]
    found += [(t, "binomial", {"alpha": a, "margin": m / 10}) for t, (a, m) in tags(case, r"binomial_a(\d+)_m0?(\d+)")]
    found += [
        (t, "binomial", {"alpha": a, "beta": b, "mined": True})
        for t, (a, b) in tags(case, r"binomial_mined_a(\d+)_b(\d+)")
    ]
    found += [(t, "hard_mining", {}) for t, _ in tags(case, r"hardmining")]
    return found


@pytest.mark.parity
@pytest.mark.parametrize("path", files("deep_metric_losses/b*.npz"))
def test_deep_metric(path: Path, record_property: Callable[[str, object], None]) -> None:
    case = load(path)
    checked = settings_of(case)
    assert checked
    for tag, name, values in checked:
        built = pair_method(name, **values)

        def run(precision: str, built: PairMethod = built) -> tuple[float, list[Tensor]]:
            return official(built, case, precision)

        compare(case, tag, run, ["grad"])
        record(record_property, case, tag, name, f"deep_metric_losses/{path.stem}", run)
        if f"{tag}__pos_mask" in case and (values.get("mined") or name == "hard_mining"):
            s = pairs.similarities(torch.from_numpy(case["emb"]))
            positive, negative = pairs.pair_masks(torch.from_numpy(case["labels"]))
            kept = miners.multi_similarity(s, positive & (s < 1), negative, 0.1)
            assert np.array_equal(kept[0].numpy(), case[f"{tag}__pos_mask"])
            assert np.array_equal(kept[1].numpy(), case[f"{tag}__neg_mask"])


@pytest.mark.parity
@pytest.mark.parametrize("path", files("deep_metric_losses/b*.npz"))
def test_released_nca_points_the_other_way(path: Path) -> None:
    """Repaired so that it runs, the released loss of this name increases what NCA decreases: not a reference."""
    case = load(path)
    built = pair_method("nca", scale=1.0)
    compared = 0
    for tag, _ in tags(case, r"nca_patched_a16_k(\d+)"):
        theirs = case.get(f"{tag}__grad_f64")
        if theirs is None or not theirs.any():
            continue
        ours = toy.loss_and_gradients(built, cast(case["emb"], "f64"), case["labels"])[1][0].numpy()
        assert (ours * theirs).sum() < -0.5 * np.linalg.norm(ours) * np.linalg.norm(theirs)
        compared += 1
    if not compared:
        pytest.skip("the released loss gives no gradient on this batch")


def against_memory(case: Case, precision: str, underflow: bool = False) -> tuple[float, list[Tensor]]:
    """The XBM repository's triplet-like loss; the first columns of its memory stand for the batch."""
    emb = cast(case["emb"], precision).requires_grad_()
    labels, memory_labels = torch.from_numpy(case["labels"]), torch.from_numpy(case["mem_labels"])
    same = labels[:, None] == memory_labels[None, :]
    itself = torch.eye(*same.shape, dtype=torch.bool)
    assert underflow or same[itself].all()
    built = pair_method("hard_mining", rule="easiest")
    value = built.pair_loss(emb @ cast(case["mem_emb"], precision).T, same ^ itself, ~same)
    return float(value.detach()), list(torch.autograd.grad(value, emb))


@pytest.mark.parity
@pytest.mark.parametrize("path", files("xbm/losses_b[0-9]*.npz"))
def test_xbm_triplet(path: Path, record_property: Callable[[str, object], None]) -> None:
    """Batches against themselves and against memories that begin with the batch, where the code is right."""
    case = load(path)
    built = pair_method("hard_mining", rule="easiest")
    runs: dict[str, Callable[[str], tuple[float, list[Tensor]]]] = {
        "batch": lambda p: toy.loss_and_gradients(built, cast(case["emb"], p), case["labels"]),
        "mem": lambda p: against_memory(case, p),
    }
    for part, run in runs.items():
        renamed = {
            f"triplet__{what}_{p}": case[f"triplet__{part}_{what}_{p}"]
            for what in ("loss", "grad")
            for p in ("f32", "f64")
            if f"triplet__{part}_{what}_{p}" in case
        }
        assert renamed
        compare(renamed, "triplet", run, ["grad"])
        record(record_property, renamed, "triplet", "hard_mining", f"xbm/{path.stem} {part}", run)


@pytest.mark.parity
@pytest.mark.parametrize("path", files("xbm/losses_batch_last.npz"))
def test_xbm_underflow_is_all_that_differs(path: Path) -> None:
    """With the batch at the end of the memory, the official number needs negatives that count as positives too."""
    case = load(path)
    labels = torch.from_numpy(case["labels"])
    wrong = (labels != torch.from_numpy(case["mem_labels"])[: len(labels)]).sum()
    assert wrong == int(case["triplet__underflow_positives"])
    renamed = {key.replace("mem_", "", 1): value for key, value in case.items() if key.startswith("triplet__mem_")}
    compare(renamed, "triplet", lambda p: against_memory(case, p, underflow=True), ["grad"])
