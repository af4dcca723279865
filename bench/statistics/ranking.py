"""The best row of a table, the rows tied with it for first, and honest ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from bench.statistics.intervals import check_level
from bench.statistics.pairs import Comparison, Seeds, all_pairs, best_of


@dataclass(frozen=True)
class Ranking:
    """The row with the highest mean, and the rows that could not be tested against it.

    `ranks` and `first` are computed when asked for.
    """

    best: str
    untested: frozenset[str]
    level: float = 0.95
    rows: Mapping[str, Seeds] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """All pairs of the rows that could be tested against the best, Holm-corrected."""
        return all_pairs({name: seeds for name, seeds in self.rows.items() if seeds and name not in self.untested})

    @cached_property
    def ranks(self) -> dict[str, int]:
        """Row -> one plus the number of rows significantly better than it, after Holm's correction for all pairs.

        Several rows may share a rank, and ranks may be left out: 1, 1, 3. "Not told apart" does not carry over: with
        a and b, b and c not told apart but a better than c, ranks are 1, 1, 2. Untested rows have none.
        """
        ranks = {name: 1 for name, seeds in self.rows.items() if seeds and name not in self.untested}
        for one in self.comparisons:
            better = one.better(self.level)
            if better is not None:
                ranks[one.second if better == one.first else one.first] += 1
        return ranks

    @property
    def first(self) -> frozenset[str]:
        """Tied for first: the rows than which no row is significantly better. Not shown to be equal."""
        return frozenset(name for name, place in self.ranks.items() if place == 1)


def rank(rows: Mapping[str, Seeds], level: float = 0.95) -> Ranking | None:
    """Compare every row with the best one; `rows` maps a row's name to its value for each seed.

    Rows that share fewer than two seeds with the best one are not tested. None if there are no values at all.

    Raises:
        ValueError: a value that is not finite, or a level outside (0, 1).
    """
    check_level(level)
    filled = {name: dict(seeds) for name, seeds in rows.items() if seeds}
    if not filled:
        return None
    best = best_of(filled)
    untested = {name for name in filled if name != best and len(filled[name].keys() & filled[best].keys()) < 2}
    return Ranking(best, frozenset(untested), level, filled)
