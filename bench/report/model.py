"""The whole report as data: what every format is written from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bench.errors import UsageError
from bench.published import Published
from bench.record import SCHEMA_VERSION, Record
from bench.report import comparisons, evidence, examples, figures, study, tables, text
from bench.report.across import across_tables
from bench.report.environments import environment_table
from bench.report.sections import Row, Section, build_sections
from bench.report.side_by_side import side_by_side_tables
from bench.report.tables import Band, Cell, Column, Table
from bench.store import Store


@dataclass(frozen=True)
class Badge:
    """A short marker beside a heading; `warns` ones limit what the numbers mean."""

    text: str
    warns: bool = True


@dataclass(frozen=True)
class RunLine:
    """One run in the list of runs that every number links to."""

    record: Record
    folder: str
    step: int | None
    value: float | None


@dataclass(frozen=True)
class Runs:
    """The runs of one row, under the anchor that its numbers link to."""

    anchor: str
    label: str
    lines: tuple[RunLine, ...]


@dataclass(frozen=True)
class View:
    """Everything shown of one data set under one protocol."""

    section: Section
    title: str
    badges: tuple[Badge, ...]
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    results: Table
    failures: Table | None
    study: Table | None
    evidence: Table | None
    gap: Table | None
    cost: Table | None
    published_sentence: str
    published: tuple[Table, ...]
    curves: tuple[figures.Chart, ...]
    scatter: figures.Chart | None
    cost_figure: figures.Chart | None
    gallery: examples.Gallery | None
    runs: tuple[Runs, ...]


@dataclass(frozen=True)
class Report:
    """A report over all records of a results folder."""

    views: tuple[View, ...]
    overview: Table
    across: tuple[Table, ...]
    side_by_side: tuple[Table, ...]
    environment: Table
    newest: str
    states: tuple[tuple[str, int], ...]
    problems: tuple[str, ...]
    images: dict[str, str]
    styles: dict[str, int]


def build_report(store: Store, published: Published) -> Report:
    """Read every record of a store.

    Raises:
        UsageError: the store holds no record.
    """
    found = store.records()
    records = [record for record in found if record.schema_version == SCHEMA_VERSION]
    problems = list(store.problems)
    problems += [
        f"{store.folder(record)}: record of schema version {record.schema_version}, this bench reads {SCHEMA_VERSION}: "
        "left out"
        for record in found
        if record.schema_version != SCHEMA_VERSION
    ]
    if not records:
        unreadable = "".join(f"\n  {problem}" for problem in problems)
        raise UsageError(
            f"no readable record under {store.root / 'runs'}: nothing to report. Run `make bench` or `bench run "
            f"--dataset glyphs --results {store.root}` first, or name another folder with --results.{unreadable}"
        )
    sections = build_sections(records)
    styles = figures.styles(sections)
    bank = examples.ImageBank()
    with_examples = [s for s in sections if any("examples" in r.artefacts for r in s.records)]
    budget = examples.PAGE_BUDGET // max(1, len(with_examples))
    stored = study.Stored.of(store.root, problems)
    views = tuple(_view(section, store, stored, published, styles, bank, budget, problems) for section in sections)
    states = [record.state for record in records]
    return Report(
        views=views,
        overview=_overview(sections),
        across=across_tables(sections),
        side_by_side=side_by_side_tables(sections, published),
        environment=environment_table(records),
        newest=_moment(max(record.finished for record in records)),
        states=tuple((state, states.count(state)) for state in sorted(set(states), key=lambda s: (s != "done", s))),
        problems=tuple(problems),
        images=bank.uris,
        styles=styles,
    )


def _view(
    section: Section,
    store: Store,
    stored: study.Stored,
    published: Published,
    styles: dict[str, int],
    bank: examples.ImageBank,
    budget: int,
    problems: list[str],
) -> View:
    sentence, published_tables = comparisons.published_tables(section, published, stored)
    has_results = any(row.done for row in section.rows)
    return View(
        section=section,
        title=f"{section.dataset.title} · {section.protocol_name}",
        badges=tuple(_badges(section)),
        facts=tuple(_facts(section)),
        notes=section.dataset.notes,
        results=tables.results_table(section),
        failures=tables.failures_table(section),
        study=study.study_table(section, stored),
        evidence=evidence.evidence_table(section, store, problems),
        gap=tables.gap_table(section),
        cost=tables.cost_table(section) if has_results else None,
        published_sentence=sentence,
        published=tuple(published_tables),
        curves=tuple(figures.curves(section, styles)),
        scatter=figures.seed_scatter(section, styles),
        cost_figure=figures.cost_scatter(section, styles),
        gallery=examples.build_gallery(section, store, bank, budget, problems),
        runs=tuple(_runs(row, section, store) for row in section.rows),
    )


def _badges(section: Section) -> Iterable[Badge]:
    facts = section.dataset
    if facts.partial:
        yield Badge(facts.partial)
    if facts.subset:
        yield Badge(f"subset: {facts.subset}")
    if section.is_known and not facts.partial and not facts.subset:
        yield Badge("complete", warns=False)
    if section.headline == "best_test":
        yield Badge("optimistic: selected on test")
    share = section.protocol.get("budget_share", 1.0)
    if share < 1:
        yield Badge(f"budget {100 * share:g} %: a scaled-down protocol")
    for what in section.versions:
        yield Badge(f"one of several versions of this {what}: never compare across them")


def _facts(section: Section) -> Iterable[tuple[str, str]]:
    facts, protocol = section.dataset, section.protocol
    yield "Data set", f"{facts.title} ({facts.name}, layout {facts.layout})"
    if section.is_known:
        yield "Training side", _side(facts.train_classes, facts.train_images)
        if facts.validation_classes:
            yield "Validation", _side(facts.validation_classes, facts.validation_images) + " of the training classes"
        yield "Test side", _side(facts.test_classes, facts.test_images) + ", none seen in training"
    trunk = protocol["trunk"]
    how = "frozen, features cached" if trunk["frozen"] else f"trained, batch norm {trunk['batch_norm']}"
    yield "Trunk", f"{trunk['name']}, weights {trunk['weights']}, {how}"
    embedding = protocol["embedding"]
    yield "Embedding", f"{embedding['size']} dimensions, {'' if embedding['normalize'] else 'not '}normalised"
    images, crop = protocol["images"], protocol["images"]["train"]
    shown = "the same crop" if crop is None else f"random crops of {crop['size']} px"
    seen = f"short side {images['resize']}, centre crop {images['crop']} px"
    if images.get("fit") == "stretch":
        seen = f"stretched to {images['resize']} x {images['resize']}, evaluated as a whole at {images['crop']} px"
    yield "Images", f"{seen}; trained on {shown}"
    batch, budget = protocol["batch"], protocol["budget"]
    yield "Batch", _batches(batch)
    yield "Optimiser", _optimizer(protocol["optimizer"])
    if given := _set_by_protocol(section):
        yield "Hyper-parameters", f"set by the protocol, whatever the methods' defaults are: {given}"
    stop = "" if budget["patience"] is None else f", stops after {budget['patience']} evaluations without a new best"
    yield "Budget", f"{text.count(budget['iterations'])} steps, evaluated every {budget['evaluate_every']}{stop}"
    selection = protocol["selection"]
    yield "Checkpoint", (
        "last step" if selection["split"] == "last"
        else f"best {text.metric_label(selection['metric'])} on {selection['split']}"
    )  # fmt: skip
    named = sorted(protocol["seeds"])
    yield (
        "Seeds",
        text.listed(section.seeds) + ("" if section.seeds == named else f" (the protocol names {text.listed(named)})"),
    )
    folds = protocol["folds"]
    yield "Folds", "none" if folds is None else f"{text.listed(section.folds)} of {folds['count']}, {folds['rule']}"
    yield "Interval", f"{100 * section.level:g} % Student t over seeds"
    yield "Precision", f"{protocol['precision']}, {text.plural(protocol['threads'], 'thread')}"
    spec = section.records[0].spec
    yield "Hashes", f"protocol {spec.protocol_hash}, data set {spec.dataset_hash}, harness revision {spec.harness}"


def _side(classes: int, images: int) -> str:
    return f"{text.plural(classes, 'class', 'classes')}, {text.plural(images, 'image')}"


def _batches(batch: dict[str, Any]) -> str:
    other, sampler = batch.get("classification"), batch.get("sampler", "passes")
    shown = f"{batch['classes']} classes × {batch['per_class']} images"
    if other:
        shown += f"; {other['classes']} × {other['per_class']} for methods without pairs"
    return shown if sampler == "passes" else f"{shown}, drawn by '{sampler}'"


def _optimizer(optimizer: dict[str, object]) -> str:
    groups = ("trunk", "embedder", "method")
    rates = ", ".join(f"{name} {group['lr']:g}" for name in groups if isinstance(group := optimizer[name], dict))
    epsilon = "" if optimizer.get("epsilon") is None else f" with epsilon {optimizer['epsilon']:g}"
    return f"{optimizer['name']}{epsilon}, learning rates {rates}, {optimizer['schedule']}"


def _set_by_protocol(section: Section) -> str:
    """'proxy_anchor (proxy_lr = 0.06)', of every method that has a run."""
    given, run = section.protocol.get("hyperparameters", {}), {record.spec.method for record in section.records}
    shown = {name: [f"{key} = {value}" for key, value in given[name].items()] for name in given if name in run}
    return text.listed(f"{name} ({text.listed(words)})" for name, words in shown.items())


def _runs(row: Row, section: Section, store: Store) -> Runs:
    lines = []
    for record in row.records:
        folder = store.folder(record)
        place = folder.relative_to(store.root) if folder.is_relative_to(store.root) else folder
        value = record.metrics.get(section.headline, {}).get(section.metric)
        lines.append(RunLine(record, place.as_posix(), record.steps.get(section.headline), value))
    return Runs(row.anchor, row.label, tuple(lines))


def _overview(sections: list[Section]) -> Table:
    """One line a section: what was run, and which method came out first."""
    lines = []
    for section in sections:
        ranked = tables.ranking(section, section.headline, section.metric)
        rows = {row.anchor: row for row in section.rows}
        best = rows[ranked.best] if ranked else None
        baseline = next((row for row in section.baselines if row.done), None)
        tied = [row.label for row in section.rows if ranked and row.anchor in ranked.first - {ranked.best}]
        done = sum(record.state == "done" for record in section.records)
        runs = Cell(f"{done} / {len(section.records)}", mark="" if done == len(section.records) else "failed")
        lines.append(
            (
                Cell(section.dataset.title, section.dataset.partial or "", runs=section.anchor),
                Cell(section.protocol_name, section.protocol_hash if section.versions else ""),
                Cell(text.count(len(section.rows))),
                runs,
                Cell("—", mark="weak") if best is None else Cell(best.label, _tied(tied), "best"),
                _value(best, section),
                _value(baseline, section),
            )
        )
    metric = text.metric_label(sections[0].metric)
    columns = (
        Column("Data set", numeric=False), Column("Protocol", numeric=False), Column("Methods"), Column("Runs done"),
        Column(f"Best by {metric}", numeric=False), Column(metric), Column("Best baseline"),
    )  # fmt: skip
    return Table("overview", "At a glance", columns, (Band("", tuple(lines)),))


def _tied(labels: list[str]) -> str:
    return f"≈ {text.listed(labels)}" if labels else ""


def _value(row: Row | None, section: Section) -> Cell:
    span = tables.interval(row, section, section.headline, section.metric) if row else None
    if row is None or span is None:
        return Cell("—", mark="weak")
    optimistic = " optimistic" if section.headline == "best_test" else ""
    return Cell(text.percent(span.mean), text.plus_minus(span) + optimistic, runs=row.anchor)


def _moment(stamp: str) -> str:
    """An ISO time stamp as '2026-01-31 12:00 UTC'; as it is when it is not one."""
    try:
        return f"{datetime.fromisoformat(stamp).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return stamp
