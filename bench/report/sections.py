"""Records grouped as tables need them: one section a data set and protocol, one row a method.

Records are grouped by what their specs say is equal: the hash of the protocol, the hash of the data
set and the revision of the harness. Two versions of a protocol never share a section, two versions of
a method or of its hyper-parameters never share a row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from bench.record import DatasetFacts, MethodFacts, Record
from bench.report.text import metric_order

HEADLINES = {"validation": "best_validation", "last": "last", "test": "best_test"}
FAILED = ("diverged", "error", "timeout")


@dataclass(frozen=True)
class Row:
    """The runs of one method, in one version, under one protocol on one data set."""

    anchor: str
    label: str
    records: tuple[Record, ...]
    cells: frozenset[tuple[int, int | None]] = field(repr=False)

    @cached_property
    def facts(self) -> MethodFacts:
        """The method as a finished run saw it (a failed one may have ended before it was known)."""
        return (self.done or self.records)[0].method

    @cached_property
    def done(self) -> tuple[Record, ...]:
        """Finished runs by seed and fold."""
        return tuple(record for record in self.records if record.state == "done")

    @cached_property
    def failed(self) -> tuple[Record, ...]:
        """Runs that ended without a result and would do so again."""
        return tuple(record for record in self.records if record.state in FAILED)

    @property
    def is_baseline(self) -> bool:
        """Whether the method trains nothing."""
        return not self.facts.trains

    @property
    def complete(self) -> bool:
        """Whether it has a finished run for every seed and fold that any method of the section was started on."""
        return len(self.done) == len(self.cells)

    @property
    def progress(self) -> str:
        """'3 / 3': finished runs of those started for any method of the section."""
        return f"{len(self.done)} / {len(self.cells)}"

    def values(self, checkpoint: str, metric: str) -> dict[int, float]:
        """Seed -> metric; with folds, the mean over folds of the seeds for which all of them finished."""
        folds = {fold for _, fold in self.cells}
        found: dict[int, dict[int | None, float]] = {}
        for record in self.done:
            value = record.metrics.get(checkpoint, {}).get(metric)
            if value is not None:
                found.setdefault(record.spec.seed, {})[record.spec.fold] = value
        return {
            seed: sum(by_fold.values()) / len(by_fold)
            for seed, by_fold in sorted(found.items())
            if by_fold.keys() == folds
        }

    def has_identical_seeds(self, checkpoint: str, metric: str) -> bool:
        """Whether several seeds gave one value: nothing in the method depends on the seed."""
        values = list(self.values(checkpoint, metric).values())
        return len(values) > 1 and len(set(values)) == 1


@dataclass(frozen=True)
class Section:
    """All methods under one protocol on one data set."""

    anchor: str
    records: tuple[Record, ...]
    rows: tuple[Row, ...]
    versions: tuple[str, ...] = ()

    @property
    def dataset_name(self) -> str:
        """Name of the data set."""
        return self.records[0].spec.dataset

    @property
    def protocol_name(self) -> str:
        """Name of the protocol."""
        return self.records[0].spec.protocol

    @property
    def protocol_hash(self) -> str:
        """Hash of the protocol's content."""
        return self.records[0].spec.protocol_hash

    @property
    def protocol(self) -> dict[str, Any]:
        """The protocol as resolved when the runs were made."""
        return self.records[0].protocol

    @cached_property
    def dataset(self) -> DatasetFacts:
        """The data set as a finished run saw it."""
        return max(self.records, key=lambda record: record.dataset.test_images).dataset

    @property
    def is_known(self) -> bool:
        """Whether any run got far enough to describe the data set."""
        return self.dataset.test_images > 0

    @property
    def level(self) -> float:
        """Confidence level of the protocol's intervals."""
        return float(self.protocol.get("interval", {}).get("level", 0.95))

    @property
    def headline(self) -> str:
        """The checkpoint that the protocol's selection shows."""
        return HEADLINES[self.protocol["selection"]["split"]]

    @property
    def metric(self) -> str:
        """The metric that tables are sorted by: MAP@R, or nDCG where the protocol selects by it."""
        selected = str(self.protocol["selection"]["metric"])
        return selected if selected.startswith("ndcg") else "map_at_r"

    @property
    def seeds(self) -> list[int]:
        """Seeds that any run was started with."""
        return sorted({record.spec.seed for record in self.records})

    @property
    def folds(self) -> list[int]:
        """Folds that any run was started with."""
        return sorted({record.spec.fold for record in self.records if record.spec.fold is not None})

    @cached_property
    def metrics(self) -> list[str]:
        """Metrics of finished runs in table order; Precision@1 is Recall@1 and not shown twice."""
        names = {name for record in self.records for values in record.metrics.values() for name in values}
        return metric_order(names - {"precision_at_1"} if "recall_at_1" in names else names)

    @cached_property
    def trained(self) -> list[Row]:
        """Rows of methods that train."""
        return [row for row in self.rows if not row.is_baseline]

    @cached_property
    def baselines(self) -> list[Row]:
        """Rows of methods that train nothing."""
        return [row for row in self.rows if row.is_baseline]

    @cached_property
    def comparable_rows(self) -> list[Row]:
        """Rows that may be called best: a method whose failed runs are missing from its mean may not."""
        return [row for row in self.rows if row.done and not row.failed]


def build_sections(records: Iterable[Record]) -> list[Section]:
    """Group records; sections by data set and protocol, the newest version of a protocol first."""
    groups: dict[tuple[str, str, str, str, int], list[Record]] = {}
    for record in records:
        spec = record.spec
        key = (spec.dataset, spec.protocol, spec.protocol_hash, spec.dataset_hash, spec.harness)
        groups.setdefault(key, []).append(record)
    newest = {key: max(record.finished for record in group) for key, group in groups.items()}
    ordered = sorted(groups, key=lambda key: newest[key], reverse=True)
    ordered.sort(key=lambda key: key[:2])
    sections = []
    for number, key in enumerate(ordered, start=1):
        siblings = [other for other in ordered if other[:2] == key[:2]]
        sections.append(_section(f"s{number}", groups[key], _what_differs(siblings)))
    return sections


def _what_differs(siblings: list[tuple[str, str, str, str, int]]) -> tuple[str, ...]:
    names = ("protocol", "data set", "harness")
    return tuple(name for place, name in enumerate(names, start=2) if len({key[place] for key in siblings}) > 1)


def _section(anchor: str, records: list[Record], versions: tuple[str, ...]) -> Section:
    records = sorted(records, key=lambda r: (r.spec.method, _version(r), r.spec.seed, r.spec.fold or 0, r.run_id))
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.spec.method, _version(record)), []).append(record)
    cells = frozenset((record.spec.seed, record.spec.fold) for record in records)
    labels = _labels(groups)
    rows = [Row(f"{anchor}-r{n}", labels[key], tuple(groups[key]), cells) for n, key in enumerate(groups, start=1)]
    section = Section(anchor, tuple(records), (), versions)
    rows.sort(key=lambda row: _sort_key(row, section))
    return Section(anchor, tuple(records), tuple(rows), versions)


def _version(record: Record) -> str:
    return json.dumps([record.spec.method_hash, record.spec.hyperparameters], sort_keys=True)


def _sort_key(row: Row, section: Section) -> tuple[float, str]:
    values = row.values(section.headline, section.metric).values()
    return (-sum(values) / len(values) if values else float("inf")), row.label


def _labels(groups: Mapping[tuple[str, str], list[Record]]) -> dict[tuple[str, str], str]:
    """The method's name, with what tells its versions apart where there are several."""
    labels = {}
    for key, (first, *_) in groups.items():
        others = [group[0].spec for other, group in groups.items() if other[0] == key[0] and other != key]
        own = first.spec.hyperparameters
        changed = [name for name in sorted(own) if any(spec.hyperparameters.get(name) != own[name] for spec in others)]
        words = [f"{name}={own[name]}" for name in changed]
        if any(spec.method_hash != first.spec.method_hash for spec in others):
            words.append(f"code {first.spec.method_hash[:6]}")
        labels[key] = first.spec.method + (f" ({', '.join(words)})" if words else "")
    return labels
