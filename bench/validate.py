"""The test-suite for method plug-ins: every rule of the method interface, tried out on toy data."""

from __future__ import annotations

import copy
import math
import random
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bench import registry
from bench.data import seal
from bench.method import Batch, Method
from bench.registry import MethodInfo
from bench.toy import CLASSES, COUNT, EPOCH, ITERATIONS, PER_CLASS, SHAPE, Toy

Result = Literal["pass", "fail", "skip", "info"]
DRAWS = 64  # repetitions where a loss is random
SIGMAS = 5.0  # a false alarm of the statistical comparison is rarer than one in a million


@dataclass(frozen=True)
class Check:
    """One rule tried on one method: what came out, and what was seen."""

    method: str
    check: str
    result: Result
    seen: str


class _Broken(Exception):
    """A rule is broken; the message says what was seen."""


class _Skipped(Exception):
    """A rule does not apply; the message says why."""


def validate(info: MethodInfo) -> list[Check]:
    """Try every rule on one method. Never raises for a fault of the method: it becomes a failed check."""
    built = _try(info, "builds", _builds)
    if built.result == "fail":
        return [built, *(Check(info.cls.name, name, "skip", "it does not build") for name in list(CHECKS)[1:])]
    return [built, *(_try(info, name, check) for name, check in list(CHECKS.items())[1:])]


def _try(info: MethodInfo, name: str, check: Callable[[type[Method]], str]) -> Check:
    if not info.cls.trains and name not in ("builds", "embedding size"):
        return Check(info.cls.name, name, "skip", "does not train")
    try:
        with seal.sealed(f"method '{info.cls.name}' is being validated"):
            seen = check(info.cls)
    except _Broken as broken:
        return Check(info.cls.name, name, "fail", str(broken))
    except _Skipped as skipped:
        return Check(info.cls.name, name, "skip", str(skipped))
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        return Check(info.cls.name, name, "fail", f"{type(error).__name__} at {where}: {error}")
    return Check(info.cls.name, name, "info" if name == "time" else "pass", seen)


def _builds(cls: type[Method]) -> str:
    """Constructs, builds and groups its parameters (the harness's optimiser refuses foreign or missing ones)."""
    own = Toy(cls).own_parameters()
    return f"{sum(p.numel() for p in own.values())} own parameters"


def _embedding_size(cls: type[Method]) -> str:
    toy = Toy(cls)
    with torch.no_grad():
        features = toy.features(torch.arange(COUNT))
        shapes = [tuple(toy.embedder(features).shape), tuple(toy.method.embed(features, toy.embedder).shape)]
    size = toy.size if cls.trains else shapes[0][-1]
    if shapes[1] != (COUNT, size) or (cls.trains and shapes[0] != (COUNT, size)):
        raise _Broken(f"training {shapes[0]}, test time {shapes[1]}, expected {(COUNT, toy.size)}")
    return f"{size}" if size == toy.size else f"{size}, not the protocol's {toy.size} (allowed: it does not train)"


def _batches(cls: type[Method]) -> str:
    runs = []
    for _ in range(2):
        toy = Toy(cls)
        with toy.streams.world("method"):
            batches = toy.begin_epoch()
            runs.append([next(batches) for _ in range(3 * EPOCH)])
    for rows in runs[0]:
        if not isinstance(rows, np.ndarray) or rows.dtype != np.int64 or rows.shape != (SHAPE.size,):
            seen = f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
            raise _Broken(f"a batch is {seen}, expected an int64 array of shape ({SHAPE.size},)")
        if rows.min() < 0 or rows.max() >= COUNT:
            raise _Broken(f"indices lie in [{rows.min()}, {rows.max()}], expected [0, {COUNT - 1}]")
    if any(not np.array_equal(first, second) for first, second in zip(*runs, strict=True)):
        raise _Broken("two runs of one seed got different batches")
    return f"{SHAPE.size} int64 indices"


def _loss(cls: type[Method]) -> str:
    toy = Toy(cls)
    with toy.streams.world("method"):
        loss = toy.method.loss(toy.batch(torch.from_numpy(next(toy.begin_epoch()))))
    if not isinstance(loss, Tensor):
        raise _Broken(f"loss is a {type(loss).__name__}, expected a tensor")
    if loss.ndim != 0 or not loss.is_floating_point() or not loss.requires_grad or not torch.isfinite(loss):
        raise _Broken(
            f"shape {tuple(loss.shape)}, {loss.dtype}, value {loss.detach().tolist()}, requires_grad "
            f"{loss.requires_grad}; expected one finite float connected to the embeddings"
        )
    return f"{float(loss.detach()):.4g}"


def _gradients(cls: type[Method]) -> str:
    """Over some batches, spread over the stages of a run, something reaches trunk, embedder and own parameters."""
    toy = Toy(cls)
    named = {f"trunk.{k}": p for k, p in toy.trunk.named_parameters()}
    named |= {f"embedder.{k}": p for k, p in toy.embedder.named_parameters() if p.requires_grad}
    named |= toy.own_parameters()
    reached: set[str] = set()
    with toy.streams.world("method"):
        batches = toy.begin_epoch()
        for step in range(0, ITERATIONS, ITERATIONS // (2 * EPOCH)):
            toy.step = step
            loss = toy.method.loss(toy.batch(torch.from_numpy(next(batches))))
            gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            for name, gradient in zip(named, gradients, strict=True):
                if gradient is not None and not gradient.isfinite().all():
                    raise _Broken(f"gradient of {name} is NaN or infinite")
                if gradient is not None and gradient.any():
                    reached.add(name)
    if missing := [name for name in named if name not in reached]:
        raise _Broken(f"no gradient reaches {', '.join(missing)}")
    return f"reach {len(named)} parameters"


def _permutation(cls: type[Method]) -> str:
    """The order of the images in a batch does not matter, unless the method declares that it does."""
    if cls.order_matters:
        raise _Skipped("declared: the order of images in a batch carries meaning")
    toy = Toy(cls)
    generator = torch.Generator().manual_seed(1)
    rows = torch.arange(SHAPE.size)
    embeddings = functional.normalize(torch.randn(SHAPE.size, toy.size, generator=generator))
    order = torch.randperm(SHAPE.size, generator=generator)
    batches = [toy.artificial(embeddings, rows), toy.artificial(embeddings[order], rows[order])]
    with toy.streams.world("method"):
        toy.begin_epoch()
        before = _generators()
        first = [_value(toy, batch) for batch in batches]
        if _generators() == before:
            if abs(first[0] - first[1]) > 1e-4 * max(abs(first[0]), 1e-3):
                raise _Broken(f"loss {first[0]:.6g} became {first[1]:.6g} after the batch was shuffled")
            return "same loss"
        values = np.array([[_value(toy, batch) for _ in range(DRAWS)] for batch in batches])
    difference = abs(values[0].mean() - values[1].mean())
    error = np.sqrt(values.var(axis=1, ddof=1).sum() / DRAWS)
    if difference > SIGMAS * error + 1e-4 * abs(values[0].mean()):
        raise _Broken(f"mean loss of {DRAWS} draws {values[0].mean():.4g} became {values[1].mean():.4g} when shuffled")
    return f"same mean loss over {DRAWS} draws"


def _nasty(cls: type[Method]) -> str:
    """Batches without positives, without negatives, or with coinciding points give finite loss and gradients."""
    for name, (rows, embeddings) in _nasty_batches().items():
        toy = Toy(cls)
        leaf = embeddings.clone().requires_grad_()
        with toy.streams.world("method"):
            toy.begin_epoch()
            loss = toy.method.loss(toy.artificial(leaf, rows))
        if not loss.requires_grad:
            raise _Broken(f"{name}: the loss ({float(loss):.4g}) is not connected to the embeddings")
        inputs = [leaf, *toy.own_parameters().values()]
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        if not torch.isfinite(loss) or not all(bool(g.isfinite().all()) for g in gradients):
            raise _Broken(f"{name}: loss {float(loss.detach()):.4g}, or a gradient, is not finite")
    return ", ".join(_nasty_batches())


def _nasty_batches() -> dict[str, tuple[Tensor, Tensor]]:
    size = SHAPE.size
    points = functional.normalize(torch.randn(size, 8, generator=torch.Generator().manual_seed(2)))
    regular = torch.arange(size)
    same = torch.eye(8)[:1].repeat(size, 1)  # exact in floating point: distances are truly 0
    one_class = torch.arange(PER_CLASS).repeat(size // PER_CLASS)
    lonely = torch.arange(CLASSES)[:size] * PER_CLASS
    return {
        "one class": (one_class, points),
        "all singletons": (lonely, points),
        "duplicates": (regular, points[: size // 2].repeat_interleave(2, 0)),
        "duplicates across classes": (regular, points[: size // 2].repeat(2, 1)),
        "collapsed": (regular, same),
        "opposite points": (regular, torch.cat([points[: size // 2], -points[: size // 2]])),
        "one class collapsed": (one_class, same),
    }


def _resume(cls: type[Method]) -> str:
    """A checkpoint loaded into another instance continues with the same bits."""
    first = Toy(cls)
    first.train(EPOCH + 2)  # in the middle of an epoch
    saved = first.save()
    second = Toy(cls, seed=1)  # another seed: whatever is not in the checkpoint differs
    second.load(saved)
    expected, found = first.train(EPOCH), second.train(EPOCH)
    if expected != found:
        step = next(k for k, (a, b) in enumerate(zip(expected, found, strict=True)) if a != b)
        raise _Broken(
            f"step {step + 1} after loading: loss {found[step]!r}, uninterrupted {expected[step]!r}; "
            "some state is in neither a parameter nor a buffer"
        )
    return f"{EPOCH} steps, same bits"


def _deterministic(cls: type[Method]) -> str:
    runs = []
    for disturbance in (0, 1):
        torch.manual_seed(disturbance)  # generators outside the run's streams must not matter
        toy = Toy(cls)
        losses = toy.train(EPOCH + 1)
        runs.append((losses, [p.detach().clone() for p in toy.embedder.parameters()]))
    if runs[0][0] != runs[1][0]:
        raise _Broken(f"two runs of one seed: losses {runs[0][0]} and {runs[1][0]}")
    if any(not torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True)):
        raise _Broken("two runs of one seed ended with different embedders")
    return f"{EPOCH + 1} steps, same bits"


def _ranges(cls: type[Method]) -> str:
    """Both ends of every hyper-parameter's range, and each choice, build and give a finite loss."""
    tried = 0
    for key, declared in cls.hyperparameters.items():
        ends = sorted({end for end in (declared.low, declared.high, *declared.bounds) if end is not None})
        ends = [end for end in ends if math.isfinite(end)]
        choices: list[Any] = [*ends, *declared.choices]
        if isinstance(declared.default, bool):
            choices.append(not declared.default)
        for value in choices:
            given = int(value) if type(declared.default) is int else value
            losses = Toy(cls, values={key: given}).train(2)
            if not np.isfinite(losses).all():
                raise _Broken(f"{key} = {given}: losses {losses}")
            tried += 1
    return f"{tried} values" if tried else "no ranges"


def _time(cls: type[Method]) -> str:
    milliseconds = _milliseconds(cls)
    reference = _milliseconds(registry.get("contrastive").cls)
    return f"{milliseconds:.2f} ms, {milliseconds / reference:.1f} x contrastive"


def _milliseconds(cls: type[Method]) -> float:
    """Fastest of some losses with backward pass, batch of 128 x 64."""
    toy = Toy(cls, size=64)
    embeddings = functional.normalize(torch.randn(COUNT, 64, generator=torch.Generator().manual_seed(3)))
    leaf = embeddings.requires_grad_()
    batch = toy.artificial(leaf, torch.arange(COUNT))
    taken = []
    with toy.streams.world("method"):
        toy.begin_epoch()
        for _ in range(7):
            began = time.perf_counter()
            torch.autograd.grad(toy.method.loss(batch), leaf, allow_unused=True)
            taken.append(time.perf_counter() - began)
    return 1000 * min(taken)


def _value(toy: Toy, batch: Batch) -> float:
    """The loss as it would be now: state that `loss` changes is changed in a copy."""
    method: Method = copy.deepcopy(toy.method)
    return float(method.loss(batch).detach())


def _generators() -> str:
    """The global generators' state: methods may draw from any of them."""
    legacy = np.random.get_state()  # noqa: NPY002
    return repr((torch.get_rng_state().tolist(), legacy, random.getstate()))


CHECKS: dict[str, Callable[[type[Method]], str]] = {
    "builds": _builds,
    "embedding size": _embedding_size,
    "batches": _batches,
    "loss": _loss,
    "gradients": _gradients,
    "permutation": _permutation,
    "nasty batches": _nasty,
    "resume": _resume,
    "deterministic": _deterministic,
    "ranges": _ranges,
    "time": _time,
}
