"""A user's own images, with and without a CSV."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.data.catalog import open_dataset
from bench.data.dataset import Dataset
from bench.errors import DataError
from tests.data import photos


def folders(root: Path, *names: str, images: int = 2) -> None:
    for index, name in enumerate(names):
        for number in range(images):
            photos.write(root / name / f"{number}.png", 10 * index + number)


def table(root: Path, text: str, images: int = 6) -> Dataset:
    for number in range(images):
        photos.write(root / f"pictures/{number}.png", number)
    (root / "images.csv").write_text(text, "utf-8-sig")
    return open_dataset("image_folder", root)


def test_classes_in_natural_order_are_halved(tmp_path: Path) -> None:
    folders(tmp_path / "image_folder", "class10", "class2", "Class1", "class3", "class20")
    (tmp_path / "image_folder/class2/._0.png").write_bytes(b"")
    (tmp_path / "image_folder/class2/notes.txt").write_text("not an image")
    (tmp_path / "image_folder/empty").mkdir()
    (tmp_path / "image_folder/.hidden").mkdir()
    found = open_dataset("image_folder", tmp_path)
    assert found.class_names == ("Class1", "class2", "class3", "class10", "class20")
    assert set(found.labels[found.split.train]) == {0, 1, 2}
    assert set(found.labels[found.split.test]) == {3, 4}
    assert found.manifest.images == 10
    assert found.partial is None
    assert any("empty" in note for note in found.notes)


def test_images_of_one_class_are_in_natural_order(tmp_path: Path) -> None:
    folders(tmp_path, "a", "b", images=11)
    names = [path.name for path in open_dataset("image_folder", tmp_path).images[:11]]
    assert names == [f"{number}.png" for number in range(11)]


def test_csv_with_superlabels_and_split(tmp_path: Path) -> None:
    lines = ["path,label,superlabel,split"]
    lines += [f"pictures/{n}.png,{label},{label[0]},{side}" for n, (label, side) in enumerate(
        [("x1", "train"), ("x1", "train"), ("y2", "query"), ("y2", "gallery"), ("y10", "gallery"), ("y10", "query")]
    )]  # fmt: skip
    found = table(tmp_path, "\n".join(lines))
    assert found.class_names == ("x1", "y2", "y10")
    assert found.superclass_names == ("x", "y")
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.superlabels.tolist() == [0, 0, 1, 1, 1, 1]
    assert found.split.train.tolist() == [0, 1]
    assert found.split.query.tolist() == [2, 5]
    assert found.split.gallery.tolist() == [3, 4]


def test_csv_without_split_is_halved(tmp_path: Path) -> None:
    found = table(tmp_path, "label,path\n" + "".join(f"{n % 3},pictures/{n}.png\n" for n in range(6)))
    assert found.manifest.train_classes == 2
    assert found.manifest.test_classes == 1
    assert found.superlabels is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,klass\npictures/0.png,a\n", "its header is 'path,klass', expected path,label"),
        ("", "its header is ''"),
        ("path,label\n", "holds no images"),
        ("path,label\npictures/0.png,\n", "line 2 needs a path and a label"),
        ("path,label\npictures/0.png,a,b\n", "line 2 needs .* as many fields as the header"),
        ("path,label\npictures/0.png,a\npictures/9.png,b\n", "9.png: is listed but cannot be read"),
        ("path,label\npictures/0.png,a\npictures/0.png,b\n", "lists pictures/0.png more than once"),
        ("path,label\n../0.png,a\n", "line 2: path '../0.png' must be relative"),
        ("path,label\npictures/0.png,a\n", "one class only"),
        ("path,label,split\npictures/0.png,a,training\n", "line 2: split is 'training', allowed: train, test"),
        ("path,label,split\npictures/0.png,a,train\npictures/1.png,a,test\n", "class 'a' is on both sides"),
        ("path,label,split\npictures/0.png,a,train\n", "never says test"),
        ("path,label,split\npictures/0.png,a,test\n", "never says train"),
        ("path,label,split\npictures/0.png,a,train\npictures/1.png,b,query\n", "query but never gallery"),
        (
            "path,label,split\npictures/0.png,a,train\npictures/1.png,b,query\npictures/2.png,b,test\n",
            "both 'test' and 'query'",
        ),
        ("path,label,superlabel\npictures/0.png,a,\n", "superlabel is empty"),
    ],
)
def test_faults_in_the_csv(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        table(tmp_path, text)


def test_csv_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_bytes(b"\xff\xfe\x00path")
    with pytest.raises(DataError, match=r"images.csv: cannot be read as CSV"):
        open_dataset("image_folder", tmp_path)


def test_empty_absent_and_single(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no images.*Expected one folder a class"):
        open_dataset("image_folder", tmp_path)
    with pytest.raises(DataError, match=r"does not exist"):
        open_dataset("image_folder", tmp_path / "absent")
    folders(tmp_path, "only")
    with pytest.raises(DataError, match=r"one class only"):
        open_dataset("image_folder", tmp_path)


def test_class_of_one_image_is_kept_and_named(tmp_path: Path) -> None:
    folders(tmp_path, "a", "b", "c")
    photos.write(tmp_path / "lone/0.png", 99)
    found = open_dataset("image_folder", tmp_path)
    assert found.manifest.images == 7
    assert any("lone" in note for note in found.notes)
