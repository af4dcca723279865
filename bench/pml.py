"""Any loss of pytorch-metric-learning, with any of its miners, as a method: `pml: { loss: CircleLoss }`.

The library is an optional extra. A part is its class name, or a mapping with `name` and the arguments of
the class; arguments that are themselves objects of the library (distance, reducer, regulariser) are
mappings again:

    pml:
      loss: { name: TripletMarginLoss, margin: 0.1, distance: { name: LpDistance, power: 2 } }
      miner: { name: BatchHardMiner }

The arguments `num_classes` and `embedding_size` are filled in from the run.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from bench.errors import UsageError, unknown_name
from bench.method import Batch, Context, Method

PACKAGE = "pytorch_metric_learning"
INSTALL = "pip install 'bench[pml]'"
_KINDS = {
    "losses": "loss",
    "miners": "miner",
    "distances": "distance",
    "reducers": "reducer",
    "regularizers": "regulariser",
}

Part = str | dict[str, Any]


class LibraryLoss(BaseModel):
    """A loss of the library and, if wanted, a miner."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: Part
    miner: Part | None = None


def library_version() -> str:
    """Version of the installed library; part of the identity of a method made from it.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.metadata.version("pytorch-metric-learning")
    except importlib.metadata.PackageNotFoundError:
        raise UsageError(f"methods from pytorch-metric-learning need that package: {INSTALL}") from None


class _LibraryMethod(Method):
    """A loss of pytorch-metric-learning with its own normalisation, reduction and parameters."""

    parts: ClassVar[LibraryLoss]
    where: ClassVar[str]

    def build(self, context: Context) -> None:
        """Create loss and miner; the loss's own proxies or weights are this method's parameters."""
        filled = {"num_classes": context.num_classes, "embedding_size": context.embedding_size}
        self.loss_function: nn.Module = _create("losses", self.parts.loss, filled, self.where)
        self.miner = None if self.parts.miner is None else _create("miners", self.parts.miner, filled, self.where)
        self.to(context.device)

    def loss(self, batch: Batch) -> Tensor:
        """The library's loss of the pairs or triplets that its miner keeps."""
        mined = None if self.miner is None else self.miner(batch.embeddings, batch.labels)
        arguments = (batch.embeddings, batch.labels) if mined is None else (batch.embeddings, batch.labels, mined)
        value: Tensor = self.loss_function(*arguments)
        return value


def declare_library_method(name: str, parts: LibraryLoss, where: str) -> type[Method]:
    """A method class for a loss (and miner) of the library.

    Raises:
        UsageError: not installed, no such class, or arguments that it does not take.
    """
    library_version()
    cls = type(f"Library_{name}", (_LibraryMethod,), {"__module__": __name__, "parts": parts, "where": where})
    trial = {"num_classes": 2, "embedding_size": 2}
    _create("losses", parts.loss, trial, where)
    if parts.miner is not None:
        _create("miners", parts.miner, trial, where)
    return cls


def _create(kind: str, part: Part, filled: dict[str, int], where: str) -> Any:
    arguments = {"name": part} if isinstance(part, str) else dict(part)
    name = arguments.pop("name", None)
    found = _classes(kind)
    if not isinstance(name, str) or name not in found:
        raise UsageError(f"{where}: {unknown_name(f'{_KINDS[kind]} of pytorch-metric-learning', str(name), found)}")
    for key, value in arguments.items():
        if isinstance(value, dict) and "name" in value:
            arguments[key] = _create(_kind_of(value["name"], where), value, filled, where)
    accepted = _parameters(found[name])
    arguments = {**{key: value for key, value in filled.items() if key in accepted}, **arguments}
    try:
        return found[name](**arguments)
    except Exception as error:
        raise UsageError(f"{where}: {name} refuses its arguments ({type(error).__name__}: {error}).") from None


def _kind_of(name: Any, where: str) -> str:
    for kind in _KINDS:
        if name in _classes(kind):
            return kind
    raise UsageError(f"{where}: pytorch-metric-learning has no distance, reducer or regulariser '{name}'.")


def _classes(kind: str) -> dict[str, type[Any]]:
    module = importlib.import_module(f"{PACKAGE}.{kind}")
    return {name: value for name, value in vars(module).items() if isinstance(value, type)}


def _parameters(cls: type[Any]) -> set[str]:
    """Argument names of the constructors along the class's ancestry, as far as they pass them on."""
    names: set[str] = set()
    for ancestor in cls.__mro__:
        if "__init__" not in vars(ancestor):
            continue
        parameters = inspect.signature(ancestor).parameters
        names |= set(parameters)
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            break
    return names
