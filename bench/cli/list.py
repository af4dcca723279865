"""`bench list`: what there is to choose from."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

EPILOG = """\
examples:
  bench list methods
  bench list methods --include my_methods/
  bench list protocols --json
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "list",
        help="methods, data sets, protocols, trunks",
        description="List what can be named on the command line or in a protocol.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=list(ROWS), help="what to list")
    parser.add_argument("--include", action="append", type=Path, default=[], metavar="PATH",
                        help="a method file, or a folder of them, outside methods/; may be repeated")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a list of objects, with more detail")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the rows."""
    rows = ROWS[args.what](args.include)
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        print(f"{row['name']:<{width}}  {row['summary']}")
    return 0


def _methods(include: Sequence[Path]) -> list[dict[str, Any]]:
    from bench import registry

    return [
        {
            "name": name,
            "summary": _first_sentence(inspect.getmodule(info.cls)),
            "paper": info.cls.paper,
            "trains": info.cls.trains,
            "source": info.path,
            "hash": info.hash,
            "departures": info.cls.departures(),
            "hyperparameters": {key: vars(declared) for key, declared in info.cls.hyperparameters.items()},
        }
        for name, info in registry.methods(include).items()
    ]


def _datasets(include: Sequence[Path]) -> list[dict[str, Any]]:
    from bench.data import catalog

    return [{"name": name, "summary": catalog.summary(name)} for name in catalog.dataset_names()]


def _protocols(include: Sequence[Path]) -> list[dict[str, Any]]:
    from bench.protocol import load_protocol, protocol_files

    rows = []
    for name, path in sorted(protocol_files().items()):
        protocol = load_protocol(name)
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        rows.append({"name": name, "summary": protocol.summary, "hash": protocol.hash, "source": str(shown),
                     "trunk": protocol.trunk.name, "seeds": list(protocol.seeds),
                     "hyperparameters": protocol.hyperparameters, "datasets": list(protocol.datasets),
                     "corrections": list(protocol.corrections),
                     "departures": list(protocol.departures)})  # fmt: skip
    return rows


def _trunks(include: Sequence[Path]) -> list[dict[str, Any]]:
    from bench.models import catalog

    infos = [catalog.trunk_info(name) for name in catalog.trunk_names()]
    return [
        {"name": i.name, "summary": i.summary, "dim": i.dim, "channels": i.input.channels, "imagenet": i.imagenet}
        for i in infos
    ]


def _first_sentence(module: Any) -> str:
    text = inspect.cleandoc(module.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
    return text.partition(". ")[0].rstrip(".")


ROWS: dict[str, Callable[[Sequence[Path]], list[dict[str, Any]]]] = {
    "methods": _methods,
    "datasets": _datasets,
    "protocols": _protocols,
    "trunks": _trunks,
}
