"""Markdown, LaTeX and CSV: structure, escaping, equal numbers."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.report import csv_writer, latex, markdown
from bench.report.model import Report, build_report
from bench.store import Store
from tests.report import builders as b
from tests.report.page import NOTHING

QUICK, GLYPHS = b.protocol(), b.facts(title="Gly|phs_100%")
HOSTILE = r"a_b|c$&%#{}~^\<b>`[x](y)*z*"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    for seed, level in enumerate((0.31, 0.33, 0.32)):
        store.write(b.record(b.spec("margin", seed, QUICK, GLYPHS), QUICK, GLYPHS, level))
        store.write(b.record(b.spec("untrained", seed, QUICK, GLYPHS), QUICK, GLYPHS, 0.05 + level / 10, trains=False))
    store.write(b.record(b.spec(HOSTILE, 0, QUICK, GLYPHS), QUICK, GLYPHS, 0.3))
    store.write(b.failed(b.spec(HOSTILE, 1, QUICK, GLYPHS), QUICK, GLYPHS, "error", f"line 1\nline 2: {HOSTILE}"))
    return store


@pytest.fixture
def report(store: Store) -> Report:
    return build_report(store, NOTHING)


def test_csv_holds_every_number_of_every_record(report: Report, store: Store) -> None:
    lines = list(csv.DictReader(io.StringIO(csv_writer.write(report))))
    done = [record for record in store.records() if record.state == "done"]
    for method in {record.spec.method for record in done}:
        own = sorted((r for r in done if r.spec.method == method), key=lambda r: r.spec.seed)
        for checkpoint in ("last", "best_validation", "best_test"):
            for metric in b.METRICS:
                (line,) = [
                    ln for ln in lines if (ln["method"], ln["checkpoint"], ln["metric"]) == (method, checkpoint, metric)
                ]
                values = [record.metrics[checkpoint][metric] for record in own]
                assert [float(value) for value in line["values"].split()] == values
                assert [int(seed) for seed in line["seeds"].split()] == [record.spec.seed for record in own]
                assert line["run_ids"].split() == [record.run_id for record in own]
                assert float(line["mean"]) == pytest.approx(sum(values) / len(values))
                assert int(line["n"]) == len(values)
                if len(values) == 1:
                    assert line["half_width"] == ""
                else:
                    low, high = stats.t.interval(0.95, len(values) - 1, float(line["mean"]), stats.sem(values))
                    assert float(line["half_width"]) == pytest.approx((high - low) / 2)
                assert line["optimistic"] == str(checkpoint == "best_test")
                assert line["is_headline"] == str(checkpoint == "best_validation")
                assert line["protocol_hash"] == QUICK.hash
    assert len(lines) == 3 * 3 * len(b.METRICS)


def unescaped_bars(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line))


def test_markdown_tables_are_rectangular_and_links_lead_somewhere(report: Report) -> None:
    text = markdown.write(report)
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({unescaped_bars(line) for line in block.splitlines()}) == 1
    anchors = set(re.findall(r'<a id="([^"]+)">', text))
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors
    assert "[**32.00 ± 2.48**](#s1-r" in text
    assert "<b>" not in re.sub(r"``.*?``", "", text)  # inside inline code it is text


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_markdown_escape_leaves_no_markup(plain: str) -> None:
    shown = markdown.escape(plain)
    assert "\n" not in shown
    assert "<" not in shown
    assert re.search(r"(?<!\\)(\\\\)*[|`*_\[\]]", re.sub(r"\\[\\`*_{}\[\]#|~]", "", shown)) is None


def test_latex_tables_are_balanced_and_have_equal_columns(report: Report) -> None:
    text = latex.write(report)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 4
    for block in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, flags=re.DOTALL):
        lines = [line for line in block.splitlines() if line.endswith(r"\\") and r"\multicolumn" not in line]
        assert len({len(re.findall(r"(?<!\\)&", line)) for line in lines}) == 1
    assert r"\textbf{32.00} $\pm$ 2.48" in text
    assert r"a\_b\textbar{}c\$\&\%\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}\textless{}b" in text


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_latex_escape_leaves_no_active_character(plain: str) -> None:
    shown = latex.escape(plain)
    bare = re.sub(r"\\[&%$#_{}]|\\text\w+\{\}|\$\\\w+\$|\$-\$|\{[\[\]]\}", "", shown)
    assert not re.search(r"[\\&%$#_{}~^\n]", bare)
