"""Tiny pictures for tests of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write(path: Path, seed: int, width: int = 20, height: int = 14, mode: str = "RGB") -> Path:
    """A random smooth picture, in the format of the file's suffix."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(path)
    return path
