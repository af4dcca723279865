"""Getting a data set's files: from `sources.yaml` to checked, unpacked folders.

Each step can be cut off and done again: a download goes on from `NAME.part`, an archive has its own name only when it
is whole and its hash is right, a folder appears when everything is unpacked, and what is there is not done twice.
Files without an address are found in `DATA/downloads/` if the user put them there, and treated alike.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from bench import yaml_file
from bench.data import archives
from bench.data.download import Patience, download, forget
from bench.errors import DataError, UsageError

DOWNLOADS = "downloads"
SOURCES = Path(__file__).with_name("sources.yaml")

_CHUNK = 1 << 20


def _address(url: str) -> str:
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("must begin with http:// or https://")
    return url


def _below(place: str) -> str:
    path = PurePosixPath(place)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in place:
        raise ValueError("must be a place below the data folder")
    return place


def _plain(name: str) -> str:
    if not name or Path(name).name != name or name.startswith("."):
        raise ValueError("must be a file name without a folder")
    return name


_Url = Annotated[str, AfterValidator(_address)]
_Place = Annotated[str, AfterValidator(_below)]
_Name = Annotated[str, AfterValidator(_plain)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Unpack(_Strict):
    """What becomes of an archive: the folder `inner` of it becomes the folder `into` of the data folder."""

    into: _Place
    inner: _Place | None = None
    most_bytes: PositiveInt
    most_members: PositiveInt


class File(_Strict):
    """One file of a data set: either unpacked, or kept in a folder of the data folder."""

    name: _Name
    urls: tuple[_Url, ...] = ()
    size: PositiveInt | None = None
    md5: str | None = Field(None, pattern="^[0-9a-f]{32}$")
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    unpack: Unpack | None = None
    keep: _Place | None = None

    @model_validator(mode="after")
    def _one_use(self) -> File:
        if (self.unpack is None) == (self.keep is None):
            raise ValueError("needs either unpack or keep")
        return self

    def place(self, data: Path) -> Path:
        """Where it ends up: the unpacked folder, or the kept file."""
        return data / self.keep / self.name if self.keep else data / (self.unpack.into if self.unpack else "")

    def facts(self) -> str:
        """Size and hash, for people to compare."""
        known = [f"{self.size:,} bytes"] if self.size else []
        known += [f"MD5 {self.md5}"] if self.md5 else [f"SHA-256 {self.sha256}"] if self.sha256 else []
        return f" ({', '.join(known)})" if known else ""


class Source(_Strict):
    """How to come by a data set.

    Attributes:
        files: what is fetched.
        get: what the user has to do where files have no address; `{data}` is replaced.
        nothing_to_fetch: why there is nothing to do at all.
        terms: printed before a download.
    """

    files: tuple[File, ...] = ()
    get: str = ""
    nothing_to_fetch: str = ""
    terms: str = ""

    @model_validator(mode="after")
    def _says_something(self) -> Source:
        if not all(file.urls for file in self.files) and not self.get:
            raise ValueError("needs 'get' where files have no urls")
        if not (self.files or self.get or self.nothing_to_fetch):
            raise ValueError("needs files, get or nothing_to_fetch")
        return self


@dataclass(frozen=True)
class Manner:
    """How a fetch behaves; `say` shows a line to the user."""

    keep_archives: bool = False
    progress: bool = False
    say: Callable[[str], None] = print
    patience: Patience = field(default_factory=Patience)


def read_sources(path: Path = SOURCES) -> dict[str, Source]:
    """The sources in a YAML file, by data set.

    Raises:
        UsageError: not readable, or a value is not allowed; names file and key.
    """
    found = {}
    for name, entry in yaml_file.read(path).items():
        try:
            found[name] = Source.model_validate(entry)
        except ValidationError as error:
            raise UsageError(yaml_file.explain(f"{path}, data set '{name}'", error, Source)) from None
    return found


def fetch(name: str, source: Source, data: Path, manner: Manner = Manner()) -> None:
    """Bring all files of a data set to their places in `data`; what is there already is left alone.

    Raises:
        DataError: a file has no address (says what to get and where to put it), could not be fetched, has the wrong
            hash, cannot be unpacked; a folder of another origin is in the way; the disk is too small.
    """
    if source.nothing_to_fetch:
        manner.say(source.nothing_to_fetch.format(data=data).strip())
        return
    to_get = [file for file in source.files if not file.urls and not file.place(data).exists()]
    lacking = tuple(file for file in to_get if not _archive(file, data).is_file())
    if lacking or not source.files:
        raise _by_hand(name, source, lacking, data)
    with _alone(name, data, manner.say):
        todo = [file for file in source.files if not _done(file, data, manner.say)]
        if todo and source.terms:
            manner.say(f"terms: {source.terms.strip()}")
        _check_space(todo, data)
        for file in todo:
            try:
                _bring(file, data, manner)
            except OSError as error:
                raise DataError(f"{error.filename or data}: cannot be written or read ({error.strerror}).") from None


def _bring(file: File, data: Path, manner: Manner) -> None:
    path, place = _archive(file, data), file.place(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = path.is_file()
    digest = _checked(file, path, path) if found else _downloaded(file, path, manner)
    if not (file.md5 or file.sha256):
        manner.say(f"{file.name}: no hash is published, so it could not be checked. Its SHA-256 is {digest}")
    if file.unpack:
        manner.say(f"unpacking {file.name} into {place}")
        limits = archives.Limits(file.unpack.most_bytes, file.unpack.most_members)
        receipt = json.dumps({"archive": file.name, "sha256": digest})
        count = archives.unpack(path, place, limits, inner=file.unpack.inner or "", receipt=receipt)
        manner.say(f"{place}: {count:,} files")
        if found:
            manner.say(f"{path}: was there before and stays; remove it if you do not need it")
        elif not manner.keep_archives:
            path.unlink()
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, place)
        manner.say(f"{place}: is there")
    if not any(path.parent.iterdir()):
        path.parent.rmdir()


def _downloaded(file: File, path: Path, manner: Manner) -> str:
    part = path.with_name(path.name + ".part")
    faults = []
    for url in file.urls:
        manner.say(f"fetching {url}")
        try:
            download(url, part, file.size, manner.patience, manner.progress)
        except DataError as error:
            faults.append(f"\n  {url}: {error}")
            continue
        try:
            digest = _checked(file, part, path)
        except DataError as error:
            faults.append(f"\n  {url}: {error}")
            forget(part)
            continue
        os.replace(part, path)
        forget(part)
        return digest
    raise DataError(
        f"{file.name} could not be fetched:{''.join(faults)}\nThe same command tries again and goes on where it "
        f"stopped. Or get the file{file.facts()} elsewhere, put it at {path}, and start the same command."
    )


def _checked(file: File, found: Path, path: Path) -> str:
    """The SHA-256 of a file whose size and hashes are right; a wrong one is moved aside."""
    wrong = path.with_name(path.name + ".wrong")
    fault, digest = _fault(file, found)
    if not fault:
        return digest
    os.replace(found, wrong)
    raise DataError(
        f"{file.name} is not the expected file: {fault}. It was moved to {wrong}; look whether it is an error page "
        "or another version, remove it, and fetch again."
    )


def _fault(file: File, path: Path) -> tuple[str, str]:
    """What is wrong with a file ("": nothing), and its SHA-256."""
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    with path.open("rb") as content:
        while chunk := content.read(_CHUNK):
            md5.update(chunk)
            sha256.update(chunk)
    size = path.stat().st_size
    pairs: Mapping[str, tuple[object, object]] = {
        "bytes": (file.size, size),
        "MD5": (file.md5, md5.hexdigest()),
        "SHA-256": (file.sha256, sha256.hexdigest()),
    }
    faults = [f"{what} expected {want}, found {got}" for what, (want, got) in pairs.items() if want not in (None, got)]
    return "; ".join(faults), sha256.hexdigest()


def _done(file: File, data: Path, say: Callable[[str], None]) -> bool:
    place = file.place(data)
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return False
    if file.unpack and not _has_receipt(file, place):
        raise DataError(
            f"{place}: is there already, but was not unpacked from {file.name}{file.facts()} by this command. Keep "
            "it if `bench data verify` calls it complete; else move it away and fetch again."
        )
    if file.keep and (fault := _fault(file, place)[0]):
        raise DataError(f"{place}: is there already, but {fault}. Move it away and fetch again.")
    say(f"{place}: is there already")
    return True


def _has_receipt(file: File, place: Path) -> bool:
    try:
        receipt = json.loads((place / archives.RECEIPT).read_text("utf-8"))
        return bool(receipt["archive"] == file.name and file.sha256 in (None, receipt["sha256"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _archive(file: File, data: Path) -> Path:
    return data / DOWNLOADS / file.name


def _check_space(todo: list[File], data: Path) -> None:
    """Room for what is still to come, where sizes are known; photographs unpack to about the archive's size."""
    need = 0
    for file in todo:
        path = _archive(file, data)
        here = max((p.stat().st_size for p in (path, path.with_name(path.name + ".part")) if p.is_file()), default=0)
        size = file.size or here
        need += max(0, size - here) + (size if file.unpack else 0)
    free = shutil.disk_usage(data).free
    if need > free:
        raise DataError(
            f"{data}: has {free / 1e9:.1f} GB free, but {need / 1e9:.1f} GB are needed (archive and unpacked "
            "files). Make room, or name a folder on another disk with --data DIR."
        )


def _by_hand(name: str, source: Source, lacking: tuple[File, ...], data: Path) -> DataError:
    lines = [f"'{name}' cannot be fetched by a program. {source.get.format(data=data).strip()}"]
    if lacking:
        lines.append(f"Put these files into {data / DOWNLOADS} and start the same command: it checks and unpacks them.")
        lines += [f"  {file.name}{file.facts()}" for file in lacking]
    return DataError("\n".join(lines))


@contextmanager
def _alone(name: str, data: Path, say: Callable[[str], None]) -> Iterator[None]:
    """One fetch of a data set at a time; the lock is released when its process dies."""
    lock = FileLock(data / f".fetch-{name}.lock")
    try:
        data.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another process is fetching '{name}' into {data}: waiting for it")
            lock.acquire()
    except OSError as error:
        raise DataError(f"{data}: cannot be written ({error}). Name another folder with --data DIR.") from None
    try:
        yield
    finally:
        lock.release()
