"""Ensembles of fold models: the folds' embeddings of a test image side by side, evaluated as one.

Each model's embedding is L2-normalised, they are concatenated, and the whole is normalised again (Musgrave, Belongie
and Lim, ECCV 2020: 'concatenated', against the mean over single models, 'separated').

<results>/ensembles/<protocol>/<dataset>/<method>/<id>.json      one ensemble; the id is a hash over its runs
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from bench.data import seal
from bench.errors import BenchError, DataError
from bench.protocol import Protocol
from bench.record import Record, RunSpec, Value
from bench.store import Store, write_whole

SCHEMA_VERSION = 1

Arrays = Mapping[str, NDArray[np.generic]]


class EnsembleRecord(BaseModel):
    """One ensemble: the fold models of one version of a method under one seed.

    `run_ids` are by fold, in the order of `folds`; `checkpoint` is the one of each run whose embeddings are stored;
    `metrics` and `counts` are named as in a run's record.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    ensemble_id: str
    dataset: str
    dataset_hash: str
    protocol: str
    protocol_hash: str
    budget_share: float
    method: str
    method_hash: str
    hyperparameters: dict[str, Value]
    seed: int
    harness: int
    folds: tuple[int, ...]
    run_ids: tuple[str, ...]
    checkpoint: str
    dimensions: int
    metrics: dict[str, float]
    counts: dict[str, int]

    def path(self, results: Path) -> Path:
        """Its file."""
        return _folder(results, self) / f"{self.ensemble_id}.json"


@dataclass(frozen=True)
class Completed:
    """What `complete` did: ensembles made and found, groups of runs that wait for folds, and refusals with reasons."""

    made: tuple[EnsembleRecord, ...] = ()
    found: int = 0
    waiting: int = 0
    refused: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """Lines to print; none where there is nothing to say."""
        total = len(self.made) + self.found + self.waiting + len(self.refused)
        if not total:
            return []
        waits = f", {self.waiting} wait for unfinished folds" if self.waiting else ""
        head = f"ensembles of folds: {len(self.made)} made, {self.found} there already{waits}"
        return [head, *(f"  not made: {reason}" for reason in self.refused)]


def complete(store: Store, protocol: Protocol, specs: Iterable[RunSpec]) -> Completed:
    """Make the ensembles of these runs that are missing; nothing where the protocol asks for none.

    A group is all that agrees but for the fold. One with an unfinished fold is left for later. What is there is not
    made again.

    Raises:
        SealedError: a run is training in this process.
    """
    folds = () if protocol.folds is None else protocol.folds.use
    if not protocol.ensemble or len(folds) < 2:
        return Completed()
    seal.check("the stored test embeddings of finished runs")
    groups: dict[str, dict[int, RunSpec]] = {}
    for spec in specs:
        if spec.fold in folds and not spec.tuning:
            key = json.dumps(spec.model_dump(mode="json", exclude={"fold"}), sort_keys=True)
            groups.setdefault(key, {})[spec.fold] = spec
    made, refused, found, waiting = [], [], 0, 0
    for group in groups.values():
        if group.keys() != set(folds) or not all(store.is_done(spec) for spec in group.values()):
            waiting += 1
        elif _path(store.root, ordered := [group[fold] for fold in folds]).is_file():
            found += 1
        else:
            try:
                made.append(_make(store, protocol, ordered))
            except (BenchError, OSError) as error:
                refused.append(f"{ordered[0].method} seed {ordered[0].seed}: {error}")
    return Completed(tuple(made), found, waiting, tuple(refused))


def load_all(results: Path, problems: list[str] | None = None) -> list[EnsembleRecord]:
    """Every ensemble under a results folder, by place; what cannot be read is skipped and noted in `problems`."""
    found = []
    for file in sorted((results / "ensembles").rglob("*.json")):
        if file.name.startswith("."):
            continue
        try:
            record = EnsembleRecord.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            reason = type(error).__name__
        else:
            if record.schema_version == SCHEMA_VERSION:
                found.append(record)
                continue
            reason = f"schema version {record.schema_version}, this bench reads {SCHEMA_VERSION}"
        if problems is not None:
            problems.append(f"{file}: unreadable ensemble ({reason}), skipped")
    return found


def concatenated(parts: Mapping[str, Arrays]) -> NDArray[np.float32]:
    """The embeddings of several runs as one, float32 (N, sum of their dimensions), in the order given.

    >>> rows = {"a": np.array([[3.0, 4.0]]), "b": np.array([[0.0, 2.0]])}
    >>> labels = np.array([0])
    >>> concatenated({name: {"embeddings": rows[name], "labels": labels} for name in rows}).round(3).tolist()
    [[0.42399999499320984, 0.5659999847412109, 0.0, 0.7070000171661377]]

    Args:
        parts: by run id, the arrays stored with each: embeddings, labels, and query and draws where there are some.

    Raises:
        DataError: their images differ, or are in another order.
    """
    (first, expected), *others = parts.items()
    for name, arrays in others:
        for key in ("labels", "query", "draws"):
            one, other = expected.get(key), arrays.get(key)
            if (one is None) != (other is None) or (one is not None and not np.array_equal(one, np.asarray(other))):
                raise DataError(
                    f"runs {first} and {name} hold test images that differ or are in another order (array '{key}' of "
                    "their embeddings): their embeddings cannot be put side by side. Delete the folder of the one that "
                    "is wrong and run it again."
                )
    rows = [_unit(np.asarray(arrays["embeddings"], dtype=np.float32)) for arrays in parts.values()]
    if len({len(part) for part in rows}) > 1 or len(rows[0]) != len(expected["labels"]):
        raise DataError(f"runs {', '.join(parts)} hold embeddings of different numbers of images.")
    return _unit(np.concatenate(rows, axis=1))


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length one; a row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)


def _make(store: Store, protocol: Protocol, specs: Sequence[RunSpec]) -> EnsembleRecord:
    import faiss
    import torch

    from bench.evaluation import evaluate
    from bench.evaluation.drawn import drawn_metrics, drawn_queries
    from bench.testing_side import headline_name

    torch.set_num_threads(protocol.threads)  # the number of threads decides rounding
    faiss.omp_set_num_threads(protocol.threads)
    parts = {record.run_id: _stored(store, record) for record in map(store.load, specs)}
    embeddings, first = concatenated(parts), parts[specs[0].run_id]
    labels = np.asarray(first["labels"], dtype=np.int64)
    query = np.asarray(first["query"], dtype=np.bool_) if "query" in first else None
    settings = protocol.evaluation
    result = evaluate(embeddings, labels, query=query, ks=settings.recall_at, clustering=settings.clustering)
    metrics, counts = (
        dict(result.metrics),
        {k if k != "queries" else "test_queries": n for k, n in result.counts.items()},
    )
    if "draws" in first:
        draws = np.asarray(first["draws"], dtype=np.int64)
        metrics |= drawn_metrics(embeddings, labels, draws)
        counts["drawn_queries"] = drawn_queries(labels, draws)
    spec = specs[0]
    record = EnsembleRecord(
        ensemble_id=_identity(specs),
        **spec.model_dump(
            include={
                "dataset", "dataset_hash", "protocol", "protocol_hash", "method", "method_hash", "hyperparameters",
                "seed", "harness",
            }
        ),
        budget_share=protocol.budget_share,
        folds=tuple(spec.fold for spec in specs if spec.fold is not None),
        run_ids=tuple(spec.run_id for spec in specs),
        checkpoint=headline_name(protocol.selection.split),
        dimensions=embeddings.shape[1],
        metrics=metrics,
        counts=counts,
    )  # fmt: skip
    write_whole(record.path(store.root), record.model_dump_json(indent=1))
    return record


def _stored(store: Store, record: Record) -> Arrays:
    """The arrays beside a record.

    Raises:
        DataError: they are gone or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    file = store.folder(record) / record.artefacts.get("embeddings", "embeddings.safetensors")
    try:
        arrays = load_file(file)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"the test embeddings {file} cannot be read ({type(error).__name__}): delete the run's folder and run it "
            "again."
        ) from None
    if not {"embeddings", "labels"} <= arrays.keys():
        raise DataError(f"{file} holds {sorted(arrays)}; 'embeddings' and 'labels' are needed.")
    return arrays


def _identity(specs: Sequence[RunSpec]) -> str:
    """12 hex digits over the runs: whatever changes a run changes its id, and so the ensemble's."""
    runs = sorted(spec.run_id for spec in specs)
    return hashlib.sha256(json.dumps(runs).encode()).hexdigest()[:12]


def _folder(results: Path, of: RunSpec | EnsembleRecord) -> Path:
    return results / "ensembles" / of.protocol / of.dataset / of.method


def _path(results: Path, specs: Sequence[RunSpec]) -> Path:
    return _folder(results, specs[0]) / f"{_identity(specs)}.json"
