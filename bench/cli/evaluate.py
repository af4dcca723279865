"""`bench evaluate`: all metrics of embeddings from a file."""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import DataError, Diverged, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EXAMPLES = """\
examples:
  bench evaluate --embeddings mine.npz
  bench evaluate --embeddings mine.npz --recall-at 1,10,100,1000 --json

The file holds `embeddings` (N, D), `labels` (N,) integers or strings, and optionally `query` (N,)
bool: these rows then search the others, otherwise every row searches all other rows. It is written
with numpy.savez("mine.npz", embeddings=..., labels=...). Rows are compared by Euclidean distance as
they are: normalise them first if they are meant to be compared by cosine.
"""

_UNREADABLE = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of `bench`."""
    parser = subparsers.add_parser(
        "evaluate",
        help="all metrics of any embeddings, from a .npz file",
        description="Recall@K, Precision@1, R-Precision, MAP@R, NMI, AMI and pairwise F1 of any embeddings.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--embeddings", type=Path, required=True, metavar="FILE.npz", help="file to read")
    parser.add_argument("--recall-at", default="1,2,4,8", metavar="K,K", help="K of Recall@K (default: 1,2,4,8)")
    parser.add_argument("--json", action="store_true", help="print one JSON object: metrics (fractions) and counts")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate the file and print the metrics."""
    from bench import protocol
    from bench.evaluation import evaluate

    ks = _recall_at(args.recall_at)
    path: Path = args.embeddings
    arrays = _read(path)
    try:
        found = evaluate(
            _as_float32(arrays["embeddings"]),
            _as_integers(arrays["labels"]),
            query=arrays.get("query"),
            ks=ks,
            clustering=protocol.Clustering(),
            progress=sys.stderr.isatty(),
        )
    except (DataError, Diverged) as error:
        raise type(error)(f"{path}: {error}") from None
    if args.json:
        print(json.dumps({"metrics": found.metrics, "counts": found.counts}, indent=2))
        return 0
    width = max(map(len, found.metrics))
    for name, value in found.metrics.items():
        print(f"{name:<{width}}  {100 * value:6.2f} %")
    lone = found.counts["lone_queries"]
    left_out = f", {lone} left out: nothing else of their class to find" if lone else ""
    print(f"{found.counts['queries']} queries{left_out}")
    return 0


def _recall_at(text: str) -> tuple[int, ...]:
    try:
        ks = tuple(int(part) for part in text.split(","))
    except ValueError:
        ks = ()
    if not ks or min(ks) < 1:
        raise UsageError(f"--recall-at '{text}': write whole numbers from 1, separated by commas, like 1,2,4,8.")
    return tuple(dict.fromkeys(ks))


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays `embeddings`, `labels` and, where there is one, `query`."""
    import numpy as np

    if not path.is_file():
        raise UsageError(f"--embeddings {path}: there is no such file.")
    try:
        file = np.load(path, allow_pickle=False)
    except _UNREADABLE as error:
        raise DataError(f"{path} cannot be read as .npz: {error}") from None
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise DataError(f"{path} is a single array, not an .npz file with arrays 'embeddings' and 'labels'.")
    with file:
        wanted = ["embeddings", "labels", *({"query"} & set(file.files))]
        for name in wanted:
            if name not in file.files:
                raise DataError(f"{path}: array '{name}' is missing. Found: {', '.join(file.files) or 'none'}.")
        return {name: _array(path, file, name) for name in wanted}


def _array(path: Path, file: Any, name: str) -> NDArray[Any]:
    try:
        return file[name]  # type: ignore[no-any-return]
    except _UNREADABLE as error:
        raise DataError(
            f"{path}: array '{name}' cannot be read: {error}. Save numbers (or strings as labels), not Python objects."
        ) from None


def _as_float32(embeddings: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    if embeddings.dtype.kind not in "fiu":
        raise DataError(f"array 'embeddings' must hold real numbers, found {embeddings.dtype}.")
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(embeddings, dtype=np.float32)


def _as_integers(labels: NDArray[Any]) -> NDArray[Any]:
    import numpy as np

    if labels.dtype.kind in "US":
        return np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    return labels
