"""The method interface: what a plug-in file in `methods/` provides, and all that it may change."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.errors import UsageError
from bench.models.pooling import MEAN, Descriptors
from bench.models.pooling import Descriptor as Descriptor
from bench.protocol import Batch as BatchShape

Scale = Literal["linear", "log"]
OWN_RATES = "own learning rates for own parameters"  # a departure only of a method that has own parameters


@dataclass(frozen=True)
class Hyperparameter:
    """A method's hyper-parameter: default, range and scale of its search space, and what it means.

    `accepts` is what may be set, where that is more than what is worth a search; None: the range of the search.
    `method` marks one whose value is the name of another method, on which this one builds. `fixed` marks one that
    makes a declared variant what it is: it may be set, but is not searched unless a protocol asks for it.
    """

    default: float | int | bool | str
    low: float | None
    high: float | None
    scale: Scale
    choices: tuple[str, ...]
    help: str
    method: bool = False
    accepts: tuple[float, float] | None = None
    fixed: bool = False

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest number that may be set; infinite where nothing is said."""
        if self.accepts is not None:
            return self.accepts
        return -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high


def hyper(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    scale: Scale = "linear",
    choices: tuple[str, ...] = (),
    help: str,
    method: bool = False,
    accepts: tuple[float, float] | None = None,
) -> Any:
    """Declare a hyper-parameter as a class attribute of a method; instances hold its value."""
    return Hyperparameter(default, low, high, scale, choices, help, method, accepts)


@dataclass(frozen=True)
class Context:
    """What a method may know before training starts; nothing about validation or test classes.

    Attributes:
        num_classes: training classes C; batch labels are 0..C-1.
        labels: int64 (N,) labels of the training images.
        trunk_dim: width of the trunk's features.
        embedding_size: width of the embeddings.
        iterations: length of the run.
        device: where batches live.
        targets: float32 (N, T) continuous labels of the training images, where the data set has them.
    """

    num_classes: int
    labels: Tensor
    trunk_dim: int
    embedding_size: int
    iterations: int
    device: torch.device
    targets: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """One training step's input to `loss`.

    Attributes:
        embeddings: float32 (B, D); L2-normalised if the protocol says so.
        raw_embeddings: float32 (B, D) before normalisation.
        features: float32 (B, F) trunk output.
        labels: int64 (B,), 0..C-1.
        indices: int64 (B,) position of each image in the training set.
        step: 0-based iteration.
        targets: float32 (B, T) continuous labels, where the data set has them.
        superlabels: int64 (B,), where the data set has them.
    """

    embeddings: Tensor
    raw_embeddings: Tensor
    features: Tensor
    labels: Tensor
    indices: Tensor
    step: int
    targets: Tensor | None = None
    superlabels: Tensor | None = None


class TrainView(Protocol):
    """The training images as a method may see them between epochs (never validation or test)."""

    labels: Tensor
    superlabels: Tensor | None
    targets: Tensor | None

    def __len__(self) -> int:
        """Training images."""

    def features(self) -> Tensor:
        """Trunk features of all training images, evaluation transform: float32 (N, F). Counted."""

    def embeddings(self) -> Tensor:
        """Embeddings of all training images, evaluation transform: float32 (N, D). Counted."""


class ParameterGroup(TypedDict):
    """Own parameters of a method with their learning rate and weight decay."""

    params: list[nn.Parameter]
    lr: float
    weight_decay: float


class Method(nn.Module):
    """Base of all methods. Only `loss` is required; whatever else is overridden is shown in the report.

    A method holds all its state in parameters and buffers, so that a resumed run is exact. Random
    numbers may be drawn from the global generators of torch, numpy and `random`: during every call
    they are the run's 'method' stream.

    Class attributes:
        name: as in plans, records and tables.
        paper: key in results/published/papers.csv, or None.
        trains: False for baselines.
        by_default: part of a plan that names no methods; `--methods all` takes the others too.
        order_matters: the order of images within a batch carries meaning to `loss`.
        needs_pairs: compares images of a class with each other; a protocol may give methods that compare images with
            class vectors only (False) batches of more classes.
        needs_targets: works on continuous labels; left out of plans on data sets without them.
        descriptors: how the trunk's last feature map is pooled; several are concatenated, and
            everything but ("mean",) is a departure from the protocol that tables show.
        variant_of: the method that a YAML line declared this one from, set by the registry.

    Raises:
        UsageError: a hyper-parameter is unknown, of the wrong type or outside its range.
    """

    name: ClassVar[str]
    paper: ClassVar[str | None] = None
    trains: ClassVar[bool] = True
    by_default: ClassVar[bool] = True
    order_matters: ClassVar[bool] = False
    needs_pairs: ClassVar[bool] = True
    needs_targets: ClassVar[bool] = False
    descriptors: ClassVar[Descriptors] = MEAN
    variant_of: ClassVar[str | None] = None
    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = {key: value for key, value in vars(cls).items() if isinstance(value, Hyperparameter)}
        cls.hyperparameters = {**cls.hyperparameters, **own}

    def __init__(self, **values: Any) -> None:
        super().__init__()
        for key in values:
            if key not in self.hyperparameters:
                known = ", ".join(self.hyperparameters) or "none"
                raise UsageError(f"method '{self.name}': unknown hyper-parameter '{key}'. Known: {known}.")
        for key, declared in self.hyperparameters.items():
            setattr(self, key, _checked(self.name, key, declared, values.get(key, declared.default)))

    def values(self) -> dict[str, float | int | bool | str]:
        """The hyper-parameters in force."""
        return {key: getattr(self, key) for key in self.hyperparameters}

    def build(self, context: Context) -> None:
        """Create proxies, memories and extra modules. Called once, on the 'method' stream."""

    def embedder(self, trunk_dim: int, size: int) -> nn.Module:
        """The head from trunk features (B, F) to raw embeddings (B, size); called on the 'init' stream."""
        return nn.Linear(trunk_dim, size)

    def batches(
        self, labels: NDArray[np.int64], shape: BatchShape, rng: np.random.Generator
    ) -> Iterator[NDArray[np.int64]]:
        """Endless batches of training-image indices, `shape.size` each; asked for anew every epoch."""
        from bench.data.samplers import classes_times_images

        return classes_times_images(labels, shape, rng)

    def loss(self, batch: Batch) -> Tensor:
        """The scalar to minimise."""
        raise NotImplementedError(f"method '{self.name}' trains but defines no loss")

    def on_epoch(self, view: TrainView) -> None:
        """Called before each epoch; may embed the training images (counted and shown)."""

    def parameter_groups(self, default: ParameterGroup) -> list[ParameterGroup]:
        """Groups over the method's own parameters; `default` holds all of them at the protocol's rates."""
        return [default]

    def embed(self, features: Tensor, embedder: nn.Module) -> Tensor:
        """Raw embeddings (B, size) at test time from trunk features (B, F)."""
        raw: Tensor = embedder(features)
        return raw

    @classmethod
    def departures(cls) -> list[str]:
        """What the method replaces beyond its loss, in words, found by comparing with this class."""
        words = {
            "embedder": "own embedder",
            "batches": "own batches",
            "embed": "own test-time embedding",
            "on_epoch": "sees training images between epochs",
            "parameter_groups": OWN_RATES,
        }
        found = [text for key, text in words.items() if getattr(cls, key) is not getattr(Method, key)]
        return found if cls.descriptors == MEAN else [*found, f"{' + '.join(cls.descriptors)} pooled features"]


def _checked(method: str, key: str, declared: Hyperparameter, value: Any) -> Any:
    where = f"method '{method}': hyper-parameter '{key}'"
    kind = type(declared.default)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UsageError(f"{where} must be {kind.__name__}, found {value!r}.")
    if declared.choices and value not in declared.choices:
        raise UsageError(f"{where} must be one of {', '.join(declared.choices)}, found {value!r}.")
    low, high = declared.bounds
    if isinstance(value, int | float) and not low <= value <= high:
        raise UsageError(f"{where} must lie in [{low:g}, {high:g}], found {value!r}.")
    return value
