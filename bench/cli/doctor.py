"""`bench doctor`: what this machine has."""

from __future__ import annotations

import argparse
import json
from typing import Any

EPILOG = """\
examples:
  bench doctor
  bench doctor --data ~/datasets --json
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "doctor", help="show what this machine has: GPU, faiss, weights, data sets", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--data", metavar="DIR", help="where data sets lie (default: $BENCH_DATA, else ./data)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look, and print what was found; 1 when something that every run needs is broken."""
    found, broken = _look(args.data)
    if args.json:
        print(json.dumps(found, indent=1))
        return 1 if broken else 0
    for group, entries in found.items():
        print(group)
        for key, value in entries.items():
            print(f"  {key:<22} {value}")
    return 1 if broken else 0


def _look(data: str | None) -> tuple[dict[str, dict[str, Any]], bool]:
    import shutil
    from pathlib import Path

    import faiss

    from bench import home, machine, registry
    from bench.data import catalog
    from bench.errors import BenchError
    from bench.models import weights
    from bench.protocol import load_protocol, protocol_files

    broken = False
    folder = home.data_folder(data)
    hardware = {
        "cpu": f"{machine.cpu_model()}, {machine.cores()} cores",
        "gpu": machine.gpu_name() or "none: everything runs on the CPU",
        "faiss": f"{faiss.__version__}, " + (f"{faiss.get_num_gpus()} GPU(s)" if faiss.get_num_gpus() else "CPU only"),
        "free disk here": f"{shutil.disk_usage('.').free / 2**30:.1f} GiB",
    }
    sets: dict[str, Any] = {"looked under": str(folder)}
    for name in catalog.dataset_names():
        try:
            dataset = catalog.open_dataset(name, folder)
            sets[name] = (
                f"{dataset.partial or 'complete'}, {dataset.manifest.images:,} images ({dataset.manifest.layout})"
            )
        except BenchError as error:
            sets[name] = "not found: " + str(error).splitlines()[0]
    protocols: dict[str, Any] = {}
    for name, path in protocol_files().items():
        try:
            protocols[name] = f"ok [{load_protocol(name).hash}] {_relative(path)}"
        except BenchError as error:
            protocols[name], broken = f"BROKEN: {error}", True
    try:
        known = registry.methods()
        plugins: dict[str, Any] = {name: _relative(Path(info.path)) for name, info in sorted(known.items())}
    except BenchError as error:
        plugins, broken = {"BROKEN": str(error)}, True
    return {
        "hardware": hardware,
        "packages": machine.versions(),
        "data sets": sets,
        "weights": {
            name: f"present: {found.path or found.source}" if found.present else f"missing, get them: {found.how}"
            for name, found in ((name, weights.needed(name)) for name in weights.with_imagenet_weights())
        },
        "protocols": protocols,
        "methods": plugins,
    }, broken


def _relative(path: Any) -> str:
    from pathlib import Path

    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return str(path)
