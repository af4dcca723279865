"""The protocol: everything that must be equal for a comparison to be fair, read from one YAML file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from bench import home, yaml_file
from bench.errors import UsageError, unknown_name
from bench.models.catalog import TRUNKS

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A block of a protocol: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Trunk(Section):
    """The network before the embedder: which one, where its weights come from, what is trained."""

    name: str
    weights: str = Field(description="'none' (random), 'imagenet', or the path of a local file")
    frozen: bool = Field(default=False, description="features are embedded once and cached; only the embedder learns")
    batch_norm: Literal["train", "frozen"] = "train"

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
    """Size of the embedding and whether it is L2-normalised."""

    size: Positive
    normalize: bool = True


class TrainImages(Section):
    """Random resized crop and horizontal flip, drawn from the augmentation stream."""

    size: Positive = Field(description="side of the training crop after resizing, pixels")
    crop_area: tuple[Fraction, Fraction] = Field(description="share of the image area that a crop covers")
    crop_aspect: tuple[float, float] = (0.75, 4 / 3)
    flip: Fraction = Field(default=0.5, description="probability of a horizontal flip")

    @field_validator("crop_area", "crop_aspect")
    @classmethod
    def _range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"found {list(value)}; a range [low, high] with 0 < low <= high is allowed")
        return value


class Images(Section):
    """How an image becomes the trunk's input."""

    resize: Positive = Field(description="shorter side of the decoded image, pixels")
    crop: Positive = Field(description="side of the centre crop at evaluation, pixels")
    train: TrainImages | None = Field(default=None, description="omitted: the evaluation crop (frozen trunk)")

    @model_validator(mode="after")
    def _crop_fits(self) -> Images:
        if self.crop > self.resize:
            raise ValueError(f"crop {self.crop} is larger than resize {self.resize}")
        return self


class Batch(Section):
    """P classes with K images each."""

    classes: Positive
    per_class: Positive

    @property
    def size(self) -> int:
        """Images in a batch."""
        return self.classes * self.per_class


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
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: Annotated[int, Field(ge=0)] = 0
    clip_norm: Annotated[float, Field(gt=0)] | None = None

    @field_validator("momentum")
    @classmethod
    def _has_momentum(cls, momentum: float, info: ValidationInfo) -> float:
        name = info.data.get("name")
        if momentum and name in ("adamw", "adam"):
            raise ValueError(f"found {momentum}; {name} takes none: 0 is allowed, or optimizer.name sgd or rmsprop")
        return momentum


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
    rule: Literal["strided", "contiguous"] = "strided"
    use: tuple[Annotated[int, Field(ge=0)], ...] = (0,)

    @model_validator(mode="after")
    def _folds_exist(self) -> Folds:
        if not self.use or len(set(self.use)) < len(self.use) or max(self.use) >= self.count:
            raise ValueError(f"'use' must name distinct folds out of 0..{self.count - 1}, found {list(self.use)}")
        return self


class Selection(Section):
    """Which checkpoint a table shows. 'test' is optimistic and marked so wherever it is shown."""

    metric: str = "map_at_r"
    split: Literal["validation", "last", "test"] = "validation"


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


class Subset(Section):
    """A tiny benchmark cut from a data set: classes taken evenly over the official order."""

    train_classes: Positive
    test_classes: Positive


class Protocol(Section):
    """One protocol file. `hash` identifies its content: comments and formatting do not count."""

    name: str
    summary: str
    trunk: Trunk
    embedding: Embedding
    images: Images
    batch: Batch
    optimizer: Optimizer
    budget: Budget
    folds: Folds | None
    selection: Selection
    seeds: tuple[Annotated[int, Field(ge=0)], ...]
    evaluation: Evaluation
    interval: Interval = Interval()
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: Positive = Field(default=1, description="CPU threads a run computes with: part of what makes its bits")
    subset: Subset | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Protocol:
        if self.selection.split == "validation" and self.folds is None:
            raise ValueError("selection.split is 'validation' but folds is null: name folds, or select 'last'")
        if not self.trunk.frozen and self.images.train is None:
            raise ValueError("images.train is missing: a trunk that is trained needs training crops")
        if self.trunk.frozen and self.images.train is not None:
            raise ValueError("images.train is given but trunk.frozen is true: cached features have no random crops")
        if self.selection.metric not in self.evaluation.selectable:
            allowed = ", ".join(self.evaluation.selectable)
            raise ValueError(f"selection.metric is '{self.selection.metric}'; allowed: {allowed}")
        if self.budget.evaluate_every > self.budget.iterations:
            raise ValueError("budget.evaluate_every is larger than budget.iterations: no checkpoint would be kept")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be distinct and not empty, found {list(self.seeds)}")
        if self.batch.per_class == 1 and self.batch.classes == 1:
            raise ValueError("batch of one image: no loss can be computed")
        return self

    @property
    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the content; name and summary are not part of it."""
        content = self.model_dump(mode="json", exclude={"name", "summary", "seeds"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def protocol_files() -> dict[str, Path]:
    """Name -> file of every protocol found: the benchmark folder's own shadow the shipped ones."""
    found: dict[str, Path] = {}
    for folder in home.folders("protocols"):
        for path in sorted(folder.rglob("*.yaml")):
            found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
    return found


def load_protocol(name: str) -> Protocol:
    """Read a protocol by its name, or by the path of a YAML file.

    Raises:
        UsageError: no such protocol, unreadable YAML, or a value that is not allowed; the message
            names the file, the key, what was found and what is allowed.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"protocol file {path} does not exist.")
    else:
        files = protocol_files()
        if name not in files:
            raise unknown_name("protocol", name, files)
        path = files[name]
    data = yaml_file.read(path)
    try:
        protocol = Protocol.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise UsageError(yaml_file.explain(path, error, Protocol)) from None
    expected = path.stem if name.endswith((".yaml", ".yml")) else name
    if protocol.name != expected:
        raise UsageError(f"{path}: key 'name' is '{protocol.name}' but the file is called '{expected}'.")
    return protocol
