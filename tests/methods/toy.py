"""Batches and contexts small enough to reason about."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import registry
from bench.method import Batch, Context, Method


@cache
def _class(name: str) -> type[Method]:
    return registry.get(name).cls


def method(name: str, classes: int = 8, size: int = 16, **values: Any) -> Method:
    """A shipped method, built, its own random numbers fixed."""
    torch.manual_seed(0)
    built = _class(name)(**values)
    built.build(context(classes, size))
    return built


def context(classes: int, size: int) -> Context:
    """A training set of four images a class."""
    labels = torch.arange(classes).repeat_interleave(4)
    return Context(classes, labels, size, size, 100, torch.device("cpu"))


def batch(embeddings: Tensor, labels: Tensor) -> Batch:
    """A batch whose embeddings are taken as they are."""
    return Batch(embeddings, embeddings, embeddings.detach(), labels, torch.arange(len(labels)), 0)


def loss_and_gradients(
    built: Method, embeddings: Any, labels: Any, normalize: bool = False
) -> tuple[float, list[Tensor]]:
    """Value, then the gradients with respect to the embeddings and to the method's own parameters."""
    leaf = torch.as_tensor(np.asarray(embeddings)).clone().requires_grad_()
    given = torch.nn.functional.normalize(leaf) if normalize else leaf
    value = built.loss(batch(given, torch.as_tensor(np.asarray(labels))))
    wanted = [leaf, *built.parameters()]
    gradients = torch.autograd.grad(value, wanted, allow_unused=True, materialize_grads=True)
    return float(value.detach()), list(gradients)


def unit_rows(generator: np.random.Generator, count: int, size: int, spread: float = 1.0) -> Tensor:
    """Unit vectors; a small spread crowds them around one direction."""
    rows = generator.standard_normal((count, size)) * spread + np.eye(size)[0] * (1 - spread) * 4
    return torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True))
