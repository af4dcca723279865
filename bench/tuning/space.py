"""What is searched of a method: the ranges that the protocol names for it, else those that it declares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from bench.errors import UsageError, unknown_name
from bench.method import Hyperparameter, Method
from bench.protocol import Protocol, Range, Search, load_protocol, protocol_files
from bench.record import Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Space = dict[str, Range]


def search_of(protocol: Protocol) -> Search:
    """The protocol's rules for a search.

    Raises:
        UsageError: it has none, or no validation classes to judge settings by.
    """
    if protocol.search is None:
        raise UsageError(
            f"protocol '{protocol.name}' has no section 'search', which says how many trials every method gets. "
            f"{_protocols_with_search()} A copy of a protocol's YAML file may add it, 'search: {{trials: 20, "
            "reproductions: 3}', and is named by its path: --protocol my.yaml."
        )
    if protocol.folds is None:
        raise UsageError(
            f"protocol '{protocol.name}' has no folds: without validation classes nothing but the test classes could "
            "judge a setting. A copy of its YAML file may add 'folds: {count: 4, use: [0, 1, 2, 3]}'."
        )
    return protocol.search


def _protocols_with_search() -> str:
    found = []
    for name in protocol_files():
        try:
            if load_protocol(name).search is not None:
                found.append(name)
        except UsageError:
            continue  # a broken file is explained to whoever asks for it
    return f"Protocols that have one: {', '.join(found)}." if found else "No protocol here has one."


def space_of(method: type[Method], protocol: Protocol) -> Space:
    """Range by hyper-parameter, sorted by name. Empty: nothing to search.

    What is not in it keeps its default, or the value that the protocol gives it; such a value is never searched.

    Raises:
        UsageError: the protocol searches a hyper-parameter that the method does not have, or where it cannot go.
    """
    named = {} if protocol.search is None else protocol.search.spaces
    if method.name not in named:
        where = f"method '{method.name}': hyper-parameter"
        found = {key: _declared(declared, f"{where} '{key}'") for key, declared in method.hyperparameters.items()}
        fixed = protocol.hyperparameters.get(method.name, {})
        ranges = {key: span for key, span in found.items() if span is not None and key not in fixed}
    else:
        where = f"protocol '{protocol.name}': search.spaces.{method.name}"
        ranges = named[method.name]
        for key in ranges:
            if key not in method.hyperparameters:
                raise UsageError(f"{where}: {unknown_name('hyper-parameter', key, method.hyperparameters)}")
    for key, span in ranges.items():
        _check(method.hyperparameters[key], span, f"{where}.{key}")
    return dict(sorted(ranges.items()))


def values_of(span: Range, declared: Hyperparameter) -> tuple[Value, ...]:
    """The choices of a range in the hyper-parameter's own type: 1 is 1.0 where numbers are real."""
    real = type(declared.default) is float
    return tuple(float(choice) if real and type(choice) is int else choice for choice in span.choices)


def distributions(method: type[Method], space: Space) -> dict[str, BaseDistribution]:
    """The space as Optuna has it: real, whole or categorical, as the hyper-parameter's default is."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for key, span in space.items():
        declared = method.hyperparameters[key]
        if span.low is None or span.high is None:
            found[key] = CategoricalDistribution(values_of(span, declared))
        elif type(declared.default) is int:
            found[key] = IntDistribution(int(span.low), int(span.high), log=span.scale == "log")
        else:
            found[key] = FloatDistribution(span.low, span.high, log=span.scale == "log")
    return found


def described(space: Space) -> str:
    """A space in words: 'base 0 to 1, alpha 0.1 to 20 (log), mined one of True, False'."""
    words = []
    for key, span in space.items():
        if span.choices:
            words.append(f"{key} one of {', '.join(map(str, span.choices))}")
        else:
            words.append(f"{key} {span.low:g} to {span.high:g}{' (log)' if span.scale == 'log' else ''}")
    return ", ".join(words)


def _declared(declared: Hyperparameter, where: str) -> Range | None:
    if declared.method or declared.fixed:
        return None
    try:
        if declared.choices:
            return Range(choices=declared.choices)
        if declared.low is None or declared.high is None:
            return None
        return Range(low=declared.low, high=declared.high, scale=declared.scale)
    except ValidationError as error:
        raise UsageError(f"{where}: its declared range cannot be searched: {error.errors()[0]['msg']}.") from None


def _check(declared: Hyperparameter, span: Range, where: str) -> None:
    """Every value of the range must be one that the method accepts: a trial outside could only fail."""
    kind = type(declared.default)
    if span.low is None or span.high is None:
        for value in values_of(span, declared):
            if type(value) is not kind or (declared.choices and value not in declared.choices):
                allowed = f"one of {', '.join(declared.choices)}" if declared.choices else kind.__name__
                raise UsageError(f"{where}: choice {value!r} is not allowed: {allowed} is.")
        numbers = [value for value in values_of(span, declared) if isinstance(value, int | float)]
    elif kind not in (int, float):
        raise UsageError(f"{where}: 'low' and 'high' are for numbers, this one is {kind.__name__}: use 'choices'.")
    else:
        numbers = [span.low, span.high]
        if kind is int and any(number != int(number) for number in numbers):
            raise UsageError(f"{where}: 'low' and 'high' must be whole numbers, found {span.low:g} and {span.high:g}.")
        if kind is int and span.scale == "log" and span.low < 1:
            raise UsageError(f"{where}: a log scale of whole numbers needs a 'low' of at least 1, found {span.low:g}.")
    low, high = declared.bounds
    outside = [number for number in numbers if not low <= number <= high]
    if outside:
        raise UsageError(f"{where}: {outside[0]:g} lies outside [{low:g}, {high:g}], which is what the method accepts.")
