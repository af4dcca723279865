"""The wheel works in an empty folder, from the copies it ships."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


def bench(site: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, "-m", "bench", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_it_carries_methods_protocols_data_published_numbers_and_licences(unpacked):
    names = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    for wanted in (
        "bench/_shipped/methods/margin.py",
        "bench/_shipped/methods/variants.yaml",
        "bench/_shipped/protocols/quick.yaml",
        "bench/_shipped/results/published/numbers.csv",
        "bench/_shipped/results/reference/ci.json",
        "bench/data/glyphs/images.png",
    ):
        assert wanted in names
    assert not [name for name in names if name.startswith(("tests/", "methods/", "protocols/"))]
    metadata = [name for name in names if "dist-info/licenses/" in name]
    assert any("LICENSES" in name for name in metadata)


@pytest.mark.long
def test_it_lists_runs_and_reports_in_an_empty_folder(unpacked, tmp_path):
    listed = bench(unpacked, tmp_path, "list", "methods", "--json")
    assert listed.returncode == 0, listed.stderr
    assert {"margin", "untrained"} <= {entry["name"] for entry in json.loads(listed.stdout)}
    done = bench(unpacked, tmp_path, "run", "--protocol", "ci", "--methods", "margin,untrained")
    assert done.returncode == 0, done.stdout + done.stderr
    report = bench(unpacked, tmp_path, "report", "--html", "--out", "report")
    assert report.returncode == 0, report.stderr
    assert (tmp_path / "report" / "index.html").is_file()
