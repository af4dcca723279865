"""The README's example files work as they stand."""

from __future__ import annotations

import re
from pathlib import Path

from bench import registry
from bench.validate import validate

TEXT = (Path(__file__).parents[1] / "README.md").read_text("utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return str(found)


def test_the_example_method_passes_validation(tmp_path: Path) -> None:
    path = tmp_path / "my_contrastive.py"
    path.write_text(block("python"))
    checks = validate(registry.get("my_contrastive", [path]))
    assert not [check for check in checks if check.result == "fail"]


def test_the_example_lines_declare_methods(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(block("yaml"))
    found = registry.methods([path])
    assert {"soft_triplet", "library_circle", "library_batch_hard"} <= set(found)
    assert found["soft_triplet"].cls().values()["margin"] == 0.2
