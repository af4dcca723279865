"""A thorough look at a data set: every image is decoded, copies of one picture are searched for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np

from bench.data import left_out
from bench.data.dataset import Dataset, Labels
from bench.data.findings import EXAMPLES, KINDS, Finding, Instance, finding
from bench.data.health import DIGEST_BYTES, Look, look
from bench.data.left_out import LeftOut, short
from bench.data.threads import in_order


@dataclass(frozen=True)
class Report:
    """What was found, in the order of `findings.KINDS`, and the damaged images, which can be left out."""

    findings: tuple[Finding, ...]
    damaged: LeftOut | None

    @property
    def sound(self) -> bool:
        """Whether there is no problem."""
        return all(found.severity != "problem" for found in self.findings)


def verify(dataset: Dataset, progress: bool = True) -> Report:
    """Decode every image and compare their pixels, on all cores; of each image only a digest stays in memory.

    Args:
        dataset: whole (`catalog.open_whole`), so its counts and labels are checked already.
        progress: show a progress bar.
    """
    from tqdm import tqdm

    seen = _Seen(dataset)
    looks = in_order(look, dataset.images)
    with closing(looks):
        for row, found in enumerate(
            tqdm(looks, "verify", len(dataset.labels), unit="image", disable=None if progress else True)
        ):
            seen.add(row, found)
    cases = seen.cases() | _copies(dataset, seen) | _left_overs(dataset)
    findings = [finding(kind, cases[kind], seen.counts.get(kind)) for kind in KINDS if cases.get(kind)]
    return Report(tuple(findings), seen.damaged())


def settle(dataset: Dataset, report: Report, leave_out: bool) -> Report:
    """Leave the damaged images out, if the user chooses so or did before; then they are no problem any more.

    The list of an earlier choice is written anew, or removed where nothing is damaged now.

    Raises:
        DataError: a class or a side would lose all its images, or the list cannot be written.
    """
    if isinstance(dataset.images, np.ndarray):
        return report
    damaged = report.damaged
    if damaged is None:
        left_out.remove(dataset)
        return report
    if not leave_out and not left_out.place(dataset).exists():
        return report
    left_out.write(dataset, damaged)
    cases = [Instance((image,), reason) for image, reason in zip(damaged.images, damaged.reasons, strict=True)]
    rest = [found for found in report.findings if found.kind not in left_out.FAULTS]
    findings = sorted([*rest, finding("left out", cases)], key=lambda found: KINDS.index(found.kind))
    return replace(report, findings=tuple(findings))


class _Seen:
    """Gathers what was seen of the images."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.digests = np.zeros(len(dataset.labels), np.dtype((np.void, DIGEST_BYTES)))
        self.faults: dict[int, Look] = {}
        self.counts: Counter[str] = Counter()
        self._odd: defaultdict[str, list[Instance]] = defaultdict(list)

    def add(self, row: int, found: Look) -> None:
        if found.fault is not None:
            self.faults[row] = found
            return
        self.digests[row] = np.void(found.digest)
        for oddity in found.oddities:
            self.counts[oddity] += 1
            if len(self._odd[oddity]) < EXAMPLES:
                self._odd[oddity].append(Instance((_name(self.dataset, row),)))

    def cases(self) -> dict[str, list[Instance]]:
        cases = defaultdict(list, self._odd)
        for row, found in self.faults.items():
            cases[str(found.fault)].append(Instance((_name(self.dataset, row),), found.reason))
        return cases

    def damaged(self) -> LeftOut | None:
        rows = [row for row, found in self.faults.items() if found.fault in left_out.FAULTS]
        if not rows:
            return None
        reasons = tuple(self.faults[row].reason for row in rows)
        return LeftOut(tuple(rows), tuple(_name(self.dataset, row) for row in rows), reasons)

    def same(self) -> Iterator[Labels]:
        """Rows of each picture that occurs more than once."""
        rows = np.setdiff1d(np.arange(len(self.digests)), list(self.faults))
        _, which, counts = np.unique(self.digests[rows], return_inverse=True, return_counts=True)
        by_picture = rows[np.argsort(which, kind="stable")]
        starts = np.cumsum(counts) - counts
        for picture in np.flatnonzero(counts > 1):
            yield by_picture[starts[picture] : starts[picture] + counts[picture]]


def _copies(dataset: Dataset, seen: _Seen) -> dict[str, list[Instance]]:
    cases = defaultdict(list)
    trained = np.zeros(len(dataset.labels), dtype=bool)
    trained[dataset.split.train] = True
    for rows in sorted(seen.same(), key=lambda rows: int(rows[0])):
        labels = np.unique(dataset.labels[rows])
        kind = "copy across classes" if len(labels) > 1 else "copy within a class"
        if trained[rows].any() and not trained[rows].all():
            kind = "copy across the split"
        classes = "; ".join(dataset.class_names[label] for label in labels)
        cases[kind].append(Instance(tuple(_name(dataset, int(row)) for row in rows), classes))
    return cases


def _left_overs(dataset: Dataset) -> dict[str, list[Instance]]:
    if isinstance(dataset.images, np.ndarray):
        return {}
    folders = sorted({path.parent for path in dataset.images})
    return {"._ files": [Instance((short(path),)) for folder in folders for path in sorted(folder.glob("._*"))]}


def _name(dataset: Dataset, row: int) -> str:
    return f"image {row}" if isinstance(dataset.images, np.ndarray) else short(dataset.images[row])
