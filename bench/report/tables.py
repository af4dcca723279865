"""The tables of a report as plain data; the writers only lay them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

from bench.record import Record
from bench.report import text
from bench.report.sections import Row, Section
from bench.statistics import Interval, Ranking, mean_interval, rank

Mark = Literal["", "best", "tied", "failed", "weak"]


@dataclass(frozen=True)
class Cell:
    """One cell: main text, a quieter second part, a mark, the anchor of the runs behind it, a tooltip."""

    text: str
    minor: str = ""
    mark: Mark = ""
    runs: str = ""
    tip: str = ""


@dataclass(frozen=True)
class Column:
    """One column; `optimistic`: its numbers were chosen by looking at the test side."""

    label: str
    numeric: bool = True
    key: bool = False
    optimistic: bool = False


@dataclass(frozen=True)
class Band:
    """Consecutive rows under one label."""

    label: str
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Table:
    """A table with its footnotes; `kind` names it within its section."""

    kind: str
    title: str
    columns: tuple[Column, ...]
    bands: tuple[Band, ...]
    notes: tuple[str, ...] = ()


def interval(row: Row, section: Section, checkpoint: str, metric: str) -> Interval | None:
    """Mean and interval over seeds; None where no seed has a value."""
    values = list(row.values(checkpoint, metric).values())
    return mean_interval(values, section.level) if values else None


def ranking(section: Section, checkpoint: str, metric: str) -> Ranking | None:
    """Best and tied rows by anchor, among the rows that may be called best."""
    sign = -1 if text.lower_is_better(metric) else 1
    rows = {row.anchor: row.values(checkpoint, metric) for row in section.comparable_rows}
    return rank(
        {name: {seed: sign * value for seed, value in seeds.items()} for name, seeds in rows.items()}, section.level
    )


def results_table(section: Section) -> Table:
    """The main table: one row a method, one column a metric, the protocol's own checkpoint."""
    rankings = {metric: ranking(section, section.headline, metric) for metric in section.metrics}
    optimistic = section.headline == "best_test"
    columns = [Column("Method", numeric=False), Column("Runs"), Column("n")]
    columns += [Column(text.metric_label(m), key=m == section.metric, optimistic=optimistic) for m in section.metrics]

    def line(row: Row) -> tuple[Cell, ...]:
        cells = [_result_cell(row, section, metric, rankings[metric]) for metric in section.metrics]
        seeds = Cell(str(len(row.values(section.headline, section.metric))))
        name = replace(_name(row), minor="; ".join(row.facts.departures))
        return (name, _progress(row), seeds, *cells)

    return Table("results", "Results", tuple(columns), _bands(section, line), tuple(_result_notes(section, rankings)))


def gap_table(section: Section) -> Table | None:
    """What choosing the checkpoint by looking at the test side would add; None without such numbers."""
    checkpoints = [c for c in text.CHECKPOINT_LABELS if any(r.metrics.get(c) for r in section.records)]
    if "best_test" not in checkpoints or len(checkpoints) < 2:
        return None
    against = section.headline if section.headline != "best_test" else checkpoints[-2]
    columns = [Column("Method", numeric=False)]
    columns += [
        Column(text.CHECKPOINT_LABELS[c].capitalize(), key=c == section.headline, optimistic=c == "best_test")
        for c in checkpoints
    ]
    gap_label = f"Gap: best on test − {text.CHECKPOINT_LABELS[against]}, points"
    columns += [Column(gap_label, optimistic=True), Column("Step of each")]

    def line(row: Row) -> tuple[Cell, ...]:
        cells = [interval_cell(row, section, c, section.metric) for c in checkpoints]
        return (_name(row), *cells, _gap_cell(row, section, against), _steps_cell(row, checkpoints))

    notes = (
        f"{text.metric_label(section.metric)} of the same runs at the checkpoints that the rules would choose; "
        f"best on test is the best of {_sought_among(section) or 'all evaluated steps'} by "
        f"{text.metric_label(_selection_metric(section))}, chosen with the test labels: optimistic, never a result.",
        "Gap: mean over seeds of the differences within a run, with its interval.",
    )
    trained = tuple(line(row) for row in section.trained if row.done)
    return Table("gap", "Selection gap", tuple(columns), (Band("", trained),), notes) if trained else None


def cost_table(section: Section) -> Table:
    """What a run of each method costs, mean over its finished runs."""
    readers: tuple[tuple[str, Callable[[Record], float | None], Callable[[float], str]], ...] = (
        ("Training", lambda r: r.seconds.get("fit", r.seconds.get("train")), text.duration),
        ("Validation", lambda r: r.seconds.get("validation"), text.duration),
        ("Test", lambda r: r.seconds.get("test"), text.duration),
        ("Images trained on", lambda r: r.counts.get("images_seen"), text.count),
        ("Images through the network", lambda r: r.counts.get("forward_images"), text.count),
        ("of these extra passes", lambda r: r.counts.get("extra_forward_images"), text.count),
        ("Trained parameters", lambda r: r.method.trained_parameters, text.count),
        ("of these the method's own", lambda r: r.method.own_parameters, text.count),
        ("Peak memory", lambda r: r.peak_memory_bytes or None, text.size),
    )

    def line(row: Row) -> tuple[Cell, ...]:
        cells = []
        for _, read, write in readers:
            values = [value for value in map(read, row.done) if value is not None]
            cells.append(Cell(write(sum(values) / len(values)), runs=row.anchor) if values else Cell("—", mark="weak"))
        return (_name(row), *cells)

    columns = (Column("Method", numeric=False), *(Column(label) for label, _, _ in readers))
    notes = ["Mean over finished runs. Seconds are wall clock of the whole run, resumed parts included."]
    machines = {(r.environment.get("cpu"), r.environment.get("gpu")) for r in section.records if r.state == "done"}
    if len(machines) > 1:
        notes.append(f"The runs come from {len(machines)} kinds of machine: their seconds are not comparable.")
    return Table("cost", "Cost of a run", columns, _bands(section, line), tuple(notes))


def failures_table(section: Section) -> Table | None:
    """Every run without a result, with its state and reason; None if there is none."""
    lines = []
    for row in section.rows:
        for record in row.records:
            if record.state != "done":
                seed = f"seed {record.spec.seed}" + ("" if record.spec.fold is None else f", fold {record.spec.fold}")
                cells = (_name(row), Cell(record.state, mark="failed", runs=row.anchor), Cell(seed))
                lines.append((*cells, Cell(record.reason or "no reason recorded")))
    if not lines:
        return None
    columns = tuple(Column(label, numeric=False) for label in ("Method", "State", "Run", "Reason"))
    notes = ("A method with failed runs keeps its row, but takes no part in the marks: its mean leaves them out.",)
    return Table("failures", "Runs without a result", columns, (Band("", tuple(lines)),), notes)


def _bands(section: Section, line: Callable[[Row], tuple[Cell, ...]]) -> tuple[Band, ...]:
    bands = (("", section.trained), ("Baselines: nothing is trained", section.baselines))
    return tuple(Band(label, tuple(line(row) for row in rows)) for label, rows in bands if rows)


def _name(row: Row) -> Cell:
    settings = row.records[0].spec.hyperparameters
    tip = ", ".join(f"{key} = {value}" for key, value in settings.items()) or "no hyper-parameters"
    return Cell(row.label, runs=row.anchor, tip=f"{tip}; code {row.records[0].spec.method_hash}")


def _progress(row: Row) -> Cell:
    states = [record.state for record in row.records if record.state != "done"]
    minor = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    tip = "; ".join(dict.fromkeys(record.reason for record in row.records if record.reason))
    return Cell(row.progress, minor, "" if row.complete else "failed", row.anchor, tip)


def _result_cell(row: Row, section: Section, metric: str, ranked: Ranking | None) -> Cell:
    cell = interval_cell(row, section, section.headline, metric)
    if ranked is None or not cell.runs:
        return cell
    mark: Mark = "best" if row.anchor == ranked.best else "tied" if row.anchor in ranked.first else ""
    return Cell(cell.text, cell.minor, mark, cell.runs, cell.tip)


def interval_cell(row: Row, section: Section, checkpoint: str, metric: str) -> Cell:
    """Mean and half width over seeds, the seeds' values as the tooltip."""
    values = row.values(checkpoint, metric)
    found = interval(row, section, checkpoint, metric)
    if found is None:
        return Cell("—", mark="weak", tip="no finished run has this number")
    seeds = ", ".join(f"seed {seed}: {text.value(metric, value)}" for seed, value in values.items())
    shown = text.value(metric, found.mean)
    return Cell(shown, text.plus_minus(found, metric), "", row.anchor, f"n = {found.n}; {seeds}")


def _gap_cell(row: Row, section: Section, against: str) -> Cell:
    chosen, best = row.values(against, section.metric), row.values("best_test", section.metric)
    gaps = [best[seed] - chosen[seed] for seed in sorted(chosen.keys() & best.keys())]
    if not gaps:
        return Cell("—", mark="weak")
    found = mean_interval(gaps, section.level)
    return Cell(text.points(found.mean), text.plus_minus(found), "", row.anchor, f"n = {found.n}")


def _steps_cell(row: Row, checkpoints: list[str]) -> Cell:
    steps = ([r.steps[checkpoint] for r in row.done if checkpoint in r.steps] for checkpoint in checkpoints)
    return Cell(" · ".join(_span(found) for found in steps), runs=row.anchor)


def _span(numbers: list[int]) -> str:
    if not numbers:
        return "—"
    return text.count(min(numbers)) + ("" if min(numbers) == max(numbers) else f"–{text.count(max(numbers))}")


def _sought_among(section: Section) -> str:
    """What share of a run's evaluations the best on test was looked for in; empty where it was all of them."""
    runs = [record for row in section.trained for record in row.done]
    evaluated = [len(record.curves) for record in runs]
    on_test = [record.counts.get("test_checkpoints", len(record.curves)) for record in runs]
    if on_test == evaluated:
        return ""
    return (
        f"{_span(on_test)} of the {_span(evaluated)} evaluated steps of a run (evenly spaced ones, and those that the "
        "other rules choose)"
    )


def _selection_metric(section: Section) -> str:
    return str(section.protocol["selection"]["metric"])


def _result_notes(section: Section, rankings: dict[str, Ranking | None]) -> Iterable[str]:
    level = f"{100 * section.level:g} %"
    label = text.metric_label(_selection_metric(section))
    if section.headline == "best_test":
        yield (
            f"Optimistic: this protocol shows the step with the best test {label}, so the test labels chose the "
            "checkpoint. Compare such numbers only with numbers made the same way."
        )
        if among := _sought_among(section):
            yield f"That step was looked for among {among}."
    elif section.headline == "best_validation":
        yield f"Checkpoint: the step with the best {label} on validation classes, fixed before the test side is opened."
    else:
        yield "Checkpoint: the last step; nothing is selected."
    units = (
        "; label distances (↓, lower is better) in units of the labels"
        if any(map(text.lower_is_better, section.metrics))
        else ""
    )
    folds = " A seed's value is the mean over its folds." if len(section.folds) > 1 else ""
    yield (
        f"Percent{units}. Mean over n seeds ± half the {level} interval (Student t, n − 1 degrees of freedom).{folds} "
        f"Sorted by {text.metric_label(section.metric)}."
    )
    if any(metric.startswith("cmc_at_") for metric in section.metrics):
        yield (
            "CMC@K: one image of each identity is the gallery and all others are queries, mean over fixed draws. It "
            "is another, harder task than Recall@K, where every image is a query against all others."
        )
    most = max((len(row.values(section.headline, section.metric)) for row in section.rows), default=0)
    if most < 2:
        yield "One seed: no interval and no test. Differences may be noise, and nothing is marked as tied."
    else:
        yield (
            "Bold: the best mean of the column. ≈: tied for first, as no row is better by a paired t-test over the "
            "seeds that both have (Holm's correction over all pairs, "
            f"p < {1 - section.level:g}); not shown to be equal."
        )
        if any(ranked and ranked.untested for ranked in rankings.values()):
            yield "Rows that share fewer than two seeds with the best one are not tested."
    if any(row.has_identical_seeds(section.headline, section.metric) for row in section.rows):
        yield "± 0.00: all seeds gave the same number, because nothing in that method depends on the seed."
    if any(not row.complete for row in section.rows):
        yield "Runs: finished of the seeds and folds that any method here was started on."
