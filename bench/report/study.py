"""The study as the reality check shows it: single fold models, their ensemble, and the search before them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench import ensembles
from bench.ensembles import EnsembleRecord
from bench.published import Joined
from bench.report import tables, text
from bench.report.sections import Row, Section
from bench.report.tables import Band, Cell, Column, Table
from bench.statistics import mean_interval
from bench.tuning import study as tuning
from bench.tuning.study import Study

METRICS = ("recall_at_1", "r_precision", "map_at_r")


@dataclass(frozen=True)
class Stored:
    """What a results folder holds beside records, read once for all sections."""

    ensembles: list[EnsembleRecord]
    studies: list[Study]

    @classmethod
    def of(cls, results: Path, problems: list[str]) -> Stored:
        """Read it; what cannot be read is noted in `problems`."""
        return cls(ensembles.load_all(results, problems), tuning.load_all(results, problems))


def study_table(section: Section, stored: Stored) -> Table | None:
    """One line a method; None where the section has neither ensembles nor searches."""
    ensembles = {row.anchor: joined(section, stored, row) for row in section.rows if row.done}
    studies = [s for s in stored.studies if _same(s, section)]
    dimensions = sorted({found.dimensions for found in ensembles.values() if found is not None})
    if not dimensions and not studies:
        return None
    columns = [Column("Method", numeric=False)]
    if studies:
        columns += [Column("Trials"), Column(f"Winner, {text.metric_label(studies[0].metric)} on validation")]
    columns += [Column(f"Separated {text.metric_label(metric)}", key=metric == section.metric) for metric in METRICS]
    if dimensions:
        columns += [Column(f"Concatenated {text.metric_label(metric)}") for metric in METRICS]

    def line(row: Row) -> tuple[Cell, ...]:
        found = next((s for s in studies if _is_of(s, row)), None)
        searched = _search_cells(found) if studies else ()
        single = tuple(tables.interval_cell(row, section, section.headline, metric) for metric in METRICS)
        together = tuple(_joined_cell(ensembles[row.anchor], row, metric) for metric in METRICS) if dimensions else ()
        return (Cell(row.label, runs=row.anchor), *searched, *single, *together)

    lines = tuple(line(row) for row in section.rows if row.done)
    return Table("study", "Study", tuple(columns), (Band("", lines),), tuple(_notes(section, studies, dimensions)))


def _notes(section: Section, studies: list[Study], dimensions: list[int]) -> Iterable[str]:
    size = section.protocol["embedding"]["size"]
    yield (
        f"Separated: mean over the {len(section.folds)} fold models, each alone with its {size}-dimensional embedding. "
        f"Percent, ± half the {100 * section.level:g} % interval over reproductions."
    )
    if dimensions:
        yield (
            f"Concatenated: the fold models' embeddings side by side, {text.listed(dimensions)} dimensions, evaluated "
            "as one; it trains as many networks as there are folds, and is no single model."
        )
    if studies:
        wanted = sorted({s.trials_wanted for s in studies if s.trials_wanted})
        yield (
            f"Every method with something to search had {text.listed(wanted)} trials on all folds, judged on "
            "validation classes; then the winning setting was trained anew under fresh seeds."
        )
        if any(s.winner_counts for s in studies):
            yield "The winning trial counts as a reproduction here, as in the original: its mean is biased upwards."
        else:
            yield "The winning trial takes no part in the mean and its interval: it was chosen for being high."
        if any(not s.complete for s in studies):
            yield "Some studies are not finished: start the same `bench tune` again to go on."


def _search_cells(study: Study | None) -> tuple[Cell, Cell]:
    if study is None:
        return Cell("—", mark="weak"), Cell("—", mark="weak")
    failed = sum(trial.state == "failed" for trial in study.trials)
    trials = Cell(f"{len(study.trials)} / {study.trials_wanted}", f"{failed} failed" if failed else "")
    if study.winner is None or study.winner.score is None:
        return trials, Cell("—", mark="weak")
    chosen = ", ".join(f"{key} = {study.winner.hyperparameters[key]}" for key in study.space)
    return trials, Cell(text.value(study.metric, study.winner.score), f"trial {study.winner.trial}", tip=chosen)


def joined(section: Section, stored: Stored, row: Row) -> Joined | None:
    """What the row's ensembles reached, over reproductions; None where it has none."""
    mine = [e for e in stored.ensembles if _same(e, section) and _is_ensemble_of(e, row)]
    if not mine:
        return None
    values = {metric: [e.metrics[metric] for e in mine if metric in e.metrics] for metric in section.metrics}
    return Joined(mine[0].dimensions, {m: mean_interval(own, section.level) for m, own in values.items() if own})


def _joined_cell(ensemble: Joined | None, row: Row, metric: str) -> Cell:
    found = None if ensemble is None else ensemble.measured.get(metric)
    if found is None:
        return Cell("—", mark="weak", tip="no ensemble: a fold is missing")
    return Cell(text.value(metric, found.mean), text.plus_minus(found, metric), runs=row.anchor, tip=f"n = {found.n}")


def _same(stored: EnsembleRecord | Study, section: Section) -> bool:
    spec = section.records[0].spec
    keys = ("dataset", "dataset_hash", "protocol", "protocol_hash", "harness")
    return all(getattr(stored, key) == getattr(spec, key) for key in keys)


def _is_ensemble_of(ensemble: EnsembleRecord, row: Row) -> bool:
    spec = row.records[0].spec
    keys = ("method", "method_hash", "hyperparameters")
    return all(getattr(ensemble, key) == getattr(spec, key) for key in keys)


def _is_of(study: Study, row: Row) -> bool:
    made = {reproduction.run_id for reproduction in study.reproductions}
    return any(record.run_id in made for record in row.records)
