"""Methods built on other methods: creating the inner one, and grouping the parameters of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from bench import registry
from bench.method import Method, ParameterGroup


def create(name: str, **values: Any) -> Method:
    """An instance of another method, by name; not built yet. Assign it to an attribute: it is a module.

    Raises:
        UsageError: no such method, or a hyper-parameter that it does not take.
    """
    return registry.get(name, registry.in_use()).cls(**values)


def parameter_groups(inner: Sequence[Method], default: ParameterGroup) -> list[ParameterGroup]:
    """The inner methods' own groups, and one with the rest of `default`."""
    groups: list[ParameterGroup] = []
    rest = {id(p): p for p in default["params"]}
    for method in inner:
        own: list[nn.Parameter] = [p for p in method.parameters() if id(p) in rest]
        for p in own:
            del rest[id(p)]
        if own:
            groups += method.parameter_groups({**default, "params": own})
    return groups if not rest else [*groups, {**default, "params": list(rest.values())}]
