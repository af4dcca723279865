"""State on disk that survives a kill: each file is complete or absent, and nothing in it is executed on load."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def save(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values atomically."""
    temporary = path.with_name(f"{path.name}.tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote; refuses anything but tensors and plain values."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def keep(folder: Path, step: int, tensors: dict[str, Tensor]) -> None:
    """Keep the weights of one evaluation as `step-<n>.safetensors`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = weights_file(folder, step)
    temporary = path.with_suffix(".tmp")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    os.replace(temporary, path)


def kept(folder: Path, step: int) -> dict[str, Tensor]:
    """The weights that `keep` wrote for a step."""
    return load_file(weights_file(folder, step))


def weights_file(folder: Path, step: int) -> Path:
    """Where `keep` puts the weights of a step."""
    return folder / f"step-{step:08d}.safetensors"


def spaced(evaluations: int, candidates: int | None) -> range:
    """The numbers, from 1, of evenly spaced evaluations, at most `candidates` of them; None: of all evaluations.

    The stride is a power of two, so that what a longer run wants is among what a shorter one has kept: which weights
    are there follows from the number of evaluations alone, wherever a run was stopped and resumed.

    >>> list(spaced(11, 4))
    [4, 8]
    """
    stride = 1
    while candidates is not None and evaluations > candidates * stride:
        stride *= 2
    return range(stride, evaluations + 1, stride)


def prune(folder: Path, steps: Iterable[int]) -> None:
    """Remove all weights but those of `steps`, and what a kill left half written."""
    wanted = {weights_file(folder, step) for step in steps}
    for file in folder.glob("*"):
        if file not in wanted:
            file.unlink(missing_ok=True)
