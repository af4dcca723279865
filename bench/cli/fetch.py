"""`bench data fetch`: download a data set, or say what to get."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import home

EPILOG = """\
What was cut off goes on where it stopped when the same command is called again, and what is there is not fetched
twice. Archives are checked by their hash, unpacked, and removed. A file that you put into DATA/downloads yourself
is used instead of a download.

examples:
  bench data fetch cub200 --data ~/datasets
  bench data fetch fashion_mnist
  bench data fetch cars196 --data ~/datasets      no official address: says what to get, and unpacks it when it is there
  bench data fetch sop --sources my_mirror.yaml   a file like bench/data/sources.yaml

exit codes: 0 the data set is there, 1 it could not be fetched or has to be got by hand, 2 a wrong call
"""


def add_action(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the action among those of `bench data`."""
    parser = actions.add_parser(
        "fetch", help="download a data set, or say what to get", epilog=EPILOG,
        description="Download a data set to where it is looked for, or say what to get where nobody offers it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("name", metavar="NAME", help="data set, see `bench list datasets`")
    parser.add_argument("--data", metavar="DIR", help="where data sets lie (default: $BENCH_DATA, else ./data)")
    parser.add_argument("--keep-archives", action="store_true", help="keep what was unpacked, in DATA/downloads")
    parser.add_argument("--sources", type=Path, metavar="FILE", help="other addresses than the built-in ones")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fetch unless the data set is complete already."""
    from bench.data import catalog
    from bench.data.fetch import SOURCES, Manner, fetch, read_sources
    from bench.errors import DataError, UsageError, unknown_name

    if args.name not in catalog.dataset_names():
        raise unknown_name("data set", args.name, catalog.dataset_names())
    sources = read_sources(args.sources or SOURCES)
    if args.name not in sources:
        raise UsageError(f"{args.sources}: says nothing on data set '{args.name}', only on {', '.join(sources)}.")
    source, data = sources[args.name], home.data_folder(args.data).expanduser()
    absent = ""
    if not source.nothing_to_fetch:
        try:
            if catalog.open_dataset(args.name, data).partial is None:
                print(f"'{args.name}' is in {data} already, complete.")
                return 0
        except DataError as error:
            absent = f"\n{error}"
    try:
        fetch(args.name, source, data, Manner(keep_archives=args.keep_archives, progress=sys.stderr.isatty()))
    except DataError as error:
        # Where there is no file to fetch, what the loader misses is what to get.
        print(f"bench: {error}{'' if source.files else absent}", file=sys.stderr)
        return 1
    if not source.nothing_to_fetch:
        print(f"next: bench data verify {args.name} --data {data}")
    return 0
