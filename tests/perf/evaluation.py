"""Evaluation beside pytorch-metric-learning's AccuracyCalculator and a bare faiss search, in one run.

Each measurement is a process of its own, so that its peak memory is its own: the growth of the
resident set from just before the call, embeddings loaded and libraries imported.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

# name: images, classes, rounds (the fastest counts), what limits the calculator's candidates
SIZES = {"Cars": (8_131, 98, 3, None), "SOP": (60_502, 11_316, 1, "max_bin_count")}
DIMENSIONS = 512
RETRIEVAL = ("precision_at_1", "r_precision", "map_at_r")


def main() -> None:
    """Print time, peak memory and values of each, and the ratios between them."""
    for name, (images, classes, rounds, _) in SIZES.items():
        with tempfile.TemporaryDirectory() as folder:
            write_example(Path(folder), images, classes)
            print(f"{name}-size: {images} x {DIMENSIONS}, {classes} classes")
            print(f"  {'':32}{'seconds':>9}{'peak MiB':>10}  {'P@1':>9}{'R-Prec':>9}{'MAP@R':>9}")
            best: dict[str, dict[str, float]] = {}
            for _ in range(rounds):  # alternating, so that a busy moment hits all alike
                for what in MEASURED:
                    result = measured_apart(what, name, Path(folder))
                    best[what] = min(best.get(what, result), result, key=lambda found: found["seconds"])
            for what, found in best.items():
                values = "".join(f"{found[metric]:9.6f}" for metric in RETRIEVAL if metric in found)
                print(f"  {what:32}{found['seconds']:9.2f}{found['peak_mib']:10.0f}  {values}")
            ours = best["bench retrieval"]
            theirs = best["AccuracyCalculator"]
            print(f"  {theirs['seconds'] / ours['seconds']:.1f} x faster than AccuracyCalculator", end=", ")
            print(f"{ours['seconds'] / best['faiss k = 15']['seconds']:.2f} x the bare faiss search", end=", ")
            print(f"values differ by {max(abs(ours[metric] - theirs[metric]) for metric in RETRIEVAL):.1e} at most")


def write_example(folder: Path, images: int, classes: int) -> None:
    """Unit rows scattered around a centre for each class, every class with at least two rows."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.repeat(np.arange(classes), 2), rng.integers(0, classes, images - 2 * classes)])
    rng.shuffle(labels)
    rows = 2.5 * rng.standard_normal((images, DIMENSIONS), dtype=np.float32)
    rows += rng.standard_normal((classes, DIMENSIONS), dtype=np.float32)[labels]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.save(folder / "embeddings.npy", rows)
    np.save(folder / "labels.npy", labels)


def measured_apart(what: str, size: str, folder: Path) -> dict[str, float]:
    """Run one measurement in a new process."""
    command = [
        sys.executable,
        "-m",
        "tests.perf.evaluation",
        "--measure",
        what,
        "--size",
        size,
        "--folder",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def retrieval_here(rows: np.ndarray, labels: np.ndarray, size: str) -> Callable[[], dict[str, float]]:
    from bench.evaluation import evaluate

    evaluate(rows[:100], labels[:100] % 2)
    return lambda: evaluate(rows, labels).metrics


def clustering_here(rows: np.ndarray, labels: np.ndarray, size: str) -> Callable[[], dict[str, float]]:
    from bench.evaluation.clustering import clustering_metrics
    from bench.protocol import Clustering

    clustering_metrics(rows[:100], labels[:100] % 2, Clustering())
    return lambda: clustering_metrics(rows, labels, Clustering())


def calculator(rows: np.ndarray, labels: np.ndarray, size: str) -> Callable[[], dict[str, float]]:
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    names = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    compute = AccuracyCalculator(include=names, k=SIZES[size][3])
    compute.get_accuracy(rows[:100], labels[:100] % 2)
    return lambda: dict(zip(RETRIEVAL, map(compute.get_accuracy(rows, labels).__getitem__, names), strict=True))


def bare_search(rows: np.ndarray, labels: np.ndarray, size: str) -> Callable[[], dict[str, float]]:
    import faiss

    def search() -> dict[str, float]:
        index = faiss.IndexFlatIP(DIMENSIONS)
        index.add(rows)
        index.search(rows, 15)
        return {}

    return search


MEASURED = {
    "faiss k = 15": bare_search,
    "bench retrieval": retrieval_here,
    "AccuracyCalculator": calculator,
    "bench clustering": clustering_here,
}


def measure(what: str, size: str, folder: Path) -> None:
    """Print seconds, growth of the peak resident set and values of one measurement as JSON."""
    rows, labels = np.load(folder / "embeddings.npy"), np.load(folder / "labels.npy")
    compute = MEASURED[what](rows, labels, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    values = compute()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"seconds": seconds, "peak_mib": peak / 1024, **values}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--measure", choices=MEASURED)
    parser.add_argument("--size", choices=SIZES)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    if asked.measure:
        measure(asked.measure, asked.size, asked.folder)
    else:
        main()
