"""`bench check`: tells whether anything has moved a number."""

from __future__ import annotations

import argparse
import json

from bench.cli.arguments import names, positive

EPILOG = """\
Runs every method under the `ci` protocol and compares with results/reference/ci.json: equal to the
last bit where platform and package versions match, within bands otherwise.

examples:
  bench check
  bench check --methods margin,triplet
  bench check --update --reason "margin: beta is clipped at 0"

exit codes: 0 nothing moved, 1 something did, 2 a wrong call
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "check", help="compare a tiny run of every method with committed baselines", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--methods", type=names, metavar="A,B", help="only these methods")
    parser.add_argument("--update", action="store_true", help="make what is found the new baseline")
    parser.add_argument("--reason", metavar="TEXT", help="why the baseline changes; kept in its history")
    parser.add_argument("--workers", type=positive, metavar="N", help="runs at once")
    parser.add_argument("--json", action="store_true", help="print the differences as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run, compare, and say what moved."""
    import contextlib
    import sys
    import tempfile
    from pathlib import Path

    from bench import check, home, machine, registry
    from bench.engines import local
    from bench.errors import UsageError
    from bench.plan import Setting, make_plan
    from bench.store import Store

    if args.update and not (args.reason or "").strip():
        raise UsageError("--update needs --reason TEXT: why do the numbers change? It is kept with the baseline.")
    if args.update and args.methods:
        raise UsageError("--update renews the baseline of all methods: call it without --methods.")
    baseline = None if args.update else check.load_baseline()
    with tempfile.TemporaryDirectory(prefix="bench-check-") as folder:
        setting = Setting(check.PROTOCOL, home.data_folder(None).absolute(), Path(folder))
        plan = make_plan(check.DATASET, setting, args.methods or [registry.ALL], [0])
        workers = args.workers or local.default_workers(plan.protocol, len(plan.specs))
        with contextlib.redirect_stdout(sys.stderr):
            local.execute(plan, plan.specs, workers)
        records = Store(setting.results).records()
    found = check.summarize(records)
    if baseline is None:
        print(f"wrote {check.save_baseline(found, plan.protocol.hash, args.reason.strip())}: {args.reason.strip()}")
        return 0
    if args.methods:
        baseline["methods"] = {k: v for k, v in baseline["methods"].items() if k in found}
    exact = baseline["fingerprint"] == machine.fingerprint()
    differences = check.compare(baseline, found, plan.protocol.hash)
    if args.json:
        print(json.dumps({"exact": exact, "differences": check.as_json(differences)}, indent=1))
    else:
        rule = (
            "to the last bit (same platform and versions)" if exact else "within bands (another platform or versions)"
        )
        for record in records:
            if record.reason:
                print(f"{record.spec.method}: {record.state}: {record.reason}")
        for difference in differences:
            print(difference)
        verdict = f"{len(differences)} difference(s)" if differences else "nothing moved"
        print(f"{len(found)} methods compared {rule}: {verdict}.")
        if differences:
            print("If the change is meant, keep it with: bench check --update --reason '...'")
    return 1 if differences else 0
