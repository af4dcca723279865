"""Two committed files that documentation is generated from: results of all methods, and parity with official code.

`python -m bench.reference RESULTS` writes the first from the records of a reference run; the parity tests write the
second (`make parity`).
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd

from bench import home

RESULTS, PARITY = "methods.csv", "parity.json"
METRICS = ("recall_at_1", "r_precision", "map_at_r", "nmi", "ndcg_at_100", "label_distance_at_10")
COLUMNS = (
    "dataset", "dataset_partial", "protocol", "protocol_hash", "method", "method_hash", "hyperparameters", "trains",
    "metric", "n", "mean", "half_width", "values", "seeds",
)  # fmt: skip


def results() -> pd.DataFrame:
    """The committed results, one row a data set, protocol, method and metric; empty where there are none."""
    path = _file(RESULTS)
    return pd.DataFrame(columns=list(COLUMNS)) if path is None else pd.read_csv(path, keep_default_na=False)


def parity() -> dict[str, dict[str, Any]]:
    """Method -> vectors -> precision -> [cases, worst relative error]; empty where there is none."""
    path = _file(PARITY)
    found: dict[str, dict[str, Any]] = {} if path is None else json.loads(path.read_text("utf-8"))
    return found


def write_results(folder: Path, out: Path) -> int:
    """Write the headline numbers of all records in a folder as the reference; how many rows."""
    from bench.published import load
    from bench.report import csv_writer
    from bench.report.model import build_report
    from bench.store import Store

    table = pd.read_csv(io.StringIO(csv_writer.write(build_report(Store(folder), load()))), keep_default_na=False)
    chosen = table[table["is_headline"] & table["metric"].isin(METRICS)][list(COLUMNS)]
    chosen = chosen.sort_values(["dataset", "protocol", "method", "metric"])
    for column in ("mean", "half_width"):
        chosen[column] = [f"{float(value):.5f}" if value != "" else "" for value in chosen[column]]
    chosen["values"] = [" ".join(f"{float(v):.5f}" for v in values.split()) for values in chosen["values"].astype(str)]
    chosen.to_csv(out, index=False, lineterminator="\n")
    return len(chosen)


def _file(name: str) -> Path | None:
    files = [folder / name for folder in home.folders("results/reference")]
    return next((file for file in files if file.is_file()), None)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.reference", description=__doc__)
    parser.add_argument("results", type=Path, help="folder of run records")
    out = Path("results/reference") / RESULTS
    print(f"wrote {write_results(parser.parse_args().results, out)} rows to {out}")


if __name__ == "__main__":
    main()
