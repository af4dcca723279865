"""Fixtures that many tests share: a tiny protocol on a built-in data set, and a cache of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import settings

from tests.parity_report import ParityReport

# The same examples at each run, so that a red suite means a change; HYPOTHESIS_PROFILE=random looks for new ones.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("random", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

TINY: dict[str, Any] = {
    "name": "tiny",
    "summary": "seconds, for tests",
    "trunk": {"name": "conv4", "weights": "none"},
    "embedding": {"size": 16},
    "images": {"resize": 32, "crop": 32, "train": {"size": 32, "crop_area": [0.8, 1.0], "flip": 0.0}},
    "batch": {"classes": 4, "per_class": 4},
    "optimizer": {
        "name": "adamw",
        "trunk": {"lr": 0.001},
        "embedder": {"lr": 0.001},
        "method": {"lr": 0.001},
    },
    "budget": {"iterations": 12, "evaluate_every": 6, "epoch": 5},
    "folds": {"count": 4},
    "selection": {"metric": "map_at_r", "split": "validation"},
    "seeds": [0, 1],
    "evaluation": {"recall_at": [1, 2]},
    "subset": {"train_classes": 16, "test_classes": 8},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--parity-report", type=Path, metavar="FILE", help="write what the parity tests compared")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--parity-report")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(ParityReport(path))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests never read or write the user's cache."""
    os.environ["BENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def tiny(tmp_path: Path) -> Any:
    """Writes the tiny protocol, with changes, and returns its path: `tiny(budget={"iterations": 4})`."""

    def write(**changes: Any) -> str:
        content = {**TINY}
        for key, value in changes.items():
            content[key] = (
                {**TINY[key], **value} if isinstance(value, dict) and isinstance(TINY.get(key), dict) else value
            )
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


@pytest.fixture
def real_photos() -> Path:
    """The folder of real photographs, from BENCH_DATA."""
    root = os.environ.get("BENCH_DATA")
    if not root:
        pytest.skip("BENCH_DATA is not set: no real photographs to test on")
    return Path(root)
