"""Fetching from a web site on this machine that can be slow, broken, changed, or hostile."""

from __future__ import annotations

import hashlib
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.data.archives import RECEIPT
from bench.data.catalog import dataset_names, open_dataset
from bench.data.download import Patience
from bench.data.fetch import DOWNLOADS, Manner, Source, fetch, read_sources
from bench.errors import DataError, UsageError
from tests.data.test_archives import listing, make_tar, make_zip
from tests.data.web import Site, entry, source

BODY = random.Random(0).randbytes(3_000_000)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as running:
        running.files["/a.bin"] = BODY
        yield running


def get(data: Path, wanted: Source, **manner: Any) -> str:
    said: list[str] = []
    manner.setdefault("patience", Patience(attempts=3, timeout=5, pause=0))
    fetch("set", wanted, data, Manner(say=said.append, **manner))
    return "\n".join(said)


def visible(data: Path) -> set[str]:
    return {name for name in listing(data) if not name.startswith(".fetch-")}


def test_a_file_is_fetched_once(site: Site, tmp_path: Path) -> None:
    wanted = source(entry(BODY, site.url + "/a.bin"), terms="research only")
    assert "terms: research only" in get(tmp_path / "new/data", wanted)
    assert (tmp_path / "new/data/set/a.bin").read_bytes() == BODY
    assert visible(tmp_path / "new/data") == {"set", "set/a.bin"}
    assert "is there already" in get(tmp_path / "new/data", wanted)
    assert site.seen == [("/a.bin", None)]


def test_a_cut_connection_goes_on_where_it_stopped(site: Site, tmp_path: Path) -> None:
    site.cuts = [700_000, 1_300_000]
    get(tmp_path, source(entry(BODY, site.url + "/a.bin")))
    assert (tmp_path / "set/a.bin").read_bytes() == BODY
    assert [asked for _, asked in site.seen] == [None, "bytes=700000-", "bytes=2000000-"]


def test_a_later_call_goes_on_where_the_last_one_gave_up(site: Site, tmp_path: Path) -> None:
    site.cuts = [600_000, 0, 0]
    wanted = source(entry(BODY, site.url + "/a.bin"))
    with pytest.raises(DataError, match=r"failed 3 times \(cut off after 600,000 of 3,000,000 bytes\)") as caught:
        get(tmp_path, wanted)
    assert str(tmp_path / DOWNLOADS / "a.bin") in str(caught.value)
    assert not (tmp_path / "set").exists()
    get(tmp_path, wanted)
    assert (tmp_path / "set/a.bin").read_bytes() == BODY
    assert site.seen[-1] == ("/a.bin", "bytes=600000-")


def test_a_site_that_cuts_often_is_borne_with_as_long_as_something_comes(site: Site, tmp_path: Path) -> None:
    site.files["/a.bin"] = body = BODY * 2
    site.cuts = [1_100_000] * 5
    get(tmp_path, source(entry(body, site.url + "/a.bin")))
    assert (tmp_path / "set/a.bin").read_bytes() == body


def test_a_site_without_ranges_starts_over(site: Site, tmp_path: Path) -> None:
    site.ranges, site.cuts = False, [700_000]
    get(tmp_path, source(entry(BODY, site.url + "/a.bin")))
    assert (tmp_path / "set/a.bin").read_bytes() == BODY
    assert site.seen[1] == ("/a.bin", "bytes=700000-")


@pytest.mark.parametrize("checks_if_range", [True, False])
@pytest.mark.parametrize("length", [2_000_000, 500_000])
def test_a_file_that_changed_meanwhile_starts_over(
    site: Site, tmp_path: Path, checks_if_range: bool, length: int
) -> None:
    site.cuts = [700_000, 0, 0]
    url = site.url + "/a.bin"
    with pytest.raises(DataError, match="failed 3 times"):
        get(tmp_path, source(entry(BODY, url)))
    site.etag, site.checks_if_range = '"2"', checks_if_range
    site.files["/a.bin"] = changed = BODY[::-1][:length]
    get(tmp_path, source(entry(changed, url)))
    assert (tmp_path / "set/a.bin").read_bytes() == changed


def test_a_wrong_hash_moves_the_file_aside(site: Site, tmp_path: Path) -> None:
    site.files["/a.bin"] = BODY[::-1]
    wanted = source(entry(BODY, site.url + "/a.bin"))
    right, wrong = hashlib.md5(BODY).hexdigest(), hashlib.md5(BODY[::-1]).hexdigest()
    with pytest.raises(DataError, match=f"MD5 expected {right}, found {wrong}"):
        get(tmp_path, wanted)
    assert visible(tmp_path) == {DOWNLOADS, f"{DOWNLOADS}/a.bin.wrong"}
    site.files["/a.bin"] = BODY
    get(tmp_path, wanted)
    assert (tmp_path / "set/a.bin").read_bytes() == BODY


def test_both_hashes_must_be_right(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"SHA-256 expected 0{64}, found "):
        get(tmp_path, source(entry(BODY, site.url + "/a.bin", sha256="0" * 64)))


def test_without_a_hash_the_one_found_is_told(site: Site, tmp_path: Path) -> None:
    said = get(tmp_path, source(entry(BODY, site.url + "/a.bin", md5=None)))
    assert f"could not be checked. Its SHA-256 is {hashlib.sha256(BODY).hexdigest()}" in said


def test_the_next_address_is_tried(site: Site, tmp_path: Path) -> None:
    site.files["/page"] = b"<html>moved</html>"
    site.status["/b.bin"] = [403]
    urls = [site.url + place for place in ("/gone", "/page", "/b.bin", "/a.bin")]
    get(tmp_path, source(entry(BODY, *urls)))
    assert (tmp_path / "set/a.bin").read_bytes() == BODY
    assert [place for place, _ in site.seen] == ["/gone", "/page", "/b.bin", "/a.bin"]


def test_an_address_that_fails_costs_no_bytes_of_another(site: Site, tmp_path: Path) -> None:
    site.cuts = [700_000, 0, 0]
    with pytest.raises(DataError, match="HTTP 404"):
        get(tmp_path, source(entry(BODY, site.url + "/a.bin", site.url + "/gone")))
    get(tmp_path, source(entry(BODY, site.url + "/a.bin")))
    assert site.seen[-1] == ("/a.bin", "bytes=700000-")


def test_where_all_addresses_fail_each_is_told(site: Site, tmp_path: Path) -> None:
    urls = [site.url + "/gone", site.url + "/page", "http://127.0.0.1:9/refused"]
    site.status["/page"] = [403]
    with pytest.raises(DataError) as caught:
        get(tmp_path, source(entry(BODY, *urls)))
    told = str(caught.value)
    assert re.search(r"/gone: HTTP 404[^/]*/\S*/page: HTTP 403", told.replace(site.url, "/"))
    assert "refused: failed 3 times" in told
    assert f"({len(BODY):,} bytes, MD5 {hashlib.md5(BODY).hexdigest()})" in told


def test_a_busy_site_is_asked_again(site: Site, tmp_path: Path) -> None:
    site.status["/a.bin"] = [503, 429]
    get(tmp_path, source(entry(BODY, site.url + "/a.bin")))
    assert (tmp_path / "set/a.bin").read_bytes() == BODY


def test_a_site_that_hangs_is_given_up(site: Site, tmp_path: Path) -> None:
    site.hangs = True
    with pytest.raises(DataError, match=r"failed 2 times .*timed out"):
        get(tmp_path, source(entry(BODY, site.url + "/a.bin")), patience=Patience(attempts=2, timeout=0.2, pause=0))


def test_redirects_on_the_web_are_followed_also_when_going_on(site: Site, tmp_path: Path) -> None:
    site.redirects = {"/first": site.url + "/second", "/second": "/a.bin"}
    site.cuts = [700_000]
    get(tmp_path, source(entry(BODY, site.url + "/first")))
    assert (tmp_path / "set/a.bin").read_bytes() == BODY
    assert site.seen[-1] == ("/a.bin", "bytes=700000-")


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_redirects_off_the_web_are_not(site: Site, tmp_path: Path, scheme: str) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(BODY)
    site.redirects["/a.bin"] = {"file": secret.as_uri(), "ftp": "ftp://127.0.0.1/a", "data": "data:,x"}[scheme]
    with pytest.raises(DataError, match=f"{scheme}:.* is not (allowed|on the web)"):
        get(tmp_path / "data", source(entry(BODY, site.url + "/a.bin")))
    assert visible(tmp_path / "data") == {DOWNLOADS}


def test_a_redirect_in_circles_ends(site: Site, tmp_path: Path) -> None:
    site.redirects["/a.bin"] = site.url + "/a.bin"
    with pytest.raises(DataError, match="HTTP 302"):
        get(tmp_path, source(entry(BODY, site.url + "/a.bin")))


def test_a_file_of_another_size_is_not_downloaded(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is 3,000,000 bytes there instead of 2,999,999"):
        get(tmp_path, source(entry(BODY[:-1], site.url + "/a.bin")))
    assert not any(path.stat().st_size > 1000 for path in tmp_path.rglob("*") if path.is_file())


def test_more_bytes_than_expected_from_a_site_that_tells_no_length(site: Site, tmp_path: Path) -> None:
    site.length = False
    with pytest.raises(DataError, match="sends more than 2,000,000 bytes"):
        get(tmp_path, source(entry(BODY[:2_000_000], site.url + "/a.bin")))
    get(tmp_path, source(entry(BODY, site.url + "/a.bin")))
    assert (tmp_path / "set/a.bin").read_bytes() == BODY


def test_fewer_bytes_than_the_site_claims_is_a_cut(site: Site, tmp_path: Path) -> None:
    site.claims = len(BODY) + 1
    with pytest.raises(
        DataError, match=r"failed 3 times \(cut off after 3,000,000 of 3,000,001 bytes|failed 3 times .*did not go on"
    ):
        get(tmp_path, source(entry(BODY, site.url + "/a.bin", size=None)))


def test_no_room_is_told_before_anything_is_fetched(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"GB free, but 1000000\.0 GB are needed"):
        get(tmp_path, source(entry(BODY, site.url + "/a.bin", size=10**15)))
    assert site.seen == []


def archive_entry(site: Site, tmp_path: Path, **more: Any) -> dict[str, Any]:
    content = make_tar(
        tmp_path / "made.tgz", {"top/a/1.jpg": BODY[:50_000], "top/list": b"1", "rest": b""}
    ).read_bytes()
    site.files["/set.tgz"] = content
    unpack = {"into": "set", "inner": "top", "most_bytes": 10**6, "most_members": 10, **more.pop("limits", {})}
    return entry(content, site.url + "/set.tgz", name="set.tgz", keep=None, unpack=unpack, **more)


@pytest.mark.parametrize("keep", [False, True])
def test_an_archive_is_unpacked_once(site: Site, tmp_path: Path, keep: bool) -> None:
    wanted, data = source(archive_entry(site, tmp_path)), tmp_path / "data"
    get(data, wanted, keep_archives=keep)
    archive = {DOWNLOADS, f"{DOWNLOADS}/set.tgz"} if keep else set()
    assert visible(data) == {"set", "set/a", "set/a/1.jpg", "set/list", f"set/{RECEIPT}"} | archive
    assert "is there already" in get(data, wanted)
    assert len(site.seen) == 1


def test_a_folder_of_another_origin_is_not_touched(site: Site, tmp_path: Path) -> None:
    wanted, mine = source(archive_entry(site, tmp_path)), tmp_path / "data/set/mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    for receipt in (None, "[]", "{", json.dumps({"archive": "other.tgz", "sha256": ""})):
        if receipt is not None:
            mine.with_name(RECEIPT).write_text(receipt)
        with pytest.raises(DataError, match=r"was not unpacked from set\.tgz"):
            get(tmp_path / "data", wanted)
    assert mine.read_text() == "mine"
    assert site.seen == []


def test_a_kept_file_of_another_content_is_not_touched(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.bin").write_text("mine")
    with pytest.raises(DataError, match=r"set/a.bin: is there already, but bytes expected 3000000, found 4"):
        get(tmp_path, source(entry(BODY, site.url + "/a.bin")))
    assert (tmp_path / "set/a.bin").read_text() == "mine"


def test_a_hostile_archive_leaves_no_folder(site: Site, tmp_path: Path) -> None:
    content = make_zip(tmp_path / "made.zip", {"top/a": b"a", "../evil": b"evil"}).read_bytes()
    site.files["/set.zip"] = content
    unpack = {"into": "set", "most_bytes": 100, "most_members": 10}
    with pytest.raises(DataError, match="leads outside"):
        get(tmp_path / "data", source(entry(content, site.url + "/set.zip", name="set.zip", keep=None, unpack=unpack)))
    assert visible(tmp_path / "data") == {DOWNLOADS, f"{DOWNLOADS}/set.zip"}
    assert {path.name for path in tmp_path.iterdir()} == {"made.zip", "data"}


def test_files_to_get_by_hand(site: Site, tmp_path: Path) -> None:
    by_hand, data = archive_entry(site, tmp_path) | {"urls": []}, tmp_path / "data"
    wanted = source(by_hand, entry(BODY, site.url + "/a.bin", keep="set2"), get="Ask for it; it goes to {data}.")
    with pytest.raises(DataError) as caught:
        get(data, wanted)
    for needed in (f"it goes to {data}.", f"into {data / DOWNLOADS}", f"set.tgz ({by_hand['size']:,} bytes, MD5 "):
        assert needed in str(caught.value)
    assert not data.exists()

    (data / DOWNLOADS).mkdir(parents=True)
    (data / DOWNLOADS / "set.tgz").write_bytes(b"another")
    with pytest.raises(DataError, match=r"set.tgz is not the expected file: bytes expected \d+, found 7"):
        get(data, wanted)
    assert (data / DOWNLOADS / "set.tgz.wrong").read_bytes() == b"another"

    (data / DOWNLOADS / "set.tgz").write_bytes(site.files["/set.tgz"])
    assert "was there before and stays" in get(data, wanted)
    assert (data / "set/list").read_bytes() == b"1"
    assert (data / "set2/a.bin").read_bytes() == BODY
    assert get(data, wanted).count("is there already") == 2


def test_two_at_once_fetch_once(site: Site, tmp_path: Path) -> None:
    site.pace = 0.01
    wanted, said = source(archive_entry(site, tmp_path), entry(BODY, site.url + "/a.bin", keep="set2")), []
    threads = [threading.Thread(target=lambda: said.append(get(tmp_path / "data", wanted))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(place for place, _ in site.seen) == ["/a.bin", "/set.tgz"]
    assert ["waiting for it" in text for text in said] == [False, True]
    assert said[1].count("is there already") == 2


def test_killed_in_the_middle_it_goes_on(site: Site, tmp_path: Path) -> None:
    site.pace = 0.03
    content = entry(BODY, site.url + "/a.bin")
    script = (
        "import json, sys; from pathlib import Path; from bench.data.fetch import Source, fetch;"
        "fetch('set', Source.model_validate_json(sys.argv[1]), Path(sys.argv[2]))"
    )
    child = subprocess.Popen([sys.executable, "-c", script, json.dumps({"files": [content]}), str(tmp_path)], cwd=ROOT)
    part = tmp_path / DOWNLOADS / "a.bin.part"
    try:
        until = time.monotonic() + 60
        while not (part.is_file() and part.stat().st_size > 500_000):
            assert time.monotonic() < until
            assert child.poll() is None
            time.sleep(0.005)
    finally:
        child.kill()
        child.wait()
    had = part.stat().st_size
    assert 500_000 < had < len(BODY)
    assert not (tmp_path / DOWNLOADS / "a.bin").exists()
    site.pace = 0
    get(tmp_path, source(content))
    assert (tmp_path / "set/a.bin").read_bytes() == BODY
    assert site.seen[1:] == [("/a.bin", f"bytes={had}-")]


def test_killed_after_the_last_byte_it_asks_for_nothing_more(site: Site, tmp_path: Path) -> None:
    site.cuts = [2_999_999, 0, 0]
    wanted = source(entry(BODY, site.url + "/a.bin"))
    with pytest.raises(DataError, match="failed 3 times"):
        get(tmp_path, wanted)
    with (tmp_path / DOWNLOADS / "a.bin.part").open("ab") as part:
        part.write(BODY[-1:])
    site.seen.clear()
    get(tmp_path, wanted)
    assert (tmp_path / "set/a.bin").read_bytes() == BODY
    assert site.seen == []


@pytest.mark.parametrize(
    "state", ["", "{", "[1]", '{"url": 1}', '{"url": "http://other/", "total": 9, "validator": "x"}']
)
def test_a_partial_file_of_unknown_origin_is_not_used(site: Site, tmp_path: Path, state: str) -> None:
    (tmp_path / DOWNLOADS).mkdir()
    (tmp_path / DOWNLOADS / "a.bin.part").write_bytes(b"unknown")
    (tmp_path / DOWNLOADS / "a.bin.part.json").write_text(state)
    get(tmp_path, source(entry(BODY, site.url + "/a.bin")))
    assert (tmp_path / "set/a.bin").read_bytes() == BODY
    assert site.seen == [("/a.bin", None)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("urls: [file:///etc/passwd]", "must begin with http"),
        ("urls: [/etc/passwd]", "must begin with http"),
        ("name: ../a.bin", "file name without a folder"),
        ("name: .", "file name without a folder"),
        ("keep: ../../etc", "below the data folder"),
        ("keep: /etc", "below the data folder"),
        ("md5: abc", "md5"),
        ("size: 0", "size"),
        ("unpack: {into: a, most_bytes: 1, most_members: 1}", "either unpack or keep"),
        ("urls: []", "needs 'get'"),
        ("colour: red", "unknown"),
    ],
)
def test_faults_in_a_file_of_sources_are_named(tmp_path: Path, change: str, told: str) -> None:
    lines = {"name": "a.bin", "urls": "['http://127.0.0.1/a.bin']", "keep": "set"}
    key, value = change.split(": ", 1)
    lines[key] = value
    path = tmp_path / "sources.yaml"
    path.write_text("set:\n  files:\n    - " + "\n      ".join(f"{k}: {v}" for k, v in lines.items()))
    with pytest.raises(UsageError, match=told) as caught:
        read_sources(path)
    assert "data set 'set'" in str(caught.value)


def test_every_data_set_has_an_entry_and_no_two_files_one_name_or_place() -> None:
    sources = read_sources()
    assert set(sources) == set(dataset_names())
    files = [file for found in sources.values() for file in found.files]
    assert len({file.name for file in files}) == len({file.place(Path()) for file in files}) == len(files)
    assert all(file.md5 or file.sha256 for file in files)


@pytest.mark.parametrize("name", [name for name, found in read_sources().items() if found.files])
def test_loaders_and_sources_tell_the_same_hashes_and_places(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset(name, tmp_path)
    told = str(caught.value)
    files = read_sources()[name].files
    assert {file.md5 for file in files} <= set(re.findall(r"\b[0-9a-f]{32}\b", told))
    for file in files:
        assert str(tmp_path / Path(file.unpack.into if file.unpack else str(file.keep)).parts[0]) in told
