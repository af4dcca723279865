"""After unsealing: all kept checkpoints on the test side, in full those that count."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch.nn import functional

from bench.data.cache import ImageStore, open_images
from bench.data.dataset import Dataset
from bench.draft import Draft
from bench.evaluation import Evaluation, evaluate
from bench.evaluation.drawn import drawn_metrics, drawn_queries
from bench.models.trunks import trunk_input
from bench.protocol import Protocol
from bench.training import checkpoint
from bench.training.learner import Learner
from bench.training.loop import Report
from bench.training.sides import open_side

EXAMPLE_QUERIES = 8
EXAMPLE_NEIGHBOURS = 8
THUMBNAIL = 64


def evaluate_kept(
    draft: Draft, dataset: Dataset, learner: Learner, work: Path, choice: dict[str, int], report: Report
) -> None:
    """Fill the draft's test curve, its metrics for last / best on validation / best on test, and artefacts.

    The best on test is found by looking at the test side: optimistic, and only there to measure the gap. It is looked
    for among the evaluations whose weights were kept; the others have no point in the test curve.
    """
    protocol = learner.protocol
    inputs, _ = open_side(dataset, "test", protocol, learner.device, learner.method.descriptors)
    rows = dataset.split.test
    labels = dataset.labels[rows]
    targets = None if dataset.targets is None else dataset.targets[rows]
    query = None if dataset.split.gallery is None else np.arange(len(rows)) < len(dataset.split.query)
    metric, best, best_step = protocol.selection.metric, float("-inf"), 0
    kept: dict[int, NDArray[np.float32]] = {}
    folder, chosen = work / "kept", set(choice.values())
    places = _kept_places(draft, folder, chosen)
    for done, place in enumerate(places, start=1):
        point = draft.curves[place]
        learner.load_weights(checkpoint.kept(folder, point.step))
        _, embeddings = learner.embed(inputs, len(rows))
        ks, graded = protocol.evaluation.recall_at, protocol.evaluation.graded
        scores = evaluate(embeddings, labels, query=query, ks=ks, targets=targets, graded=graded).metrics
        draft.curves[place] = point.model_copy(update={"test": scores})
        if scores[metric] > best:
            if best_step not in chosen:
                kept.pop(best_step, None)
            best, best_step = scores[metric], point.step
            kept[point.step] = embeddings
        if point.step in chosen:
            kept[point.step] = embeddings
        report("test", done, len(places))

    draft.steps = {**choice, "best_test": best_step}
    draft.counts["test_checkpoints"] = len(places)
    full: dict[int, Evaluation] = {}
    for name, step in draft.steps.items():
        if step not in full:
            full[step] = _evaluate_fully(kept[step], dataset, query, protocol)
        draft.metrics[name] = full[step].metrics
    headline = draft.steps[headline_name(protocol.selection.split)]
    found = full[headline].counts
    draft.counts |= {"test_queries": found["queries"]} | {k: n for k, n in found.items() if k != "queries"}
    channels = trunk_input(protocol.trunk.name).channels
    images = open_images(dataset, "test", protocol.images.resize, channels, fit=protocol.images.fit)
    _write_artefacts(draft, dataset, work, kept[headline], full[headline], images, query)
    draft.artefacts["weights"] = "weights.safetensors"
    source = checkpoint.weights_file(folder, headline)
    (work / "artefacts" / "weights.safetensors").write_bytes(source.read_bytes())


def _kept_places(draft: Draft, folder: Path, chosen: set[int]) -> list[int]:
    """Places in the curve of the evaluations to look at; one of those that were chosen must not be missing."""
    return [
        place
        for place, point in enumerate(draft.curves)
        if point.step in chosen or checkpoint.weights_file(folder, point.step).is_file()
    ]


def _evaluate_fully(
    embeddings: NDArray[np.float32], dataset: Dataset, query: NDArray[np.bool_] | None, protocol: Protocol
) -> Evaluation:
    """Every metric there is, with CMC over the drawn galleries where the data set has some."""
    rows, settings = dataset.split.test, protocol.evaluation
    labels = dataset.labels[rows]
    found = evaluate(
        embeddings,
        labels,
        query=query,
        ks=settings.recall_at,
        clustering=settings.clustering,
        targets=None if dataset.targets is None else dataset.targets[rows],
        graded=settings.graded,
    )
    draws = _draws_on_test_side(dataset)
    if draws is None:
        return found
    return replace(
        found,
        metrics=found.metrics | drawn_metrics(embeddings, labels, draws),
        counts=found.counts | {"drawn_queries": drawn_queries(labels, draws)},
    )


def _draws_on_test_side(dataset: Dataset) -> NDArray[np.int64] | None:
    """The data set's draws as positions among its test images, which is how embeddings are stored."""
    if dataset.draws is None:
        return None
    position = np.full(len(dataset.labels), -1)
    position[dataset.split.test] = np.arange(len(dataset.split.test))
    return position[dataset.draws]


def headline_name(split: str) -> str:
    """Which of a record's metrics a protocol's selection shows."""
    return {"validation": "best_validation", "last": "last", "test": "best_test"}[split]


def _write_artefacts(
    draft: Draft,
    dataset: Dataset,
    work: Path,
    embeddings: NDArray[np.float32],
    result: Evaluation,
    images: ImageStore,
    query: NDArray[np.bool_] | None,
) -> None:
    folder = work / "artefacts"
    folder.mkdir(parents=True, exist_ok=True)
    labels = dataset.labels[dataset.split.test]
    stored: dict[str, NDArray[Any]] = {"embeddings": embeddings, "labels": labels}
    if query is not None:
        stored["query"] = query.astype(np.uint8)
    draws = _draws_on_test_side(dataset)
    if draws is not None:
        stored["draws"] = draws
    save_file(stored, folder / "embeddings.safetensors")
    save_file(
        {
            "queries": result.queries,
            "neighbours": np.ascontiguousarray(result.neighbours),
            **{key: result.per_query[key] for key in ("hit_at_1", "average_precision_at_r") if key in result.per_query},
        },
        folder / "per_query.safetensors",
    )
    _write_examples(folder / "examples.safetensors", dataset, labels, result, images)
    draft.artefacts |= {
        "embeddings": "embeddings.safetensors",
        "per_query": "per_query.safetensors",
        "examples": "examples.safetensors",
    }
    draft.artefact_folder = folder


def _write_examples(
    path: Path, dataset: Dataset, labels: NDArray[np.int64], result: Evaluation, images: ImageStore
) -> None:
    """A few queries with their nearest images as thumbnails; the queries depend on the data set alone."""
    chosen = _example_queries(labels, result.queries, dataset.manifest.hash)
    nearest = result.neighbours[chosen, :EXAMPLE_NEIGHBOURS]
    used, place = np.unique(np.concatenate([result.queries[chosen], nearest.ravel()]), return_inverse=True)
    used, place = used[used >= 0], place - int((used < 0).sum())
    names = [dataset.class_names[label] for label in labels[used]]
    save_file(
        {
            "images": np.stack([_thumbnail(images, int(row)) for row in used]),
            "labels": labels[used],
            "query": place[: len(chosen)].astype(np.int64),
            "neighbours": place[len(chosen) :].reshape(nearest.shape).astype(np.int64),
        },
        path,
        metadata={"names": json.dumps(names)},
    )


def _example_queries(labels: NDArray[np.int64], queries: NDArray[np.int64], key: str) -> NDArray[np.int64]:
    """Positions in `queries` of one image each of a few classes."""
    rng = np.random.default_rng(int(key, 16))
    _, first = np.unique(labels[queries], return_index=True)
    return np.sort(rng.choice(first, size=min(EXAMPLE_QUERIES, len(first)), replace=False))


def _thumbnail(images: ImageStore, row: int) -> NDArray[np.uint8]:
    """The centre square of an image, RGB, at most 64 pixels: uint8 (S, S, 3)."""
    image = images.image(row)
    side = min(image.shape[1:])
    top, left = (image.shape[1] - side) // 2, (image.shape[2] - side) // 2
    square = image[:, top : top + side, left : left + side].float()[None]
    if side > THUMBNAIL:
        square = functional.interpolate(square, size=THUMBNAIL, mode="bilinear", antialias=True)
    rgb = square[0].round().clamp(0, 255).to(torch.uint8).expand(3, -1, -1)
    return np.ascontiguousarray(rgb.permute(1, 2, 0).numpy())
