"""How long the models of a plan take here: from finished runs of the same kind, else from a short calibration.

A model's time is taken apart into steps, evaluations and the rest, so that runs of another length, a smaller budget
among them, tell the price of these.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import repeat

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn
from tqdm import tqdm

from bench import machine
from bench.data.cache import ImageStore
from bench.data.dataset import Dataset
from bench.data.decode import DamagedImage, decode, resized
from bench.evaluation import evaluate
from bench.method import Method
from bench.models.features import embed_images
from bench.models.trunks import build_trunk, trunk_dim, trunk_input
from bench.plan import Plan
from bench.protocol import Protocol
from bench.record import Record
from bench.store import Store
from bench.training.checkpoint import spaced
from bench.training.inputs import FeatureInputs, ImageInputs, Inputs
from bench.training.learner import Learner
from bench.training.parts import split_training_side
from bench.training.sides import trunk_builder

CALIBRATION_STEPS = 3
ENOUGH_SECONDS = 10.0  # of one measurement: a slow machine is not asked again
SEARCHED_ROWS = 2000
SAMPLED_FILES = 8
FULL_EVALUATIONS = 3  # with clustering: last, best on validation, best on test
# Keys of a protocol that do not change what a step or an evaluation costs.
FREE_KEYS = (
    "name", "summary", "seeds", "corrections", "departures", "datasets", "budget", "budget_share", "search", "ensemble",
    "selection", "interval", "optimizer",
)  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What one model asks for: training steps, and evaluations of the validation images and of the test side."""

    steps: int
    validations: int
    tests: int


@dataclass(frozen=True)
class Pace:
    """Seconds of a step, of an evaluation of the validation images, of one of the test side, and of all the rest."""

    step: float
    validation: float
    test: float
    rest: float

    def seconds(self, work: Work) -> float:
        """One model's time."""
        return self.step * work.steps + self.validation * work.validations + self.test * work.tests + self.rest


@dataclass(frozen=True)
class Paces:
    """The pace of each method, what the figures rest on, and seconds to prepare the data once."""

    methods: Mapping[str, Pace]
    basis: str
    preparing: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """Seconds of wall-clock time, and what the figure rests on."""

    seconds: float
    basis: str

    @property
    def text(self) -> str:
        """The time in words."""
        return str(tqdm.format_interval(self.seconds))


def work(protocol: Protocol, trains: bool, tested: bool = True) -> Work:
    """What a model under a protocol asks for at most: patience, and a best step before the last, make it less.

    One that is not tested is a trial of a search.
    """
    points = _evaluations(protocol, trains)
    fits = 1 + (_second_stage(protocol) if tested else 0)
    return Work(
        steps=round(fits * protocol.budget.iterations) if trains else 0,
        validations=0 if protocol.folds is None else points,
        tests=_kept_at_the_end(protocol, points) if tested else 0,
    )


def _second_stage(protocol: Protocol) -> float:
    """Length of the stage that trains anew, in lengths of the first: there are more images, by the share of a fold."""
    selection, folds = protocol.selection, protocol.folds
    if not selection.retrain or folds is None:
        return 0.0
    return 1.0 if selection.retrain_by == "iterations" else folds.count / (folds.count - 1)


def weights_at_once(protocol: Protocol, trains: bool) -> int:
    """Evaluations of a tested model whose weights lie on disk together, at most: a new one before an old one goes."""
    points = _evaluations(protocol, trains)
    return min(points, _most_kept(protocol, points) + 1)


def _evaluations(protocol: Protocol, trains: bool) -> int:
    return -(-protocol.budget.iterations // protocol.budget.evaluate_every) if trains else 1


def _kept_at_the_end(protocol: Protocol, points: int) -> int:
    """Evaluations whose weights a finished run has kept: by its length where that is fixed, else at most."""
    if protocol.budget.patience is not None or protocol.selection.retrain:
        return _most_kept(protocol, points)
    numbers = set(spaced(points, protocol.selection.candidates)) | {points}
    best = 0 if protocol.folds is None else 1
    return min(points, len(numbers) + best)


def _most_kept(protocol: Protocol, points: int) -> int:
    """The most that are kept after any number of evaluations up to `points`.

    The last one is among the candidates, or there is one candidate less; the best on validation classes comes on top.
    """
    most = protocol.selection.candidates
    best = 0 if protocol.folds is None or protocol.selection.retrain else 1
    return points if most is None else min(points, most + best)


def estimate(plan: Plan, dataset: Dataset, workers: int, paces: Paces | None = None) -> Estimate:
    """Wall-clock seconds for the runs of a plan that have no record yet."""
    found = paces or measured_paces(plan, dataset)
    trains = plan.trains()
    missing = [found.methods[spec.method].seconds(work(plan.protocol, trains[spec.method])) for spec in plan.missing()]
    return Estimate(makespan(missing, workers) + (found.preparing if missing else 0.0), found.basis)


def makespan(durations: Iterable[float], workers: int) -> float:
    """When the last of some runs ends if each free worker takes the next one.

    >>> makespan([3, 1, 1, 1], workers=2)
    3.0
    """
    ends = [0.0] * workers
    for seconds in durations:
        heapq.heapreplace(ends, ends[0] + seconds)
    return max(ends)


def measured_paces(plan: Plan, dataset: Dataset) -> Paces:
    """Paces of the plan's methods on this machine.

    Each method goes by its own finished runs of the same kind; one without them by the mean of the others that train,
    or train nothing, as it does; where there are none either, by a calibration.
    """
    trains = plan.trains()
    kin = _kin(plan).get((machine.cpu_model(), machine.gpu_name()), {})
    own = {name: _mean(paces) for name, paces in kin.items() if name in trains}
    groups = {kind: [pace for name, pace in own.items() if trains[name] == kind] for kind in (True, False)}
    guessed = [name for name in trains if name not in own and groups[trains[name]]]
    calibrated = [name for name in trains if name not in own and not groups[trains[name]]]
    methods = own | {name: _mean(groups[trains[name]]) for name in guessed}
    words, preparing = [], 0.0
    if own:
        runs = sum(len(kin[name]) for name in own)
        words.append(f"{runs} finished runs of {len(own)} of the {len(trains)} methods on this machine")
    if guessed:
        words.append(f"their mean for {len(guessed)} others")
    if calibrated:
        calibration = _Calibration(plan.protocol)
        methods |= dict.fromkeys(calibrated, calibration.pace(dataset, _validation_images(plan, dataset)))
        who = f" for {len(calibrated)} methods" if own else " for all methods"
        words.append(f"a calibration of {CALIBRATION_STEPS} steps{who} at the present load, without their own losses")
        if not own:
            preparing = calibration.preparing(dataset, len(plan.descriptors()))
            words[-1] += ", preparing the data included" if preparing else ""
    return Paces(methods, "; ".join(words), preparing)


def paces_elsewhere(plan: Plan) -> dict[str, Mapping[str, Pace]]:
    """Device -> paces of the plan's methods there, by the runs of other machines in the results folder.

    A method without a run there goes by the mean of the others; a device where none that trains was run is left out.
    """
    trains, here = plan.trains(), (machine.cpu_model(), machine.gpu_name())
    found: dict[str, Mapping[str, Pace]] = {}
    for (cpu, gpu), kin in sorted(_kin(plan).items(), key=str):
        own = {name: _mean(paces) for name, paces in kin.items() if name in trains}
        trained = [pace for name, pace in own.items() if trains[name]]
        if (cpu, gpu) != here and trained:
            found[gpu or cpu or "an unknown processor"] = {name: own.get(name, _mean(trained)) for name in trains}
    return found


def _kin(plan: Plan) -> dict[tuple[str | None, str | None], dict[str, list[Pace]]]:
    """Machine (processor, GPU) -> method -> paces of its finished runs under protocols that cost the same a step."""
    wanted, same = _cost_key(plan.protocol), dict[str, bool]()
    found: dict[tuple[str | None, str | None], dict[str, list[Pace]]] = {}
    for record in Store(plan.setting.results).records():
        where = (record.environment.get("cpu"), record.environment.get("gpu"))
        if record.state != "done" or not record.curves:
            continue
        spec = record.spec
        if spec.dataset_hash != plan.specs[0].dataset_hash:
            continue
        if spec.protocol_hash not in same:
            same[spec.protocol_hash] = _costs(record) == wanted
        if same[spec.protocol_hash]:
            found.setdefault(where, {}).setdefault(spec.method, []).append(_pace(record))
    return found


def _cost_key(protocol: Protocol) -> str:
    content = {key: value for key, value in protocol.content().items() if key not in FREE_KEYS}
    if protocol.folds is not None:
        content["folds"] = protocol.folds.count
    return json.dumps(content, sort_keys=True)


def _costs(record: Record) -> str | None:
    try:
        return _cost_key(Protocol.model_validate_json(json.dumps(record.protocol)))
    except ValidationError:  # of an older bench: whether it cost the same is not known
        return None


def _pace(record: Record) -> Pace:
    seconds, points = record.seconds, len(record.curves)
    steps = record.counts.get("steps", 0)
    fit, validation = seconds.get("fit", 0.0), seconds.get("validation", 0.0)
    return Pace(
        step=fit / steps if steps else 0.0,
        validation=validation / points,
        test=seconds.get("test", 0.0) / record.counts.get("test_checkpoints", points),
        rest=max(0.0, seconds.get("train", 0.0) - fit - validation),
    )


def _mean(paces: list[Pace]) -> Pace:
    columns = zip(*((pace.step, pace.validation, pace.test, pace.rest) for pace in paces), strict=True)
    return Pace(*(sum(column) / len(paces) for column in columns))


def _validation_images(plan: Plan, dataset: Dataset) -> int:
    held_out = split_training_side(dataset, plan.protocol.folds, plan.specs[0].fold)[1]
    return 0 if held_out is None else len(held_out.labels)


@dataclass
class _Calibration:
    """Times the harness itself on random images, with the protocol's trunk, batch, crops and optimiser."""

    protocol: Protocol
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if machine.gpu_name() else "cpu"))

    def pace(self, dataset: Dataset, validation_images: int) -> Pace:
        """What a method of next to no loss takes."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.protocol.threads)
        try:
            learner, inputs = self._learner()
            step = self._timed(self._step(learner, inputs))
            rows = min(self.protocol.batch.size, 64)
            image = self._timed(lambda: learner.embed(inputs, rows)) / rows
            pair = self._pair()
        finally:
            torch.set_num_threads(threads)
        counts, sides = dataset.manifest, dataset.split
        test_pairs = len(sides.query) * len(sides.query if sides.gallery is None else sides.gallery)
        means = self.protocol.evaluation.clustering
        assigned = 0 if means is None else means.iterations * means.restarts * counts.test_images * counts.test_classes
        return Pace(
            step=step,
            validation=validation_images * image + validation_images**2 * pair,
            test=counts.test_images * image + test_pairs * pair,
            rest=FULL_EVALUATIONS * (test_pairs + assigned) * pair,
        )

    def preparing(self, dataset: Dataset, descriptors: int) -> float:
        """Seconds to decode all images once, and to embed them where the trunk is frozen; less if that was done."""
        images, form = len(dataset.labels), trunk_input(self.protocol.trunk.name)
        seconds = 0.0
        if not isinstance(dataset.images, np.ndarray):
            files = dataset.images[:: max(1, images // SAMPLED_FILES)][:SAMPLED_FILES]
            began = time.monotonic()
            for path in files:
                try:
                    decode(path, self.protocol.images.resize, form.channels, self.protocol.images.fit)
                except DamagedImage:
                    continue
            seconds += (time.monotonic() - began) / len(files) * images / machine.cores()
        if self.protocol.trunk.frozen:
            trunk, store = build_trunk(self.protocol.trunk, self.protocol.images.crop), self._images(16)
            spent = self._timed(lambda: embed_images(trunk, store, self.protocol, self.device, False, ""))
            seconds += spent / len(store) * images * descriptors
        return seconds

    def _learner(self) -> tuple[Learner, Inputs]:
        protocol, builder = self.protocol, trunk_builder(self.protocol)
        dim, count = trunk_dim(protocol.trunk.name), protocol.batch.size
        embedder = nn.Linear(dim, protocol.embedding.size).to(self.device)
        if builder is None:
            learner = Learner(protocol, None, embedder, _NoLoss(), dim, self.device)
            return learner, FeatureInputs(torch.rand(count, dim, device=self.device))
        trunk = builder().to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        inputs = ImageInputs(self._images(count), protocol.images, trunk_input(protocol.trunk.name), self.device)
        return Learner(protocol, trunk, embedder, _NoLoss(), dim, self.device), inputs

    def _images(self, count: int) -> ImageStore:
        """Grey noise in the shape of usual photographs, 4 : 3."""
        images, channels = self.protocol.images, trunk_input(self.protocol.trunk.name).channels
        width, height = resized(4, 3, images.resize, images.fit)
        pixels = np.random.default_rng(0).integers(0, 256, count * height * width * channels, dtype=np.uint8)
        return ImageStore(pixels, np.tile(np.array([[height, width]], dtype=np.int64), (count, 1)), channels)

    def _step(self, learner: Learner, inputs: Inputs) -> Callable[[], None]:
        rng, rows = np.random.default_rng(0), np.arange(self.protocol.batch.size)
        weights = [p for module in learner.modules() for p in module.parameters() if p.requires_grad]
        moments = [torch.ones_like(p) for p in weights]

        def step() -> None:
            embeddings = learner.normalized(learner.embedder(learner.features(inputs.train(rows, rng))))
            (embeddings @ embeddings.T).square().mean().backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():  # as much arithmetic as an optimiser does; torch's own take seconds to import
                for p, moment in zip(weights, moments, strict=True):
                    if p.grad is not None:
                        moment.mul_(0.9).addcmul_(p.grad, p.grad, value=0.1)
                        p.addcdiv_(p.grad, moment.sqrt().add_(1.0), value=0.0)
                        p.grad = None

        return step

    def _pair(self) -> float:
        """Seconds a pair of query and candidate in the search."""
        import faiss

        faiss.omp_set_num_threads(self.protocol.threads)
        rng = np.random.default_rng(0)
        rows = rng.standard_normal((SEARCHED_ROWS, self.protocol.embedding.size), dtype=np.float32)
        labels = np.arange(SEARCHED_ROWS) // 4
        return self._timed(lambda: evaluate(rows, labels)) / SEARCHED_ROWS**2

    def _timed(self, call: Callable[[], object]) -> float:
        """The fastest of a few calls after a first one, which also warms up; just that one where it is slow."""
        times: list[float] = []
        for _ in repeat(None, 1 + CALIBRATION_STEPS):
            began = time.monotonic()
            call()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.monotonic() - began)
            if sum(times) > ENOUGH_SECONDS:
                break
        return min(times)


class _NoLoss(Method):
    """Stands in for a method: the embedder is the protocol's, and there is no loss to speak of."""

    name = "calibration"
