"""Fold models put side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bench.cli import main
from bench.data import seal
from bench.ensembles import EnsembleRecord, complete, concatenated, load_all
from bench.errors import DataError, SealedError
from bench.evaluation.clustering import clustering_metrics
from bench.protocol import Clustering
from bench.store import Store
from tests.report import builders

FOLDS = (0, 1, 2)
IMAGES, CLASSES = 48, 8


def stored(fold: int, seed: int = 0, size: int = 5) -> dict[str, Any]:
    """What a run leaves: embeddings that are not of length one, four to six images a class, two of them queries."""
    rng = np.random.default_rng([fold, seed])
    labels = np.arange(IMAGES, dtype=np.int64) % CLASSES
    rows = rng.normal(size=(IMAGES, size)) * rng.uniform(0.1, 9, (IMAGES, 1)) + labels[:, None]
    return {"embeddings": rows.astype(np.float32), "labels": labels}


class Bench:
    """A store of finished runs by hand."""

    def __init__(self, root, **changes: Any) -> None:
        self.store = Store(root / "results")
        self.scratch = root / "scratch"
        self.made = builders.protocol(
            folds={"count": 4, "use": list(FOLDS)}, ensemble=True, evaluation={"recall_at": [1, 2, 4]}, **changes
        )
        self.data = builders.facts()

    def spec(self, fold: int, seed: int = 0, **changes: Any):
        return builders.spec("margin", seed, self.made, self.data, fold=fold, **changes)

    def finish(self, fold: int, seed: int = 0, arrays: dict[str, Any] | None = None, **changes: Any):
        self.scratch.mkdir(exist_ok=True)
        save_file(arrays or stored(fold, seed), self.scratch / "embeddings.safetensors")
        spec = self.spec(fold, seed, **changes)
        record = builders.record(spec, self.made, self.data, 0.3, artefacts={"embeddings": "embeddings.safetensors"})
        self.store.write(record, self.scratch)
        return spec

    def complete(self, *specs):
        return complete(self.store, self.made, specs)


def by_hand(parts: list[dict[str, Any]], ks: tuple[int, ...], query: np.ndarray | None = None) -> dict[str, float]:
    """Recall@K and MAP@R over the cosines of the concatenation, with loops."""
    labels = parts[0]["labels"]
    rows = [
        np.concatenate([p["embeddings"][i].astype(float) / np.linalg.norm(p["embeddings"][i]) for p in parts])
        for i in range(len(labels))
    ]
    rows = [row / np.linalg.norm(row) for row in rows]
    asking = range(len(labels)) if query is None else np.flatnonzero(query)
    hits, precisions = {k: [] for k in ks}, []
    for i in asking:
        others = [j for j in range(len(labels)) if (j != i if query is None else not query[j])]
        ranked = sorted(others, key=lambda j: -(rows[i] @ rows[j]))
        right = [bool(labels[j] == labels[i]) for j in ranked]
        for k in ks:
            hits[k].append(any(right[:k]))
        found = sum(right)
        precisions.append(sum(sum(right[: r + 1]) / (r + 1) for r in range(found) if right[r]) / found)
    return {f"recall_at_{k}": float(np.mean(hits[k])) for k in ks} | {"map_at_r": float(np.mean(precisions))}


def test_an_ensemble_scores_as_the_concatenation_of_unit_embeddings_does(tmp_path):
    bench = Bench(tmp_path)
    (record,) = bench.complete(*(bench.finish(fold) for fold in FOLDS)).made
    expected = by_hand([stored(fold) for fold in FOLDS], (1, 2, 4))
    assert {name: record.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    single = by_hand([stored(0)], (1, 2, 4))
    assert record.metrics["map_at_r"] != pytest.approx(single["map_at_r"], abs=1e-3)
    assert (record.dimensions, record.folds, record.checkpoint) == (15, FOLDS, "best_validation")
    assert record.counts["test_queries"] == IMAGES


def test_clustering_is_of_the_concatenation_under_the_protocols_settings(tmp_path):
    settings = Clustering(iterations=7, seed=3)
    bench = Bench(tmp_path)
    bench.made = bench.made.model_copy(
        update={"evaluation": bench.made.evaluation.model_copy(update={"clustering": settings})}
    )
    (record,) = bench.complete(*(bench.finish(fold) for fold in FOLDS)).made
    parts = {str(fold): stored(fold) for fold in FOLDS}
    assert clustering_metrics(concatenated(parts), parts["0"]["labels"], settings).items() <= record.metrics.items()


def test_queries_search_the_gallery_alone(tmp_path):
    bench = Bench(tmp_path)
    query = np.arange(IMAGES) < 2 * CLASSES
    parts = [{**stored(fold), "query": query.astype(np.uint8)} for fold in FOLDS]
    specs = [bench.finish(fold, arrays=part) for fold, part in zip(FOLDS, parts, strict=True)]
    (record,) = bench.complete(*specs).made
    expected = by_hand(parts, (1, 2, 4), query)
    assert {name: record.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert record.counts["test_queries"] == 2 * CLASSES


def test_a_zero_embedding_and_unequal_sizes_are_no_obstacle():
    parts = {"a": stored(0), "b": stored(1, size=3)}
    parts["a"]["embeddings"][4] = 0
    rows = concatenated(parts)
    assert rows.shape == (IMAGES, 8)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(IMAGES), abs=1e-6)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("labels", lambda part: part | {"labels": part["labels"][::-1].copy()}),
        ("labels", lambda part: {name: array[:-1] for name, array in part.items()}),
        ("query", lambda part: part | {"query": np.ones(IMAGES, dtype=np.uint8)}),
        ("draws", lambda part: part | {"draws": np.arange(CLASSES)[None]}),
    ],
)
def test_other_images_or_another_order_are_refused_by_name(tmp_path, key, change):
    with pytest.raises(DataError, match=f"runs first and second .*'{key}'"):
        concatenated({"first": stored(0), "second": change(stored(1))})
    bench = Bench(tmp_path)
    specs = [bench.finish(0), bench.finish(1, arrays=change(stored(1))), bench.finish(2)]
    good = [bench.finish(fold, seed=1) for fold in FOLDS]
    done = bench.complete(*specs, *good)
    assert [record.seed for record in done.made] == [1]
    assert len(done.refused) == 1
    assert specs[1].run_id in done.refused[0]
    assert load_all(bench.store.root) == list(done.made)


def test_unfinished_folds_wait_and_each_seed_has_an_ensemble_of_its_own(tmp_path):
    bench = Bench(tmp_path)
    specs = [bench.finish(fold, seed) for seed in (0, 1) for fold in FOLDS]
    specs += [bench.finish(0, 2), bench.spec(1, 2), bench.spec(2, 2)]
    done = bench.complete(*specs)
    assert [record.seed for record in done.made] == [0, 1]
    assert done.waiting == 1
    assert done.made[0].metrics != done.made[1].metrics
    again = bench.complete(*specs[:6], bench.finish(1, 2), bench.finish(2, 2), specs[6])
    assert [record.seed for record in again.made] == [2]
    assert again.found == 2
    assert again.made[0].folds == FOLDS


def test_versions_and_trials_of_a_search_are_never_mixed(tmp_path):
    bench = Bench(tmp_path)
    specs = [bench.finish(fold, method_hash="b" * 12 if fold == 2 else "a" * 12) for fold in FOLDS]
    trials = [bench.finish(fold, seed=9, tuning=True) for fold in FOLDS]
    done = bench.complete(*specs, *trials)
    assert done.made == ()
    assert done.waiting == 2


def test_what_is_there_is_not_made_again(tmp_path):
    bench = Bench(tmp_path)
    specs = [bench.finish(fold) for fold in FOLDS]
    (record,) = bench.complete(*specs).made
    path = record.path(bench.store.root)
    before = path.stat().st_mtime_ns, path.read_bytes()
    done = bench.complete(*reversed(specs))
    assert (done.made, done.found) == ((), 1)
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    assert EnsembleRecord.model_validate_json(before[1]) == record
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name]


def test_a_protocol_without_ensembles_or_with_one_fold_has_none(tmp_path):
    bench = Bench(tmp_path)
    specs = [bench.finish(fold) for fold in FOLDS]
    for changes in ({"ensemble": False}, {"folds": None}):
        without = bench.made.model_copy(update=changes)
        assert complete(bench.store, without, specs).lines == []


def test_lost_embeddings_are_refused_with_the_file(tmp_path):
    bench = Bench(tmp_path)
    specs = [bench.finish(fold) for fold in FOLDS]
    file = bench.store.path(specs[1]) / "embeddings.safetensors"
    file.write_bytes(b"not tensors")
    assert str(file) in bench.complete(*specs).refused[0]
    file.unlink()
    assert str(file) in bench.complete(*specs).refused[0]


def test_nothing_is_read_while_a_run_trains(tmp_path):
    bench = Bench(tmp_path)
    specs = [bench.finish(fold) for fold in FOLDS]
    with seal.sealed("a run is training"), pytest.raises(SealedError, match="test embeddings"):
        bench.complete(*specs)


def test_unreadable_ensembles_are_skipped_and_named(tmp_path):
    bench = Bench(tmp_path)
    (record,) = bench.complete(*(bench.finish(fold) for fold in FOLDS)).made
    folder = record.path(bench.store.root).parent
    (folder / "cut.json").write_text('{"schema_version": 1')
    newer = record.model_copy(update={"schema_version": 2, "ensemble_id": "newer"})
    newer.path(bench.store.root).write_text(newer.model_dump_json())
    problems: list[str] = []
    assert load_all(bench.store.root, problems) == [record]
    assert len(problems) == 2
    assert any("cut.json" in text for text in problems)
    assert any("version 2" in text for text in problems)


def test_bench_run_ends_with_the_ensembles_of_its_folds(tiny, tmp_path, capsys):
    protocol = tiny(folds={"count": 4, "use": [0, 1]}, ensemble=True, seeds=[0], budget={"iterations": 6})
    words = ["run", "--protocol", protocol, "--methods", "contrastive", "--workers", "1"]
    words += ["--results", str(tmp_path / "results")]
    assert main(words) == 0
    assert "1 made, 0 there already" in capsys.readouterr().out
    (record,) = load_all(tmp_path / "results")
    store = Store(tmp_path / "results")
    runs = {run.run_id: run for run in store.records()}
    assert set(record.run_ids) == set(runs)
    parts = [load_file(store.folder(runs[name]) / "embeddings.safetensors") for name in record.run_ids]
    expected = by_hand(parts, (1, 2))
    assert {name: record.metrics[name] for name in expected} == pytest.approx(expected, abs=2e-3)
    assert record.dimensions == 32
    assert set(record.metrics) == set(runs[record.run_ids[0]].metrics["last"])

    record.path(tmp_path / "results").unlink()
    assert main(words) == 0
    assert "1 made, 0 there already" in capsys.readouterr().out
    assert load_all(tmp_path / "results") == [record]
