"""The commands as a user or a script calls them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.cli import COMMANDS, build_parser, main

ROOT = Path(__file__).parents[2]


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


def wrong_call(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    try:
        code, _, err = call(capsys, *words)
    except SystemExit as leave:
        code, err = int(str(leave.code)), capsys.readouterr().err
    assert code == 2
    assert "Traceback" not in err
    return err


def test_help_is_instant_and_imports_nothing_heavy():
    script = (
        "import sys, time; t = time.perf_counter(); from bench.cli import build_parser; build_parser().format_help();"
        "print(time.perf_counter() - t); heavy = {'torch', 'faiss', 'pandas', 'sklearn', 'scipy', 'numpy', 'pydantic'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    _, imported = done.stdout.split("\n")[:2]
    assert imported == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as leave:
        build_parser().parse_args([command, "--help"])
    assert leave.value.code == 0
    text = capsys.readouterr().out
    assert "bench " + command in text.split("example", 1)[1]


def test_run_results_status_and_report_tell_one_story(tiny, tmp_path, capsys):
    protocol, results = tiny(), str(tmp_path / "results")
    names = "untrained,margin"
    code, out, _ = call(
        capsys, "run", "--protocol", protocol, "--methods", names, "--seeds", "0,1", "--results", results
    )
    assert code == 0
    assert "[4/4]" in out
    code, out, _ = call(
        capsys, "run", "--protocol", protocol, "--methods", names, "--seeds", "0,1", "--results", results
    )
    assert code == 0
    assert "4 finished, 0 to do" in out

    code, out, _ = call(capsys, "results", "--results", results, "--json")
    rows = json.loads(out)
    assert len(rows) == 4
    wanted = {"run_id", "dataset", "dataset_partial", "protocol", "method", "seed", "fold", "state", "metrics"}
    for row in rows:
        assert wanted <= set(row)
        assert set(row["metrics"]) == {"last", "best_validation", "best_test"}
        assert {"recall_at_1", "precision_at_1", "r_precision", "map_at_r", "nmi"} <= set(row["metrics"]["last"])

    code, out, _ = call(capsys, "status", "--results", results, "--json")
    assert json.loads(out)["runs"] == [{"protocol": "tiny", "dataset": "glyphs", "done": 4}]

    code, out, _ = call(capsys, "report", "--html", "--csv", "--results", results, "--out", str(tmp_path / "report"))
    assert code == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "margin" in page
    assert all(row["run_id"] in page for row in rows)


def test_plan_says_what_would_run_and_runs_nothing(tiny, tmp_path, capsys):
    code, out, _ = call(capsys, "plan", "--protocol", tiny(), "--results", str(tmp_path / "r"), "--json")
    plan = json.loads(out)
    assert code == 0
    assert {run["seed"] for run in plan["runs"]} == {0, 1}
    assert not any(run["finished"] for run in plan["runs"])
    assert plan["seconds"] > 0
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--dataset", "glyps"], "unknown data set 'glyps'. Did you mean 'glyphs'?"),
        (["run", "--protocol", "quik"], "unknown protocol 'quik'. Did you mean 'quick'?"),
        (["run", "--methods", "marginn"], "unknown method 'marginn'. Did you mean 'margin'?"),
        (["run", "--seeds", "0,0"], "seeds must be distinct"),
        (["run", "--seeds", "a"], "expected whole numbers"),
        (["run", "--workers", "0"], "at least 1"),
        (["run", "--protocol", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["run", "--include", "nowhere.py"], "nowhere.py"),
        (["check", "--update"], "--update needs --reason"),
        (["report", "--html", "--results", "nowhere"], "make bench"),
        (["nonsense"], "invalid choice"),
    ],
)
def test_wrong_calls_are_explained(words, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    if words[0] == "run":
        words = [*words, "--results", str(tmp_path)]
    assert said in wrong_call(capsys, *words)


def test_a_missing_data_set_says_what_to_get_and_where_to_put_it(tmp_path, capsys):
    said = wrong_call(capsys, "run", "--dataset", "cars196", "--data", str(tmp_path), "--results", str(tmp_path))
    assert "cars_annos.mat" in said
    assert str(tmp_path) in said


def test_failed_runs_give_exit_code_one_and_a_reason(tiny, tmp_path, capsys):
    plugin = tmp_path / "bad.py"
    plugin.write_text(
        "from bench.method import Method\n\n\nclass Bad(Method):\n    name = 'bad'\n\n"
        "    def loss(self, batch):\n        raise ValueError('not today')\n"
    )
    words = ["run", "--protocol", tiny(), "--methods", "bad,untrained", "--seeds", "0", "--include", str(plugin)]
    code, out, _ = call(capsys, *words, "--results", str(tmp_path / "results"))
    assert code == 1
    assert "not today" in out
    assert "1 of 2 runs have a finished record" in out


def test_doctor_finds_the_built_in_data_sets(capsys):
    code, out, _ = call(capsys, "doctor", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["data sets"]["glyphs"].startswith("complete")
    assert "quick" in found["protocols"]


@pytest.mark.long
def test_help_answers_within_a_third_of_a_second():
    times = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "bench", "--help"], cwd=ROOT, capture_output=True, check=True)
        times.append(time.perf_counter() - began)
    assert min(times) < 0.3
