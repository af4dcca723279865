"""The console script `bench`. Heavy imports wait until a command runs, so that help is instant."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from bench import __version__
from bench.errors import BenchError

COMMANDS = (
    "run", "tune", "plan", "status", "results", "report", "check", "evaluate", "list", "validate", "data", "weights",
    "doctor",
)  # fmt: skip

EPILOG = """\
examples:
  bench run --dataset glyphs --protocol quick
  bench run --dataset cars196 --data ~/datasets --methods margin,proxy_anchor --seeds 0,1,2
  bench report --html
  bench list methods

exit codes: 0 all well, 1 something failed (a run, a check), 2 a wrong call
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="bench",
        description="A fixed-protocol benchmark for deep metric learning: every method under equal conditions.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"bench {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"bench.cli.{name}").add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, call, and turn errors meant for the user into a message and exit code 2."""
    args = build_parser().parse_args(argv)
    try:
        return int(args.run(args))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        print("bench: interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
