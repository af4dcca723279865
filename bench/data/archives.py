"""Unpacking an archive that came over a network: nothing it says about itself is believed.

Tar and zip obey one set of rules: plain files and folders only (no data set needs a link, so none is ever made and
none can lead outside), names that stay below the target on every system, no two names that some file system takes
for one, bounded bytes and members. tarfile's `filter="data"` is not enough for this: it lets links and doubles pass.
The target appears in one rename when everything is there.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from bench.errors import DataError

RECEIPT = ".fetched.json"  # written into each unpacked folder: which archive it came from

_RATIO = 50  # unpacked bytes per byte of archive; lists in text reach 20, photographs 1
_ALWAYS = 1 << 20  # unpacked bytes that any archive may have, however small it is
_CHUNK = 1 << 20
_HEADER = 16 << 20  # most bytes tarfile may ask for at once; only forged extended headers are larger
_NAME = 1024  # characters of a path
_PER_MEMBER = 4096  # bytes of headers and padding around a tar member

_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,
    OSError,
)


class Limits(NamedTuple):
    """What an archive may unpack to at most."""

    bytes: int
    members: int


class _Member(NamedTuple):
    name: str
    size: int
    folder: bool
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, target: Path, limits: Limits, *, inner: str = "", receipt: str = "") -> int:
    """Unpack into the new folder `target`, whole or not at all; returns the number of files.

    Args:
        archive: a .zip, .tar, .tar.gz or .tgz file.
        target: must not exist, or be empty.
        limits: most bytes and members; many more bytes than the archive has are refused too.
        inner: only this folder of the archive, which becomes the target; the rest is checked but not written.
        receipt: content of the file `.fetched.json` in the target.

    Raises:
        DataError: not an archive, damaged, beyond a limit, a member that breaks the rules; or the disk is full.
    """
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if target.exists() or target.is_symlink():
        raise DataError(f"{target}: exists already; move it away to unpack {archive} there.")
    # Not `target.tmp`: loaders look into folders whose names begin with that of the data set.
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        if temporary.exists():  # a killed run left it
            shutil.rmtree(temporary)
        temporary.mkdir(parents=True)
        files = _write(archive, temporary, limits, inner)
        (temporary / RECEIPT).write_text(receipt, "utf-8")
        os.rename(temporary, target)
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise DataError(
            f"{archive}: cannot be unpacked into {target} ({reason}). If the disk has room, the file is damaged: "
            "remove it and fetch it again."
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return files


def _write(archive: Path, root: Path, limits: Limits, inner: str) -> int:
    most = min(limits.bytes, max(_ALWAYS, _RATIO * archive.stat().st_size))
    names = _Names(archive)
    depth = len(Path(inner).parts)
    total = files = 0
    for count, member in enumerate(_members(archive, Limits(most, limits.members)), 1):
        if count > limits.members:
            raise DataError(f"{archive}: has more than {limits.members:,} members, so it is not what was expected.")
        total += max(0, member.size)
        if member.size < 0 or total > most:
            raise _too_large(archive, most)
        parts = names.take(member)
        if parts[:depth] != Path(inner).parts:
            continue
        place = root.joinpath(*parts[depth:])
        if member.folder:
            place.mkdir(parents=True, exist_ok=True)
        elif len(parts) == depth:
            raise DataError(f"{archive}: '{member.name}' is a file, expected a folder.")
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            _copy(archive, member, place)
            files += 1
    if files == 0:
        raise DataError(f"{archive}: holds no file{f' in a folder {inner}' if inner else ''}.")
    return files


def _copy(archive: Path, member: _Member, place: Path) -> None:
    written = 0
    with member.open() as source, place.open("xb") as file:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > member.size:
                break
            file.write(chunk)
    if written != member.size:
        raise DataError(f"{archive}: '{member.name}' has not the {member.size:,} bytes it announces.")


class _Names:
    """The names taken so far, as a file system would see that ignores case and Unicode forms."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._taken: dict[str, tuple[tuple[str, ...], bool]] = {}

    def take(self, member: _Member) -> tuple[str, ...]:
        """The parts of a member's path, checked.

        Raises:
            DataError: it leads outside, or is no name on some system, or collides with an earlier one.
        """
        name = member.name
        parts = tuple(part for part in name.rstrip("/").split("/") if part != ".")
        if name.startswith("/") or ".." in parts or "" in parts or set(name) & set("\\:"):
            raise DataError(f"{self._archive}: '{name}' leads outside the folder to unpack to. Do not use this file.")
        if not name.isprintable() or len(name) > _NAME or RECEIPT in parts:
            raise DataError(f"{self._archive}: {name[:80]!r} is no name of a data set's file. Do not use this file.")
        if not parts and not member.folder:
            raise DataError(f"{self._archive}: has a file without a name.")
        for length in range(1, len(parts) + 1):
            self._add(parts[:length], member.folder or length < len(parts))
        return parts

    def _add(self, parts: tuple[str, ...], folder: bool) -> None:
        key = unicodedata.normalize("NFC", "/".join(parts)).casefold()
        earlier = self._taken.get(key)
        if earlier is not None and not (folder and earlier == (parts, True)):
            one, other = "/".join(parts), "/".join(earlier[0])
            raise DataError(
                f"{self._archive}: '{one}' and '{other}' would be one file. The archive is damaged or hostile."
            )
        self._taken[key] = (parts, folder)


def _members(archive: Path, limits: Limits) -> Iterator[_Member]:
    name = archive.name.lower()
    if name.endswith(".zip"):
        return _zip_members(archive)
    if name.endswith((".tgz", ".tar.gz", ".tar")):
        return _tar_members(archive, limits)
    raise DataError(f"{archive}: is no archive of a known kind (.zip, .tar, .tar.gz, .tgz).")


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as whole:
        for info in whole.infolist():
            if info.flag_bits & 0x41:
                raise DataError(f"{archive}: '{info.filename}' is encrypted; unpack it yourself with its password.")
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _not_plain(archive, info.filename)
            # zipfile cuts names at a NUL; the whole name is the one to judge.
            name = info.orig_filename if "\0" in info.orig_filename else info.filename
            yield _Member(name, info.file_size, info.is_dir(), partial(whole.open, info))


def _tar_members(archive: Path, limits: Limits) -> Iterator[_Member]:
    most = limits.bytes + limits.members * _PER_MEMBER + _CHUNK
    with archive.open("rb") if archive.suffix == ".tar" else gzip.open(archive) as file:
        bounded = _Bounded(archive, file, most)  # type: ignore[arg-type]
        with tarfile.open(fileobj=bounded, mode="r:") as whole:
            for info in whole:
                if info.issparse() or not (info.isreg() or info.isdir()):
                    raise _not_plain(archive, info.name)
                yield _Member(info.name, info.size, info.isdir(), partial(_opened, whole, info))
        # tarfile takes a damaged header for the end; the true end is a block of zeros.
        if bounded.last != bytes(tarfile.BLOCKSIZE):
            raise DataError(f"{archive}: is cut short or damaged. Remove it and fetch it again.")
        while bounded.read(_CHUNK):  # to the end, where gzip compares its checksum
            pass


def _opened(whole: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = whole.extractfile(info)
    if file is None:
        raise tarfile.ReadError(f"'{info.name}' has no content")
    return file


class _Bounded(io.RawIOBase):
    """What tarfile reads from: refuses to go beyond a position, or to read much at once."""

    def __init__(self, archive: Path, file: IO[bytes], most: int) -> None:
        self._archive, self._file, self._most = archive, file, most
        self.last = b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _HEADER or self._file.tell() + size > self._most + _HEADER:
            raise _too_large(self._archive, self._most)
        self.last = self._file.read(size)
        if self._file.tell() > self._most:
            raise _too_large(self._archive, self._most)
        return self.last

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET or not 0 <= position <= self._most:
            raise _too_large(self._archive, self._most)
        return self._file.seek(position)

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _too_large(archive: Path, most: int) -> DataError:
    return DataError(f"{archive}: would unpack to more than {most:,} bytes, so it is not what was expected.")


def _not_plain(archive: Path, name: str) -> DataError:
    return DataError(
        f"{archive}: '{name}' is a link or a device, and a data set has plain files only. Do not use this file."
    )
