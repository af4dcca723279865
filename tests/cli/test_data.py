"""Damaged images: they stop what is run, or the user has them left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.cli import main
from bench.data import left_out
from bench.data.catalog import open_dataset, open_whole
from bench.errors import DataError
from bench.plan import Setting, make_plan
from bench.run import run
from tests.data import photos

CLASSES, PER_CLASS = 8, 4
DAMAGED = "class3/1.png"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Own images, of which one is cut short."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data"
    for index in range(CLASSES):
        for number in range(PER_CLASS):
            photos.write(root / f"class{index}/{number}.png", 100 * index + number)
    cut(root / DAMAGED)
    return root


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:90])


def verify(data: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main(["data", "verify", "image_folder", "--data", str(data), "--json", *more])
    return code, json.loads(capsys.readouterr().out)


def kinds(found: dict[str, Any]) -> dict[str, int]:
    return {kind["kind"]: kind["count"] for kind in found["findings"]}


def test_a_damaged_image_stops_by_name_with_both_ways_out(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["data", "prepare", "image_folder", "--data", str(data), "--protocol", "quick"])
    assert code == 2
    said = capsys.readouterr().err
    assert f"{data / DAMAGED}: cannot be decoded" in said
    assert "Get the file again, or leave damaged images out" in said
    assert "bench data verify image_folder" in said
    assert "--leave-out" in said


def test_left_out_by_choice(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = open_dataset("image_folder", data)
    assert verify(data, capsys)[0] == 1
    assert open_dataset("image_folder", data).manifest == whole.manifest
    code, found = verify(data, capsys, "--leave-out")
    assert code == 0
    assert kinds(found) == {"left out": 1}
    assert Path(found["left_out"]).name == f"image_folder-{whole.manifest.hash}.json"
    part = open_dataset("image_folder", data)
    assert part.partial == found["partial"] == "partial (1 damaged image left out)"
    assert part.notes[-1] == f"1 damaged image left out: {DAMAGED}"
    assert part.manifest.hash == found["hash"] != whole.manifest.hash
    assert set(whole.images) - set(part.images) == {data / DAMAGED}
    old = {path: whole.labels[row] for row, path in enumerate(whole.images)}
    assert [old[path] for path in part.images] == part.labels.tolist()
    sides = {path: row in whole.split.train for row, path in enumerate(whole.images)}
    assert [sides[path] for path in part.images] == np.isin(np.arange(31), part.split.train).tolist()
    assert main(["data", "prepare", "image_folder", "--data", str(data), "--protocol", "quick"]) == 0


def test_partial_names_are_joined() -> None:
    two = left_out.LeftOut((1, 2), ("a/1.png", "a/2.png"), ("", ""))
    assert two.partial("partial (98 of 196 classes)") == "partial (98 of 196 classes; 2 damaged images left out)"


def test_plan_and_run_see_one_data_set(
    data: Path, tiny: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = tiny(subset=None, batch={"classes": 2}, folds=None, selection={"split": "last"})
    setting = Setting(protocol, data, data.parent / "results")
    before = make_plan("image_folder", setting, ["contrastive"], [0])

    def done(plan: Any) -> Any:
        return run(plan.specs[0], plan.protocol, plan.setting, lambda *_: None, lambda: False)

    stopped = done(before)
    assert stopped.state == "error"
    assert f"{DAMAGED}: cannot be decoded" in stopped.reason
    verify(data, capsys, "--leave-out")
    assert "changed since this run was planned" in done(before).reason
    after = done(make_plan("image_folder", setting, ["contrastive"], [0]))
    assert (after.state, after.reason) == ("done", None)
    assert after.dataset.partial == "partial (1 damaged image left out)"


def test_verifying_again_looks_at_all_images_and_renews_the_list(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verify(data, capsys, "--leave-out")
    other = data / "class5/2.png"
    content = other.read_bytes()
    other.write_bytes(bytes(len(content)))  # same size, so the same manifest
    code, found = verify(data, capsys)
    assert (code, kinds(found), found["images"]) == (0, {"left out": 2}, 30)
    assert open_dataset("image_folder", data).partial == "partial (2 damaged images left out)"
    other.write_bytes(content)
    assert verify(data, capsys)[1]["images"] == 31


def test_list_goes_when_nothing_is_damaged(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = data / "class3/0.png"
    cut_size = (data / DAMAGED).stat().st_size
    _, found = verify(data, capsys, "--leave-out")
    small = photos.write(data / "class3/9.bmp", 5, 2, 3).read_bytes()
    (data / "class3/9.bmp").unlink()
    (data / DAMAGED).write_bytes(small + bytes(cut_size - len(small)))  # decodes, and is as long as before
    assert whole.exists()
    assert Path(found["left_out"]).exists()
    code, again = verify(data, capsys)
    assert (code, again["left_out"], again["partial"], again["images"]) == (0, None, None, 32)
    assert not Path(found["left_out"]).exists()


def test_replaced_file_is_another_content(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify(data, capsys, "--leave-out")
    photos.write(data / DAMAGED, 301)
    assert open_dataset("image_folder", data).partial is None


def test_class_that_would_lose_all(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(PER_CLASS):
        (data / f"class6/{number}.png").write_bytes(b"")
    code, found = verify(data, capsys, "--leave-out")
    assert code == 1
    assert "class 'class6' of 'image_folder' would lose all its images" in found["error"]
    assert kinds(found) == {"empty": 4, "truncated": 1}
    assert found["left_out"] is None
    assert open_dataset("image_folder", data).partial is None


def test_side_that_would_lose_all(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["path,label,split"]
    for index in range(4):
        split = 3 * ("train",) if index < 2 else ("query", "gallery", "gallery")
        rows += [f"class{index}/{number}.png,{index},{split[number]}" for number in range(3)]
    (data / "images.csv").write_text("\n".join(rows))
    (data / "class2/0.png").write_bytes(b"")
    (data / "class3/0.png").write_bytes(b"")
    code, found = verify(data, capsys, "--leave-out")
    assert code == 1
    assert "all query images of 'image_folder'" in found["error"]


def listed(data: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    return Path(verify(data, capsys, "--leave-out")[1]["left_out"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "[" * 100_000,
        lambda text: "\0" + text,
        lambda text: text.replace('"row": 13', '"row": 12'),
        lambda text: text.replace('"row": 13', '"row": 99'),
        lambda text: text.replace('"row": 13', '"row": -19'),
        lambda text: text.replace('"row": 13', '"row": true'),
        lambda text: text.replace('"format": 1', '"format": 9'),
        lambda text: text.replace('"hash": "', '"hash": "0'),
        lambda text: text.replace(DAMAGED, "class3/2.png"),
    ],
)
def test_damaged_list_is_named_and_verify_mends_it(
    data: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[str], str]
) -> None:
    path = listed(data, capsys)
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    with pytest.raises(DataError, match=r"is not a list of images to leave out .*Delete it to use all images") as error:
        open_dataset("image_folder", data)
    assert str(path) in str(error.value)
    assert verify(data, capsys)[0] == 0
    assert path.read_text() == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-40, 40) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(change=st.dictionaries(st.sampled_from(["format", "hash", "name"]), JSON), images=JSON, whole=st.booleans())
def test_any_other_json_is_refused(data: Path, change: dict[str, object], images: object, whole: bool) -> None:
    dataset = open_whole("image_folder", data)
    path = left_out.place(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"format": 1, "hash": dataset.manifest.hash, "images": images, **change}
    path.write_text(json.dumps(content if whole else images))
    with pytest.raises(DataError, match=r"is not a list of images to leave out"):
        open_dataset("image_folder", data)
