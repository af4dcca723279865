"""Records made by hand, written through the store, for the tests of reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from bench.protocol import Protocol
from bench.record import CurvePoint, DatasetFacts, MethodFacts, Record, RunSpec
from bench.store import Store

METRICS = ("recall_at_1", "recall_at_2", "precision_at_1", "r_precision", "map_at_r", "nmi")


def protocol(name: str = "quick", **changes: Any) -> Protocol:
    """A valid protocol."""
    group = {"lr": 1e-3, "weight_decay": 1e-4}
    content = {
        "name": name,
        "summary": "for tests",
        "trunk": {"name": "conv4", "weights": "none"},
        "embedding": {"size": 64},
        "images": {"resize": 32, "crop": 32, "train": {"size": 32, "crop_area": [0.5, 1.0]}},
        "batch": {"classes": 16, "per_class": 4},
        "optimizer": {"name": "adamw", "trunk": group, "embedder": group, "method": group},
        "budget": {"iterations": 400, "evaluate_every": 100, "epoch": 100},
        "folds": {"count": 4, "use": [0]},
        "selection": {"metric": "map_at_r", "split": "validation"},
        "seeds": [0, 1, 2],
        "evaluation": {"recall_at": [1, 2]},
    } | changes
    return Protocol.model_validate_json(json.dumps(content))


def facts(name: str = "glyphs", **changes: Any) -> DatasetFacts:
    """A complete data set of small images."""
    content: dict[str, Any] = {
        "name": name, "title": name.capitalize(), "partial": None, "subset": None, "photographs": False,
        "layout": "embedded", "train_classes": 229, "train_images": 4580, "validation_classes": 76,
        "validation_images": 1520, "test_classes": 304, "test_images": 6080,
    } | changes  # fmt: skip
    return DatasetFacts(**content)


def spec(method: str, seed: int, made: Protocol, data: DatasetFacts, **changes: Any) -> RunSpec:
    """The spec of a run."""
    content: dict[str, Any] = {
        "dataset": data.name, "dataset_hash": "d" * 12, "protocol": made.name, "protocol_hash": made.hash,
        "method": method, "method_hash": "abcdef123456", "fold": None if made.folds is None else made.folds.use[0],
        "seed": seed,
    } | changes  # fmt: skip
    return RunSpec(**content)


def record(
    of: RunSpec, made: Protocol, data: DatasetFacts, level: float, *, trains: bool = True, **changes: Any
) -> Record:
    """A finished run with MAP@R `level` for best on validation, 0.01 less for last, 0.015 more for best on test."""
    rng = np.random.default_rng([of.seed, *of.method.encode()])

    def metrics(shift: float) -> dict[str, float]:
        lifts = {"recall_at_1": 0.3, "recall_at_2": 0.4, "precision_at_1": 0.3, "r_precision": 0.1, "nmi": 0.35}
        return {name: level + shift + lifts.get(name, 0.0) for name in METRICS}

    steps = range(0, 401, 100) if trains else [0]
    curve = tuple(
        CurvePoint(
            step=step,
            loss=None if step == 0 else 1.0 / step,
            validation={"map_at_r": level * (0.4 + 0.8 * step / 400) + rng.normal(0, 0.004)},
            test={"map_at_r": level * (0.4 + 0.6 * step / 400) + rng.normal(0, 0.004)},
            seconds=step / 40,
        )
        for step in steps
    )
    content: dict[str, Any] = {
        "run_id": of.run_id,
        "spec": of,
        "protocol": made.model_dump(mode="json"),
        "dataset": data,
        "method": MethodFacts(
            name=of.method, paper=None, trains=trains, source=f"methods/{of.method}.py", departures=(),
            own_parameters=0, embedding_size=64, trained_parameters=100_000 if trains else 0,
        ),
        "environment": {
            "bench": "0.1", "platform": "Linux", "cpu": "Some CPU", "cores": 2, "threads": 1, "gpu": None,
            "packages": {"python": "3.11", "torch": "2.0"}, "git": {"commit": "c" * 40, "dirty": False},
        },
        "state": "done",
        "started": "2026-01-31T10:00:00.000+00:00",
        "finished": f"2026-01-31T10:0{of.seed}:00.000+00:00",
        "curves": curve,
        "metrics": {"last": metrics(-0.01), "best_validation": metrics(0.0), "best_test": metrics(0.015)},
        "steps": {"last": 400, "best_validation": 300, "best_test": 200},
        "counts": {
            "steps": 400, "images_seen": 25600, "forward_images": 26000, "extra_forward_images": 400,
            "test_queries": 6080, "lone_queries": 0,
        },
        "seconds": {"train": 12.0, "fit": 10.0 + len(of.method), "validation": 1.5, "test": 2.5},
        "peak_memory_bytes": 500 * 2**20,
    } | changes  # fmt: skip
    return Record(**content)


def failed(of: RunSpec, made: Protocol, data: DatasetFacts, state: str, reason: str) -> Record:
    """A run without a result."""
    empty: dict[str, Any] = {"curves": (), "metrics": {}, "steps": {}, "counts": {}, "seconds": {}}
    return record(of, made, data, 0.0, state=state, reason=reason, traceback="Traceback …", **empty)


def write(store: Store, made: Record, examples: dict[str, Any] | None = None, folder: Path | None = None) -> Record:
    """Store a record, with example images beside it if given (arrays, and 'names')."""
    if examples is None:
        store.write(made)
        return made
    assert folder is not None
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {key: value for key, value in examples.items() if key != "names"}
    save_file(arrays, folder / "examples.safetensors", metadata={"names": json.dumps(examples["names"])})
    made = made.model_copy(update={"artefacts": {"examples": "examples.safetensors"}})
    store.write(made, folder)
    return made


def example_images(right: int, queries: int = 3, side: int = 16) -> dict[str, Any]:
    """Queries with 8 neighbours each, of which the first `right` are of the query's class."""
    rng = np.random.default_rng(0)
    classes = queries + 1
    images = rng.integers(0, 255, (classes * 9, side, side, 3), dtype=np.uint8)
    labels = np.repeat(np.arange(classes), 9)
    others = np.arange(9 * queries, 9 * classes)
    neighbours = [[*range(9 * q + 1, 9 * q + 1 + right), *others[: 8 - right]] for q in range(queries)]
    return {
        "images": images,
        "labels": labels.astype(np.int64),
        "query": np.arange(queries, dtype=np.int64) * 9,
        "neighbours": np.array(neighbours, dtype=np.int64),
        "names": [f"class {label}" for label in labels],
    }
