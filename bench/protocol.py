"""The protocol: everything that must be equal for a comparison to be fair, read from one YAML file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from bench import home, yaml_file
from bench.errors import UsageError, unknown_name
from bench.protocol_sections import (
    Batch,
    Budget,
    Clustering,
    Embedding,
    Evaluation,
    Fit,
    Folds,
    Fraction,
    Graded,
    Group,
    Images,
    Interval,
    Optimizer,
    Positive,
    Range,
    Search,
    Section,
    Selection,
    Shape,
    Subset,
    TrainImages,
    Trunk,
    added,
)

__all__ = [
    "Batch",
    "Budget",
    "Clustering",
    "Embedding",
    "Evaluation",
    "Fit",
    "Folds",
    "Graded",
    "Group",
    "Images",
    "Interval",
    "Optimizer",
    "Protocol",
    "Range",
    "Search",
    "Section",
    "Selection",
    "Shape",
    "Subset",
    "TrainImages",
    "Trunk",
    "load_protocol",
    "protocol_files",
]


class Protocol(Section):
    """One protocol file. `hash` identifies its content: comments and formatting do not count."""

    name: str
    summary: str
    trunk: Trunk
    embedding: Embedding
    images: Images
    batch: Batch
    optimizer: Optimizer
    budget: Budget
    folds: Folds | None
    selection: Selection
    seeds: tuple[Annotated[int, Field(ge=0)], ...]
    evaluation: Evaluation
    interval: Interval = Interval()
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: Positive = Field(default=1, description="CPU threads a run computes with: part of what makes its bits")
    subset: Subset | None = None
    sides: Literal["official", "halves"] = added("official", description="halves: of the classes, by their number")
    search: Search | None = added(None, description="how `bench tune` chooses hyper-parameters")
    ensemble: bool = added(False, description="also evaluate the folds' embeddings side by side")
    budget_share: Fraction = added(1.0, description="below 1: the protocol scaled down, and marked so")
    hyperparameters: dict[str, dict[str, float | int | bool | str]] = added(
        {}, description="of single methods, instead of their defaults; a method inside another one keeps its own"
    )
    datasets: dict[str, dict[str, Any]] = added({}, description="keys that have other values on a data set")
    corrections: tuple[str, ...] = added((), description="slips of the original that are not repeated")
    departures: tuple[str, ...] = added((), description="what differs from the original, and why")

    @model_validator(mode="after")
    def _consistent(self) -> Protocol:
        if self.selection.split == "validation" and self.folds is None:
            raise ValueError("selection.split is 'validation' but folds is null: name folds, or select 'last'")
        if self.selection.retrain and (self.folds is None or self.selection.split != "last"):
            raise ValueError("selection.retrain needs folds to find the length, and selection.split 'last'")
        if not self.trunk.frozen and self.images.train is None:
            raise ValueError("images.train is missing: a trunk that is trained needs training crops")
        if self.trunk.frozen and self.images.train is not None:
            raise ValueError("images.train is given but trunk.frozen is true: cached features have no random crops")
        if self.selection.metric not in self.evaluation.selectable:
            allowed = ", ".join(self.evaluation.selectable)
            raise ValueError(f"selection.metric is '{self.selection.metric}'; allowed: {allowed}")
        if self.budget.evaluate_every > self.budget.iterations:
            raise ValueError("budget.evaluate_every is larger than budget.iterations: no checkpoint would be kept")
        spaces = {} if self.search is None else self.search.spaces
        both = [
            f"{name}.{key}"
            for name, given in self.hyperparameters.items()
            for key in given.keys() & spaces.get(name, {})
        ]
        if both:
            raise ValueError(
                f"hyperparameters gives what search.spaces searches: {', '.join(sorted(both))}; name it in only one"
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be distinct and not empty, found {list(self.seeds)}")
        if self.batch.per_class == 1 and self.batch.classes == 1:
            raise ValueError("batch of one image: no loss can be computed")
        return self

    @property
    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the content; texts for people and seeds are not part of it."""
        content = self.content()
        for name in ("name", "summary", "seeds", "corrections", "departures"):
            content.pop(name, None)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def lasting(self, iterations: int, images: int = 1, of: int = 1) -> Protocol:
        """The same protocol for the stage that trains anew: as long as `iterations` on `of` images took.

        Under `selection.retrain_by` 'epochs' that is as many passes over `images`, and whatever the protocol counts in
        iterations grows with them.
        """
        budget, optimizer = self.budget, self.optimizer
        changes = {"iterations": iterations, "evaluate_every": budget.evaluate_every}
        if self.selection.retrain_by == "epochs":
            counts = {**changes, "epoch": budget.epoch}
            changes = {key: max(1, round(count * images / of)) for key, count in counts.items()}
            optimizer = optimizer.moved(of, images)
        changes["evaluate_every"] = min(changes["evaluate_every"], changes["iterations"])
        return self.model_copy(update={"budget": budget.model_copy(update=changes), "optimizer": optimizer})

    def on(self, dataset: str) -> Protocol:
        """The protocol as it holds on a data set: with the values that `datasets` names for it.

        Raises:
            UsageError: they do not make a valid protocol.
        """
        own = _merged(self.model_dump(mode="json", exclude={"datasets"}), self.datasets.get(dataset, {}))
        try:
            return Protocol.model_validate_json(json.dumps(own))
        except ValidationError as error:
            raise UsageError(yaml_file.explain(Path(f"protocol {self.name} on {dataset}"), error, Protocol)) from None


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict) and key != "spaces"
        merged[key] = _merged(merged[key], value) if nested else value
    return merged


def protocol_files() -> dict[str, Path]:
    """Name -> file of every protocol found: the benchmark folder's own shadow the shipped ones."""
    found: dict[str, Path] = {}
    for folder in home.folders("protocols"):
        for path in sorted(folder.rglob("*.yaml")):
            found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
    return found


def load_protocol(name: str) -> Protocol:
    """Read a protocol by its name, or by the path of a YAML file.

    Raises:
        UsageError: no such protocol, unreadable YAML, or a value that is not allowed; the message
            names the file, the key, what was found and what is allowed.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"protocol file {path} does not exist.")
    else:
        files = protocol_files()
        if name not in files:
            raise unknown_name("protocol", name, files)
        path = files[name]
    data = yaml_file.read(path)
    try:
        protocol = Protocol.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise UsageError(yaml_file.explain(path, error, Protocol)) from None
    expected = path.stem if name.endswith((".yaml", ".yml")) else name
    if protocol.name != expected:
        raise UsageError(f"{path}: key 'name' is '{protocol.name}' but the file is called '{expected}'.")
    return protocol
