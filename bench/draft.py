"""A record in the making: what is known of a run at any moment, so that a failure can be recorded too."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from bench import machine
from bench.data.dataset import Dataset
from bench.method import OWN_RATES, Method
from bench.protocol import Protocol
from bench.record import CurvePoint, DatasetFacts, MethodFacts, Record, RunSpec, State
from bench.training.learner import Learner
from bench.training.loop import Progress
from bench.training.parts import Part


class Draft:
    """Collects facts; `record()` freezes them."""

    def __init__(self, spec: RunSpec, protocol: Protocol) -> None:
        self.spec = spec
        self.curves: list[CurvePoint] = []
        self.metrics: dict[str, dict[str, float]] = {}
        self.steps: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.artefacts: dict[str, str] = {}
        self.artefact_folder: Path | None = None
        self._protocol = protocol
        self._started = _now()
        self._dataset: dict[str, Any] = {"name": spec.dataset, "title": spec.dataset}
        self._method: dict[str, Any] = {"name": spec.method}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase; it counts also when it fails."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - began, 3)

    def describe_dataset(self, dataset: Dataset, protocol: Protocol, validation: Part | None) -> None:
        """Note the data set as opened."""
        held_classes = 0 if validation is None else validation.classes
        held_images = 0 if validation is None else len(validation.labels)
        cut = protocol.subset
        self._dataset = {
            "name": dataset.name,
            "title": dataset.title,
            "partial": dataset.partial,
            "subset": None if cut is None else f"{cut.train_classes} train / {cut.test_classes} test classes",
            "photographs": dataset.photographs,
            "layout": dataset.manifest.layout,
            "content": dataset.manifest.content,
            "train_classes": dataset.manifest.train_classes - held_classes,
            "train_images": dataset.manifest.train_images - held_images,
            "validation_classes": held_classes,
            "validation_images": held_images,
            "test_classes": dataset.manifest.test_classes,
            "test_images": dataset.manifest.test_images,
            "notes": dataset.notes,
        }

    def describe_method(self, method: Method, source: str) -> None:
        """Note where the method comes from and what it overrides."""
        self._method = {
            "name": method.name,
            "paper": method.paper,
            "trains": method.trains,
            "source": source,
            "departures": tuple(method.departures()),
        }

    def describe_learner(self, learner: Learner) -> None:
        """Note the sizes of what is trained."""
        own = learner.own_parameters()
        shared = [m for m in (learner.trunk, learner.embedder) if m is not None]
        parameters = [*own, *(p for module in shared for p in module.parameters())]
        with torch.no_grad():
            learner.train(False)
            probe = torch.zeros(1, learner.trunk_dim, device=learner.device)
            size = learner.method.embed(probe, learner.embedder).shape[-1]
        departures = [text for text in self._method["departures"] if own or text != OWN_RATES]
        if size != self._protocol.embedding.size:
            departures.append(f"{size}-dimensional embedding")
        self._method |= {
            "own_parameters": sum(p.numel() for p in own),
            "trained_parameters": sum(p.numel() for p in parameters if p.requires_grad) if learner.method.trains else 0,
            "embedding_size": size,
            "departures": tuple(departures),
        }

    def describe_training(self, progress: Progress) -> None:
        """Note the curve of a finished fit, and add what it took (seconds of all attempts that it was resumed from)."""
        self.curves = [CurvePoint(**point) for point in progress.curve]
        taken = {
            "steps": progress.step,
            "images_seen": progress.images_seen,
            "forward_images": progress.images_seen + progress.extra_forward_images,
            "extra_forward_images": progress.extra_forward_images,
        }
        seconds = {"fit": progress.train_seconds, "validation": progress.validation_seconds}
        self.counts |= {name: self.counts.get(name, 0) + number for name, number in taken.items()}
        self.seconds |= {name: round(self.seconds.get(name, 0.0) + spent, 3) for name, spent in seconds.items()}

    def record(self, state: State, reason: str | None = None, trace: str | None = None) -> Record:
        """The record of what is known now."""
        empty_dataset = {
            "partial": None, "subset": None, "photographs": False, "layout": "unknown",
            "train_classes": 0, "train_images": 0, "validation_classes": 0, "validation_images": 0,
            "test_classes": 0, "test_images": 0,
        }  # fmt: skip
        empty_method = {
            "paper": None, "trains": True, "source": "unknown", "departures": (), "own_parameters": 0,
            "embedding_size": 0, "trained_parameters": 0,
        }  # fmt: skip
        return Record(
            run_id=self.spec.run_id,
            spec=self.spec,
            protocol=self._protocol.model_dump(mode="json"),
            dataset=DatasetFacts(**{**empty_dataset, **self._dataset}),
            method=MethodFacts(**{**empty_method, **self._method}),
            environment=machine.environment(self._protocol.threads),
            state=state,
            reason=reason,
            traceback=trace,
            started=self._started,
            finished=_now(),
            curves=tuple(self.curves),
            metrics=self.metrics,
            steps=self.steps,
            counts=self.counts,
            seconds=self.seconds,
            peak_memory_bytes=machine.peak_memory_bytes(),
            artefacts=self.artefacts,
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
