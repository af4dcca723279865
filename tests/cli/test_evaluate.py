"""`bench evaluate` as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bench.cli import main
from bench.evaluation import evaluate
from bench.protocol import Clustering

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Call:
    def call(*words: str | Path) -> tuple[int, str, str]:
        code = main(["evaluate", *map(str, words)])
        return code, *capsys.readouterr()

    return call


def example() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(8), 10)
    return (rng.standard_normal((8, 16))[labels] + rng.standard_normal((80, 16))).astype(np.float32), labels


def saved(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "mine.npz", **arrays)
    return folder / "mine.npz"


def test_json_holds_all_metrics(tmp_path: Path, bench: Call) -> None:
    embeddings, labels = example()
    names = np.array([f"class {label}" for label in labels])
    code, out, err = bench(
        "--embeddings", saved(tmp_path, embeddings=embeddings, labels=names), "--json", "--recall-at", "1,5,500"
    )
    assert (code, err) == (0, "")
    expected = evaluate(embeddings, labels, ks=(1, 5, 500), clustering=Clustering())
    assert json.loads(out) == {"metrics": expected.metrics, "counts": expected.counts}
    assert set(expected.metrics) == {
        *("recall_at_1", "recall_at_5", "recall_at_500", "precision_at_1", "r_precision", "map_at_r"),
        *("nmi", "ami", "f1"),
    }


def test_table_and_query_mask(tmp_path: Path, bench: Call) -> None:
    embeddings, labels = example()
    labels[0] = 99
    query = np.arange(80) % 3 == 0
    code, out, err = bench(
        "--embeddings", saved(tmp_path, embeddings=embeddings.astype(float), labels=labels, query=query)
    )
    assert (code, err) == (0, "")
    recall = evaluate(embeddings, labels, query=query).metrics["recall_at_4"]
    assert f"recall_at_4     {100 * recall:6.2f} %" in out
    assert "26 queries, 1 left out" in out


def test_wrong_files_are_named_with_the_way_out(tmp_path: Path, bench: Call) -> None:
    embeddings, labels = example()
    nan = embeddings.copy()
    nan[4, 2] = np.nan
    objects = np.array([{"a": 1}] * 80, dtype=object)
    for arrays, words in (
        ({"labels": labels}, ["'embeddings' is missing", "Found: labels"]),
        ({"embeddings": embeddings}, ["'labels' is missing"]),
        ({"embeddings": embeddings, "labels": labels[:7]}, ["labels must be integers (80,)", "(7,)"]),
        ({"embeddings": embeddings, "labels": labels / 2}, ["labels must be integers", "float64"]),
        ({"embeddings": embeddings, "labels": objects}, ["'labels' cannot be read", "not Python objects"]),
        ({"embeddings": labels.astype(str), "labels": labels}, ["'embeddings' must hold real numbers"]),
        ({"embeddings": embeddings[:, 0], "labels": labels}, ["float32 (N, D)", "(80,)"]),
        ({"embeddings": nan, "labels": labels}, ["1 of 80 embeddings", "row 4"]),
        ({"embeddings": embeddings, "labels": labels, "query": labels}, ["query must be bool"]),
        ({"embeddings": embeddings, "labels": np.arange(80)}, ["none of the 80 queries"]),
    ):
        refused(bench("--embeddings", saved(tmp_path, **arrays)), "mine.npz", *words)
    refused(bench("--embeddings", tmp_path / "none.npz"), "none.npz", "no such file")
    (tmp_path / "text.npz").write_text("not an archive")
    refused(bench("--embeddings", tmp_path / "text.npz"), "text.npz", "cannot be read")
    np.save(tmp_path / "single.npy", embeddings)
    refused(bench("--embeddings", tmp_path / "single.npy"), "single.npy", "single array")
    whole = saved(tmp_path, embeddings=embeddings, labels=labels)
    refused(bench("--embeddings", whole, "--recall-at", "1,0"), "--recall-at '1,0'", "whole numbers")
    cut = tmp_path / "cut.npz"
    cut.write_bytes(whole.read_bytes()[:3000])
    refused(bench("--embeddings", cut), "cut.npz", "cannot be read")
    damaged = bytearray(whole.read_bytes())
    damaged[1000] ^= 255
    cut.write_bytes(damaged)
    refused(bench("--embeddings", cut), "cut.npz", "'embeddings' cannot be read")


def refused(answer: tuple[int, str, str], *words: str) -> None:
    code, out, err = answer
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    for word in words:
        assert word in err
