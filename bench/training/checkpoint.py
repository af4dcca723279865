"""State on disk that survives a kill: each file is complete or absent, and nothing in it is executed on load."""

from __future__ import annotations

import os
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
    path = folder / f"step-{step:08d}.safetensors"
    temporary = path.with_suffix(".tmp")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
    os.replace(temporary, path)


def kept(folder: Path, step: int) -> dict[str, Tensor]:
    """The weights that `keep` wrote for a step."""
    return load_file(folder / f"step-{step:08d}.safetensors")
