"""A user's own images, with and without a CSV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


def test_numbers_in_names_sort_as_numbers_however_long(tmp_path: Path) -> None:
    long = "9" * 5000
    labels = ["b10", "b2", "b010", f"b1{long}", f"b{long}", "a"]
    found = table(tmp_path, "path,label\n" + "".join(f"pictures/{n}.png,{label}\n" for n, label in enumerate(labels)))
    assert found.class_names == ("a", "b2", "b010", "b10", f"b{long}", f"b1{long}")


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
        ("path,label\npictures/0.png,a\npictures,b\n", "pictures: is listed as an image but is no file"),
        ("path,label\npictures/0.png,a\npictures/\0.png,b\n", "is listed but cannot be read"),
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


def test_many_classes_of_one_image_are_counted(tmp_path: Path) -> None:
    folders(tmp_path, "a", "b")
    folders(tmp_path, *(f"lone{number}" for number in range(12)), images=1)
    (note,) = open_dataset("image_folder", tmp_path).notes
    assert "lone7 and 4 more" in note


def continuous(root: Path, paths: list[str], label: str = "{}") -> Dataset:
    lines = ["path,label", *(f"{path},{label.format(number)}" for number, path in enumerate(paths))]
    np.savez(root / "targets.npz", path=np.array(paths[::-1]), targets=np.arange(float(len(paths)))[::-1, None])
    return table(root, "\n".join(lines), len(paths))


def test_continuous_labels_with_class_folders(tmp_path: Path) -> None:
    folders(tmp_path, "a", "b")
    before = open_dataset("image_folder", tmp_path)
    paths = [path.relative_to(tmp_path).as_posix() for path in before.images]
    np.savez(tmp_path / "targets.npz", path=np.array(paths[::-1]), targets=np.arange(8.0).reshape(4, 2)[::-1])
    found = open_dataset("image_folder", tmp_path)
    assert found.targets.tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]
    assert found.default_protocol == "frozen-trunk"
    assert found.manifest.hash != before.manifest.hash
    np.savez(tmp_path / "targets.npz", path=np.array(paths), targets=np.zeros((4, 2)))
    assert open_dataset("image_folder", tmp_path).manifest.hash != found.manifest.hash
    photos.write(tmp_path / "b/2.png", 9)
    with pytest.raises(DataError, match=r"targets.npz: has no target of b/2.png"):
        open_dataset("image_folder", tmp_path)


def test_images_with_nothing_but_continuous_labels(tmp_path: Path) -> None:
    found = continuous(tmp_path, [f"pictures/{number}.png" for number in range(12)])
    assert found.targets[:, 0].tolist() == list(range(12))
    assert found.default_protocol == "graded"
    assert found.notes == ("each image is a class of its own: only continuous labels are evaluated",)
    assert len(found.split.train) == len(found.split.query) == 6


def test_lists_of_paths_become_a_table_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = {
        "train": ["Aves/2761/0a1b.jpg 0", "Aves/2761/ff00.JPG 0", "Insecta/31/0.jpg 1", "Insecta/31/1.jpg 1"],
        "test": ["Aves/2762/0.jpg 0", "Aves/2762/1.jpg 0"],
    }
    for split, lines in lists.items():
        for line in lines:
            photos.write(tmp_path / "train_val2018" / line.split()[0], len(line))
        text = "\n".join(f"train_val2018/{line}" for line in lines)
        (tmp_path / f"Inaturalist_{split}_set1.txt").write_text(text)
    photos.write(tmp_path / "train_val2018/Fungi/9/unlisted.jpg", 1)
    page = Path(__file__).parents[2] / "docs/datasets.md"
    recipe = page.read_text("utf-8").split("### Lists of paths")[1].split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    exec(recipe)
    found = open_dataset("image_folder", tmp_path)
    assert found.class_names == ("31", "2761", "2762")
    assert found.superclass_names == ("Aves", "Insecta")
    assert found.superlabels.tolist() == [1, 1, 0, 0, 0, 0]
    assert found.split.query.tolist() == [4, 5]
    assert found.manifest.images == 6


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.binary(max_size=3), st.integers(0, 40))
def test_a_damaged_csv_is_an_error_or_a_sound_split(tmp_path: Path, place: int, put: bytes, removed: int) -> None:
    lines = ["path,label,split", *(f"pictures/{n}.png,{n // 2},{'train' if n < 4 else 'test'}" for n in range(8))]
    content = "\n".join(lines).encode()
    place %= len(content)
    for number in range(8):
        photos.write(tmp_path / f"pictures/{number}.png", number, 4, 4)
    (tmp_path / "images.csv").write_bytes(content[:place] + put + content[place + removed :])
    try:
        found = open_dataset("image_folder", tmp_path)
    except DataError as error:
        found = str(error)
    if isinstance(found, str):
        assert str(tmp_path) in found
        return
    assert set(found.labels[found.split.train]).isdisjoint(found.labels[found.split.test])
    assert len(set(found.images)) == found.manifest.images
