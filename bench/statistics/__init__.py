"""What a table of seeds, queries or data sets can and cannot tell; docs/statistics.md says it for readers of reports.

Over seeds: `mean_interval`, `paired_p`, `rank`, `all_pairs`. Over queries: `paired_bootstrap`. Over data sets:
`friedman`. Before running more seeds: `seed_plan`.
"""

from __future__ import annotations

from bench.statistics.bootstrap import Bootstrap, paired_bootstrap
from bench.statistics.datasets import Friedman, friedman
from bench.statistics.intervals import Interval, mean_interval
from bench.statistics.pairs import Comparison, all_pairs, holm, paired_p
from bench.statistics.power import SeedPlan, seed_plan, seeds_needed, smallest_difference
from bench.statistics.ranking import Ranking, rank

__all__ = [
    "Bootstrap",
    "Comparison",
    "Friedman",
    "Interval",
    "Ranking",
    "SeedPlan",
    "all_pairs",
    "friedman",
    "holm",
    "mean_interval",
    "paired_bootstrap",
    "paired_p",
    "rank",
    "seed_plan",
    "seeds_needed",
    "smallest_difference",
]
