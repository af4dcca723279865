"""Papers' own numbers and whether a measured one may be set beside them.

A published row is compared with a measured cell when data set, metric and split agree; trunk, embedding
size, crop and selection rule may differ, and every difference is listed. Whether the data set itself
allows a comparison at all (complete, no subset) is the caller's to check first, with `refusal`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from bench import home
from bench.aliases import ALIASES, Alias
from bench.errors import UsageError
from bench.record import DatasetFacts
from bench.statistics import Interval

NUMBER_COLUMNS = (
    "dataset", "method", "variant", "metric", "value", "spread", "spread_kind", "protocol", "backbone",
    "embedding_dim", "image_size", "paper", "year", "venue", "seen_in", "source_kind", "note",
)  # fmt: skip
PAPER_COLUMNS = ("paper", "title", "authors", "venue", "year", "arxiv_id", "official_code", "metadata_seen_in")

# Two numbers this close, as fractions, count as the same: one point of percent.
TOLERANCE = 0.01

Verdict = Literal["reproduced", "lower", "higher", "not comparable", "not measured"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "lower", "higher", "not comparable", "not measured")


@dataclass(frozen=True)
class PublishedRow:
    """One number of `numbers.csv`; `value` and `spread` as fractions, empty text where the source is silent."""

    dataset: str
    method: str
    variant: str
    metric: str
    value: float
    spread: float | None
    spread_kind: str
    protocol: str
    backbone: str
    embedding_dim: int | None
    image_size: int | None
    paper: str
    year: str
    venue: str
    seen_in: str
    source_kind: str
    note: str


@dataclass(frozen=True)
class Published:
    """All published numbers; `titles` maps a paper key to its title."""

    rows: tuple[PublishedRow, ...]
    titles: Mapping[str, str]

    def of(self, dataset: str) -> tuple[PublishedRow, ...]:
        """The rows of one data set."""
        return tuple(row for row in self.rows if row.dataset == dataset)


@dataclass(frozen=True)
class Setting:
    """What was measured under: the side of a comparison that the published row may differ from."""

    trunk: str
    trunk_frozen: bool
    embedding_size: int
    crop: int
    selection: str
    validation_held_out: bool
    trains: bool


@dataclass(frozen=True)
class Joined:
    """What the embeddings of several fold models side by side reached."""

    dimensions: int
    measured: Mapping[str, Interval]


@dataclass(frozen=True)
class Comparison:
    """A published row beside a measured cell.

    `difference` is measured minus published, as a fraction. The verdict 'reproduced' means that it is at
    most `tolerance`: the largest of one point, half the measured interval and the published spread.
    """

    row: PublishedRow
    measured: Interval | None
    verdict: Verdict
    difference: float | None
    tolerance: float | None
    differences: tuple[str, ...]


CONCATENATED = "reality_check_512"  # rows of four fold models side by side

# The study of Musgrave et al. lists the loss with and without its miner as two methods.
_WITHOUT_MINER = ("multi_similarity", "musgrave2020mlrc")

_SAME_METRIC = {"precision_at_1": "recall_at_1"}
_CLUSTERING = ("nmi", "ami", "f1")
_SELECTIONS = {"reality_check_128": "validation", CONCATENATED: "validation", "roth2020": "test"}
_SOURCES = {
    "figure_digitised": "read from a figure",
    "leaderboard": "from a leaderboard, unchecked",
    "issue_thread": "a user's report",
}


def load(folder: Path | None = None) -> Published:
    """Read `numbers.csv` and `papers.csv`; by default from the benchmark folder, else the shipped copies.

    Raises:
        UsageError: no such folder or file, wrong columns, or a value out of range; names file and line.
    """
    if folder is None:
        found = home.folders("results/published")
        if not found:
            raise UsageError("no folder results/published with numbers.csv and papers.csv was found.")
        folder = found[0]
    papers = _read(folder / "papers.csv", PAPER_COLUMNS)
    titles = {row["paper"]: row["title"] for _, row in papers}
    rows = []
    for line, row in _read(folder / "numbers.csv", NUMBER_COLUMNS):
        where = f"{folder / 'numbers.csv'}, line {line}"
        if row["paper"] not in titles:
            raise UsageError(f"{where}: paper '{row['paper']}' has no row in papers.csv.")
        rows.append(_published_row(where, row))
    return Published(tuple(rows), titles)


def refusal(facts: DatasetFacts, published: Published) -> str | None:
    """Why nothing published may be compared with a data set, as a sentence; None if it may."""
    if facts.partial:
        return f"This copy of the data set is {facts.partial}: numbers published for the whole set do not apply to it."
    if facts.subset:
        return f"The protocol uses a subset ({facts.subset}): numbers published for the whole set do not apply to it."
    if not published.of(facts.name):
        return f"No published number is on file for the data set {facts.name}."
    return None


def compare(
    published: Published,
    dataset: str,
    method: str,
    paper: str | None,
    measured: Mapping[str, Interval],
    setting: Setting,
    joined: Joined | None = None,
) -> list[Comparison]:
    """Every published row of a method on a data set beside what was measured (metric name -> interval).

    Rows of concatenated models stand beside `joined`, where there is such an ensemble.
    """
    found = []
    for row, caveat in rows_of(published, dataset, method, paper):
        reasons = [caveat] if caveat else []
        ensemble = joined if row.protocol == CONCATENATED else None
        blocked = _not_comparable(row) if ensemble is None else None
        values = measured if ensemble is None else ensemble.measured
        cell = values.get(_SAME_METRIC.get(row.metric, row.metric))
        if cell is None:
            found.append(Comparison(row, None, "not measured", None, None, tuple(reasons)))
        elif blocked:
            found.append(Comparison(row, cell, "not comparable", None, None, (blocked, *reasons)))
        else:
            size = setting.embedding_size if ensemble is None else ensemble.dimensions
            reasons += _differences(row, replace(setting, embedding_size=size))
            tolerance = max(TOLERANCE, cell.half_width or 0.0, row.spread or 0.0)
            difference = cell.mean - row.value
            found.append(Comparison(row, cell, _verdict(difference, tolerance), difference, tolerance, tuple(reasons)))
    return found


def _verdict(difference: float, tolerance: float) -> Verdict:
    # published values have two decimals of a percent at most: a tenth of that is rounding
    if abs(difference) <= tolerance + 1e-5:
        return "reproduced"
    return "lower" if difference < 0 else "higher"


def rows_of(published: Published, dataset: str, method: str, paper: str | None) -> list[tuple[PublishedRow, str]]:
    """Rows of a method with their caveats: by the alias table, else by name, else by the paper's only method."""
    rows = published.of(dataset)
    aliases = ALIASES.get(method)
    if aliases is None:
        aliases = (Alias(method),)
        if paper is not None and not any(row.method == method for row in published.rows):
            named = {row.method for row in published.rows if row.paper == paper}
            aliases = (Alias(named.pop()),) if len(named) == 1 else ()
    caveats = {(alias.method, alias.variant): alias.caveat for alias in aliases}
    matched = [(row, caveats[row.method, row.variant]) for row in rows if (row.method, row.variant) in caveats]
    return [
        (row, "without the miner there" if (row.method, row.paper) == _WITHOUT_MINER else caveat)
        for row, caveat in matched
    ]


def _not_comparable(row: PublishedRow) -> str | None:
    if row.protocol == "oml_zoo" and row.dataset in ("cub200", "cars196"):
        return "another split: all classes on both sides (closed set)"
    if row.protocol == CONCATENATED:
        return "four models concatenated, one model here"
    return None


def _differences(row: PublishedRow, setting: Setting) -> list[str]:
    found = []
    if not row.backbone:
        found.append("trunk not stated")
    elif _plain(row.backbone) != _plain(setting.trunk):
        found.append(f"trunk {row.backbone}, here {setting.trunk}")
    if setting.trunk_frozen and setting.trains:
        found.append("trunk trained there, frozen here")
    if row.embedding_dim is None:
        found.append("embedding size not stated")
    elif row.embedding_dim != setting.embedding_size:
        found.append(f"embedding of {row.embedding_dim}, here {setting.embedding_size}")
    if row.image_size is not None and row.image_size != setting.crop:
        found.append(f"crop of {row.image_size} px, here {setting.crop}")
    if setting.trains:
        selection = _SELECTIONS.get(row.protocol)
        if selection is None:
            found.append("selection not stated, in most papers the best test checkpoint")
        elif selection != setting.selection:
            found.append(f"checkpoint selected by {selection}, here by {setting.selection}")
        if setting.validation_held_out and not row.protocol.startswith("reality_check"):
            found.append("no validation classes held out there")
    if row.metric in _CLUSTERING:
        found.append("clustering settings not stated")
    if row.source_kind in _SOURCES:
        found.append(_SOURCES[row.source_kind])
    return found


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _read(path: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Rows with their line numbers."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if tuple(reader.fieldnames or ()) != columns:
                raise UsageError(
                    f"{path}: columns must be {','.join(columns)}; found {','.join(reader.fieldnames or ())}."
                )
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: cannot be read ({error}).") from None
    for line, row in rows:
        if None in row or None in row.values():
            raise UsageError(f"{path}, line {line}: expected {len(columns)} values.")
    return rows


def _published_row(where: str, row: dict[str, str]) -> PublishedRow:
    for key in ("dataset", "method", "metric", "protocol", "paper"):
        if not row[key]:
            raise UsageError(f"{where}: column '{key}' is empty.")
    value = _percent(where, "value", row["value"])
    if value is None:
        raise UsageError(f"{where}: column 'value' is empty.")
    return PublishedRow(
        dataset=row["dataset"],
        method=row["method"],
        variant=row["variant"],
        metric=row["metric"],
        value=value,
        spread=_percent(where, "spread", row["spread"]),
        spread_kind=row["spread_kind"],
        protocol=row["protocol"],
        backbone=row["backbone"],
        embedding_dim=_whole(where, "embedding_dim", row["embedding_dim"]),
        image_size=_whole(where, "image_size", row["image_size"]),
        paper=row["paper"],
        year=row["year"],
        venue=row["venue"],
        seen_in=row["seen_in"],
        source_kind=row["source_kind"],
        note=row["note"],
    )


def _percent(where: str, column: str, text: str) -> float | None:
    """A percentage as a fraction; None if empty."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 100:
        raise UsageError(f"{where}: column '{column}' must be a percentage from 0 to 100, found '{text}'.")
    return value / 100


def _whole(where: str, column: str, text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or int(text) == 0:
        raise UsageError(f"{where}: column '{column}' must be a whole number above 0, found '{text}'.")
    return int(text)
