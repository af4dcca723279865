"""Named random streams: each use of randomness draws from its own, derived from (seed, purpose).

Two methods under one seed therefore see the same initial weights, the same batches and the same
crops, whatever else they draw: comparisons are paired.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch


def derive(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class Streams:
    """The random streams of one run.

    `batches` and `augmentation` are numpy generators. `init` and `method` are worlds: inside
    `world(purpose)` the global generators of torch, numpy and `random` are that stream's.
    """

    def __init__(self, seed: int) -> None:
        self.batches = np.random.default_rng(derive(seed, "batches"))
        self.augmentation = np.random.default_rng(derive(seed, "augmentation"))
        self._worlds: dict[str, dict[str, Any]] = {}
        self._active: str | None = None
        for purpose in ("init", "method"):
            value = derive(seed, purpose)
            with untouched():
                torch.manual_seed(value)
                np.random.seed(value % 2**32)
                random.seed(value)
                self._worlds[purpose] = _globals()

    @contextmanager
    def world(self, purpose: Literal["init", "method"]) -> Iterator[None]:
        """Run a block on one stream; the caller's global generators are untouched afterwards."""
        with untouched():
            _set_globals(self._worlds[purpose])
            self._active = purpose
            try:
                yield
            finally:
                self._worlds[purpose] = _globals()
                self._active = None

    def state(self) -> dict[str, Any]:
        """Tensors and plain values only, so that it loads with `weights_only=True`."""
        if self._active is not None:
            self._worlds[self._active] = _globals()
        return {
            "batches": self.batches.bit_generator.state,
            "augmentation": self.augmentation.bit_generator.state,
            "worlds": self._worlds,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state()` was taken."""
        self.batches.bit_generator.state = state["batches"]
        self.augmentation.bit_generator.state = state["augmentation"]
        self._worlds = state["worlds"]
        if self._active is not None:
            _set_globals(self._worlds[self._active])


def _globals() -> dict[str, Any]:
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    assert isinstance(keys, np.ndarray)  # numpy's annotation allows any layout of the tuple
    version, internal, gauss_next = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [str(name), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(internal), gauss_next],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _set_globals(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextmanager
def untouched() -> Iterator[None]:
    """Run a block (an evaluation, say) without moving any global generator."""
    outer = _globals()
    try:
        yield
    finally:
        _set_globals(outer)
