"""Where the runs were made: every distinct environment with the number of its runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from bench.record import Record
from bench.report import text
from bench.report.tables import Band, Cell, Column, Table

_LABELS = {
    "bench": "bench",
    "platform": "Platform",
    "cpu": "CPU",
    "cores": "Cores",
    "threads": "Threads of a run",
    "gpu": "GPU",
    "git.commit": "Git commit",
    "git.dirty": "Uncommitted changes",
}


def environment_table(records: Iterable[Record]) -> Table:
    """One column an environment, the most used first; a line whose values differ is marked."""
    counts: dict[str, int] = {}
    for record in records:
        key = json.dumps(record.environment, sort_keys=True)
        counts[key] = counts.get(key, 0) + 1
    ordered = sorted(counts, key=lambda key: (-counts[key], key))
    environments = [_flat(json.loads(key)) for key in ordered]
    names = list(dict.fromkeys(name for environment in environments for name in environment))
    names.sort(key=lambda name: (list(_LABELS).index(name) if name in _LABELS else len(_LABELS), name))
    lines = []
    for name in names:
        values = [environment.get(name, "—") for environment in environments]
        differs = len(set(values)) > 1
        label = _LABELS.get(name, name.removeprefix("packages."))
        lines.append((Cell(label, "differs" if differs else ""), *(Cell(value) for value in values)))
    columns = [Column("", numeric=False)]
    columns += [Column(text.plural(counts[key], "run"), numeric=False) for key in ordered]
    notes = []
    if any(environment.get("git.dirty") == "yes" for environment in environments):
        notes.append("Uncommitted changes: the commit alone does not give the code that made those runs.")
    return Table("environment", "Environment", tuple(columns), (Band("", tuple(lines)),), tuple(notes))


def _flat(environment: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in environment.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is None:
            flat[prefix + key] = "unknown" if prefix == "git." else "none"
        elif isinstance(value, bool):
            flat[prefix + key] = "yes" if value else "no"
        else:
            flat[prefix + key] = str(value)
    return flat
