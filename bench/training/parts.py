"""The training side cut by class into the part that trains and the part that validates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.data.dataset import Dataset, Labels
from bench.errors import UsageError
from bench.protocol import Folds


@dataclass(frozen=True)
class Part:
    """Some images of the training side.

    Attributes:
        positions: int64 (n,) positions within the training side.
        labels: int64 (n,), renumbered 0..C-1 in the official order.
        superlabels: int64 (n,) or None.
        targets: float64 (n, T) or None.
    """

    positions: Labels
    labels: Labels
    superlabels: Labels | None
    targets: NDArray[np.float64] | None

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1 if len(self.labels) else 0

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Labels, superlabels and targets (float32) on a device."""
        extra = None if self.superlabels is None else torch.from_numpy(self.superlabels).to(device)
        targets = None if self.targets is None else torch.from_numpy(self.targets).float().to(device)
        return torch.from_numpy(self.labels).to(device), extra, targets


def split_training_side(dataset: Dataset, folds: Folds | None, fold: int | None) -> tuple[Part, Part | None]:
    """Training part and validation part of a fold (None without folds); their classes are disjoint.

    Listed folds name the official class ids that validate. Otherwise class groups of the data set (look-alikes) are
    kept together and numbered by their first class: of n groups in c folds, 'strided' gives group g to fold g mod c,
    'contiguous' cuts the numbering into blocks, and in fold f of 'rotated' the last floor(n / c) groups validate after
    the numbering was rotated by floor(f n / c): all folds are of one size, some groups may never validate.

    Raises:
        UsageError: the training side has too few classes for the folds, or a listed fold takes none or all of them.
    """
    side = dataset.split.train
    classes, class_of = np.unique(dataset.labels[side], return_inverse=True)
    if folds is None or fold is None:
        return _part(dataset, side, class_of, np.ones(len(classes), dtype=bool)), None
    listed = folds.listed(fold)
    if listed is not None:
        validates = np.array([dataset.class_ids[label] in listed for label in classes])
        if validates.all() or not validates.any():
            raise UsageError(
                f"data set '{dataset.name}': fold {fold} lists the classes {folds.lists[fold]}, which are "
                f"{'all' if validates.all() else 'none'} of its {len(classes)} training classes (protocol key "
                "folds.lists)."
            )
    else:
        validates = _by_rule(dataset, classes, folds, fold)
    return _part(dataset, side, class_of, ~validates), _part(dataset, side, class_of, validates)


def _by_rule(dataset: Dataset, classes: Labels, folds: Folds, fold: int) -> NDArray[np.bool_]:
    groups = classes if dataset.class_groups is None else dataset.class_groups[classes]
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))[group_of]
    count = len(first)
    if count < folds.count:
        raise UsageError(
            f"data set '{dataset.name}': {count} groups of training classes cannot be cut into {folds.count} folds "
            "(protocol key folds.count)."
        )
    if folds.rule == "rotated":
        validating = count // folds.count
        return np.asarray((rank - fold * count // folds.count) % count >= count - validating)
    fold_of = rank % folds.count if folds.rule == "strided" else rank * folds.count // count
    return np.asarray(fold_of == fold)


def _part(dataset: Dataset, side: Labels, class_of: Labels, chosen: NDArray[np.bool_]) -> Part:
    positions = np.flatnonzero(chosen[class_of])
    renumbered = np.cumsum(chosen) - 1
    rows = side[positions]
    return Part(
        positions=positions,
        labels=renumbered[class_of[positions]].astype(np.int64),
        superlabels=None if dataset.superlabels is None else dataset.superlabels[rows],
        targets=None if dataset.targets is None else dataset.targets[rows],
    )
