"""Training: the same loop for every method, interruptible at any step and resumed to the same bits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.errors import BenchError, Diverged, MethodError
from bench.evaluation import evaluate
from bench.method import Batch, Method
from bench.training import checkpoint
from bench.training.inputs import Inputs, Positions
from bench.training.learner import Learner
from bench.training.optimizer import build_optimizer, learning_rate_factor
from bench.training.parts import Part
from bench.training.streams import Streams
from bench.training.view import CountedView

SAVE_EVERY_SECONDS = 30.0
FINITE_CHECK_EVERY = 10

Report = Callable[[str, int, int], None]  # phase, done, total


class Interrupted(BenchError):
    """The run was asked to stop; its state is saved."""


class TimedOut(BenchError):
    """The run used up the protocol's time; its state is saved."""


@dataclass
class Progress:
    """All of a run's training state that is not in a module, an optimiser or a random stream."""

    step: int = 0
    epoch_step: int = 0
    epoch_batches: Any = None  # state of the 'batches' stream when the epoch began
    loss_sum: float = 0.0
    loss_steps: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    best: float = float("-inf")
    best_step: int | None = None
    images_seen: int = 0
    extra_forward_images: int = 0
    train_seconds: float = 0.0
    validation_seconds: float = 0.0


class Training:
    """One run's fit: `fit()` trains what is left to train and leaves kept weights in `folder`.

    Kept are those of the last evaluation, of the best on validation classes, and of `selection.candidates` between
    them; none without `keep`, for a fit of which nobody will look at the weights.
    """

    def __init__(
        self,
        learner: Learner,
        inputs: Inputs,
        part: Part,
        validation: tuple[Inputs, Part] | None,
        streams: Streams,
        folder: Path,
        report: Report,
        stop: Callable[[], bool],
        keep: bool = True,
    ) -> None:
        self.learner, self.inputs, self.part, self.validation = learner, inputs, part, validation
        self.streams, self.folder, self.report, self.stop, self.keep = streams, folder, report, stop, keep
        self.protocol = learner.protocol
        self.labels, self.superlabels, self.targets = part.tensors(learner.device)
        self.view = CountedView(learner, inputs, part)
        self.progress = Progress()
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=learner.device)
        self._extra_before = 0
        trains = learner.method.trains
        self.optimizer = self._optimizer() if trains else None
        self.total = self.protocol.budget.iterations if trains else 0

    def fit(self) -> Progress:
        """Train to the end of the budget, or until patience runs out.

        Raises:
            MethodError: the method broke its contract.
            Diverged: the loss became NaN or infinite.
            Interrupted, TimedOut: stopped before the end; a checkpoint is on disk.
        """
        self._resume()
        state = self.progress
        with self.streams.world("method"):
            if self.total == 0 and not state.curve:
                self._evaluate()
            batches = self._batches(state) if state.step else iter(())
            self.learner.train(True)
            began = saved = time.monotonic()
            while state.step < self.total and not self._out_of_patience():
                if state.step % self.protocol.budget.epoch == 0:
                    batches = self._new_epoch(state)
                loss = self._step(next(batches))
                state.step += 1
                self._account(loss)
                due = state.step % self.protocol.budget.evaluate_every == 0 or state.step == self.total
                now = time.monotonic()
                if due or self.stop() or self._out_of_time(now - began) or now - saved > SAVE_EVERY_SECONDS:
                    state.train_seconds += now - began
                    if due:
                        self._evaluate()
                    self._save()
                    began = saved = time.monotonic()
                    self._leave_if_asked()
                self.report("train", state.step, self.total)
        return state

    def _optimizer(self) -> torch.optim.Optimizer:
        optimizer = build_optimizer(
            self.protocol.optimizer, self.learner.trunk, self.learner.embedder, self.learner.method
        )
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
        return optimizer

    def _step(self, positions: Positions) -> torch.Tensor:
        learner, settings = self.learner, self.protocol.optimizer
        assert self.optimizer is not None
        size = self.protocol.batch.size
        if positions.shape != (size,):
            raise MethodError(
                f"method '{learner.method.name}': batches() gave indices of shape {positions.shape}; "
                f"the protocol's batch has {size} images."
            )
        factor = learning_rate_factor(settings, self.progress.step, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        features = learner.features(self.inputs.train(positions, self.streams.augmentation))
        raw = learner.embedder(features)
        learner.check_shape(raw, size)
        rows = torch.from_numpy(positions).to(learner.device)
        loss = learner.method.loss(
            Batch(
                embeddings=learner.normalized(raw),
                raw_embeddings=raw,
                features=features,
                labels=self.labels[rows],
                indices=rows,
                step=self.progress.step,
                targets=None if self.targets is None else self.targets[rows],
                superlabels=None if self.superlabels is None else self.superlabels[rows],
            )
        )
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
            shape = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise MethodError(
                f"method '{learner.method.name}': loss() must return one number connected to the embeddings, "
                f"found {shape}."
            )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.progress.step < settings.trunk_rests and learner.trunk is not None:
            learner.trunk.zero_grad(set_to_none=True)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if settings.clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, settings.clip_value)
        if settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
        self.optimizer.step()
        return loss.detach()

    def _account(self, loss: torch.Tensor) -> None:
        state = self.progress
        # One accumulator in float64, read rarely: on a GPU every read makes the host wait for the device.
        self._loss_sum += loss.double()
        state.loss_steps += 1
        state.images_seen += self.protocol.batch.size
        state.extra_forward_images = self._extra_before + self.view.embedded
        if state.step % FINITE_CHECK_EVERY == 0 and not torch.isfinite(self._loss_sum):
            raise Diverged(f"method '{self.learner.method.name}': the loss became NaN or infinite by step {state.step}")

    def _evaluate(self) -> None:
        state = self.progress
        loss = float(self._loss_sum) / state.loss_steps if state.loss_steps else None
        if loss is not None and not np.isfinite(loss):
            raise Diverged(f"method '{self.learner.method.name}': the loss became NaN or infinite by step {state.step}")
        began = time.monotonic()
        metrics = self._validate()
        state.validation_seconds += time.monotonic() - began
        if self.keep:
            checkpoint.keep(self.folder / "kept", state.step, self.learner.weights())
        state.curve.append(
            {"step": state.step, "loss": loss, "validation": metrics, "seconds": round(state.train_seconds, 3)}
        )
        self._loss_sum.zero_()
        state.loss_steps = 0
        if metrics is not None and metrics[self.protocol.selection.metric] > state.best:
            state.best, state.best_step = metrics[self.protocol.selection.metric], state.step

    def _validate(self) -> dict[str, float] | None:
        if self.validation is None:
            return None
        inputs, part = self.validation
        _, embeddings = self.learner.embed(inputs, len(part.labels))
        settings = self.protocol.evaluation
        return evaluate(
            embeddings, part.labels, ks=settings.recall_at, targets=part.targets, graded=settings.graded
        ).metrics

    def _out_of_patience(self) -> bool:
        patience, state = self.protocol.budget.patience, self.progress
        if patience is None or state.best_step is None:
            return False
        since = [point for point in state.curve if point["step"] > state.best_step]
        return len(since) >= patience

    def _out_of_time(self, since: float) -> bool:
        limit = self.protocol.budget.max_minutes
        return limit is not None and self.progress.train_seconds + since > 60 * limit

    def _leave_if_asked(self) -> None:
        if self.progress.step >= self.total:
            return
        if self.stop():
            raise Interrupted(
                f"stopped at step {self.progress.step} of {self.total}; the next start goes on from there"
            )
        if self._out_of_time(0.0):
            raise TimedOut(f"step {self.progress.step} of {self.total} after budget.max_minutes of the protocol")

    def _new_epoch(self, state: Progress) -> Iterator[Positions]:
        if type(self.learner.method).on_epoch is not Method.on_epoch:
            self.learner.method.on_epoch(self.view)
        state.epoch_step = state.step
        state.epoch_batches = self.streams.batches.bit_generator.state
        return self._batches(state)

    def _batches(self, state: Progress) -> Iterator[Positions]:
        """The epoch's batches from where `state` stands: a resumed epoch is replayed up to its step."""
        self.streams.batches.bit_generator.state = state.epoch_batches
        method = self.learner.method
        shape = self.protocol.batch.shape(method.needs_pairs)
        batches = method.batches(self.part.labels, shape, self.streams.batches)
        for _ in range(state.step - state.epoch_step):
            next(batches)
        return batches

    def _save(self) -> None:
        self.progress.loss_sum = float(self._loss_sum)
        checkpoint.save(
            self.folder / "checkpoint.pt",
            {
                "trunk": None if self.learner.trunk is None else self.learner.trunk.state_dict(),
                "embedder": self.learner.embedder.state_dict(),
                "method": self.learner.method.state_dict(),
                "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
                "streams": self.streams.state(),
                "progress": vars(self.progress),
            },
        )
        self._prune()

    def _prune(self) -> None:
        """Remove weights that no longer count, once the checkpoint on disk knows of those that replace them."""
        steps = [int(point["step"]) for point in self.progress.curve]
        wanted = {steps[number - 1] for number in checkpoint.spaced(len(steps), self.protocol.selection.candidates)}
        wanted |= {step for step in (*steps[-1:], self.progress.best_step) if step is not None}
        checkpoint.prune(self.folder / "kept", wanted if self.keep else ())

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            return
        state = checkpoint.load(path)
        if self.learner.trunk is not None:
            self.learner.trunk.load_state_dict(state["trunk"])
        self.learner.embedder.load_state_dict(state["embedder"])
        self.learner.method.load_state_dict(state["method"])
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])
        self.streams.load(state["streams"])
        self.progress = Progress(**state["progress"])
        self._loss_sum.fill_(self.progress.loss_sum)
        self._extra_before = self.progress.extra_forward_images
        self._prune()  # a kill may have come between the last save and this
