"""Records on disk: written to a temporary folder and renamed, never overwritten, claimed while being made.

<root>/runs/<protocol>/<dataset>/<method>/<run id>/record.json      a finished run
<root>/runs/<protocol>/<dataset>/<method>/<run id>.failed-1/…       an attempt that failed
<root>/runs/<protocol>/<dataset>/<method>/.<run id>.work/           checkpoints of a run in progress
<root>/runs/<protocol>/<dataset>/<method>/.<run id>.lock            its claim

Trials of a search lie in a store of their own under <results>/tuning, where no report looks.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from bench.record import Record, RunSpec


class Store:
    """The records under one results folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.problems: list[str] = []
        self._folders: dict[tuple[str, str], Path] = {}

    def path(self, spec: RunSpec) -> Path:
        """Folder of the finished run of `spec`, whether it exists or not."""
        return self.root / "runs" / spec.protocol / spec.dataset / spec.method / spec.run_id

    def work(self, spec: RunSpec) -> Path:
        """Folder of checkpoints while `spec` is being run."""
        final = self.path(spec)
        return final.with_name(f".{final.name}.work")

    def is_done(self, spec: RunSpec) -> bool:
        """Whether a finished record of `spec` exists."""
        return (self.path(spec) / "record.json").is_file()

    def load(self, spec: RunSpec) -> Record:
        """The finished record of `spec`."""
        return Record.model_validate_json((self.path(spec) / "record.json").read_bytes())

    def last_attempt(self, spec: RunSpec) -> Record | None:
        """The latest failed attempt at `spec` that can be read."""
        final = self.path(spec)
        attempts = final.parent.glob(f"{final.name}.failed-*/record.json")
        for file in sorted(attempts, key=lambda file: int(file.parent.name.rpartition("-")[2]), reverse=True):
            try:
                return Record.model_validate_json(file.read_bytes())
            except (OSError, ValidationError):
                continue
        return None

    def unfinished(self) -> list[Path]:
        """Runs with checkpoints but no finished record, as protocol/dataset/method/run id."""
        base = self.root / "runs"
        return [
            place.relative_to(base).with_name(place.name.removeprefix(".").removesuffix(".work"))
            for place in sorted(base.rglob(".*.work"))
        ]

    def records(self) -> list[Record]:
        """One record a run id: the finished one, else the latest failed attempt. Sorted by place.

        Unreadable ones are skipped and described in `problems`.
        """
        self.problems = []
        newest: dict[str, Record] = {}
        for file in sorted((self.root / "runs").rglob("record.json")):
            if any(part.startswith(".") for part in file.relative_to(self.root).parts):
                continue
            try:
                record = Record.model_validate_json(file.read_bytes())
            except (OSError, ValidationError) as error:
                self.problems.append(f"{file}: unreadable record ({type(error).__name__}), skipped")
                continue
            self._folders[record.run_id, record.started] = file.parent
            known = newest.get(record.run_id)
            if known is None or record.state == "done" or (known.state != "done" and record.started > known.started):
                newest[record.run_id] = record
        return list(newest.values())

    def folder(self, record: Record) -> Path:
        """Where the record and its artefacts lie."""
        found = self._folders.get((record.run_id, record.started))
        return found if found is not None else self.path(record.spec)

    @contextmanager
    def claim(self, spec: RunSpec, timeout: float = -1) -> Iterator[bool]:
        """Hold the claim on a run; yields False if another live process held it until the timeout (seconds).

        The claim is a lock of the operating system: it ends with the process that holds it, however it ends.
        """
        final = self.path(spec)
        final.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(final.with_name(f".{final.name}.lock"))
        try:
            lock.acquire(timeout=timeout)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            if self.is_done(spec):
                Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

    def write(self, record: Record, artefacts: Path | None = None) -> Path:
        """Put a record in place in one rename; `artefacts` is a folder whose files come along.

        A finished record ends the run: its checkpoints are removed. A failed one keeps them, so that
        a later attempt resumes, and takes the next free attempt number.
        """
        final = self.path(record.spec)
        if record.state != "done":
            attempt = 1
            while (taken := final.with_name(f"{final.name}.failed-{attempt}")).exists():
                attempt += 1
            final = taken
        staging = final.with_name(f".{final.name}.staging-{os.getpid()}")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            if artefacts is not None:
                for file in sorted(artefacts.iterdir()):
                    shutil.copy2(file, staging / file.name)
            with (staging / "record.json").open("w", encoding="utf-8") as out:
                out.write(record.model_dump_json(indent=1))
                out.flush()
                os.fsync(out.fileno())
            staging.rename(final)
        except OSError:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        if record.state == "done":
            shutil.rmtree(self.work(record.spec), ignore_errors=True)
        return final


def write_whole(path: Path, text: str) -> None:
    """Write a file in one rename: whoever reads it finds the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, path)
