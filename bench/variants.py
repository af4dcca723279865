"""Methods declared by a YAML line instead of a file: another method at other values, or a library's loss.

A file maps names to entries:

    xbm_triplet: { method: xbm, hyperparameters: { base: triplet } }
    pml_circle: { pml: { loss: CircleLoss } }
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from bench import yaml_file
from bench.errors import UsageError, unknown_name
from bench.method import Hyperparameter, Method
from bench.pml import LibraryLoss, library_version


class Entry(BaseModel):
    """One declared method: exactly one of `method` and `pml`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    method: str | None = None
    hyperparameters: dict[str, float | int | bool | str] = {}
    pml: LibraryLoss | None = None
    paper: str | None = None
    summary: str | None = None
    by_default: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> Entry:
        if (self.method is None) == (self.pml is None):
            raise ValueError("needs either 'method' (with 'hyperparameters') or 'pml'")
        if self.pml is not None and self.hyperparameters:
            raise ValueError("'hyperparameters' belong to 'method'; a library loss takes its arguments inside 'pml'")
        return self


def read(path: Path) -> dict[str, Entry]:
    """The entries of a YAML file of variants.

    Raises:
        UsageError: not YAML, or an entry is not as above; the message names file and key.
    """
    entries = {}
    for name, declaration in yaml_file.read(path).items():
        try:
            entries[name] = Entry.model_validate(declaration)
        except ValidationError as error:
            raise UsageError(yaml_file.explain(f"{path}, method '{name}'", error, Entry)) from None
    return entries


def declare(
    name: str, entry: Entry, path: Path, known: Mapping[str, tuple[type[Method], str]]
) -> tuple[type[Method], str]:
    """The class of an entry and its hash.

    Args:
        name: of the declared method.
        entry: its declaration.
        path: the file it stands in, for messages.
        known: class and hash of each method written in Python.

    Raises:
        UsageError: the method it builds on does not exist or does not take the values; or the library
            is not installed or has no such loss.
    """
    where = f"{path}: method '{name}'"
    if entry.pml is not None:
        from bench.pml import declare_library_method

        cls = declare_library_method(name, entry.pml, where)
        base_hash = f"pytorch-metric-learning {library_version()}"
    else:
        assert entry.method is not None
        if entry.method not in known:
            raise UsageError(f"{where}: {unknown_name('method', entry.method, known)}")
        base, base_hash = known[entry.method]
        try:
            values = base(**entry.hyperparameters).values()
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None
        cls = type(
            f"{base.__name__}_{name}", (base,), {"__module__": base.__module__, **_declared(base, values, entry)}
        )
        cls.variant_of = entry.method
    cls.name = name
    cls.by_default = entry.by_default
    cls.paper = entry.paper or cls.paper
    cls.__doc__ = entry.summary or cls.__doc__ or cls.__base__.__doc__
    content = entry.model_dump(mode="json", include={"method", "hyperparameters", "pml"})
    return cls, hashlib.sha256(json.dumps([base_hash, content], sort_keys=True).encode()).hexdigest()[:12]


def _declared(base: type[Method], values: Mapping[str, Any], entry: Entry) -> dict[str, Hyperparameter]:
    return {
        key: replace(declared, default=values[key], fixed=key in entry.hyperparameters)
        for key, declared in base.hyperparameters.items()
    }
