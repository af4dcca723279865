"""`bench data fetch` as a user calls it, with a mirror on this machine."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.cli.fetch import add_action
from bench.data.catalog import open_dataset
from bench.errors import UsageError
from tests.data.test_archives import make_tar
from tests.data.test_cars196 import combined
from tests.data.web import Site


def call(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_action(parser.add_subparsers(required=True))
    args = parser.parse_args(["fetch", *map(str, words)])
    return int(args.run(args))


def mirror(site: Site, folder: Path) -> Path:
    """Cars196 in miniature on the site, and the file of sources that names it."""
    combined(folder / "made")
    images = {str(p.relative_to(folder / "made")): p.read_bytes() for p in (folder / "made/car_ims").iterdir()}
    site.files["/car_ims.tgz"] = make_tar(folder / "car_ims.tgz", images).read_bytes()
    site.files["/cars_annos.mat"] = (folder / "made/cars_annos.mat").read_bytes()
    unpack = {"into": "cars196/car_ims", "inner": "car_ims", "most_bytes": 10**6, "most_members": 100}
    uses: tuple[tuple[str, dict[str, Any]], ...] = (
        ("car_ims.tgz", {"unpack": unpack}),
        ("cars_annos.mat", {"keep": "cars196"}),
    )
    files = [
        {"name": name, "urls": [f"{site.url}/{name}"], "md5": hashlib.md5(site.files["/" + name]).hexdigest(), **use}
        for name, use in uses
    ]
    path = folder / "sources.yaml"
    path.write_text(yaml.safe_dump({"cars196": {"files": files}}))
    return path


def test_what_is_fetched_opens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    with Site() as site:
        words = ("cars196", "--data", data, "--sources", mirror(site, tmp_path))
        assert call(*words) == 0
        assert f"next: bench data verify cars196 --data {data}" in capsys.readouterr().out
        found = open_dataset("cars196", data)
        assert found.partial == "partial (7 of 196 classes)"
        assert found.manifest.content == open_dataset("cars196", tmp_path / "made").manifest.content
        asked = len(site.seen)
        assert call(*words) == 0
        assert "is there already" in capsys.readouterr().out
        assert len(site.seen) == asked


def test_a_failed_fetch_exits_with_1_and_can_be_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    with Site() as site:
        words = ("cars196", "--data", data, "--sources", mirror(site, tmp_path))
        annotations = site.files.pop("/cars_annos.mat")
        assert call(*words) == 1
        assert "cars_annos.mat could not be fetched" in capsys.readouterr().err
        site.files["/cars_annos.mat"] = annotations
        assert call(*words) == 0
        assert [place for place, _ in site.seen].count("/car_ims.tgz") == 1


@pytest.mark.parametrize("name", ["glyphs", "digits", "posed_glyphs", "image_folder"])
def test_nothing_to_fetch(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(name, "--data", tmp_path / "data") == 0
    assert "nothing to fetch" in capsys.readouterr().out
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("cars196", ("2023", "car_ims.tgz (MD5 d5c8f0aa497503f355e17dc7886c3f14)", "cars_annos.mat", "data/downloads")),
        ("inshop", ("agreement", "drive.google.com", "Eval/list_eval_partition.txt", "img/MEN", "data/inshop")),
        ("inshop_highres", ("agreement", "img_highres")),
        ("vehicleid_small", ("on request", "test_list_800.txt")),
        ("vehicleid_large", ("on request", "test_list_2400.txt")),
        ("human_pose", ("no longer", "targets.npz")),
    ],
)
def test_what_to_get_by_hand(
    name: str, needed: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(name, "--data", tmp_path / "data") == 1
    told = capsys.readouterr().err
    for text in needed:
        assert text in told
    assert not (tmp_path / "data").exists()


def test_wrong_calls(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown data set 'cub20'\. Did you mean 'cub200'\?"):
        call("cub20")
    with pytest.raises(UsageError, match=r"nowhere\.yaml: cannot be read"):
        call("cub200", "--sources", tmp_path / "nowhere.yaml")
    (tmp_path / "mine.yaml").write_text("sop: {get: Ask.}")
    with pytest.raises(UsageError, match=r"says nothing on data set 'cub200', only on sop"):
        call("cub200", "--sources", tmp_path / "mine.yaml")
