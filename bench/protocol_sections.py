"""The sections of a protocol file and what each key means, with its range and default."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from bench.errors import unknown_name
from bench.models.catalog import TRUNKS

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Fit = Literal["crop", "stretch"]


def added(default: Any, **constraints: Any) -> Any:
    """A key that came after the first records: while it holds its default it is not part of the protocol's hash."""
    return Field(default, json_schema_extra={"added": True}, **constraints)


class Section(BaseModel):
    """A block of a protocol: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def content(self) -> dict[str, Any]:
        """All keys and values but added ones at their default, for hashing."""
        found = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(field.json_schema_extra, dict) and value == field.default:
                del found[name]
            elif isinstance(value, Section):
                found[name] = value.content()
        return found


class Trunk(Section):
    """The network before the embedder: which one, where its weights come from, what is trained."""

    name: str
    weights: str = Field(description="'none' (random), 'imagenet', or the path of a local file")
    frozen: bool = Field(default=False, description="features are embedded once and cached; only the embedder learns")
    batch_norm: Literal["train", "frozen"] = "train"
    pooling: Literal["mean", "max", "mean_plus_max"] = added("mean", description="of the last feature maps")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in TRUNKS:
            raise ValueError(str(unknown_name("trunk", name, TRUNKS)).removesuffix("."))
        return name

    @field_validator("weights")
    @classmethod
    def _published(cls, weights: str, info: ValidationInfo) -> str:
        name = info.data.get("name")
        if weights == "imagenet" and name is not None and not TRUNKS[name].imagenet:
            raise ValueError(f"trunk '{name}' has no ImageNet weights: 'none' or a local file is allowed")
        return weights


class Embedding(Section):
    """Size of the embedding, whether it is L2-normalised, and how the linear layers that make it start."""

    size: Positive
    normalize: bool = True
    init: Literal["pytorch", "kaiming_normal", "xavier_uniform"] = added(
        "pytorch",
        description="start of the embedder's linear layers; all but PyTorch's own with zero bias, kaiming_normal by "
        "fan_out for a ReLU",
    )
    gain: Annotated[float, Field(gt=0)] = added(1.0, description="of xavier_uniform: what its bound is multiplied with")

    @model_validator(mode="after")
    def _gain_has_use(self) -> Embedding:
        if self.gain != 1 and self.init != "xavier_uniform":
            raise ValueError(f"gain {self.gain:g} belongs to init 'xavier_uniform', found '{self.init}': leave it out")
        return self


class TrainImages(Section):
    """Random resized crop and horizontal flip, drawn from the augmentation stream."""

    size: Positive = Field(description="side of the training crop after resizing, pixels")
    crop_area: tuple[Fraction, Fraction] = Field(description="share of the image area that a crop covers")
    crop_aspect: tuple[float, float] = (0.75, 4 / 3)
    flip: Fraction = Field(default=0.5, description="probability of a horizontal flip")
    whole: Fraction = added(0.0, description="probability that the crop is the whole image")

    @field_validator("crop_area", "crop_aspect")
    @classmethod
    def _range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"found {list(value)}; a range [low, high] with 0 < low <= high is allowed")
        return value


class Images(Section):
    """How an image becomes the trunk's input."""

    resize: Positive = Field(description="shorter side of the decoded image, pixels; both sides where it is stretched")
    crop: Positive = Field(description="side of the input at evaluation, pixels")
    train: TrainImages | None = Field(default=None, description="omitted: the evaluation crop (frozen trunk)")
    fit: Fit = added(
        "crop",
        description="crop: images keep their shape and evaluation sees the centre square; stretch: they are decoded to "
        "a square, and evaluation sees all of it",
    )

    @model_validator(mode="after")
    def _crop_fits(self) -> Images:
        if self.crop > self.resize:
            raise ValueError(f"crop {self.crop} is larger than resize {self.resize}")
        return self


class Shape(Section):
    """P classes with K images each."""

    classes: Positive
    per_class: Positive
    sampler: Literal["passes", "uniform", "with_replacement", "groups", "chunks", "shuffled"] = added(
        "passes", description="how classes and images are drawn; a method may bring batches of its own instead"
    )

    @property
    def size(self) -> int:
        """Images in a batch."""
        return self.classes * self.per_class


class Batch(Shape):
    """The shape of batches, and another one for methods that need no pairs of a class."""

    classification: Shape | None = added(None, description="for methods that compare images with class vectors only")

    @model_validator(mode="after")
    def _equal_size(self) -> Batch:
        if self.classification is not None and self.classification.size != self.size:
            raise ValueError(
                f"classification has {self.classification.size} images, other batches {self.size}: all methods see "
                "as many images a step"
            )
        return self

    def shape(self, needs_pairs: bool) -> Batch:
        """The batches of a method that needs pairs of a class, or does not."""
        other = None if needs_pairs else self.classification
        return self if other is None else Batch(**other.model_dump())


class Group(Section):
    """Learning rate and weight decay of one group of parameters."""

    lr: Annotated[float, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


class Optimizer(Section):
    """Optimiser and its groups; `method` holds for parameters that a method brings (proxies, bounds)."""

    name: Literal["adamw", "adam", "sgd", "rmsprop"]
    momentum: Fraction = 0.0
    trunk: Group
    embedder: Group
    method: Group
    schedule: Literal["constant", "cosine", "steps", "inverse"] = "constant"
    warmup: Annotated[int, Field(ge=0)] = 0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    clip_value: Annotated[float, Field(gt=0)] | None = added(None, description="largest size of a gradient's entry")
    milestones: tuple[Positive, ...] = added((), description="iterations after which a 'steps' schedule multiplies")
    factor: Annotated[float, Field(gt=0, lt=1)] | None = added(None, description="what it multiplies the rates by")
    trunk_rests: Annotated[int, Field(ge=0)] = added(0, description="first iterations in which the trunk stays fixed")
    epsilon: Annotated[float, Field(gt=0)] | None = added(
        None, description="added to the root of squared gradients that a step is divided by; null: PyTorch's"
    )
    decay: Annotated[float, Field(gt=0)] | None = added(
        None, description="d of an 'inverse' schedule: after t iterations the rates are divided by 1 + d t"
    )

    @model_validator(mode="after")
    def _steps(self) -> Optimizer:
        if (self.schedule == "inverse") != (self.decay is not None):
            raise ValueError("schedule 'inverse' needs 'decay', and no other schedule has it")
        if (self.schedule == "steps") != bool(self.milestones and self.factor):
            raise ValueError("schedule 'steps' needs 'milestones' and 'factor', and no other schedule has them")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise, found {list(self.milestones)}")
        return self

    @field_validator("momentum")
    @classmethod
    def _has_momentum(cls, momentum: float, info: ValidationInfo) -> float:
        name = info.data.get("name")
        if momentum and name in ("adamw", "adam"):
            raise ValueError(f"found {momentum}; {name} takes none: 0 is allowed, or optimizer.name sgd or rmsprop")
        return momentum

    @field_validator("epsilon")
    @classmethod
    def _has_epsilon(cls, epsilon: float | None, info: ValidationInfo) -> float | None:
        if epsilon is not None and info.data.get("name") == "sgd":
            raise ValueError(f"found {epsilon:g}; sgd takes none: null is allowed, or optimizer.name adam or rmsprop")
        return epsilon

    def moved(self, before: int, after: int) -> Optimizer:
        """The same schedule where `before` iterations become `after`: its points move with them.

        Milestones that fall together become one, as they all come in one step.
        """
        changes: dict[str, Any] = {
            "warmup": self.warmup * after // before,
            "trunk_rests": self.trunk_rests * after // before,
            "milestones": tuple(sorted({-(-point * after // before) for point in self.milestones})),
            "decay": None if self.decay is None else self.decay * before / after,
        }
        return self.model_copy(update=changes)


class Budget(Section):
    """How long every method trains, and how often it is evaluated."""

    iterations: Positive
    evaluate_every: Positive
    epoch: Positive = Field(description="iterations between two calls of a method's on_epoch")
    patience: Positive | None = Field(default=None, description="evaluations without a new best before stopping")
    max_minutes: Annotated[float, Field(gt=0)] | None = None


class Folds(Section):
    """Class-disjoint folds of the training classes: fold f validates, the others train."""

    count: Annotated[int, Field(ge=2)]
    rule: Literal["strided", "contiguous", "rotated"] = "strided"
    use: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    lists: tuple[str, ...] = added((), description="official class ids that validate in each fold, as 'first-last'")

    @model_validator(mode="after")
    def _folds_exist(self) -> Folds:
        if not self.use or len(set(self.use)) < len(self.use) or max(self.use) >= self.count:
            raise ValueError(f"'use' must name distinct folds out of 0..{self.count - 1}, found {list(self.use)}")
        if self.lists and len(self.lists) != self.count:
            raise ValueError(f"'lists' needs one range for each of the {self.count} folds, found {len(self.lists)}")
        for text in self.lists:
            if not re.fullmatch(r"\d+-\d+", text):
                raise ValueError(f"'lists' holds ranges of class ids such as '76-100', found '{text}'")
        return self

    def listed(self, fold: int) -> range | None:
        """Official class ids that validate in a fold; None where the rule decides."""
        if not self.lists:
            return None
        first, last = (int(part) for part in self.lists[fold].split("-"))
        return range(first, last + 1)


class Selection(Section):
    """Which checkpoint a table shows. 'test' is optimistic and marked so wherever it is shown."""

    metric: str = "map_at_r"
    split: Literal["validation", "last", "test"] = "validation"
    retrain: bool = added(False, description="train anew on all training classes, for as long as the best took")
    candidates: Positive | None = added(
        None, description="evenly spaced checkpoints that the best on the test side is looked for among; null: all"
    )
    retrain_by: Literal["iterations", "epochs"] = added(
        "iterations", description="what is as many; epochs: iterations, and the schedule's points, grow with the images"
    )

    @model_validator(mode="after")
    def _retrains(self) -> Selection:
        if self.retrain_by != "iterations" and not self.retrain:
            raise ValueError(f"retrain_by '{self.retrain_by}' needs 'retrain: true': there is no second stage")
        return self


def _distinct_ranks(ks: tuple[int, ...]) -> tuple[int, ...]:
    if not ks or len(set(ks)) < len(ks):
        raise ValueError(f"found {list(ks)}; distinct ranks, at least one, are allowed")
    return ks


class Clustering(Section):
    """k-means settings for NMI, AMI and pairwise F1; k = number of classes evaluated."""

    iterations: Positive = 20
    restarts: Positive = 1
    seed: int = 1234
    average: Literal["arithmetic", "geometric", "min", "max"] = "arithmetic"


class Graded(Section):
    """Metrics under continuous labels: mean label distance of the K nearest, and nDCG at K."""

    distance_at: tuple[Positive, ...] = (1, 10)
    ndcg_at: tuple[Positive, ...] = (10, 100)

    @field_validator("distance_at", "ndcg_at")
    @classmethod
    def _distinct(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        return _distinct_ranks(ks)


class Evaluation(Section):
    """Metrics of the test split. Self-match by index and pessimistic ties are not optional."""

    recall_at: tuple[Positive, ...] = (1, 2, 4, 8)
    clustering: Clustering | None = Clustering()
    graded: Graded | None = Field(default=None, description="for data sets with continuous labels only")

    @field_validator("recall_at")
    @classmethod
    def _distinct(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        return _distinct_ranks(ks)

    @property
    def selectable(self) -> list[str]:
        """Metrics that every evaluation during training computes (clustering is done at the end only)."""
        ranks = [*(f"recall_at_{k}" for k in self.recall_at)]
        if self.graded is not None:
            ranks += [f"ndcg_at_{k}" for k in self.graded.ndcg_at]
        return ["map_at_r", "r_precision", "precision_at_1", *ranks]


class Interval(Section):
    """Confidence interval over seeds: Student t with n - 1 degrees of freedom."""

    level: Annotated[float, Field(gt=0, lt=1)] = 0.95


class Range(Section):
    """Where a search may go: of a number from low to high, or one of the choices."""

    low: float | None = None
    high: float | None = None
    scale: Literal["linear", "log"] = "linear"
    choices: tuple[float | int | str | bool, ...] = ()

    @model_validator(mode="after")
    def _one_way(self) -> Range:
        bounds = self.low is not None and self.high is not None and self.low < self.high
        if bounds == bool(self.choices):
            raise ValueError("'low' below 'high', or 'choices', is needed")
        if self.scale == "log" and (self.low is None or self.low <= 0):
            raise ValueError("a log scale needs a 'low' above zero")
        return self


class Search(Section):
    """How hyper-parameters are chosen: trials for every method, each one run on every fold, none on the test side.

    `spaces` are by method and parameter; a method that is not named is searched over the ranges it declares.
    """

    trials: Positive
    reproductions: Positive = Field(description="fresh seeds that the chosen setting is trained with")
    winner_counts: bool = Field(default=False, description="whether the chosen trial enters the interval: biased up")
    spaces: dict[str, dict[str, Range]] = {}


class Subset(Section):
    """A tiny benchmark cut from a data set: classes taken evenly over the official order."""

    train_classes: Positive
    test_classes: Positive
