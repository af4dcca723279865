"""`bench data` and the search for damaged images and copies; cutting a subset."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bench.cli import main
from bench.data.catalog import dataset_names, open_dataset, restrict
from bench.errors import UsageError
from bench.protocol import Subset
from tests.data import photos


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for index, name in enumerate("abcd"):
        for number in range(2):
            photos.write(tmp_path / name / f"{number}.png", 10 * index + number)
    return tmp_path


def verified(data: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict]:
    code = main(["data", "verify", "image_folder", "--data", str(data), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_sound(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = verified(images, capsys)
    assert code == 0
    assert found["sound"]
    assert found["findings"] == []
    assert (found["classes"], found["train_images"], found["test_images"]) == (4, 4, 4)


def test_damaged_and_copied_images_are_all_listed(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "a/0.png").write_bytes(b"")
    (images / "b/0.png").write_bytes((images / "b/0.png").read_bytes()[:60])
    shutil.copy(images / "a/1.png", images / "d/1.png")  # across the split
    shutil.copy(images / "c/1.png", images / "d/0.png")  # two classes of one side
    (images / "c/._1.png").write_bytes(b"x")
    code, found = verified(images, capsys)
    assert code == 1
    assert not found["sound"]
    kinds = sorted((finding["severity"], finding["kind"]) for finding in found["findings"])
    assert kinds == [("problem", "copy across the split"), ("problem", "unreadable"), ("problem", "unreadable"),
                     ("warning", "._ files"), ("warning", "copy across classes")]  # fmt: skip
    messages = " ".join(finding["message"] for finding in found["findings"])
    assert "a/0.png" in messages
    assert "it is empty" in messages
    assert "b/0.png" in messages


def test_same_pixels_in_another_file_format_are_a_copy(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos.write(images / "d/2.bmp", 0)  # the picture of a/0.png
    code, found = verified(images, capsys)
    assert code == 1
    assert found["findings"][0]["images"] == ["a/0.png", "d/2.bmp"]


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", "cars196", "--data", str(tmp_path)]) == 1
    assert "car_ims.tgz" in capsys.readouterr().out
    assert main(["data", "verify", "cars169", "--data", str(tmp_path)]) == 2
    assert "Did you mean 'cars196'?" in capsys.readouterr().err
    assert main(["data", "verify", "digits"]) == 0


@pytest.mark.long
def test_real_half_has_its_known_copy(real_photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = real_photos / "cars196_half"
    if not data.is_dir():
        pytest.skip("BENCH_DATA has no cars196_half")
    assert main(["data", "verify", "cars196", "--data", str(data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["partial"] == "partial (98 of 196 classes)"
    assert [finding["images"] for finding in found["findings"]] == [["car_ims/000595.jpg", "car_ims/003516.jpg"]]


def test_names() -> None:
    assert dataset_names()[0] == "glyphs"
    with pytest.raises(UsageError, match=r"Did you mean 'glyphs'"):
        open_dataset("glyph", Path("unused"))


def test_subset_takes_classes_evenly_with_all_their_images() -> None:
    whole = open_dataset("glyphs", Path("unused"))
    part = restrict(whole, Subset(train_classes=10, test_classes=7))
    assert part.manifest.hash != whole.manifest.hash
    assert part.manifest.hash != restrict(whole, Subset(train_classes=10, test_classes=8)).manifest.hash
    assert len(np.unique(part.labels)) == part.manifest.classes == 17
    train = {part.class_ids[label] for label in part.labels[part.split.train]}
    positions = [sorted({whole.class_ids[x] for x in whole.labels[whole.split.train]}).index(i) for i in sorted(train)]
    assert np.ptp(np.diff(positions)) <= 1
    assert len(train) == 10
    for label, class_id in enumerate(part.class_ids):
        old = whole.labels == whole.class_ids.index(class_id)
        new = part.labels == label
        np.testing.assert_array_equal(part.images[new], whole.images[old])
        np.testing.assert_array_equal(part.nuisance[new], whole.nuisance[old])
        assert part.class_names[label] == whole.class_names[whole.class_ids.index(class_id)]
        assert part.class_groups[label] == whole.class_groups[whole.class_ids.index(class_id)]
    assert len(part.split.train) + len(part.split.test) == len(part.labels) == part.manifest.images


def test_subset_larger_than_a_side_is_refused() -> None:
    with pytest.raises(UsageError, match=r"asks for 6 classes, but the test side of 'digits' has 5"):
        restrict(open_dataset("digits", Path("unused")), Subset(train_classes=5, test_classes=6))
