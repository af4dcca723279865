"""`bench plan` and `--budget` as a user calls them."""

from __future__ import annotations

import json

import pytest

from bench.cli import main
from bench.plan import Setting, make_plan
from bench.run import run
from bench.store import Store

SEARCH = {"trials": 20, "reproductions": 4}


def call(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_price_is_printed_and_no_machine_is_guessed(tiny, tmp_path, capsys):
    protocol = tiny(budget={"iterations": 500, "evaluate_every": 250})
    words = ["plan", "--protocol", protocol, "--methods", "margin", "--results", str(tmp_path / "r")]
    code, out, _ = call(capsys, *words, "--budget", "50%")
    assert code == 0
    assert "under tiny@0.5" in out
    assert "250 of 500 iterations" in out
    assert "operations of trunk and embedder" in out
    table = out.partition("\n budget  ")[2].splitlines()
    assert [line.split()[0] for line in table[1:5]] == ["1", "0.5", "0.2", "0.1"]
    code, out, _ = call(capsys, *words, "--json", "--budget", "0.3")
    price = json.loads(out)["price"]
    assert json.loads(out)["budget_share"] == 0.3
    assert [row["share"] for row in price["smaller"]] == [1.0, 0.5, 0.3, 0.2, 0.1]
    assert price["training_images"] == 150 * 16
    assert not (tmp_path / "r").exists()


def test_a_search_is_priced_with_its_trials(tiny, tmp_path, capsys):
    protocol = tiny(search=SEARCH, folds={"count": 4, "use": [0, 1]})
    words = ["plan", "--protocol", protocol, "--methods", "contrastive,untrained", "--results", str(tmp_path / "r")]
    code, out, _ = call(capsys, *words, "--tune", "--json", "--budget", "0.5")
    price = json.loads(out)["price"]
    assert code == 0
    assert (price["trials"], price["repetitions"], price["models"]) == (10, 2, 2 * (10 + 2) + 2 * 2)
    assert json.loads(out)["seconds"] == price["seconds"] > 0
    code, out, _ = call(capsys, *words, "--tune")
    assert code == 0
    assert "2 methods x 2 fold(s) x (20 trials + 4 reproductions)" in out


def test_a_search_that_the_protocol_lacks_is_explained(tiny, tmp_path, capsys):
    code, _, err = call(capsys, "plan", "--protocol", tiny(), "--tune", "--results", str(tmp_path))
    assert code == 2
    assert "section 'search'" in err


@pytest.mark.parametrize("text", ["0", "110%", "much"])
def test_wrong_budgets_are_explained(text, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["plan", "--budget", text])
    assert "above 0 and at most 1" in capsys.readouterr().err


def test_a_run_under_a_budget_is_marked_wherever_it_is_shown(tiny, tmp_path, capsys):
    results = tmp_path / "results"
    protocol = tiny()
    words = ["--protocol", protocol, "--methods", "untrained", "--results", str(results)]
    plan = make_plan("glyphs", Setting(protocol, tmp_path, results, budget=0.5), ["untrained"])
    run(plan.specs[0], plan.protocol, plan.setting, lambda *_: None, lambda: False)
    code, out, _ = call(capsys, "run", *words, "--budget", "0.5")
    assert code == 0
    assert "1 finished, 0 to do" in out
    assert "budget floor: iterations 12, where the share would leave 6" in out
    (record,) = Store(results).records()
    assert (record.spec.protocol, record.protocol["name"], record.protocol["budget_share"]) == ("tiny@0.5",) * 2 + (
        0.5,
    )
    _, out, _ = call(capsys, "results", "--results", str(results))
    assert "tiny@0.5" in out
    assert call(capsys, "report", "--html", "--results", str(results), "--out", str(tmp_path / "page"))[0] == 0
    assert "tiny@0.5" in (tmp_path / "page" / "index.html").read_text()
    _, out, _ = call(capsys, "plan", *words)
    assert "2 of 2 runs to do" in out
