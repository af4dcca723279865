"""`pytest -m parity --parity-report FILE`: which official numbers each method reproduces, and how closely.

A parity test notes what it compared with `record_property("parity", {"method", "vectors", "precision", "error"})`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

Noted = dict[str, dict[str, dict[str, list[Any]]]]


class ParityReport:
    """Collects the notes of passed tests; with several processes, in the one that reports."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.noted: Noted = {}
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self.failed.add(report.nodeid)
        if report.when != "teardown" or report.nodeid in self.failed:
            return
        for name, note in report.user_properties:
            if name == "parity" and isinstance(note, dict):
                by_vectors = self.noted.setdefault(note["method"], {}).setdefault(note["vectors"].split()[0], {})
                cell = by_vectors.setdefault(note["precision"], [0, 0.0])
                cell[0] += 1
                cell[1] = max(cell[1], float(note["error"]))

    def pytest_sessionfinish(self) -> None:
        for by_vectors in self.noted.values():
            for cells in by_vectors.values():
                for cell in cells.values():
                    cell[1] = float(f"{cell[1]:.1e}")
        self.path.write_text(json.dumps(self.noted, indent=1, sort_keys=True) + "\n", "utf-8")
