"""What a trunk wants its input to look like."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputFormat:
    """Channels (1 grey or 3 RGB) and the mean and standard deviation of inputs scaled to [0, 1]."""

    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
