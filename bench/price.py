"""What a study costs before it starts: models, images, hours, disk, and what smaller budgets would give up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np

from bench.budget import scaled
from bench.compute import operations
from bench.data.dataset import Dataset
from bench.data.decode import DamagedImage, opened, resized
from bench.estimate import (
    Estimate,
    Paces,
    estimate,
    makespan,
    measured_paces,
    paces_elsewhere,
    weights_at_once,
    work,
)
from bench.method import Method
from bench.models.trunks import trunk_dim, trunk_input
from bench.plan import Plan
from bench.protocol import Protocol, load_protocol
from bench.testing_side import EXAMPLE_NEIGHBOURS, EXAMPLE_QUERIES, THUMBNAIL
from bench.training.parts import split_training_side
from bench.training.sides import trunk_builder

SHARES = (1.0, 0.5, 0.2, 0.1)
SAMPLED_HEADERS = 64
STORED_NEIGHBOURS = 10  # of each query
FLOAT, INT = 4, 8  # bytes


@dataclass(frozen=True)
class Group:
    """Equal models of one method: `tested` ones have a record, the others are trials of a search."""

    method: str
    trains: bool
    models: int
    tested: bool = True


@dataclass(frozen=True)
class Disk:
    """Bytes: of the finished runs together, of those in hand at once until they are finished, of caches."""

    results: int
    working: int
    caches: int


@dataclass(frozen=True)
class Smaller:
    """A study under a share of its budget.

    `repetitions` are seeds or reproductions. `half_width` is t(n - 1) / √n of them, what a deviation is multiplied with
    in their interval; `wider` is that against the whole budget's. Both are None where there is no interval.
    """

    share: float
    iterations: int
    trials: int | None
    repetitions: int
    models: int
    seconds: float
    half_width: float | None
    wider: float | None


@dataclass(frozen=True)
class Price:
    """A study's price; images are at most that many, as a run may end before its last iteration.

    `left` is the time of what has no record yet; of a search it is the whole, as finished trials are not looked up.
    `elsewhere` are other devices that the results folder has runs of, with the seconds of all models there one by one.
    `operations` are those of trunk and embedder: the time on a device that was never measured follows from them.
    """

    folds: int
    trials: int | None
    repetitions: int
    groups: tuple[Group, ...]
    training_images: int
    evaluated_images: int
    operations: int
    seconds: float
    elsewhere: tuple[tuple[str, float], ...]
    left: Estimate
    disk: Disk
    smaller: tuple[Smaller, ...]

    @property
    def models(self) -> int:
        """Trainings, those of baselines included."""
        return sum(group.models for group in self.groups)


def price(plan: Plan, dataset: Dataset, workers: int, seeds: Sequence[int] | None = None, tune: bool = False) -> Price:
    """Price a plan, or with `tune` the search over its methods and the reproductions.

    Args:
        plan: of `make_plan`.
        dataset: as its protocol uses it.
        workers: runs at once.
        seeds: those asked for, which a smaller budget leaves; None: the protocol's.
        tune: as `bench tune` would run it.

    Raises:
        UsageError: `tune` under a protocol without a search.
    """
    methods, protocol = plan.methods(), plan.protocol
    found = groups(protocol, methods, seeds, tune)
    paces = measured_paces(plan, dataset)
    training, evaluated = _images(protocol, dataset, found)
    seconds = _seconds(protocol, found, paces, workers)
    full = load_protocol(plan.setting.protocol).on(plan.specs[0].dataset)
    shares = sorted({*SHARES, plan.setting.budget}, reverse=True)
    return Price(
        folds=_folds(protocol),
        trials=protocol.search.trials if tune and protocol.search is not None else None,
        repetitions=_repetitions(protocol, seeds, tune),
        groups=found,
        training_images=training,
        evaluated_images=evaluated,
        operations=_operations(plan, dataset, training, evaluated),
        seconds=seconds,
        elsewhere=tuple(
            (device, _seconds(protocol, found, Paces(there, "its runs"), 1))
            for device, there in paces_elsewhere(plan).items()
        ),
        left=Estimate(seconds, paces.basis) if tune else estimate(plan, dataset, workers, paces),
        disk=_disk(plan, dataset, found, workers),
        smaller=tuple(_smaller(full, share, methods, seeds, tune, paces, workers) for share in shares),
    )


def groups(
    protocol: Protocol, methods: Mapping[str, type[Method]], seeds: Sequence[int] | None, tune: bool
) -> tuple[Group, ...]:
    """The models of a study.

    Raises:
        UsageError: `tune` under a protocol without a search.
    """
    repeated = _folds(protocol) * _repetitions(protocol, seeds, tune)
    if not tune:
        return tuple(Group(name, cls.trains, repeated) for name, cls in methods.items())
    from bench.tuning.space import search_of, space_of

    search, found = search_of(protocol), []
    for name, cls in methods.items():
        searched = bool(space_of(cls, protocol))
        if searched:
            found.append(Group(name, cls.trains, _folds(protocol) * search.trials, tested=False))
        again = _folds(protocol) if searched and search.winner_counts else 0
        found.append(Group(name, cls.trains, repeated + again))
    return tuple(found)


def half_width(n: int, level: float) -> float | None:
    """t(n - 1) / √n: half the width of an interval over n values, in their standard deviations; None below two.

    >>> half_width(4, 0.95)  # t(0.975, 3) = 3.182
    1.5912...
    """
    if n < 2:
        return None
    from scipy import special

    return float(special.stdtrit(n - 1, 0.5 + level / 2)) / math.sqrt(n)


def _folds(protocol: Protocol) -> int:
    return 1 if protocol.folds is None else len(protocol.folds.use)


def _repetitions(protocol: Protocol, seeds: Sequence[int] | None, tune: bool) -> int:
    if tune and protocol.search is not None:
        return protocol.search.reproductions
    return len(seeds or protocol.seeds)


def _images(protocol: Protocol, dataset: Dataset, found: Sequence[Group]) -> tuple[int, int]:
    """Images that are trained on and images that are evaluated, in total."""
    folds = () if protocol.folds is None else protocol.folds.use
    held_out = [split_training_side(dataset, protocol.folds, fold)[1] for fold in folds]
    validation = sum(len(part.labels) for part in held_out if part is not None) / max(1, len(held_out))
    training = evaluated = 0.0
    for group in found:
        asked = work(protocol, group.trains, group.tested)
        training += group.models * asked.steps * protocol.batch.size
        evaluated += group.models * (asked.validations * validation + asked.tests * dataset.manifest.test_images)
    return round(training), round(evaluated)


def _operations(plan: Plan, dataset: Dataset, training: int, evaluated: int) -> int:
    each = operations(plan.protocol)
    embedded = len(dataset.labels) * len(set(plan.descriptors()))
    return training * each.step + evaluated * each.evaluation + embedded * each.preparing


def _seconds(protocol: Protocol, found: Sequence[Group], paces: Paces, workers: int) -> float:
    """Wall-clock time of a whole study of which nothing is there yet."""
    durations = (
        repeat(paces.methods[group.method].seconds(work(protocol, group.trains, group.tested)), group.models)
        for group in found
    )
    return paces.preparing + makespan(chain.from_iterable(durations), workers)


def _smaller(
    full: Protocol, share: float, methods: Mapping[str, type[Method]], seeds: Sequence[int] | None, tune: bool,
    paces: Paces, workers: int,
) -> Smaller:  # fmt: skip
    protocol = scaled(full, share).protocol
    found = groups(protocol, methods, seeds, tune)
    counts = 1 if tune and full.search is not None and full.search.winner_counts else 0
    repetitions = [_repetitions(rules, seeds, tune) for rules in (protocol, full)]
    own, whole = (half_width(n + counts, full.interval.level) for n in repetitions)
    return Smaller(
        share=share,
        iterations=protocol.budget.iterations,
        trials=protocol.search.trials if tune and protocol.search is not None else None,
        repetitions=repetitions[0],
        models=sum(group.models for group in found),
        seconds=_seconds(protocol, found, paces, workers),
        half_width=own,
        wider=None if own is None or whole is None else own / whole,
    )


def _disk(plan: Plan, dataset: Dataset, found: Sequence[Group], workers: int) -> Disk:
    protocol, sides = plan.protocol, dataset.split
    weights = _weights(protocol)
    tested = sum(group.models for group in found if group.tested)
    side = min(THUMBNAIL, protocol.images.resize)
    examples = EXAMPLE_QUERIES * (1 + EXAMPLE_NEIGHBOURS) * side**2 * 3
    embeddings = len(sides.test) * (protocol.embedding.size * FLOAT + INT)
    queries = len(sides.query) * (INT * (1 + STORED_NEIGHBOURS) + FLOAT + 1)
    fits, resumed = 2 if protocol.selection.retrain else 1, 1 + _moments(protocol)
    searched = min(workers, sum(group.models for group in found) - tested) * resumed
    finished = min(workers, tested) * (fits * resumed + weights_at_once(protocol, True))
    return Disk(
        results=tested * (weights + embeddings + queries + examples),
        working=max(searched, finished) * weights,
        caches=_caches(plan, dataset),
    )


def _weights(protocol: Protocol) -> int:
    """Bytes of what is kept of a model: the trunk unless it is frozen, and the embedder."""
    width, size = trunk_dim(protocol.trunk.name), protocol.embedding.size
    builder = trunk_builder(protocol)
    tensors = () if builder is None else builder().state_dict().values()
    return sum(int(tensor.nbytes) for tensor in tensors) + (width + 1) * size * FLOAT


def _moments(protocol: Protocol) -> int:
    """Numbers that the optimiser holds for each weight, which a checkpoint holds too."""
    own = {"adamw": 2, "adam": 2, "sgd": 0, "rmsprop": 1}
    return own[protocol.optimizer.name] + (1 if protocol.optimizer.momentum else 0)


def _caches(plan: Plan, dataset: Dataset) -> int:
    """Bytes of decoded images, by the headers of some, and of the features of a frozen trunk."""
    protocol, images, decoded = plan.protocol, len(dataset.labels), 0.0
    if not isinstance(dataset.images, np.ndarray):
        areas = []
        for path in dataset.images[:: max(1, images // SAMPLED_HEADERS)]:
            try:
                with opened(path) as image:
                    width, height = resized(*image.size, protocol.images.resize, protocol.images.fit)
            except DamagedImage:
                continue
            areas.append(width * height)
        decoded = float(np.mean(areas)) * images * trunk_input(protocol.trunk.name).channels if areas else 0.0
    wanted = sum(len(descriptors) for descriptors in set(plan.descriptors())) if protocol.trunk.frozen else 0
    features: int = images * trunk_dim(protocol.trunk.name) * FLOAT * wanted
    return round(decoded) + features
