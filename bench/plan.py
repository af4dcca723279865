"""The plan: data sets x methods x folds x seeds under one protocol, as run specs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import machine, registry
from bench.data import catalog
from bench.data.dataset import Dataset
from bench.method import Method
from bench.models import weights
from bench.protocol import Protocol, load_protocol
from bench.record import RunSpec
from bench.store import Store


@dataclass(frozen=True)
class Setting:
    """Where a plan finds things and puts its records; never part of a run's identity."""

    protocol: str
    data: Path
    results: Path
    include: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The runs of one protocol on one data set."""

    protocol: Protocol
    setting: Setting
    specs: tuple[RunSpec, ...]
    why_protocol: str

    def missing(self) -> list[RunSpec]:
        """Specs without a finished record."""
        store = Store(self.setting.results)
        return [spec for spec in self.specs if not store.is_done(spec)]


def open_dataset(name: str, data: Path, protocol: Protocol) -> Dataset:
    """A data set as a protocol uses it: cut to the protocol's subset, if it names one."""
    dataset = catalog.open_dataset(name, data)
    return dataset if protocol.subset is None else catalog.restrict(dataset, protocol.subset)


def make_plan(
    dataset_name: str,
    setting: Setting,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Plan:
    """Resolve names into specs; an empty `setting.protocol` means the data set's default.

    Raises:
        UsageError: unknown method, data set or protocol, or weights that are missing.
        DataError: the data set is not there or damaged.
    """
    why = "as asked"
    name = setting.protocol
    if not name:
        name, why = default_protocol(catalog.open_dataset(dataset_name, setting.data))
        setting = Setting(name, setting.data, setting.results, setting.include)
    protocol = load_protocol(name)
    dataset = open_dataset(dataset_name, setting.data, protocol)
    known = registry.methods(setting.include)
    chosen = list(methods) if methods else sorted(known, key=lambda n: (known[n].cls.trains, n))
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
            method_hash=info.hash,
            hyperparameters=defaults(info.cls),
            fold=fold,
            seed=seed,
        )
        for method, info in ((name, registry.get(name, setting.include)) for name in dict.fromkeys(chosen))
        for fold in folds
        for seed in (seeds if seeds else protocol.seeds)
    ]
    return Plan(protocol, setting, tuple(specs), why)


def defaults(method: type[Method]) -> dict[str, float | int | bool | str]:
    """A method's hyper-parameters at their defaults."""
    return {key: declared.default for key, declared in method.hyperparameters.items()}


def default_protocol(dataset: Dataset) -> tuple[str, str]:
    """The protocol a data set is run under when none is named, and the reason to print."""
    name = dataset.default_protocol
    if not dataset.photographs:
        return name, f"the default of {dataset.name}: small images, a small trunk trained end to end"
    if machine.gpu_name() is None:
        return name, "photographs and no GPU: a fixed ImageNet trunk, only the embedder is trained"
    return name, f"the default of {dataset.name}: a fixed ImageNet trunk, only the embedder is trained"
