"""`bench validate`: the test-suite that plug-in authors run on their plug-in."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.arguments import names

if TYPE_CHECKING:
    from bench.validate import Check

EPILOG = """\
examples:
  bench validate methods
  bench validate methods --methods margin,triplet
  bench validate methods --include my_method.py --methods my_method

exit codes: 0 every check passed, 1 a check failed, 2 a wrong call
"""

SIGNS = {"pass": "ok", "fail": "FAIL", "skip": "-"}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "validate",
        help="check method plug-ins",
        description="Try every rule of the method interface on every method, on toy data.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["methods"], help="what to check")
    parser.add_argument("--methods", type=names, metavar="A,B", help="only these methods (default: all)")
    parser.add_argument("--include", action="append", type=Path, default=[], metavar="PATH",
                        help="a method file, or a folder of them, outside methods/; may be repeated")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a list of objects, one a check")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a table, methods by checks, then what failed."""
    import torch

    from bench import registry
    from bench.validate import CHECKS, validate

    torch.set_num_threads(1)  # tensors are tiny, and times comparable
    registry.use(args.include)
    chosen = registry.select(args.methods or [registry.ALL], args.include)
    width = max(len(name) for name in chosen)
    if not args.json:
        print(f"{'method':<{width}}  " + "  ".join(CHECKS))
    checks: list[Check] = []
    for name, info in chosen.items():
        row = validate(info)
        checks += row
        if not args.json:
            cells = [SIGNS.get(c.result, c.seen.partition(",")[0]) for c in row]
            print(f"{name:<{width}}  " + "  ".join(f"{cell:<{len(c)}}" for cell, c in zip(cells, CHECKS, strict=True)))
    failed = [check for check in checks if check.result == "fail"]
    if args.json:
        print(json.dumps([vars(check) for check in checks], indent=1))
        return 1 if failed else 0
    for check in failed:
        print(f"\n{check.method} ({chosen[check.method].path}), check '{check.check}': {check.seen}")
    passed = sum(check.result == "pass" for check in checks)
    print(f"\n{len(chosen)} methods: {passed} checks passed, {len(failed)} failed. '-': does not apply.")
    return 1 if failed else 0
