"""Untrained embedder: the trunk as it comes and a random linear layer. The floor of every table.

Whatever a trained method gains over this row it has learned; whatever it does not is owed to the trunk.
"""

from __future__ import annotations

from bench.method import Method


class Untrained(Method):
    """Baseline: random embedder, no training."""

    name = "untrained"
    trains = False
