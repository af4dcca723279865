"""The values that methods run with: their defaults, or what the protocol gives them instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from bench import registry
from bench.errors import UsageError, unknown_name
from bench.method import Method
from bench.protocol import Protocol
from bench.record import Value


def values_under(protocol: Protocol, method: type[Method]) -> dict[str, Value]:
    """A method's hyper-parameters under a protocol: those that it names for the method, the others at their defaults.

    Raises:
        UsageError: the method does not have one that is named, or does not accept its value.
    """
    given = protocol.hyperparameters.get(method.name)
    if not given:
        return registry.defaults(method)
    try:
        return method(**given).values()
    except UsageError as error:
        raise UsageError(f"{_where(protocol, method.name)}: {error}") from None


def check(protocol: Protocol, include: Sequence[Path] = ()) -> None:
    """Try every value that a protocol names, those of methods that are not to run too: a slip would pass in silence.

    Raises:
        UsageError: no such method, or it does not take what is named for it.
    """
    known = registry.methods(include) if protocol.hyperparameters else {}
    for name in protocol.hyperparameters:
        if name not in known:
            raise UsageError(
                f"{_where(protocol, name)}: {unknown_name('method', name, known)} One that is not installed is made "
                "known by its file: --include PATH."
            )
        values = values_under(protocol, known[name].cls)
        try:
            registry.identity(name, values, include)
        except UsageError as error:
            raise UsageError(f"{_where(protocol, name)}: {error}") from None


def notes(protocol: Protocol, methods: Iterable[type[Method]]) -> tuple[str, ...]:
    """A line for each method that runs with other values than its defaults because the protocol says so."""
    found = []
    for method in methods:
        values, defaults = values_under(protocol, method), registry.defaults(method)
        changed = [
            f"{key} = {_shown(value)} instead of {_shown(defaults[key])}"
            for key, value in values.items()
            if value != defaults[key]
        ]
        if changed:
            found.append(f"the protocol runs {method.name} with {', '.join(changed)}")
    return tuple(found)


def _shown(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _where(protocol: Protocol, method: str) -> str:
    return f"protocol '{protocol.name}': hyperparameters.{method}"
