"""`bench data`: check a data set thoroughly, or do its decoding ahead of a run."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bench import home

if TYPE_CHECKING:
    from bench.data.dataset import Dataset
    from bench.data.verify import Finding

EPILOG = """\
examples:
  bench data verify glyphs
  bench data verify cars196 --data ~/datasets --json
  bench data prepare cars196 --protocol frozen-trunk --data ~/datasets

`verify` exits with 0 when the data set is sound (complete or partial), 1 when it has problems, 2 on a wrong call.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and its two actions."""
    parser = commands.add_parser(
        "data", help="verify a data set, or prepare its caches", epilog=EPILOG,
        description="Verify a data set (decode every image, look for copies), or prepare its caches ahead of a run.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    verify = actions.add_parser("verify", help="decode every image, compare counts, look for copies")
    verify.add_argument("--json", action="store_true", help="print the findings as JSON")
    verify.set_defaults(run=_verify)
    prepare = actions.add_parser("prepare", help="decode the images, and embed them where the trunk is frozen")
    prepare.add_argument("--protocol", metavar="P", help="protocol name or YAML file (default: the data set's)")
    prepare.set_defaults(run=_prepare)
    for action in (verify, prepare):
        action.add_argument("name", metavar="NAME", help="data set, see `bench list datasets`")
        action.add_argument("--data", metavar="DIR", help="where data sets lie (default: $BENCH_DATA, else ./data)")


def _verify(args: argparse.Namespace) -> int:
    from bench.data.catalog import open_dataset
    from bench.data.verify import verify
    from bench.errors import DataError

    try:
        dataset = open_dataset(args.name, home.data_folder(args.data))
    except DataError as error:
        found = {"name": args.name, "sound": False, "error": str(error), "findings": []}
        print(json.dumps(found, indent=1) if args.json else f"problem: {error}")
        return 1
    findings = verify(dataset, progress=sys.stderr.isatty())
    sound = all(finding.severity == "warning" for finding in findings)
    if args.json:
        facts = _facts(dataset)
        print(json.dumps({**facts, "sound": sound, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        _print(dataset, findings)
    return 0 if sound else 1


def _facts(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "partial": dataset.partial,
        **asdict(dataset.manifest),
        "hash": dataset.manifest.hash,
        "notes": list(dataset.notes),
    }


def _print(dataset: Dataset, findings: list[Finding]) -> None:
    found = dataset.manifest
    print(f"{dataset.title}: {dataset.partial or 'complete'}; layout: {found.layout}; hash {found.hash}")
    print(f"  train {found.train_classes:,} classes, {found.train_images:,} images")
    print(f"  test  {found.test_classes:,} classes, {found.test_images:,} images")
    for note in dataset.notes:
        print(f"  note: {note}")
    for finding in findings:
        print(f"  {finding.severity}: {finding.message}")
    problems = sum(finding.severity == "problem" for finding in findings)
    print(f"{problems} problem(s), {len(findings) - problems} warning(s)")


def _prepare(args: argparse.Namespace) -> int:
    import torch

    from bench import machine
    from bench.data import catalog
    from bench.plan import default_protocol, open_dataset
    from bench.protocol import load_protocol
    from bench.training.sides import prepare

    data = home.data_folder(args.data)
    protocol = load_protocol(args.protocol or default_protocol(catalog.open_dataset(args.name, data))[0])
    dataset = open_dataset(args.name, data, protocol)
    prepare(dataset, protocol, torch.device("cuda" if machine.gpu_name() else "cpu"))
    print(f"{dataset.title} is ready for {protocol.name}; caches are in {home.cache_folder()}")
    return 0
