"""Long CSV: one row a data set, protocol, method, checkpoint and metric."""

from __future__ import annotations

import pandas as pd

from bench.report import tables, text
from bench.report.model import Report

COLUMNS = (
    "dataset", "dataset_partial", "dataset_subset", "dataset_hash", "protocol", "protocol_hash", "harness", "method",
    "hyperparameters", "method_hash", "trains", "checkpoint", "is_headline", "optimistic", "metric", "n", "mean",
    "half_width", "level", "values", "seeds", "runs_done", "runs_started", "run_ids",
)  # fmt: skip


def write(report: Report) -> str:
    """Numbers as fractions with all their digits; `values`, `seeds` and `run_ids` hold several, apart by spaces."""
    rows: list[dict[str, object]] = []
    for section in (view.section for view in report.views):
        metrics = text.metric_order({m for r in section.records for values in r.metrics.values() for m in values})
        for row in section.rows:
            spec = row.records[0].spec
            shared: dict[str, object] = {
                "dataset": spec.dataset,
                "dataset_partial": section.dataset.partial or "",
                "dataset_subset": section.dataset.subset or "",
                "dataset_hash": spec.dataset_hash,
                "protocol": spec.protocol,
                "protocol_hash": spec.protocol_hash,
                "harness": spec.harness,
                "method": spec.method,
                "hyperparameters": " ".join(f"{key}={value}" for key, value in spec.hyperparameters.items()),
                "method_hash": spec.method_hash,
                "trains": row.facts.trains,
                "level": section.level,
                "runs_done": len(row.done),
                "runs_started": len(row.records),
                "run_ids": " ".join(record.run_id for record in row.done),
            }
            for checkpoint in text.CHECKPOINT_LABELS:
                for metric in metrics:
                    found = tables.interval(row, section, checkpoint, metric)
                    if found is None:
                        continue
                    values = row.values(checkpoint, metric)
                    rows.append(
                        shared
                        | {
                            "checkpoint": checkpoint,
                            "is_headline": checkpoint == section.headline,
                            "optimistic": checkpoint == "best_test",
                            "metric": metric,
                            "n": found.n,
                            "mean": found.mean,
                            "half_width": "" if found.half_width is None else found.half_width,
                            "values": " ".join(map(repr, values.values())),
                            "seeds": " ".join(map(str, values)),
                        }
                    )
    return str(pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(index=False, lineterminator="\n"))
