"""Regression check: every method under the `ci` protocol against committed baselines.

Where the platform and all package versions match those of the baseline, every number must be equal
to the last bit. Elsewhere rounding differs and training amplifies it, so the bands below hold.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import home, machine
from bench.errors import UsageError
from bench.record import Record

PROTOCOL, DATASET = "ci", "glyphs"
METRIC_BAND = 0.03  # absolute, metrics are fractions
LOSS_BAND = 0.02  # relative, on the mean loss before the first evaluation
FILE = Path("results/reference/ci.json")


@dataclass(frozen=True)
class Difference:
    """One number that is not what the baseline says."""

    method: str
    what: str
    expected: float | str | None
    found: float | str | None
    allowed: str

    def __str__(self) -> str:
        moved = ""
        if isinstance(self.expected, float) and isinstance(self.found, float):
            moved = f" ({self.found - self.expected:+.6g})"
        return f"{self.method:<24} {self.what:<28} {_show(self.expected)} -> {_show(self.found)}{moved}, {self.allowed}"


def summarize(records: Iterable[Record]) -> dict[str, dict[str, Any]]:
    """What is compared of each method: state, metrics of the last checkpoint, loss before the first evaluation."""
    return {
        record.spec.method: {
            "state": record.state,
            "metrics": record.metrics.get("last", {}),
            "first_loss": record.curves[0].loss if record.curves else None,
        }
        for record in sorted(records, key=lambda r: r.spec.method)
    }


def load_baseline() -> dict[str, Any]:
    """The committed baseline of the benchmark folder, else the shipped one.

    Raises:
        UsageError: there is none, or it is not readable.
    """
    for folder in home.folders("results/reference"):
        file = folder / FILE.name
        if file.is_file():
            try:
                baseline: dict[str, Any] = json.loads(file.read_text("utf-8"))
            except ValueError as error:
                raise UsageError(f"{file} is not valid JSON ({error}); restore it from version control.") from None
            return baseline
    raise UsageError(f"no baseline {FILE}; make one with: bench check --update --reason 'first baseline'")


def compare(baseline: dict[str, Any], found: dict[str, dict[str, Any]], protocol_hash: str) -> list[Difference]:
    """All differences that matter; exact where the platforms match, within bands otherwise."""
    exact = baseline["fingerprint"] == machine.fingerprint()
    differences = []
    if baseline["protocol_hash"] != protocol_hash:
        differences.append(Difference("(protocol)", PROTOCOL, baseline["protocol_hash"], protocol_hash, "must agree"))
    known = baseline["methods"]
    for method in sorted(set(known) | set(found)):
        if method not in known:
            differences.append(Difference(method, "baseline", "none", "new method", "needs --update"))
        elif method not in found:
            differences.append(Difference(method, "plug-in", "present", "gone", "needs --update"))
        else:
            differences += _compare_method(method, known[method], found[method], exact)
    return differences


def _compare_method(method: str, old: dict[str, Any], new: dict[str, Any], exact: bool) -> list[Difference]:
    if old["state"] != new["state"]:
        return [Difference(method, "state", old["state"], new["state"], "must agree")]
    differences = []
    for metric in sorted(set(old["metrics"]) | set(new["metrics"])):
        a, b = old["metrics"].get(metric), new["metrics"].get(metric)
        limit = 0.0 if exact else METRIC_BAND
        if a is None or b is None or abs(a - b) > limit:
            differences.append(Difference(method, metric, a, b, "must be equal" if exact else f"band {METRIC_BAND}"))
    a, b = old["first_loss"], new["first_loss"]
    limit = 0.0 if exact or a is None else LOSS_BAND * abs(a)
    if (a is None) != (b is None) or (a is not None and abs(a - b) > limit):
        words = "must be equal" if exact else f"band {LOSS_BAND:.0%}"
        differences.append(Difference(method, "loss, first evaluation", a, b, words))
    return differences


def save_baseline(found: dict[str, dict[str, Any]], protocol_hash: str, reason: str) -> Path:
    """Write the numbers found as the new baseline; the reasons of all updates are kept."""
    try:
        history = load_baseline()["history"]
    except UsageError:
        history = []
    entry = {"date": datetime.now(UTC).date().isoformat(), "reason": reason, "commit": machine.git_state()["commit"]}
    content = {
        "dataset": DATASET,
        "protocol": PROTOCOL,
        "protocol_hash": protocol_hash,
        "fingerprint": machine.fingerprint(),
        "history": [*history, entry],
        "methods": found,
    }
    FILE.parent.mkdir(parents=True, exist_ok=True)
    temporary = FILE.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    os.replace(temporary, FILE)
    return FILE


def as_json(differences: list[Difference]) -> list[dict[str, Any]]:
    """Differences as plain values."""
    return [asdict(difference) for difference in differences]


def _show(value: float | str | None) -> str:
    return f"{value:.6f}" if isinstance(value, float) else str(value)
