"""Published numbers: the committed files, validation, matching of names, verdicts."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from bench import published
from bench.errors import UsageError
from bench.published import Published, PublishedRow, Setting, compare, load, refusal
from bench.record import DatasetFacts
from bench.statistics import Interval

FOLDER = Path(__file__).parent.parent / "results" / "published"
ROW = PublishedRow(
    dataset="cars196", method="margin", variant="", metric="recall_at_1", value=0.80, spread=None, spread_kind="",
    protocol="roth2020", backbone="resnet50", embedding_dim=128, image_size=224, paper="p", year="", venue="",
    seen_in="", source_kind="own_paper", note="",
)  # fmt: skip
SETTING = Setting("resnet50", False, 128, 224, "test", False, True)
FACTS = DatasetFacts(
    name="cars196", title="Cars196", partial=None, subset=None, photographs=True, layout="A", train_classes=98,
    train_images=8054, validation_classes=0, validation_images=0, test_classes=98, test_images=8131,
)  # fmt: skip


def one(row: PublishedRow, measured: Interval, setting: Setting = SETTING) -> published.Comparison:
    (found,) = compare(Published((row,), {"p": "P"}), "cars196", "margin", None, {"recall_at_1": measured}, setting)
    return found


def test_committed_files_load_and_hold_what_the_csv_says() -> None:
    numbers = load(FOLDER)
    with (FOLDER / "numbers.csv").open(encoding="utf-8", newline="") as file:
        raw = list(csv.DictReader(file))
    assert len(numbers.rows) == len(raw) > 3000
    for row, text in zip(numbers.rows, raw, strict=True):
        assert row.value == pytest.approx(float(text["value"]) / 100)
        assert (row.embedding_dim or "") == (int(text["embedding_dim"]) if text["embedding_dim"] else "")
    assert numbers.titles["musgrave2020mlrc"] == "A Metric Learning Reality Check"


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (Interval(0.80, 0.002, 5), "reproduced"),
        (Interval(0.79, 0.002, 5), "reproduced"),  # exactly one point
        (Interval(0.789, 0.002, 5), "lower"),
        (Interval(0.811, 0.002, 5), "higher"),
        (Interval(0.77, 0.04, 3), "reproduced"),  # inside the measured interval
        (Interval(0.77, None, 1), "lower"),
    ],
)
def test_verdicts(measured: Interval, verdict: str) -> None:
    found = one(ROW, measured)
    assert found.verdict == verdict
    assert found.difference == pytest.approx(measured.mean - 0.80)
    assert found.differences == ()


def test_a_published_spread_widens_the_tolerance() -> None:
    assert one(replace(ROW, spread=0.03), Interval(0.775, 0.001, 5)).verdict == "reproduced"


def test_every_difference_of_setting_is_listed() -> None:
    here = Setting("efficientnet_lite0", True, 64, 160, "validation", True, True)
    assert one(ROW, Interval(0.5, None, 1), here).differences == (
        "trunk resnet50, here efficientnet_lite0",
        "trunk trained there, frozen here",
        "embedding of 128, here 64",
        "crop of 224 px, here 160",
        "checkpoint selected by test, here by validation",
        "no validation classes held out there",
    )
    silent = replace(ROW, backbone="", embedding_dim=None, image_size=None, protocol="paper", source_kind="leaderboard")
    assert one(silent, Interval(0.5, None, 1)).differences == (
        "trunk not stated",
        "embedding size not stated",
        "selection not stated, in most papers the best test checkpoint",
        "from a leaderboard, unchecked",
    )


def test_another_split_or_an_ensemble_is_not_comparable_even_if_equal() -> None:
    for protocol in ("oml_zoo", "reality_check_512"):
        found = one(replace(ROW, protocol=protocol), Interval(0.80, 0.001, 5))
        assert (found.verdict, found.difference) == ("not comparable", None)
        assert found.differences


def test_concatenated_models_stand_beside_an_ensemble_of_the_same_size() -> None:
    row = replace(ROW, protocol="reality_check_512", embedding_dim=512, value=0.85)
    single, rows = {"recall_at_1": Interval(0.70, 0.001, 5)}, Published((row, ROW), {"p": "P"})
    for dimensions, said in ((512, ()), (256, ("embedding of 512, here 256",))):
        ensemble = published.Joined(dimensions, {"recall_at_1": Interval(0.851, 0.001, 5)})
        four, one_model = compare(
            rows, "cars196", "margin", None, single, replace(SETTING, selection="validation"), ensemble
        )
        assert (four.verdict, four.measured, four.differences) == ("reproduced", Interval(0.851, 0.001, 5), said)
        assert (one_model.verdict, one_model.measured) == ("lower", Interval(0.70, 0.001, 5))


def test_precision_at_1_is_recall_at_1_and_other_metrics_are_not_measured() -> None:
    assert one(replace(ROW, metric="precision_at_1"), Interval(0.80, 0.001, 5)).verdict == "reproduced"
    assert one(replace(ROW, metric="recall_at_16"), Interval(0.80, 0.001, 5)).verdict == "not measured"


@cache
def committed() -> Published:
    return load(FOLDER)


def names(method: str, paper: str | None = None, dataset: str = "cars196") -> set[tuple[str, str]]:
    found = compare(committed(), dataset, method, paper, {}, SETTING)
    return {(comparison.row.method, comparison.row.variant) for comparison in found}


def test_names_are_matched_through_aliases_and_variants_of_other_methods_stay_out() -> None:
    assert ("semihard_triplet", "") in names("triplet")
    assert ("triplet", "hphn") not in names("triplet")
    assert ("multi_similarity", "sec") not in names("multi_similarity")
    assert names("proxy_anchor") == {("proxy_anchor", "")}
    assert names("raw_trunk") == {("pretrained", "")}
    assert names("untrained") == set()


def test_unknown_methods_match_by_name_then_by_their_papers_only_method() -> None:
    assert names("fastap", "cakir2019fastap", "sop") == {("fastap", "")}
    assert names("memory", "wang2020xbm", "inshop") == {("xbm", "")}
    assert names("mine", "ko2020embedding") == set()  # that paper prints several methods
    assert names("mine") == set()


def test_partial_subset_and_unknown_sets_are_refused_with_the_reason() -> None:
    numbers = committed()
    assert refusal(FACTS, numbers) is None
    partial = refusal(FACTS.model_copy(update={"partial": "partial (98 of 196 classes)"}), numbers)
    assert partial is not None
    assert "partial (98 of 196 classes)" in partial
    subset = refusal(FACTS.model_copy(update={"subset": "10 + 10 classes"}), numbers)
    assert subset is not None
    assert "10 + 10 classes" in subset
    unknown = refusal(FACTS.model_copy(update={"name": "glyphs"}), numbers)
    assert unknown is not None
    assert "glyphs" in unknown


def written(folder: Path, **changes: str) -> Path:
    (folder / "papers.csv").write_text(",".join(published.PAPER_COLUMNS) + "\np,Title,,,,,,\n")
    values = dict.fromkeys(published.NUMBER_COLUMNS, "") | {
        "dataset": "d", "method": "m", "metric": "nmi", "value": "50", "protocol": "paper", "paper": "p",
    } | changes  # fmt: skip
    with (folder / "numbers.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, published.NUMBER_COLUMNS)
        writer.writeheader()
        writer.writerow(values)
    return folder


def test_a_minimal_folder_loads(tmp_path: Path) -> None:
    (row,) = load(written(tmp_path)).rows
    assert (row.value, row.spread, row.embedding_dim) == (0.5, None, None)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("value", "101"), ("value", "-1"), ("value", "nan"), ("value", "high"), ("value", ""), ("spread", "x"),
        ("embedding_dim", "12.5"), ("embedding_dim", "0"), ("paper", "nobody"), ("metric", ""),
    ],
)  # fmt: skip
def test_bad_values_name_file_line_and_column(tmp_path: Path, column: str, value: str) -> None:
    with pytest.raises(UsageError, match=rf"numbers\.csv, line 2: .*{column}"):
        load(written(tmp_path, **{column: value}))


def test_wrong_columns_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"papers\.csv: cannot be read"):
        load(tmp_path)
    written(tmp_path)
    (tmp_path / "numbers.csv").write_text("dataset,method\n")
    with pytest.raises(UsageError, match="columns must be"):
        load(tmp_path)
    written(tmp_path)
    with (tmp_path / "numbers.csv").open("a") as file:
        file.write("d,m\n")
    with pytest.raises(UsageError, match="line 3: expected 17 values"):
        load(tmp_path)
