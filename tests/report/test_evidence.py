"""Tables on what numbers can tell: differences within a data set, ranks over several, and studies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy import stats

from bench.ensembles import EnsembleRecord
from bench.record import Record
from bench.report.model import Report, build_report
from bench.report.tables import Table
from bench.store import Store
from bench.tuning import study as tuning
from tests.report import builders as b
from tests.report.page import NOTHING

QUICK, GLYPHS = b.protocol(), b.facts()


def add(store: Store, method: str, levels: list[float], data=GLYPHS, **changes: object) -> list[Record]:
    records = [
        b.record(b.spec(method, seed, QUICK, data), QUICK, data, level, **changes) for seed, level in enumerate(levels)
    ]
    for record in records:
        store.write(record)
    return records


def report(store: Store) -> Report:
    return build_report(store, NOTHING)


def cells(table: Table) -> dict[str, list[str]]:
    """Row name -> text of the other cells."""
    return {row[0].text: [cell.text for cell in row[1:]] for band in table.bands for row in band.rows}


def test_differences_are_paired_corrected_and_ranked(tmp_path: Path) -> None:
    best, close, worse = [0.371, 0.379, 0.375], [0.372, 0.374, 0.377], [0.360, 0.370, 0.362]
    for method, levels in {"best": best, "close": close, "worse": worse}.items():
        add(Store(tmp_path), method, levels)
    table = report(Store(tmp_path)).views[0].evidence
    assert table is not None
    found = cells(table)
    pairs = [(best, close), (best, worse), (close, worse)]
    p = [float(stats.ttest_rel(*pair).pvalue) for pair in pairs]
    corrected = sorted(p)[0] * 3  # the smallest of three
    assert p[1] == min(p)
    assert found["worse"][2:4] == [f"{p[1]:.3f}", f"{corrected:.3f}"]
    assert [found[name][0] for name in ("best", "close", "worse")] == ["1", "1", "2"]
    assert found["close"][1] == "−0.07"
    assert found["best"][1:] == ["—"] * 6


def test_one_seed_shows_nothing(tmp_path: Path) -> None:
    for method in ("one", "other"):
        add(Store(tmp_path), method, [0.3])
    assert report(Store(tmp_path)).views[0].evidence is None


def with_queries(store: Store, folder: Path, method: str, level: float, shift: float) -> None:
    """Two seeds of a method that finds `shift` more in every query of every class."""
    rng = np.random.default_rng(0)
    base = rng.random(400).astype(np.float32) / 2
    for seed in range(2):
        record = b.record(b.spec(method, seed, QUICK, GLYPHS), QUICK, GLYPHS, level + seed / 1000)
        place = folder / f"{method}-{seed}"
        place.mkdir(parents=True)
        queries = np.arange(400, dtype=np.int64)
        save_file(
            {"queries": queries, "average_precision_at_r": base + np.float32(shift)}, place / "per_query.safetensors"
        )
        save_file({"labels": queries // 10}, place / "embeddings.safetensors")
        artefacts = {"per_query": "per_query.safetensors", "embeddings": "embeddings.safetensors"}
        store.write(record.model_copy(update={"artefacts": artefacts}), place)


def test_classes_are_resampled_where_scores_of_queries_are_stored(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    with_queries(store, tmp_path / "made", "best", 0.5, 0.1)
    with_queries(store, tmp_path / "made", "other", 0.4, 0.0)
    table = report(store).views[0].evidence
    assert table is not None
    assert cells(table)["other"][-1] == "−10.00 to −10.00"
    file = next((tmp_path / "results").rglob("per_query.safetensors"))
    file.write_bytes(b"broken")
    found = report(store)
    assert any("scores of single queries cannot be read" in problem for problem in found.problems)
    again = found.views[0].evidence
    assert again is not None
    assert cells(again)["other"][-1] == "—"


def test_ranks_over_data_sets(tmp_path: Path) -> None:
    store = Store(tmp_path)
    levels = {"good": 0.5, "middle": 0.4, "bad": 0.3}
    for name in ("one", "two"):
        for method, level in levels.items():
            add(store, method, [level], data=b.facts(name))
    assert report(store).across == ()
    for method, level in levels.items():
        add(store, method, [level], data=b.facts("three", partial="partial (1 of 2 classes)"))
    add(store, "once", [0.9], data=b.facts("three", partial="partial (1 of 2 classes)"))
    (table,) = report(store).across
    assert list(cells(table)) == ["good", "middle", "bad"]
    assert [row[0] for row in cells(table).values()] == ["1.00", "2.00", "3.00"]
    assert any("once" in note for note in table.notes)
    assert any("Partial data sets: Three" in note for note in table.notes)


@pytest.fixture
def studied(tmp_path: Path) -> Store:
    """A method with reproductions, their ensembles and the search before them; a method without."""
    store = Store(tmp_path)
    records = add(store, "searched", [0.30, 0.31])
    add(store, "plain", [0.20, 0.21])
    spec = records[0].spec
    shared = spec.model_dump(include={"dataset", "dataset_hash", "protocol", "protocol_hash", "harness"})
    method = spec.model_dump(include={"method", "method_hash", "hyperparameters"})
    for seed, level in enumerate((0.40, 0.42)):
        made = EnsembleRecord(
            ensemble_id=f"{seed:012}", **shared, **method, budget_share=1.0, seed=seed, folds=(0,),
            run_ids=(records[seed].run_id,), checkpoint="best_validation", dimensions=256,
            metrics={"recall_at_1": level + 0.3, "r_precision": level + 0.1, "map_at_r": level}, counts={},
        )  # fmt: skip
        made.path(tmp_path).parent.mkdir(parents=True, exist_ok=True)
        made.path(tmp_path).write_text(made.model_dump_json())
    scores = (tuning.FoldScore(fold=0, run_id="t", state="done", score=0.5),)
    trial = tuning.Trial(number=0, hyperparameters={"margin": 0.1}, folds=scores, state="done", score=0.5)
    bad = trial.model_copy(update={"number": 1, "state": "failed", "score": 0.0, "reason": "NaN"})
    search = tuning.Study(
        **shared, weights_hash="none", method="searched", method_hash=spec.method_hash, space={}, metric="map_at_r",
        folds=(0,), trials_wanted=2, sampler="TPE", trials=(trial, bad),
        winner=tuning.Winner(trial=0, score=0.5, hyperparameters={"margin": 0.1}),
        reproductions=tuple(tuning.Reproduction(seed=r.spec.seed, fold=0, run_id=r.run_id) for r in records),
    )  # fmt: skip
    tuning.save(search, tmp_path)
    return store


def test_a_study_shows_single_models_their_ensemble_and_the_search(studied: Store) -> None:
    table = report(studied).views[0].study
    assert table is not None
    labels = [column.label for column in table.columns]
    found = {name: dict(zip(labels[1:], row, strict=True)) for name, row in cells(table).items()}
    assert found["searched"]["Trials"] == "2 / 2"
    assert found["searched"]["Winner, MAP@R on validation"] == "50.00"
    assert found["searched"]["Separated MAP@R"] == "30.50"
    assert found["searched"]["Concatenated MAP@R"] == "41.00"
    assert found["plain"]["Trials"] == found["plain"]["Concatenated MAP@R"] == "—"
    notes = " ".join(table.notes)
    assert "256 dimensions" in notes
    assert "takes no part in the mean" in notes
    assert "not finished" in notes


def test_studies_of_another_version_of_the_protocol_are_not_shown(studied: Store, tmp_path: Path) -> None:
    for file in [*(tmp_path / "ensembles").rglob("*.json"), *(tmp_path / "studies").rglob("*.json")]:
        file.write_text(file.read_text().replace(QUICK.hash, "0" * 12))
    assert report(studied).views[0].study is None


def test_a_budget_is_named_beside_the_title(tmp_path: Path) -> None:
    small = b.protocol(budget_share=0.1)
    spec = b.spec("margin", 0, small, GLYPHS)
    Store(tmp_path).write(b.record(spec, small, GLYPHS, 0.3))
    assert any("budget 10 %" in badge.text for badge in report(Store(tmp_path)).views[0].badges)
