"""A protocol scaled down to a share of its budget: shorter runs, fewer trials and seeds, under a name that says so.

What a smaller budget gives up is written down here once, for `--budget` and for the prices of `bench plan`. Rates of
learning, batches, folds and metrics stay: numbers of two budgets differ in how long and how often was trained, and
never stand in one table, as the share is part of the protocol's hash and name.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from bench.errors import UsageError
from bench.protocol import Protocol, Search

# Below these, a run or a search says nothing about a method, however small the share.
LEAST_ITERATIONS = 100
LEAST_TRIALS = 5
LEAST_REPRODUCTIONS = 2  # the fewest that have a spread
LEAST_SEEDS = 1


@dataclass(frozen=True)
class Scaled:
    """A protocol under a share of its budget.

    Attributes:
        protocol: named '<name>@<share>'; the protocol itself where the share is 1.
        share: of the protocol as it was named.
        changes: what was scaled, in words.
        floored: what was not scaled as far as the share says, in words.
    """

    protocol: Protocol
    share: float = 1.0
    changes: tuple[str, ...] = ()
    floored: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines to print before a plan."""
        if self.share == 1:
            return ()
        less = ", ".join(self.changes) or "nothing becomes less"
        return f"budget {self.share:g}: {less}", *(f"budget floor: {text}" for text in self.floored)


def scaled(protocol: Protocol, share: float) -> Scaled:
    """The protocol with a share of its iterations, trials, reproductions and seeds, each with a floor.

    Evaluations and the points of a learning-rate schedule move with the iterations, so that there are as many
    checkpoints to choose from; patience counts evaluations and stays. Of a protocol whose file says that it is a scaled
    one, the shares multiply.

    Raises:
        UsageError: the share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise UsageError(f"a budget is a share above 0 and at most 1 of the protocol's, found {share:g}.")
    if share == 1:
        return Scaled(protocol)
    counts = _Counts(share)
    content = protocol.model_dump(mode="json")
    content["name"] = f"{protocol.name}@{share:g}"
    content["budget_share"] = float(f"{protocol.budget_share * share:.4g}")
    before = protocol.budget.iterations
    after = counts.least("iterations", before, LEAST_ITERATIONS)
    content["budget"] |= {
        "iterations": after,
        "evaluate_every": _moved(protocol.budget.evaluate_every, before, after),
    }
    content["optimizer"] = protocol.optimizer.moved(before, after).model_dump(mode="json")
    content["seeds"] = list(protocol.seeds[: counts.least("seeds", len(protocol.seeds), LEAST_SEEDS)])
    if protocol.search is not None:
        content["search"] |= _search(protocol.search, counts)
    smaller = Protocol.model_validate_json(json.dumps(content))
    return Scaled(smaller, share, tuple(counts.changes), tuple(counts.floored))


class _Counts:
    """Scales counts and notes in words what became of each."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.changes: list[str] = []
        self.floored: list[str] = []

    def least(self, what: str, count: int, floor: int) -> int:
        """A share of a count, but not below a floor, nor above the count itself."""
        wanted = _nearest(count * self.share)
        found = min(count, max(wanted, floor))
        if found < count:
            self.changes.append(f"{found:,} of {count:,} {what}")
        if found > wanted:
            self.floored.append(f"{what} {found:,}, where the share would leave {wanted:,}")
        return found


def _nearest(number: float) -> int:
    return math.floor(number + 0.5)  # halves go up: round() would take 2.5 and 3.5 to 2 and 4


def _moved(point: int, before: int, after: int) -> int:
    """A step of a run of `before` iterations in one of `after`; rounded up, so that evaluations do not multiply."""
    return max(1, -(-point * after // before))


def _search(search: Search, counts: _Counts) -> dict[str, int]:
    return {
        "trials": counts.least("trials", search.trials, LEAST_TRIALS),
        "reproductions": counts.least("reproductions", search.reproductions, LEAST_REPRODUCTIONS),
    }
