"""Optimiser and schedule as the protocol says; a method only groups its own parameters."""

from __future__ import annotations

import math

import torch
from torch import nn

from bench.errors import MethodError
from bench.method import Method, ParameterGroup
from bench.protocol import Group, Optimizer

EPSILON = 1e-8  # PyTorch's, of Adam, AdamW and RMSprop alike


def build_optimizer(
    settings: Optimizer, trunk: nn.Module | None, embedder: nn.Module, method: Method
) -> torch.optim.Optimizer:
    """One group for the trunk, one for the embedder, the method's groups last.

    Raises:
        MethodError: the method's groups hold a parameter that is not its own, or leave one out.
    """
    groups = [_group(settings.trunk, trunk), _group(settings.embedder, embedder)]
    fixed = {id(p) for group in groups for p in group["params"]}
    own = [p for p in method.parameters() if p.requires_grad and id(p) not in fixed]
    method_groups: list[ParameterGroup] = []
    if own:
        default = ParameterGroup(params=own, lr=settings.method.lr, weight_decay=settings.method.weight_decay)
        method_groups = method.parameter_groups(default)
        returned = [id(p) for group in method_groups for p in group["params"]]
        if sorted(returned) != sorted(id(p) for p in own):
            raise MethodError(
                f"method '{method.name}': parameter_groups() must hold each of its own {len(own)} parameters once "
                "and none of the trunk's or embedder's: their learning rates belong to the protocol."
            )
    parameters = [dict(group) for group in [*groups, *method_groups] if group["params"]]
    if settings.name == "sgd":
        return torch.optim.SGD(parameters, momentum=settings.momentum)
    epsilon = EPSILON if settings.epsilon is None else settings.epsilon
    if settings.name == "rmsprop":
        return torch.optim.RMSprop(parameters, momentum=settings.momentum, eps=epsilon)
    return (torch.optim.AdamW if settings.name == "adamw" else torch.optim.Adam)(parameters, eps=epsilon)


def learning_rate_factor(settings: Optimizer, step: int, iterations: int) -> float:
    """Share of the base learning rate in force at a 0-based step: linear warm-up, then the schedule."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "steps":
        assert settings.factor is not None  # the protocol's own check
        return float(settings.factor ** sum(step >= milestone for milestone in settings.milestones))
    if settings.schedule == "inverse":
        assert settings.decay is not None  # the protocol's own check
        return 1 / (1 + settings.decay * (step - settings.warmup))
    done = (step - settings.warmup) / max(1, iterations - settings.warmup)
    return 0.5 * (1 + math.cos(math.pi * done))


def _group(rates: Group, module: nn.Module | None) -> ParameterGroup:
    parameters = [] if module is None else [p for p in module.parameters() if p.requires_grad]
    return ParameterGroup(params=parameters, lr=rates.lr, weight_decay=rates.weight_decay)
