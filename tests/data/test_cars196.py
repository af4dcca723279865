"""Cars196 in all its layouts, generated in miniature, and the ways in which a copy can be broken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from bench.data import cars196, official
from bench.data.catalog import open_dataset
from bench.data.dataset import Dataset
from bench.errors import DataError
from tests.data import photos

IDS = (1, 2, 6, 98, 99, 175, 196)
PER_CLASS = 3


def annotations(path: Path, rows: list[tuple[str, int]], name_field: str, **more: object) -> None:
    kinds = [(name_field, object), ("bbox_x1", object), ("class", object), ("test", object)]
    struct = np.array([(name, 1, class_id, 0) for name, class_id in rows], dtype=kinds)
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"annotations": struct[None], **more})


def names_cell() -> np.ndarray:
    return np.array(cars196.official_names(), dtype=object)[None]


def combined(root: Path) -> None:
    rows = []
    for number, class_id in enumerate(np.repeat(IDS, PER_CLASS)[::-1], 1):
        photos.write(root / f"car_ims/{number:06}.jpg", number)
        rows.append((f"car_ims/{number:06}.jpg", int(class_id)))
    annotations(root / "cars_annos.mat", rows, "relative_im_path", class_names=names_cell())


def devkit(root: Path) -> None:
    for half, images, file in (
        ("cars_train", 2, "devkit/cars_train_annos.mat"),
        ("cars_test", 1, "cars_test_annos_withlabels.mat"),
    ):
        rows = [(f"{number:05}.jpg", int(class_id)) for number, class_id in enumerate(np.repeat(IDS, images), 1)]
        for name, class_id in rows:
            photos.write(root / half / name, class_id * 100 + int(name[:5]))
        annotations(root / file, rows, "fname")


def folder_name(class_id: int) -> str:
    return cars196.official_names()[class_id - 1].replace("/", "-")


def class_folders(root: Path) -> None:
    for class_id in IDS:
        for number in range(PER_CLASS):
            photos.write(root / "images" / folder_name(class_id) / f"{number:05}.jpg", class_id * 10 + number)
    (root / "images" / folder_name(1) / "._00000.jpg").write_bytes(b"macOS")


def split_folders(root: Path) -> None:
    for half, images in (("train", 2), ("test", 1)):
        lines = []
        for number, class_id in enumerate(np.repeat(IDS, images), 1):
            name = f"{number:05}.jpg"
            photos.write(root / "car_data/car_data" / half / folder_name(class_id) / name, class_id * 100 + number)
            lines.append(f"{name},1,2,3,4,{class_id}\n")
        (root / f"anno_{half}.csv").write_text("".join(lines))
    (root / "names.csv").write_text("\n".join(cars196.official_names()))


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "combined (car_ims, cars_annos.mat)": combined,
    "devkit (cars_train, cars_test)": devkit,
    "class folders": class_folders,
    "class folders under train and test (car_data)": split_folders,
}


@pytest.mark.parametrize("place", ["", "cars196", "cars196_part", "Stanford_Cars"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_recognised_wherever_it_lies(tmp_path: Path, layout: str, place: str) -> None:
    LAYOUTS[layout](tmp_path / place)
    found = open_dataset("cars196", tmp_path)
    assert found.manifest.layout == layout
    assert found.class_ids == IDS
    assert found.class_names == tuple(cars196.official_names()[class_id - 1] for class_id in IDS)
    assert found.partial == "partial (7 of 196 classes)"
    assert np.bincount(found.labels).tolist() == [PER_CLASS] * 7
    assert set(found.labels[found.split.train]) == {0, 1, 2, 3}
    assert set(found.labels[found.split.test]) == {4, 5, 6}
    assert all(path.is_file() for path in found.images)
    assert found.photographs
    assert found.default_protocol == "frozen-trunk"


def test_official_order() -> None:
    names = cars196.official_names()
    assert len(set(names)) == 196
    assert list(names) != sorted(names)
    assert names[0].startswith("AM General")
    assert names[1] == "Acura RL Sedan 2012"
    assert names[195].startswith("smart")
    assert sum(a != b for a, b in zip(names, sorted(names), strict=True)) == 143
    assert set(names[:98]) == set(sorted(names)[:98])


def test_completeness_is_named_by_classes_then_images() -> None:
    def found(train: int, test: int, classes: int = 98) -> str | None:
        return official.partial(cars196.BENCHMARK, {"train": 98, "query": classes}, {"train": train, "query": test})

    assert found(8_054, 8_131) is None
    assert found(2_023, 2_085, classes=49) == "partial (147 of 196 classes)"
    assert found(8_000, 8_100) == "partial (16,100 of 16,185 images)"
    assert str(found(8_055, 8_130)).startswith("partial (8,055 train images of 98 classes instead of 8,054")


def changed(data: Path, change: Callable[[Path], object]) -> Dataset:
    combined(data / "cars196")
    change(data / "cars196")
    return open_dataset("cars196", data)


def test_hash_follows_the_content(tmp_path: Path) -> None:
    first = changed(tmp_path / "a", lambda root: None).manifest.hash
    assert first == changed(tmp_path / "b", lambda root: None).manifest.hash
    other = changed(tmp_path / "c", lambda root: photos.write(root / "car_ims/000001.jpg", 1, 40, 30))
    assert first != other.manifest.hash


def test_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"000004.jpg: is listed .* Unpack the archives"):
        changed(tmp_path, lambda root: (root / "car_ims/000004.jpg").unlink())


def test_missing_labels_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cars_annos.mat: is missing"):
        changed(tmp_path, lambda root: (root / "cars_annos.mat").unlink())
    devkit(tmp_path / "other/cars196")
    (tmp_path / "other/cars196/cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(DataError, match=r"cars_test_annos_withlabels.mat: is missing"):
        open_dataset("cars196", tmp_path / "other")


def test_damaged_annotations_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cars_annos.mat: is not a Cars196 annotation file"):
        changed(tmp_path, lambda root: (root / "cars_annos.mat").write_bytes(b"MATLAB 5.0 no more"))


@pytest.mark.parametrize("class_id", [0, 197])
def test_class_outside_the_official_ids(tmp_path: Path, class_id: int) -> None:
    def change(root: Path) -> None:
        annotations(root / "cars_annos.mat", [("car_ims/000001.jpg", class_id)], "relative_im_path")

    with pytest.raises(DataError, match=rf"class {class_id} of car_ims/000001.jpg is not an official id"):
        changed(tmp_path, change)


def test_class_names_in_another_order(tmp_path: Path) -> None:
    def change(root: Path) -> None:
        ordered = np.array(sorted(cars196.official_names()), dtype=object)[None]
        annotations(root / "cars_annos.mat", [("car_ims/000001.jpg", 2)], "relative_im_path", class_names=ordered)

    with pytest.raises(DataError, match=r"not the official ones in the official order"):
        changed(tmp_path, change)


def test_one_sided_copy(tmp_path: Path) -> None:
    photos.write(tmp_path / "cars196/images" / folder_name(3) / "1.jpg", 1)
    with pytest.raises(DataError, match=r"holds no test image"):
        open_dataset("cars196", tmp_path)


def test_unknown_class_folder_suggests_the_nearest_name(tmp_path: Path) -> None:
    class_folders(tmp_path)
    (tmp_path / "images/Acura RL Sedan 2013").mkdir()
    with pytest.raises(DataError, match=r"Did you mean 'Acura RL Sedan 2012'"):
        open_dataset("cars196", tmp_path)


def test_list_and_folders_disagree(tmp_path: Path) -> None:
    split_folders(tmp_path)
    table = tmp_path / "anno_test.csv"
    table.write_text(table.read_text().replace("00002.jpg,1,2,3,4,2", "00002.jpg,1,2,3,4,6"))
    with pytest.raises(DataError, match=r"gives 00002.jpg class 6, but it lies in the folder of class 2"):
        open_dataset("cars196", tmp_path)
    table.write_text("90001.jpg,1,2,3,4,2\n")
    with pytest.raises(DataError, match=r"line 1 lists 90001.jpg: it is in no class folder"):
        open_dataset("cars196", tmp_path)


@pytest.mark.parametrize("name", ["nowhere", ""])
def test_not_found_says_what_to_get_and_where_to_put_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset("cars196", tmp_path / name)
    text = str(caught.value)
    place = str(tmp_path / name / "cars196")
    for needed in ("car_ims.tgz", "d5c8f0aa497503f355e17dc7886c3f14", place, "2023", "--data"):
        assert needed in text


def test_real_half(real_photos: Path) -> None:
    found = open_dataset("cars196", real_photos)
    if found.partial != "partial (98 of 196 classes)":
        pytest.skip(f"BENCH_DATA holds another copy of Cars196: {found.partial or 'complete'}")
    assert found.class_ids == tuple(range(1, 197, 2))
    counts = found.manifest
    assert (counts.train_classes, counts.train_images) == (49, 2_023)
    assert (counts.test_classes, counts.test_images) == (49, 2_085)
