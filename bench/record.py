"""The record: one JSON file a run, with a written schema and version. Reports read nothing else."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1

# Raised whenever a change in the harness itself (shared loss helpers and miners included; not in a
# method's file, a protocol or a data set) moves numbers: it is part of every run id, so that old
# records are never taken for new ones.
HARNESS_REVISION = 2

State = Literal["done", "diverged", "error", "timeout", "interrupted"]
Value = float | int | bool | str  # of a hyper-parameter


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunSpec(_Frozen):
    """One cell of a plan. Everything that may change the numbers of a run, and nothing else.

    `tuning` marks a trial of a search: it ends with its validation metrics and never opens the test side.
    """

    dataset: str
    dataset_hash: str
    protocol: str
    protocol_hash: str
    weights_hash: str = "none"
    method: str
    method_hash: str
    hyperparameters: dict[str, Value] = {}
    fold: int | None
    seed: int
    harness: int = HARNESS_REVISION
    tuning: bool = False

    @property
    def run_id(self) -> str:
        """`<method>-f<fold>-s<seed>-<hash>`; the hash covers every field, `tuning` only where it is set."""
        fields = self.model_dump(mode="json", exclude=None if self.tuning else {"tuning"})
        content = json.dumps(fields, sort_keys=True).encode()
        fold = "" if self.fold is None else f"-f{self.fold}"
        return f"{self.method}{fold}-s{self.seed}-{hashlib.sha256(content).hexdigest()[:12]}"


class DatasetFacts(_Frozen):
    """The data set as the run saw it (after the protocol's subset, if any); `content` is the manifest's SHA-256."""

    name: str
    title: str
    partial: str | None
    subset: str | None
    photographs: bool
    layout: str
    content: str = ""
    train_classes: int
    train_images: int
    validation_classes: int
    validation_images: int
    test_classes: int
    test_images: int
    notes: tuple[str, ...] = ()


class MethodFacts(_Frozen):
    """The method as it ran: where it comes from and how it departs from the protocol's default path."""

    name: str
    paper: str | None
    trains: bool
    source: str
    departures: tuple[str, ...]
    own_parameters: int
    embedding_size: int
    trained_parameters: int


class CurvePoint(_Frozen):
    """One evaluation during training.

    `loss` is the mean over the steps since the last point; `test` is filled after unsealing.
    """

    step: int
    loss: float | None
    validation: dict[str, float] | None
    test: dict[str, float] | None = None
    seconds: float


class Record(_Frozen):
    """Everything known about one run.

    `metrics` maps 'last' | 'best_validation' | 'best_test' to metric name -> value (fractions in
    [0, 1]); 'best_test' is optimistic. All are of the test side, but those of a trial of a search (`spec.tuning`),
    which has 'best_validation' alone, of the validation classes. `steps` gives the step of each of them. `counts` holds
    images_seen, forward_images, extra_forward_images, steps, test_queries, lone_queries,
    test_checkpoints (evaluations that 'best_test' was looked for among), and drawn_queries (queries of one draw) where
    there are drawn galleries.
    `artefacts` names the files beside the record.
    """

    schema_version: int = SCHEMA_VERSION
    run_id: str
    spec: RunSpec
    protocol: dict[str, Any]
    dataset: DatasetFacts
    method: MethodFacts
    environment: dict[str, Any]
    state: State
    reason: str | None = None
    traceback: str | None = None
    started: str
    finished: str
    curves: tuple[CurvePoint, ...] = ()
    metrics: dict[str, dict[str, float]] = {}
    steps: dict[str, int] = {}
    counts: dict[str, int] = {}
    seconds: dict[str, float] = {}
    peak_memory_bytes: int = 0
    artefacts: dict[str, str] = {}
