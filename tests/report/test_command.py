"""`bench report`: which files it writes, and what it says when it cannot."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from bench.cli import report
from bench.errors import UsageError
from bench.store import Store
from tests.report import builders as b

QUICK, GLYPHS = b.protocol(), b.facts()


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    report.add_parser(parser.add_subparsers())
    args = parser.parse_args(["report", *words])
    return int(args.run(args))


@pytest.fixture
def results(tmp_path: Path) -> str:
    Store(tmp_path / "results").write(b.record(b.spec("margin", 0, QUICK, GLYPHS), QUICK, GLYPHS, 0.3))
    return str(tmp_path / "results")


def test_a_folder_takes_every_format(results: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "v1.2" / "deep"
    assert call("--html", "--markdown", "--latex", "--csv", "--results", results, "--out", str(out)) == 0
    names = {"index.html", "report.md", "tables.tex", "numbers.csv"}
    assert {path.name for path in out.iterdir()} == names
    assert {Path(line).name for line in capsys.readouterr().out.splitlines()} == names


def test_html_is_the_default_and_a_suffix_names_the_format(results: str, tmp_path: Path) -> None:
    call("--results", results, "--out", str(tmp_path / "folder"))
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["index.html"]
    call("--results", results, "--out", str(tmp_path / "numbers.csv"))
    assert (tmp_path / "numbers.csv").read_text().startswith("dataset,")


@pytest.mark.parametrize("flags", [("--html",), ("--csv", "--html")])
def test_a_file_for_another_format_or_several_is_refused(results: str, tmp_path: Path, flags: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="Name a folder instead"):
        call(*flags, "--results", results, "--out", str(tmp_path / "numbers.csv"))
    assert not (tmp_path / "numbers.csv").exists()


def test_no_records_says_how_to_get_some(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="make bench"):
        call("--results", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_unwritable_place_is_named(results: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        call("--results", results, "--out", str(tmp_path / "file" / "deeper"))


def test_a_report_leaves_the_results_as_they_were(results: str, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in Path(results).rglob("*") if path.is_file()}
    call("--results", results, "--out", str(tmp_path / "out"))
    assert {path: path.read_bytes() for path in Path(results).rglob("*") if path.is_file()} == before
