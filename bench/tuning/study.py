"""The study: one JSON file for a method's search, with a written schema. All a search knows is in it.

It holds no time and no machine: a search that was cut off and went on leaves the same file, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from bench import registry
from bench.errors import UsageError
from bench.plan import Plan
from bench.protocol import Range
from bench.record import RunSpec, State, Value
from bench.store import write_whole
from bench.tuning.sampler import sampler_name
from bench.tuning.space import space_of, values_of

SCHEMA_VERSION = 1
STUDY_SEED = 0  # of what is asked for
TUNING_SEED = 0  # of every trial: settings are compared under equal weights, batches and crops
REPRODUCTION_SEED = 1000  # of the first reproduction, the others follow: none of them is a trial's

WORST = 0.0  # metrics that select are fractions


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FoldScore(_Frozen):
    """One run of a trial: the best validation value, or why there is none."""

    fold: int
    run_id: str
    state: State
    score: float | None = None
    reason: str | None = None


class Trial(_Frozen):
    """One setting trained on every fold. `score` is the mean over folds; of a failed trial, the worst there is."""

    number: int
    hyperparameters: dict[str, Value]
    folds: tuple[FoldScore, ...]
    state: Literal["done", "failed"]
    score: float
    reason: str | None = None


class Reproduction(_Frozen):
    """An ordinary run with the chosen setting, under a fresh seed."""

    seed: int
    fold: int
    run_id: str


class Winner(_Frozen):
    """The chosen setting: the first trial of those with the best score; no trial where nothing was searched."""

    trial: int | None
    score: float | None
    hyperparameters: dict[str, Value]


class Study(_Frozen):
    """One method's search on one data set under one protocol.

    `space` is what is searched, by hyper-parameter; `trials_wanted` is 0 where it is empty. `winner_counts` says that
    the reproductions include the seed of the trials, which biases their mean upwards. `complete` means that every
    reproduction has a finished record.
    """

    schema_version: int = SCHEMA_VERSION
    protocol: str
    protocol_hash: str
    dataset: str
    dataset_hash: str
    weights_hash: str
    harness: int
    method: str
    method_hash: str
    space: dict[str, Range]
    metric: str
    folds: tuple[int, ...]
    trials_wanted: int
    study_seed: int = STUDY_SEED
    tuning_seed: int = TUNING_SEED
    sampler: str
    winner_counts: bool = False
    trials: tuple[Trial, ...] = ()
    winner: Winner | None = None
    reproductions: tuple[Reproduction, ...] = ()
    complete: bool = False

    @property
    def hash(self) -> str:
        """12 hex digits over what decides which settings are asked for and what they score."""
        deciding = self.model_dump(
            mode="json",
            include={
                "protocol_hash", "dataset_hash", "weights_hash", "harness", "method_hash", "space", "trials_wanted",
                "study_seed", "tuning_seed",
            },
        )  # fmt: skip
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def searched(self) -> bool:
        """Whether every trial has been judged."""
        return len(self.trials) == self.trials_wanted

    def path(self, results: Path) -> Path:
        """Its file."""
        return results / "studies" / self.protocol / self.dataset / f"{self.method}-{self.hash}.json"

    def with_trial(self, trial: Trial) -> Study:
        """The study with one more trial, which are kept in the order of their numbers."""
        trials = sorted((*self.trials, trial), key=lambda known: known.number)
        return self.model_copy(update={"trials": tuple(trials)})

    def best(self) -> Trial | None:
        """The first of the trials with the best score; None while none has worked."""
        return max((trial for trial in self.trials if trial.state == "done"), key=lambda t: t.score, default=None)


def judge(number: int, values: dict[str, Value], folds: Sequence[FoldScore]) -> Trial:
    """The trial of a setting: a fold without a score makes it the worst there is."""
    failed = [f"fold {fold.fold} {fold.state}: {fold.reason}" for fold in folds if fold.score is None]
    scores = [fold.score for fold in folds if fold.score is not None]
    return Trial(
        number=number,
        hyperparameters=values,
        folds=tuple(folds),
        state="failed" if failed else "done",
        score=WORST if failed else sum(scores) / len(scores),
        reason="; ".join(failed) or None,
    )


def new_study(plan: Plan, method: str, trials: int) -> Study:
    """The study of a method of a plan before its first trial.

    Raises:
        UsageError: the protocol searches the method where it cannot go.
    """
    search, include = plan.protocol.search, plan.setting.include
    assert search is not None
    spec = next(spec for spec in plan.specs if spec.method == method)
    cls = registry.get(method, include).cls
    space = space_of(cls, plan.protocol)
    bases = {key: values_of(space[key], h) for key, h in cls.hyperparameters.items() if h.method and key in space}
    hashes = [spec.method_hash]
    for key, names in bases.items():
        hashes += [registry.identity(method, {**spec.hyperparameters, key: name}, include) for name in names]
    return Study(
        protocol=spec.protocol,
        protocol_hash=spec.protocol_hash,
        dataset=spec.dataset,
        dataset_hash=spec.dataset_hash,
        weights_hash=spec.weights_hash,
        harness=spec.harness,
        method=method,
        method_hash="/".join(dict.fromkeys(hashes)),
        space=space,
        metric=plan.protocol.selection.metric,
        folds=tuple(dict.fromkeys(s.fold for s in plan.specs if s.method == method and s.fold is not None)),
        trials_wanted=trials if space else 0,
        sampler=sampler_name(),
        winner_counts=search.winner_counts,
    )


def spec_of(plan: Plan, study: Study, values: dict[str, Value], fold: int, seed: int, tuning: bool) -> RunSpec:
    """A run of a study: of a trial, or of a reproduction."""
    template = next(spec for spec in plan.specs if spec.method == study.method and spec.fold == fold)
    identity = registry.identity(study.method, values, plan.setting.include)
    changes = {"hyperparameters": values, "method_hash": identity, "seed": seed, "tuning": tuning}
    return template.model_copy(update=changes)


def load(fresh: Study, results: Path) -> Study:
    """The study as its file has it; `fresh` where there is none.

    Raises:
        UsageError: the file cannot be read.
    """
    path = fresh.path(results)
    if not path.is_file():
        return fresh
    try:
        found = Study.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise _unusable(path, f"cannot be read ({type(error).__name__})") from None
    if found.schema_version != SCHEMA_VERSION:
        raise _unusable(path, f"has schema version {found.schema_version}, this bench reads {SCHEMA_VERSION}")
    if found.hash != fresh.hash:
        raise _unusable(path, "does not hold the study that it is named after")
    return found


def load_all(results: Path, problems: list[str]) -> list[Study]:
    """Every study under a results folder, by place; what cannot be read is skipped and noted in `problems`."""
    found = []
    for file in sorted((results / "studies").rglob("*.json")):
        try:
            study = Study.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            problems.append(f"{file}: unreadable study ({type(error).__name__}), skipped")
            continue
        found.append(study)
    return found


def save(study: Study, results: Path) -> None:
    """Write the file in one rename."""
    write_whole(study.path(results), study.model_dump_json(indent=1))


@contextmanager
def claimed(studies: Sequence[Study], results: Path) -> Iterator[None]:
    """Hold studies against another search of the same ones; the claim ends with the process, however it ends.

    Raises:
        UsageError: another process has one of them in hand.
    """
    with ExitStack() as held:
        for study in studies:
            path = study.path(results)
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(FileLock(path.with_name(f".{path.stem}.lock"), timeout=0))
            except Timeout:
                raise UsageError(
                    f"another `bench tune` has the study of '{study.method}' in hand ({path}): wait for it, or stop it."
                ) from None
        yield


def _unusable(path: Path, what: str) -> UsageError:
    return UsageError(f"study file {path} {what}: move it away to start over; finished runs of its trials are kept.")
