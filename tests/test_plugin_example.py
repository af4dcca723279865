"""The example package under docs/, installed as its users would install it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv is None:
        pytest.skip("uv is not installed")
    source = shutil.copytree(ROOT / "docs" / "plugin-example", tmp_path_factory.mktemp("source") / "example")
    target = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--python", sys.executable, "--target", str(target)]
    subprocess.run([uv, "pip", "install", *options, str(source)], check=True, capture_output=True)
    return target


def bench(site: Path, cwd: Path, *words: str) -> str:
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_installed_package_brings_its_method(site: Path, tmp_path: Path) -> None:
    (row,) = [m for m in json.loads(bench(site, tmp_path, "list", "methods", "--json")) if m["name"] == "easy_positive"]
    assert row["source"].endswith("bench_easy_positive.py")
    assert str(site) in row["source"]
    assert "easy_positive" not in bench(tmp_path, tmp_path, "list", "methods")


def test_it_passes_validation_and_trains(site: Path, tmp_path: Path) -> None:
    bench(site, tmp_path, "validate", "methods", "--methods", "easy_positive")
    options = ["--protocol", "ci", "--methods", "easy_positive,untrained", "--results", str(tmp_path / "results")]
    bench(site, tmp_path, "run", *options)
    rows = json.loads(bench(site, tmp_path, "results", "--results", str(tmp_path / "results"), "--json"))
    score = {row["method"]: row["metrics"]["last"]["map_at_r"] for row in rows}
    assert score["easy_positive"] > 2 * score["untrained"]
