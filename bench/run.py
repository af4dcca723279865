"""One spec to one record: the whole story of a run, top to bottom.

open the data set -> build trunk, embedder and method -> fit on train classes with the test side
sealed -> write the checkpoint choice -> unseal -> embed and evaluate -> record

A trial of a search ends with the choice: it is judged by its validation classes and never unseals.
"""

from __future__ import annotations

import errno
import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from bench import machine, registry
from bench.data import seal
from bench.data.dataset import Dataset
from bench.draft import Draft
from bench.errors import BenchError, DataError, Diverged, MethodError
from bench.plan import Setting, open_dataset
from bench.protocol import Protocol
from bench.record import Record, RunSpec, State
from bench.registry import MethodInfo
from bench.store import Store
from bench.testing_side import evaluate_kept
from bench.training.inputs import PartInputs
from bench.training.learner import Learner, build_learner
from bench.training.loop import Interrupted, Progress, Report, TimedOut, Training
from bench.training.parts import Part, split_training_side
from bench.training.sides import open_side, trunk_builder
from bench.training.streams import Streams

DISK_FULL = "no space left on the disk"


def run(spec: RunSpec, protocol: Protocol, setting: Setting, report: Report, stop: Callable[[], bool]) -> Record:
    """Run a spec to its record and store it. A failure is a record too; nothing is raised for it.

    `report` is called as (phase, done, total). `stop` is asked after every step: True makes the run
    save its state and end as 'interrupted'.
    """
    store = Store(setting.results)
    draft = Draft(spec, protocol)
    try:
        _execute(draft, protocol, setting, store.work(spec), report, stop)
        record = draft.record("done")
        store.write(record, draft.artefact_folder)
        return record
    except Exception as error:
        record = draft.record(_state(error), _reason(error, setting), traceback.format_exc())
        store.write(record)
        return record


def _execute(
    draft: Draft, protocol: Protocol, setting: Setting, work: Path, report: Report, stop: Callable[[], bool]
) -> None:
    spec = draft.spec
    _same_bits(protocol)
    device = torch.device("cuda" if machine.gpu_name() else "cpu")
    dataset = _expected(open_dataset(spec.dataset, setting.data, protocol), spec)
    part, validation = split_training_side(dataset, protocol.folds, spec.fold)
    whole, _ = split_training_side(dataset, None, None)
    registry.use(setting.include)
    info = _expected_method(spec, setting)
    side, trunk_dim = open_side(dataset, "train", protocol, device, info.cls.descriptors)
    draft.describe_dataset(dataset, protocol, validation)
    del dataset  # nothing that training code can reach leads to the test classes

    def fit(
        rules: Protocol, part: Part, held_out: Part | None, folder: Path, keep: bool = True
    ) -> tuple[Learner, Progress]:
        method = info.cls(**spec.hyperparameters)
        draft.describe_method(method, info.path)
        streams, make_trunk = Streams(spec.seed), trunk_builder(rules, info.cls.descriptors)
        learner = build_learner(rules, method, make_trunk, trunk_dim, part, streams, device)
        draft.describe_learner(learner)
        judged = None if held_out is None else (PartInputs(side, held_out.positions), held_out)
        inputs = PartInputs(side, part.positions)
        return learner, Training(learner, inputs, part, judged, streams, folder, report, stop, keep).fit()

    with seal.sealed(f"run {spec.run_id} is training"), draft.phase("train"):
        only_judged = spec.tuning or (protocol.selection.retrain and info.cls.trains)  # nobody looks at its weights
        learner, progress = fit(protocol, part, validation, work, keep=not only_judged)
        draft.describe_training(progress)
        if protocol.selection.retrain and progress.best_step and not spec.tuning:
            work = work / "retrained"
            longer = protocol.lasting(progress.best_step, len(whole.labels), len(part.labels))
            learner, progress = fit(longer, whole, None, work)
            draft.describe_training(progress)
            validation = None
        choice = _write_choice(work, progress, protocol, validation)
        if spec.tuning:
            _judge_by_validation(draft, choice, protocol.selection.metric)
            return

    with draft.phase("test"):
        dataset = _expected(open_dataset(spec.dataset, setting.data, protocol), spec)
        evaluate_kept(draft, dataset, learner, work, choice, report)


def _write_choice(work: Path, progress: Progress, protocol: Protocol, validation: Part | None) -> dict[str, int]:
    """Fix which checkpoints count before the test side is opened."""
    choice = {"last": int(progress.curve[-1]["step"])}
    if validation is not None and progress.best_step is not None:
        choice["best_validation"] = progress.best_step
    temporary = work / "choice.json.tmp"
    temporary.write_text(json.dumps({"choice": choice, "metric": protocol.selection.metric}))
    os.replace(temporary, work / "choice.json")
    return choice


def _judge_by_validation(draft: Draft, choice: dict[str, int], metric: str) -> None:
    """What a trial of a search is judged by: its best evaluation on validation classes."""
    step = choice.get("best_validation")
    found = next((point.validation for point in draft.curves if point.step == step), None)
    if step is None or found is None:
        raise Diverged(f"method '{draft.spec.method}': no evaluation gave a number for {metric} on validation classes")
    draft.steps, draft.metrics = {"best_validation": step}, {"best_validation": found}


def _same_bits(protocol: Protocol) -> None:
    """Fix what decides rounding: the number of threads and the choice of kernels."""
    import faiss

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(protocol.threads)
    faiss.omp_set_num_threads(protocol.threads)
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, hides nothing here
    torch.backends.cudnn.benchmark = False
    machine.reset_peak_memory()


def _expected(dataset: Dataset, spec: RunSpec) -> Dataset:
    if dataset.manifest.hash != spec.dataset_hash:
        raise DataError(
            f"data set '{dataset.name}' changed since this run was planned (manifest {spec.dataset_hash} -> "
            f"{dataset.manifest.hash}). Start the plan again to run on what is there now."
        )
    return dataset


def _expected_method(spec: RunSpec, setting: Setting) -> MethodInfo:
    if registry.identity(spec.method, spec.hyperparameters, setting.include) != spec.method_hash:
        raise MethodError(
            f"method '{spec.method}', or one that it builds on, changed since this run was planned: start the plan "
            "again to run what is there now."
        )
    return registry.get(spec.method, setting.include)


def _state(error: Exception) -> State:
    kinds: dict[type[Exception], State] = {Diverged: "diverged", TimedOut: "timeout", Interrupted: "interrupted"}
    return next((state for kind, state in kinds.items() if isinstance(error, kind)), "error")


def _reason(error: Exception, setting: Setting) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = error.filename or setting.results
        return f"{DISK_FULL} that holds {where}: free some and start the same command again."
    return str(error) if isinstance(error, BenchError) else f"{type(error).__name__}: {error}"
