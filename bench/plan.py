"""The plan: data sets x methods x folds x seeds under one protocol, as run specs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench import budget, hyperparameters, machine, registry
from bench.data import catalog
from bench.data.dataset import Dataset
from bench.errors import UsageError
from bench.method import Method
from bench.models import weights
from bench.models.pooling import Descriptors
from bench.protocol import Protocol, load_protocol
from bench.record import RunSpec
from bench.registry import MethodInfo
from bench.store import Store


@dataclass(frozen=True)
class Setting:
    """Where a plan finds things and puts its records; of a run's identity, only the share of the budget is a part."""

    protocol: str
    data: Path
    results: Path
    include: tuple[Path, ...] = ()
    budget: float = 1.0


@dataclass(frozen=True)
class Plan:
    """The runs of one protocol on one data set.

    `left_out` are notes on methods that are not among them, `notes` on what a share of the budget changed and on the
    hyper-parameters that the protocol sets.
    """

    protocol: Protocol
    setting: Setting
    specs: tuple[RunSpec, ...]
    why_protocol: str
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def descriptors(self) -> list[Descriptors]:
        """Poolings of the trunk that the methods ask for."""
        return [cls.descriptors for cls in self.methods().values()]

    def methods(self) -> dict[str, type[Method]]:
        """The methods by name, in the order of the plan."""
        known = registry.methods(self.setting.include)
        return {name: known[name].cls for name in dict.fromkeys(spec.method for spec in self.specs)}

    def trains(self) -> dict[str, bool]:
        """Method -> whether it trains anything, in the order of the plan."""
        return {name: cls.trains for name, cls in self.methods().items()}

    def missing(self) -> list[RunSpec]:
        """Specs without a finished record."""
        store = Store(self.setting.results)
        return [spec for spec in self.specs if not store.is_done(spec)]


def open_dataset(name: str, data: Path, protocol: Protocol) -> Dataset:
    """A data set as a protocol uses it: its sides as the protocol cuts them, and its subset, if it names one."""
    dataset = catalog.open_dataset(name, data)
    if protocol.sides == "halves":
        dataset = catalog.halves(dataset)
    return dataset if protocol.subset is None else catalog.restrict(dataset, protocol.subset)


def make_plan(
    dataset_name: str,
    setting: Setting,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Plan:
    """Resolve names into specs; an empty `setting.protocol` means the data set's default.

    Raises:
        UsageError: unknown method, data set or protocol, a wrong share of the budget, weights that are missing, or
            hyper-parameters in the protocol that a method does not take.
        DataError: the data set is not there or damaged.
    """
    why = "as asked"
    name = setting.protocol
    if not name:
        name, why = default_protocol(catalog.open_dataset(dataset_name, setting.data))
        setting = replace(setting, protocol=name)
    share = budget.scaled(load_protocol(name).on(dataset_name), setting.budget)
    protocol = share.protocol
    dataset = open_dataset(dataset_name, setting.data, protocol)
    if protocol.evaluation.graded is not None and dataset.targets is None:
        raise UsageError(
            f"protocol '{protocol.name}' evaluates continuous labels (evaluation.graded), which data set "
            f"'{dataset.name}' does not have: choose another protocol or data set."
        )
    hyperparameters.check(protocol, setting.include)
    chosen, left_out = _choose(dataset, methods, setting.include)
    values = {method: hyperparameters.values_under(protocol, info.cls) for method, info in chosen.items()}
    identities = {method: registry.identity(method, own, setting.include) for method, own in values.items()}
    folds: tuple[int | None, ...] = (None,) if protocol.folds is None else protocol.folds.use
    weights_hash = weights.content_hash(protocol.trunk.name, protocol.trunk.weights)[:12]
    specs = [
        RunSpec(
            dataset=dataset.name,
            dataset_hash=dataset.manifest.hash,
            protocol=protocol.name,
            protocol_hash=protocol.hash,
            weights_hash=weights_hash,
            method=method,
            method_hash=identities[method],
            hyperparameters=values[method],
            fold=fold,
            seed=seed,
        )
        for method in chosen
        for fold in folds
        for seed in (seeds if seeds else protocol.seeds)
    ]
    notes = (*share.notes, *hyperparameters.notes(protocol, [info.cls for info in chosen.values()]))
    return Plan(protocol, setting, tuple(specs), why, left_out, notes)


def _choose(
    dataset: Dataset, names: Sequence[str] | None, include: Sequence[Path]
) -> tuple[dict[str, MethodInfo], tuple[str, ...]]:
    """Methods to run, baselines first where the caller names none, and notes on what is left out."""
    asked_for_each = names is not None and list(names) != [registry.ALL]
    chosen = registry.select(names, include)
    notes = []
    if not asked_for_each:
        chosen = {name: chosen[name] for name in sorted(chosen, key=lambda n: (chosen[n].cls.trains, n))}
    if dataset.targets is None:
        unfit = [name for name, info in chosen.items() if info.cls.needs_targets]
        if unfit and asked_for_each:
            raise UsageError(
                f"method(s) {', '.join(unfit)} learn from continuous labels, which data set '{dataset.name}' does not "
                "have: choose another data set (bench list datasets) or other methods."
            )
        if unfit:
            notes.append(f"{', '.join(unfit)} left out: '{dataset.name}' has no continuous labels")
        chosen = {name: info for name, info in chosen.items() if name not in unfit}
    if names is None:
        others = sorted(set(registry.methods(include)) - set(registry.select(None, include)))
        if others:
            notes.append(
                f"{len(others)} more methods on request: --methods {registry.ALL}, or names from `bench list methods`"
            )
    return chosen, tuple(notes)


def default_protocol(dataset: Dataset) -> tuple[str, str]:
    """The protocol a data set is run under when none is named, and the reason to print."""
    name = dataset.default_protocol
    if not dataset.photographs:
        return name, f"the default of {dataset.name}: small images, a small trunk trained end to end"
    if machine.gpu_name() is None:
        return name, "photographs and no GPU: a fixed ImageNet trunk, only the embedder is trained"
    return name, f"the default of {dataset.name}: a fixed ImageNet trunk, only the embedder is trained"
