"""`bench data`: get a data set, check it thoroughly, or do its decoding ahead of a run."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bench import home
from bench.cli import fetch

if TYPE_CHECKING:
    from bench.data.dataset import Dataset
    from bench.data.findings import Finding
    from bench.data.verify import Report

_FORMAT = 2  # of the JSON
_SHOWN = 5  # cases of each kind that people see

EPILOG = """\
examples:
  bench data fetch cub200 --data ~/datasets
  bench data verify glyphs
  bench data verify cars196 --data ~/datasets --json
  bench data verify cars196 --data ~/datasets --leave-out
  bench data prepare cars196 --protocol frozen-trunk --data ~/datasets

`verify` exits with 0 when the data set is sound (complete or partial), 1 when it has problems, 2 on a wrong call.

A damaged image stops runs, by its name. Get it again, or let `verify --leave-out` list it: from then on it is left
out of exactly this content of the data set, which is named partial. A later `verify` looks at all images, and renews
or removes the list.

keys of --json: format, name, title, sound, error (null or a text), partial,
hash (as runs record it), layout, content, classes, images, train_classes, train_images, test_classes, test_images;
splits: of each split its name, classes, images, official_classes and official_images (null without official numbers);
class_order: null unless classes are folders, else moved (positions that differ from alphabetical order) and map
(folder, alphabetical position, official_id); left_out: null, or the file that lists what is; notes; findings: of each
kind severity (problem, warning, note), kind, count, message, advice and instances (images and detail; of harmless
kinds the first few). Where the data set cannot be opened, only format, name, sound, error and findings are there.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command and its actions."""
    parser = commands.add_parser(
        "data", help="fetch or verify a data set, or prepare its caches", epilog=EPILOG,
        description="Fetch a data set, verify it (every image, copies), or prepare its caches ahead of a run.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    verify = actions.add_parser("verify", help="decode every image, compare counts, look for copies")
    verify.add_argument("--json", action="store_true", help="print the findings as JSON")
    verify.add_argument(
        "--leave-out", action="store_true", help="from now on leave the damaged images out; the set is named partial"
    )
    verify.set_defaults(run=_verify)
    prepare = actions.add_parser("prepare", help="decode the images, and embed them where the trunk is frozen")
    prepare.add_argument("--protocol", metavar="P", help="protocol name or YAML file (default: the data set's)")
    prepare.set_defaults(run=_prepare)
    for action in (verify, prepare):
        action.add_argument("name", metavar="NAME", help="data set, see `bench list datasets`")
        action.add_argument("--data", metavar="DIR", help="where data sets lie (default: $BENCH_DATA, else ./data)")
    fetch.add_action(actions)


def _verify(args: argparse.Namespace) -> int:
    from bench.data import catalog, left_out
    from bench.data.verify import settle, verify
    from bench.errors import DataError

    try:
        dataset = catalog.open_whole(args.name, home.data_folder(args.data))
    except DataError as caught:
        found = {"format": _FORMAT, "name": args.name, "sound": False, "error": str(caught), "findings": []}
        print(json.dumps(found, indent=1) if args.json else f"problem: {caught}")
        return 1
    report = verify(dataset, progress=sys.stderr.isatty())
    listed, error = None, None
    try:
        report = settle(dataset, report, args.leave_out)
        listed = left_out.read(dataset)
    except DataError as caught:
        error = str(caught)
    used = dataset if listed is None else catalog.without(dataset, listed)
    place = None if listed is None else str(left_out.place(dataset))
    if args.json:
        print(json.dumps(_facts(used, report, error, place), indent=1))
    else:
        _print(used, report, error, place)
    return 0 if report.sound and error is None else 1


def _facts(dataset: Dataset, report: Report, error: str | None, left_out_list: str | None) -> dict[str, Any]:
    from bench.data.class_order import class_order

    order = class_order(dataset)
    return {
        "format": _FORMAT,
        "name": dataset.name,
        "title": dataset.title,
        "sound": report.sound and error is None,
        "error": error,
        "partial": dataset.partial,
        **asdict(dataset.manifest),
        "hash": dataset.manifest.hash,
        "splits": _splits(dataset),
        "class_order": order and {"moved": order.moved, "map": [place._asdict() for place in order.places]},
        "left_out": left_out_list,
        "notes": list(dataset.notes),
        "findings": [
            {**asdict(found), "instances": [case._asdict() for case in found.instances]} for found in report.findings
        ],
    }


def _splits(dataset: Dataset) -> list[dict[str, Any]]:
    """Numbers of each split beside the official ones."""
    import numpy as np

    from bench.data.catalog import benchmark
    from bench.data.official import SIDES

    official = benchmark(dataset.name)
    split = dataset.split
    sides = zip(SIDES, (split.train, split.query, split.gallery), strict=True)
    return [
        {
            "split": "test" if side == "query" and split.gallery is None else side,
            "classes": len(np.unique(dataset.labels[rows])),
            "images": len(rows),
            "official_classes": official and official.classes.get(side),
            "official_images": official and official.images.get(side),
        }
        for side, rows in sides
        if rows is not None
    ]


def _print(dataset: Dataset, report: Report, error: str | None, left_out_list: str | None) -> None:
    from bench.data.class_order import class_order

    found = dataset.manifest
    print(f"{dataset.title}: {dataset.partial or 'complete'}; layout: {found.layout}; hash {found.hash}")
    splits = _splits(dataset)
    for numbers in splits:
        line = f"  {numbers['split']:<7} {numbers['classes']:,} classes, {numbers['images']:,} images"
        if numbers["official_images"] is not None:
            line += f" (official: {numbers['official_classes']:,}, {numbers['official_images']:,})"
        print(line)
    order = class_order(dataset)
    if order and order.moved and splits[0]["official_images"] is not None:
        print(
            f"  class order: {order.moved} of {len(order.places)} class folders stand elsewhere in alphabetical order; "
            "they are mapped to the official ids (--json gives the map)"
        )
    for note in dataset.notes:
        print(f"  note: {note}")
    for kind in report.findings:
        _print_kind(kind)
    if left_out_list:
        print(f"  what is left out is listed in {left_out_list}: delete that file to undo the choice")
    if error:
        print(f"  problem: {error}")
    counts = Counter(kind.severity for kind in report.findings)
    counts["problem"] += bool(error)
    print("kinds found: " + ", ".join(f"{counts[severity]} {severity}" for severity in ("problem", "warning", "note")))


def _print_kind(found: Finding) -> None:
    print(f"  {found.severity}: {found.message}")
    for images, detail in found.instances[:_SHOWN]:
        print(f"      {' = '.join(images[:_SHOWN])}{f': {detail}' if detail else ''}")
    if found.count > _SHOWN:
        print(f"      and {found.count - _SHOWN:,} more{' (--json lists them)' if found.severity != 'note' else ''}")
    print(f"    {found.advice}")


def _prepare(args: argparse.Namespace) -> int:
    import torch

    from bench import machine
    from bench.data import catalog
    from bench.plan import default_protocol, open_dataset
    from bench.protocol import load_protocol
    from bench.training.sides import prepare

    data = home.data_folder(args.data)
    protocol = load_protocol(args.protocol or default_protocol(catalog.open_dataset(args.name, data))[0]).on(args.name)
    dataset = open_dataset(args.name, data, protocol)
    prepare(dataset, protocol, torch.device("cuda" if machine.gpu_name() else "cpu"))
    print(f"{dataset.title} is ready for {protocol.name}; caches are in {home.cache_folder()}")
    return 0
