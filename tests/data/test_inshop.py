"""In-Shop Clothes in all its layouts, generated, up to the full count, and the ways in which a copy can be broken."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.catalog import open_dataset
from bench.data.dataset import Dataset
from bench.errors import DataError
from tests.data import replicas
from tests.data.replicas import edited

ITEMS: dict[int, replicas.Item] = {
    1: (3, 0, 0),
    2: (0, 2, 1),
    3: (1, 0, 0),
    5: (4, 0, 0),
    8: (0, 1, 3),
    7_982: (0, 2, 2),
}
NAME = "list_eval_partition.txt"
LIST = f"Eval/{NAME}"


def make(root: Path, **options: object) -> None:
    replicas.inshop(root, ITEMS, Path.touch, **options)


def truth(found: Dataset) -> set[tuple[str, int, str, str]]:
    """(path below the image folder, item, super-class, status) of every image."""
    assert found.superlabels is not None
    assert found.split.gallery is not None
    status = np.full(len(found.images), "train  ")
    status[found.split.query] = "query"
    status[found.split.gallery] = "gallery"
    return {
        ("/".join(path.parts[-4:]), found.class_ids[label], found.superclass_names[above], side.strip())
        for path, label, above, side in zip(found.images, found.labels, found.superlabels, status, strict=True)
    }


def expected() -> set[tuple[str, int, str, str]]:
    rows = set()
    for item, sizes in ITEMS.items():
        kind = replicas.KINDS[item % len(replicas.KINDS)]
        sides = [side for side, size in zip(("train", "query", "gallery"), sizes, strict=True) for _ in range(size)]
        rows |= {
            (f"{kind}/id_{item:08}/{number:02}_1_front.jpg", item, kind, side) for number, side in enumerate(sides, 1)
        }
    return rows


@pytest.mark.parametrize("images", ["img", "Img/img", "img/img"])
@pytest.mark.parametrize("at", ["Eval/", ""])
@pytest.mark.parametrize(
    "place", ["", "inshop", "Inshop_Clothes", "In-shop Clothes Retrieval Benchmark", "inshop/Inshop_Clothes"]
)
def test_each_layout_is_recognised_wherever_it_lies(tmp_path: Path, place: str, at: str, images: str) -> None:
    make(tmp_path / place, at=at, images=images)
    found = open_dataset("inshop", tmp_path)
    assert found.title == "In-Shop"
    assert found.manifest.layout == f"{at}{NAME}, img"
    assert truth(found) == expected()
    assert found.class_ids == tuple(ITEMS)
    assert found.class_names[-1] == "id_00007982"
    assert found.partial == "partial (6 of 7,982 classes)"
    assert found.notes == ()
    assert all(path.is_file() for path in found.images)


@pytest.mark.parametrize("images", ["img_highres", "Img/img_highres"])
def test_high_resolution_is_another_data_set(tmp_path: Path, images: str) -> None:
    make(tmp_path / "inshop", images=images)
    with pytest.raises(DataError, match=r"no folder img nor Img/img .* data set 'inshop_highres' are there"):
        open_dataset("inshop", tmp_path)
    found = open_dataset("inshop_highres", tmp_path)
    assert (found.name, found.title) == ("inshop_highres", "In-Shop (high resolution)")
    assert truth(found) == expected()
    make(tmp_path / "inshop", images="img")
    assert open_dataset("inshop", tmp_path).manifest.hash != found.manifest.hash


def test_full_replica_has_the_official_counts(tmp_path: Path) -> None:
    replicas.inshop(tmp_path / "inshop", replicas.inshop_sizes(), replicas.HardLinks(tmp_path))
    found = open_dataset("inshop", tmp_path)
    assert found.partial is None
    assert found.notes == ()
    assert found.split.gallery is not None
    for rows, classes, images in (
        (found.split.train, 3_997, 25_882),
        (found.split.query, 3_985, 14_218),
        (found.split.gallery, 3_985, 12_612),
    ):
        assert (len(np.unique(found.labels[rows])), len(rows)) == (classes, images)
    shutil.rmtree(tmp_path / "inshop")


def test_query_items_without_gallery_are_noted(tmp_path: Path) -> None:
    items = {**ITEMS, 10: (0, 2, 0), 12: (0, 1, 0)}
    replicas.inshop(tmp_path, items, Path.touch)
    (note,) = open_dataset("inshop", tmp_path).notes
    assert note.startswith("2 query items without a gallery image, such as id_00000010")


def test_namesake_of_celeba(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("000001.jpg 0\n000002.jpg 2\n")
    with pytest.raises(DataError, match=rf"{NAME}: is the list of that name of CelebA"):
        open_dataset("inshop", tmp_path)
    make(tmp_path / "inshop")
    assert truth(open_dataset("inshop", tmp_path)) == expected()


@pytest.mark.parametrize(("name", "folder"), [("inshop", "img"), ("inshop_highres", "img_highres")])
def test_not_found_says_what_to_get_and_where_to_put_it(tmp_path: Path, name: str, folder: str) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset(name, tmp_path / "nowhere")
    for needed in (f"data set '{name}'", LIST, f"Img/{folder}.zip", str(tmp_path / "nowhere"), "--data"):
        assert needed in str(caught.value)


def shortened(root: Path) -> None:
    path = root / LIST
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-3]))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "images missing": (lambda root: shutil.rmtree(root / "img"), r"holds .* but no folder img nor Img/img"),
    "truncated": (shortened, r"line 1: announces 19 images, but 16 rows follow"),
    "count off by one": (edited(LIST, 1, "19", "20"), r"line 1: announces 20 images, but 19 rows follow"),
    "no count": (
        edited(LIST, 1, "19", "image_name item_id evaluation_status"),
        r"line 1: must be the number of images",
    ),
    "no header": (
        edited(LIST, 2, "item_id", "item"),
        r"line 2: must be the header 'image_name item_id evaluation_status'",
    ),
    "status": (
        edited(LIST, 3, "train", "0"),
        r"line 3: evaluation_status must be one of train, query, gallery, but is '0'",
    ),
    "item name": (edited(LIST, 3, " id_0000000", " id_"), r"line 3: item_id must be id_ and eight digits"),
    "item of another row": (edited(LIST, 3, " id_00000005", " id_00000001"), r"line 3: .* its item_id is id_00000001"),
    "both sides": (
        edited(LIST, 4, "train", "query"),
        r"line 4: id_00000005 is on the training and on the test side .*line 3",
    ),
    "outside": (edited(LIST, 3, "img/MEN", "img/.."), r"line 3: image_name must be img/"),
    "twice": (edited(LIST, 4, "02_1_front", "01_1_front"), r"line 4: image_name .* is there already, on line 3"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named(tmp_path: Path, case: str) -> None:
    make(tmp_path)
    change, message = BROKEN[case]
    change(tmp_path)
    with pytest.raises(DataError, match=message):
        open_dataset("inshop", tmp_path)


def test_missing_image_is_named(tmp_path: Path) -> None:
    make(tmp_path)
    gone = next((tmp_path / "img").rglob("id_00000008/02_1_front.jpg"))
    gone.unlink()
    with pytest.raises(DataError, match=r"id_00000008/02_1_front.jpg: is listed in line 19 of list_eval"):
        open_dataset("inshop", tmp_path)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make(root)
    return root


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damaged_lists_never_give_a_wrong_split(copy: Path, data: st.DataObject) -> None:
    found = replicas.opened_damaged("inshop", copy, copy / LIST, data.draw)
    if found is not None:
        assert truth(found) == expected()
