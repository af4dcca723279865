"""`bench weights`: what each trunk's ImageNet weights need, where they go, whether they are there."""

from __future__ import annotations

import argparse
import json

EPILOG = """\
examples:
  bench weights                   what is needed and where it goes
  bench weights fetch resnet50    download one file to torch's hub cache, its hash checked
  bench weights --json

Weights are never downloaded while a run is going on. TORCH_HOME moves torch's hub cache.
A protocol may name a local file instead: trunk.weights: path/to/file.pth or .safetensors.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "weights", help="show which trunk weights are needed and where they go; fetch them",
        description="Pretrained weights of the trunks: what is needed, where it goes, what is there.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("action", nargs="?", choices=("list", "fetch"), default="list", help="default: list")
    parser.add_argument("trunk", nargs="*", help="trunks (list: default all)")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List, or fetch and list."""
    from bench.errors import UsageError
    from bench.models import weights
    from bench.models.catalog import trunk_info

    names = [trunk_info(name).name for name in args.trunk] or weights.with_imagenet_weights()
    if args.action == "fetch":
        if not args.trunk:
            raise UsageError(f"name the trunks to fetch weights for: {', '.join(weights.HUB)}.")
        for name in names:
            weights.fetch(name)
    rows = [weights.needed(name) for name in names]
    if args.json:
        keys = ("trunk", "present", "source", "how")
        print(json.dumps([{k: getattr(r, k) for k in keys} | {"path": r.path and str(r.path)} for r in rows], indent=1))
        return 0
    for row in rows:
        print(f"{row.trunk:<18} {'present' if row.present else 'missing'}")
        print(f"  from  {row.source}")
        print(f"  file  {row.path or 'inside that package'}")
        if not row.present:
            print(f"  get   {row.how}")
    return 0
