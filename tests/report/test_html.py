"""The page: numbers, marks, escaping, links, independence of the network and of the clock."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import published
from bench.record import Record
from bench.report import text
from bench.statistics import mean_interval
from bench.store import Store
from tests.report import builders as b
from tests.report import page

QUICK, GLYPHS = b.protocol(), b.facts()
HOSTILE = "<script>alert('x')</script>&\"%_$"
CARS = {
    "train_classes": 74, "train_images": 6000, "validation_classes": 24, "validation_images": 2054,
    "test_classes": 98, "test_images": 8131, "photographs": True,
}  # fmt: skip


def add(store: Store, method: str, levels: list[float], trains: bool = True) -> list[Record]:
    records = [
        b.record(b.spec(method, seed, QUICK, GLYPHS), QUICK, GLYPHS, level, trains=trains)
        for seed, level in enumerate(levels)
    ]
    for record in records:
        store.write(record)
    return records


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Four methods and a baseline on glyphs; one method with a diverged run; a partial set; a broken file."""
    store = Store(tmp_path / "results")
    add(store, "margin", [0.371, 0.379, 0.375])
    add(store, "triplet", [0.372, 0.374, 0.377])
    add(store, "contrastive", [0.30, 0.31, 0.305])
    add(store, "raw_trunk", [0.08, 0.08, 0.08], trains=False)
    add(store, HOSTILE.replace("/", ""), [0.25, 0.26])
    spec = b.spec(HOSTILE.replace("/", ""), 2, QUICK, GLYPHS)
    store.write(b.failed(spec, QUICK, GLYPHS, "diverged", f"loss is {HOSTILE} \x1b[31m\x00"))
    half = b.facts("cars196", partial="partial (98 of 196 classes)", **CARS)
    store.write(b.record(b.spec("margin", 0, QUICK, half), QUICK, half, 0.1))
    broken = store.root / "runs" / "quick" / "glyphs" / "margin" / "broken"
    broken.mkdir()
    (broken / "record.json").write_text("{}")
    return store


def test_every_number_of_the_main_table_is_the_records(store: Store) -> None:
    root = page.parsed(page.written(store))
    table = page.tables(page.with_id(root, "s2"), "results")[0]
    records = {
        method: [r for r in store.records() if (r.spec.method, r.spec.dataset) == (method, "glyphs")]
        for method in ("margin", "triplet", "contrastive", "raw_trunk")
    }
    for method, own in records.items():
        line = page.texts(page.row(table, method))
        assert line["Runs"] == "3 / 3"
        assert line["n"] == "3"
        for metric, head in {"recall_at_1": "Recall@1", "map_at_r": "MAP@R", "nmi": "NMI"}.items():
            span = mean_interval([record.metrics["best_validation"][metric] for record in own])
            assert line[head] == f"{100 * span.mean:.2f} ± {100 * (span.half_width or 0):.2f}"
    order = [page.words(next(iter(line.values()))) for line in page.rows(table)]
    assert order == ["margin", "triplet", "contrastive", HOSTILE.replace("/", ""), "raw_trunk"]


def test_best_is_bold_ties_are_marked_and_rows_with_failed_runs_take_no_part(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, "first", [0.371, 0.379, 0.375])
    add(store, "tied", [0.372, 0.374, 0.377])
    add(store, "worse", [0.360, 0.368, 0.364])  # by a constant: told apart although the intervals overlap
    add(store, "survivor", [0.9, 0.9])
    store.write(b.failed(b.spec("survivor", 2, QUICK, GLYPHS), QUICK, GLYPHS, "diverged", "NaN"))
    table = page.tables(page.parsed(page.written(store)), "results")[0]
    marks = {name: page.row(table, name)["MAP@R"].get("class") for name in ("first", "tied", "worse", "survivor")}
    assert marks == {"first": "n best", "tied": "n tied", "worse": "n", "survivor": "n"}
    runs = page.row(table, "survivor")["Runs"]
    assert page.words(runs) == "2 / 3 1 diverged"
    assert (runs.get("class"), runs.get("title")) == ("n failed", "NaN")


def test_failed_runs_are_listed_with_their_reason(store: Store) -> None:
    root = page.parsed(page.written(store))
    (line,) = page.rows(page.tables(root, "failures")[0])
    assert page.texts(line)["State"] == "diverged"
    assert page.texts(line)["Run"] == "seed 2, fold 0"
    assert page.texts(line)["Reason"] == f"loss is {HOSTILE} \ufffd[31m\ufffd"


def test_hostile_text_is_shown_and_never_becomes_markup(store: Store) -> None:
    text = page.written(store)
    assert "<script>alert" not in text
    assert len(page.parsed(text).findall(".//script")) == 1


def test_one_seed_has_no_interval_and_says_so(store: Store) -> None:
    section = page.with_id(page.parsed(page.written(store)), "s1")
    table = page.tables(section, "results")[0]
    assert page.texts(page.row(table, "margin"))["MAP@R"] == "10.00"
    assert "One seed: no interval and no test." in page.words(section)
    assert "tied for first" not in page.words(section)


def test_every_link_leads_somewhere_and_ids_are_unique(store: Store) -> None:
    root = page.parsed(page.written(store))
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    links = [element.get("href") or "" for element in root.iter("a")]
    assert len(links) > 50
    assert all(link.startswith("#") and link[1:] in ids for link in links)


def test_numbers_link_to_their_runs(store: Store) -> None:
    root = page.parsed(page.written(store))
    cell = page.row(page.tables(page.with_id(root, "s2"), "results")[0], "margin")["MAP@R"]
    anchor = (cell.find(".//a").get("href") or "")[1:]  # type: ignore[union-attr]
    body = next(tbody for tbody in root.iter("tbody") if tbody.find(f"./tr[@id='{anchor}']") is not None)
    shown = page.words(body)
    for record in store.records():
        if (record.spec.dataset, record.spec.method) == ("glyphs", "margin"):
            assert record.run_id in shown
            assert store.folder(record).relative_to(store.root).as_posix() in shown
    assert str(store.root) not in shown


def test_the_page_loads_nothing(store: Store) -> None:
    text = page.written(store)
    root = page.parsed(text)
    assert not [e for e in root.iter() if e.get("src") or e.tag in ("link", "img", "iframe", "object", "base")]
    assert re.findall(r"url\((?!data:)", text) == []
    assert "@import" not in text
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == []


def test_the_same_records_give_the_same_bytes(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "again")
    for record in reversed(store.records()):
        other.write(record)
    assert page.written(other).replace(str(other.root), "") == _without_warning(page.written(store))
    assert "2026-01-31 10:02 UTC" in page.written(store)


def _without_warning(text: str) -> str:
    return re.sub(r' *<p class="warning">.*?</p>\n', "", text)


def test_unreadable_records_are_named(store: Store) -> None:
    (warning,) = [e for e in page.parsed(page.written(store)).iter("p") if e.get("class") == "warning"]
    assert "margin/broken/record.json" in page.words(warning)


def test_records_of_another_schema_are_named_and_left_out(store: Store) -> None:
    later = b.record(b.spec("margin", 9, QUICK, GLYPHS), QUICK, GLYPHS, 0.9, schema_version=99)
    store.write(later)
    text = page.written(store)
    assert later.run_id in text.partition("<table")[0]  # in a warning
    assert later.run_id not in text.partition("<table")[2]


def test_two_versions_of_a_protocol_are_apart_and_marked(store: Store) -> None:
    other = b.protocol(embedding={"size": 32})
    store.write(b.record(b.spec("margin", 0, other, GLYPHS), other, GLYPHS, 0.9))
    root = page.parsed(page.written(store))
    marked = [e for e in root.iter("section") if "one of several versions of this protocol" in page.words(e)]
    badges = [{page.words(li) for li in section.iter("li")} for section in marked]
    assert [f"protocol {QUICK.hash}" in badges[0], f"protocol {other.hash}" in badges[1]] == [True, True]
    shown = [page.texts(page.row(page.tables(s, "results")[0], "margin"))["MAP@R"] for s in marked]
    assert shown == ["37.50 ± 0.99", "90.00"]  # the newest first, never mixed


def test_best_on_test_is_marked_optimistic_everywhere(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = b.protocol(selection={"split": "test"})
    for seed in (0, 1):
        store.write(b.record(b.spec("margin", seed, made, GLYPHS), made, GLYPHS, 0.3))
    root = page.parsed(page.written(store))
    results = page.tables(root, "results")[0]
    heads = [page.words(th) for th in results.findall("./thead/tr/th")]
    assert [head for head in heads if head.endswith("optimistic")] == heads[3:]
    assert page.texts(page.row(results, "margin"))["MAP@Roptimistic"] == "31.50 ± 0.00"
    assert "optimistic" in page.words(page.tables(root, "overview")[0])
    assert "Optimistic: this protocol shows the step with the best test MAP@R" in page.words(root)


def test_selection_gap_is_the_mean_of_differences_within_runs(store: Store) -> None:
    root = page.parsed(page.written(store))
    gap = page.tables(page.with_id(root, "s2"), "gap")[0]
    line = page.texts(page.row(gap, "margin"))
    assert line["Last step"].startswith("36.50")
    assert line["Best on validation"].startswith("37.50")
    assert line["Best on test (optimistic)"].startswith("39.00")
    (head,) = [head for head in line if head.startswith("Gap")]
    assert line[head] == "+1.50 ± 0.00"
    assert "raw_trunk" not in page.words(gap)


def test_a_partial_set_prints_no_published_number(store: Store) -> None:
    numbers = published.load(Path(__file__).parents[2] / "results" / "published")
    root = page.parsed(page.written(store, numbers))
    assert page.tables(root, "published") == []
    assert "partial (98 of 196 classes): numbers published for the whole set do not apply" in page.words(root)
    assert "No published number is on file for the data set glyphs." in page.words(root)


def test_a_complete_set_shows_published_numbers_with_verdicts_and_differences(tmp_path: Path) -> None:
    numbers = published.load(Path(__file__).parents[2] / "results" / "published")
    store, cars = Store(tmp_path), b.facts("cars196", **CARS)
    for seed, level in enumerate((0.3, 0.31)):  # Recall@1 is 0.3 above
        store.write(b.record(b.spec("multi_similarity", seed, QUICK, cars), QUICK, cars, level))
    root = page.parsed(page.written(store, numbers))
    (table,) = page.tables(root, "published")
    lines = [page.texts(line) for line in page.rows(table)]
    found = published.compare(
        numbers,
        "cars196",
        "multi_similarity",
        None,
        {},
        published.Setting("conv4", False, 64, 32, "validation", True, True),
    )
    shown = {(line["Metric"], line["Published"].split()[0]) for line in lines}
    assert shown == {(text.metric_label(c.row.metric), f"{100 * c.row.value:.2f}") for c in found}
    assert len(lines) < len(found)  # several sources repeat a number
    summary = next(page.words(e) for e in root.iter("summary") if page.words(e).startswith("multi_similarity:"))
    assert sum(map(int, re.findall(r"\d+", summary))) == len(lines)
    recall = [line for line in lines if line["Metric"] == "Recall@1" and line["Measured"] != "—"]
    assert recall
    for line in recall:
        assert line["Measured"].startswith("60.50")
        if line["Verdict"] != "not comparable":
            there = float(line["Published"].split()[0])
            assert float(line["Difference, points"].replace("−", "-")) == pytest.approx(60.5 - there, abs=0.011)
            assert "no validation classes held out" in line["Differences of setting"] or "Reality" in line["Source"]
    assert {line["Verdict"] for line in lines if line["Metric"] == "Recall@1"} <= set(published.VERDICTS)


def test_a_subset_and_an_unknown_state_print_no_published_number(tmp_path: Path) -> None:
    numbers = published.load(Path(__file__).parents[2] / "results" / "published")
    store = Store(tmp_path)
    cars = b.facts("cars196", subset="10 train / 10 test classes", **CARS)
    store.write(b.record(b.spec("margin", 0, QUICK, cars), QUICK, cars, 0.3))
    assert page.tables(page.parsed(page.written(store, numbers)), "published") == []
    unknown, only = Store(tmp_path / "failed"), b.facts("cars196", test_images=0)
    unknown.write(b.failed(b.spec("margin", 0, QUICK, only), QUICK, only, "error", "damaged image"))
    root = page.parsed(page.written(unknown, numbers))
    assert page.tables(root, "published") == []
    assert "complete" not in [page.words(li) for li in root.iter("li")]


def test_costs_are_means_over_runs(store: Store) -> None:
    line = page.texts(page.row(page.tables(page.parsed(page.written(store)), "cost")[0], "margin"))
    assert (line["Training"], line["Images trained on"], line["Peak memory"]) == ("16.0 s", "25,600", "500 MiB")


def test_different_environments_are_listed_with_their_counts(store: Store) -> None:
    spec = b.spec("margin", 7, QUICK, GLYPHS)
    other = b.record(spec, QUICK, GLYPHS, 0.3)
    store.write(other.model_copy(update={"environment": {**other.environment, "cpu": "Other", "git": {"dirty": True}}}))
    (table,) = page.tables(page.parsed(page.written(store)), "environment")
    heads = [page.words(th) for th in table.findall("./thead/tr/th")]
    assert heads == ["", f"{len(store.records()) - 1} runs", "1 run"]
    lines = {page.words(tr[0]): [page.words(td) for td in tr[1:]] for tr in table.findall("./tbody/tr")}
    assert lines["CPU differs"] == ["Some CPU", "Other"]
    assert lines["torch"] == ["2.0", "2.0"]
    assert lines["Uncommitted changes differs"] == ["no", "yes"]
