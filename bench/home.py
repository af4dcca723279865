"""Where protocols, methods and published numbers are found: the folder `bench` runs in, else the shipped copies."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped() -> Path:
    """The folder with the project's own `methods/`, `protocols/` and `results/published/`.

    A wheel carries them inside the package; a clone has them beside it.
    """
    inside = _PACKAGE / "_shipped"
    return inside if inside.is_dir() else _PACKAGE.parent


def benchmark_folder() -> Path | None:
    """The working folder if it is a benchmark folder (has `methods/` and `protocols/`), else None."""
    here = Path.cwd()
    return here if (here / "methods").is_dir() and (here / "protocols").is_dir() else None


def folders(kind: str) -> list[Path]:
    """Folders of a kind ('methods', 'protocols', 'results/published'), the benchmark folder's own first."""
    roots = [root for root in (benchmark_folder(), shipped()) if root is not None]
    found = [root.resolve() / kind for root in roots if (root / kind).is_dir()]
    return list(dict.fromkeys(found))


def cache_folder() -> Path:
    """Decoded images and trunk features: `BENCH_CACHE`, else `bench` in the user's cache folder."""
    if set_by_user := os.environ.get("BENCH_CACHE"):
        return Path(set_by_user)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bench"


def data_folder(given: str | None) -> Path:
    """Where data sets are looked for: the given folder, else `BENCH_DATA`, else `./data`."""
    return Path(given or os.environ.get("BENCH_DATA") or "data")
