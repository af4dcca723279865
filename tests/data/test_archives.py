"""Archives that are damaged or hostile: unpacked whole, or refused with nothing left and nothing outside."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.data.archives import RECEIPT, Limits, unpack
from bench.errors import DataError

LIMITS = Limits(bytes=8 << 20, members=50)
GOOD = {"set/images/a/1.jpg": b"one" * 500, "set/images/b/2.jpg": random.Random(0).randbytes(40_000), "set/list": b""}

Build = Callable[[Path, Mapping[str, bytes]], Path]


def make_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


def make_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    return tar_of(path, *((tarfile.TarInfo(name), content) for name, content in files.items()))


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w") as archive:
        for info, content in members:
            if info.isreg():
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def special(name: str, kind: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b""


KINDS: dict[str, Build] = {"set.zip": make_zip, "set.tgz": make_tar, "set.tar.gz": make_tar, "set.tar": make_tar}
every_kind = pytest.mark.parametrize("kind", KINDS)


def listing(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def refused(tmp_path: Path, archive: Path, match: str, limits: Limits = LIMITS, inner: str = "") -> None:
    """Unpacking two folders down is refused, and leaves all of `tmp_path` as it was."""
    (tmp_path / "data").mkdir()
    before = listing(tmp_path)
    with pytest.raises(DataError, match=match) as caught:
        unpack(archive, tmp_path / "data/set", limits, inner=inner)
    assert str(archive) in str(caught.value)
    assert listing(tmp_path) == before


@every_kind
def test_whole(tmp_path: Path, kind: str) -> None:
    archive = KINDS[kind](tmp_path / kind, GOOD)
    assert unpack(archive, tmp_path / "deep/er/target", LIMITS, receipt="from there") == 3
    found = listing(tmp_path / "deep/er/target")
    assert found.pop(RECEIPT) == b"from there"
    assert {name: content for name, content in found.items() if content is not None} == GOOD
    assert {path.name for path in (tmp_path / "deep/er").iterdir()} == {"target"}


@every_kind
def test_inner_folder_becomes_the_target(tmp_path: Path, kind: str) -> None:
    archive = KINDS[kind](tmp_path / kind, GOOD | {"README": b"beside", "settings/x": b"begins alike"})
    assert unpack(archive, tmp_path / "target", LIMITS, inner="set/images") == 2
    assert set(listing(tmp_path / "target")) == {"a", "a/1.jpg", "b", "b/2.jpg", RECEIPT}


@every_kind
def test_inner_folder_that_is_not_there(tmp_path: Path, kind: str) -> None:
    refused(tmp_path, KINDS[kind](tmp_path / kind, GOOD), "holds no file in a folder other", inner="other")


@every_kind
def test_inner_folder_that_is_a_file(tmp_path: Path, kind: str) -> None:
    refused(tmp_path, KINDS[kind](tmp_path / kind, GOOD), "'set/list' is a file", inner="set/list")


def test_folder_entries_and_leading_dots(tmp_path: Path) -> None:
    folders = [special(name, tarfile.DIRTYPE) for name in (".", "./set", "./set/empty", "./set")]
    file = tarfile.TarInfo("./set/a.txt")
    archive = tar_of(tmp_path / "set.tgz", *folders, (file, b"a"))
    assert unpack(archive, tmp_path / "target", LIMITS, inner="set") == 1
    assert set(listing(tmp_path / "target")) == {"empty", "a.txt", RECEIPT}


@every_kind
@pytest.mark.parametrize(
    "name",
    ["../evil", "set/../../evil", "/tmp/evil", "//evil", "set/..", "..\\evil", "C:/evil", "C:evil", "a//b", "set/a\\b"],
)
def test_names_that_lead_outside(tmp_path: Path, kind: str, name: str) -> None:
    archive = KINDS[kind](tmp_path / kind, GOOD | {name: b"evil"})
    refused(tmp_path, archive, "leads outside")


@every_kind
def test_a_name_outside_the_inner_folder_is_checked_too(tmp_path: Path, kind: str) -> None:
    refused(tmp_path, KINDS[kind](tmp_path / kind, GOOD | {"../evil": b""}), "leads outside", inner="set")


@every_kind
@pytest.mark.parametrize("name", ["set/a\nb", "set/\x1b[2J", f"set/{RECEIPT}", "x/" * 600 + "x"])
def test_names_that_no_data_set_has(tmp_path: Path, kind: str, name: str) -> None:
    refused(tmp_path, KINDS[kind](tmp_path / kind, GOOD | {name: b""}), "is no name of a data set's file")


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (tarfile.SYMTYPE, "/etc"),
        (tarfile.SYMTYPE, "../../outside"),
        (tarfile.SYMTYPE, "set/list"),
        (tarfile.LNKTYPE, "../../outside"),
        (tarfile.LNKTYPE, "set/list"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_tar_links_and_devices(tmp_path: Path, kind: bytes, link: str) -> None:
    (tmp_path / "outside").write_text("untouched")
    through = tarfile.TarInfo("set/door/evil")
    good = tarfile.TarInfo("set/list")
    archive = tar_of(tmp_path / "set.tgz", (good, b"x"), special("set/door", kind, link), (through, b"evil"))
    refused(tmp_path, archive, "'set/door' is a link or a device")


@pytest.mark.parametrize("mode", [0o120777, 0o020666, 0o060666, 0o010666, 0o140777])
def test_zip_links_and_devices(tmp_path: Path, mode: int) -> None:
    archive = make_zip(tmp_path / "set.zip", GOOD)
    with zipfile.ZipFile(archive, "a") as more:
        info = zipfile.ZipInfo("set/door")
        info.external_attr = mode << 16
        more.writestr(info, "../../outside")
        more.writestr("set/door/evil", "evil")
    refused(tmp_path, archive, "'set/door' is a link or a device")


def test_encrypted_zip(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "set.zip", {"a": b"secret"})
    raw = bytearray(archive.read_bytes())
    raw[raw.index(b"PK\x03\x04") + 6] |= 1
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(raw)
    refused(tmp_path, archive, "is encrypted")


@every_kind
@pytest.mark.parametrize(
    "names",
    [
        ("set/A.jpg", "set/a.jpg"),
        ("set/STRASSE", "set/straße"),
        ("set/caf\u00e9", "set/cafe\u0301"),
        ("set/Dir/x", "set/dir/y"),
        ("set/a", "set/a/b"),
        ("set/a/b", "set/a"),
        ("set/x", "set/./x"),
    ],
)
def test_two_names_for_one_place(tmp_path: Path, kind: str, names: tuple[str, str]) -> None:
    refused(tmp_path, KINDS[kind](tmp_path / kind, dict.fromkeys(names, b"x")), "would be one file")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@every_kind
def test_one_name_twice(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind.endswith("zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("set/a", "1")
            archive.writestr("set/a", "2")
    else:
        tar_of(path, (tarfile.TarInfo("set/a"), b"1"), (tarfile.TarInfo("set/a"), b"2"))
    refused(tmp_path, path, "would be one file")


@pytest.mark.parametrize("kind", ["set.zip", "set.tgz"])
@pytest.mark.parametrize("inner", ["", "set"])
def test_bomb_by_ratio(tmp_path: Path, kind: str, inner: str) -> None:
    archive = KINDS[kind](tmp_path / kind, {"set/a": b"a", "bomb": bytes(6 << 20)})
    assert archive.stat().st_size < 20_000
    refused(tmp_path, archive, "would unpack to more than 1,048,576 bytes", inner=inner)


@every_kind
def test_more_bytes_than_the_data_set_has(tmp_path: Path, kind: str) -> None:
    archive = KINDS[kind](tmp_path / kind, GOOD)
    refused(tmp_path, archive, "would unpack to more than 40,000 bytes", Limits(40_000, 50))


@every_kind
def test_too_many_members(tmp_path: Path, kind: str) -> None:
    archive = KINDS[kind](tmp_path / kind, {f"set/{number}": b"" for number in range(51)})
    refused(tmp_path, archive, "more than 50 members")


def test_tar_header_bomb(tmp_path: Path) -> None:
    """A name of 300 MB, told in an extended header, is not read into memory."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 300 << 20
    path = tmp_path / "set.tgz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        for _ in range(300):
            file.write(b"a" * (1 << 20))
    refused(tmp_path, path, "would unpack to more than")


def test_tar_negative_size(tmp_path: Path) -> None:
    """Sizes below zero would make tarfile read the same headers for ever."""
    info = tarfile.TarInfo("set/a")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfc\x00"  # -1024 in base 256
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    path = tmp_path / "set.tar"
    path.write_bytes(bytes(header) * 3 + bytes(1024))
    refused(tmp_path, path, "would unpack to more than")


@pytest.mark.parametrize("kind", ["set.zip", "set.tgz"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_cut_short(tmp_path: Path, kind: str, keep: float) -> None:
    archive = KINDS[kind](tmp_path / kind, GOOD)
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * keep)])
    refused(tmp_path, archive, "cannot be unpacked|is cut short")


def test_tar_cut_between_two_members(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "set.tar", {"set/a": b"a" * 512, "set/b": b"b" * 512})
    archive.write_bytes(archive.read_bytes()[:1024])
    refused(tmp_path, archive, "is cut short or damaged")


def test_tar_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "set.tar", {"set/a": b"a" * 512, "set/b": b"b" * 512})
    raw = bytearray(archive.read_bytes())
    raw[1024] ^= 1
    archive.write_bytes(raw)
    refused(tmp_path, archive, "is cut short or damaged")


@every_kind
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", bytes(2048), b"PK\x03\x04" + b"x" * 3000])
def test_no_archive(tmp_path: Path, kind: str, content: bytes) -> None:
    (tmp_path / kind).write_bytes(content)
    refused(tmp_path, tmp_path / kind, "cannot be unpacked|is cut short|holds no file")


def test_unknown_kind(tmp_path: Path) -> None:
    (tmp_path / "set.rar").write_bytes(b"Rar!")
    refused(tmp_path, tmp_path / "set.rar", "no archive of a known kind")


def test_what_is_there_is_not_touched(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "set.zip", GOOD)
    (tmp_path / "target").mkdir()
    (tmp_path / "target/mine").write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        unpack(archive, tmp_path / "target", LIMITS)
    assert listing(tmp_path / "target") == {"mine": b"mine"}


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".target.tmp/set").mkdir(parents=True)
    (tmp_path / ".target.tmp/set/half").write_text("half")
    (tmp_path / "target").mkdir()
    unpack(make_zip(tmp_path / "set.zip", {"set/whole": b"w"}), tmp_path / "target", LIMITS)
    assert set(listing(tmp_path)) == {"set.zip", "target", "target/set", "target/set/whole", f"target/{RECEIPT}"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(list(KINDS)),
    changes=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), min_size=1, max_size=8),
    inside=st.booleans(),
)
def test_damage_anywhere(tmp_path_factory, kind: str, changes: list[tuple[float, int]], inside: bool) -> None:
    """Changed bytes (of the archive, or under gzip's checksum) end in a DataError, or change only contents of files."""
    folder = tmp_path_factory.mktemp("fuzz")
    archive = KINDS[kind](folder / kind, GOOD)
    gzipped = kind.endswith("gz") and inside
    raw = bytearray(gzip.decompress(archive.read_bytes()) if gzipped else archive.read_bytes())
    for where, value in changes:
        raw[int(where * len(raw))] = value
    archive.write_bytes(gzip.compress(raw) if gzipped else raw)
    try:
        unpack(archive, folder / "data/set", LIMITS)
    except DataError:
        assert not (folder / "data").exists() or not any((folder / "data").iterdir())
    assert {path.name for path in folder.iterdir()} <= {kind, "data"}
