"""Stanford Online Products in all its layouts, generated, up to the full count, and the ways to be broken."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
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

TRAIN, TEST = [3, 2] * 12, [2, 4] * 12
OFFICIAL = "official (lists beside category folders)"


def make(root: Path, **options: object) -> None:
    replicas.sop(root, TRAIN, TEST, Path.touch, **options)


def truth(found: Dataset) -> set[tuple[str, int, str, bool]]:
    """(file, official class id, super-class, on the training side) of every image."""
    assert found.superlabels is not None
    on_train_side = np.isin(np.arange(len(found.images)), found.split.train)
    return {
        (path.stem, found.class_ids[label], found.superclass_names[above], bool(side))
        for path, label, above, side in zip(found.images, found.labels, found.superlabels, on_train_side, strict=True)
    }


def expected() -> set[tuple[str, int, str, bool]]:
    sides = ((TRAIN, 1, True), (TEST, 11_319, False))
    return {
        (f"{110_000_000_000 + 7 * (first + at)}_{number}", first + at, replicas.CATEGORIES[at // 2], side)
        for sizes, first, side in sides
        for at, size in enumerate(sizes)
        for number in range(size)
    }


@pytest.mark.parametrize("suffix", [".JPG", ".jpg"])
@pytest.mark.parametrize("place", ["", "Stanford_Online_Products", "sop/Stanford_Online_Products", "online_products"])
@pytest.mark.parametrize("info_files", [False, True])
def test_each_layout_is_recognised_wherever_it_lies(tmp_path: Path, info_files: bool, place: str, suffix: str) -> None:
    make(tmp_path / place, info_files=info_files, suffix=suffix)
    found = open_dataset("sop", tmp_path)
    assert found.manifest.layout == ("Info_Files and images" if info_files else OFFICIAL)
    assert truth(found) == expected()
    assert found.superclass_names == replicas.CATEGORIES
    assert found.class_ids == (*range(1, 25), *range(11_319, 11_343))
    assert found.class_names[24] == "11319"
    assert found.partial == "partial (48 of 22,634 classes)"
    assert all(path.is_file() for path in found.images)


def test_lists_of_lower_case_find_files_of_upper_case(tmp_path: Path) -> None:
    make(tmp_path)
    for name in ("Ebay_train.txt", "Ebay_test.txt"):
        (tmp_path / name).write_text((tmp_path / name).read_text().replace(".JPG", ".jpg"))
    assert truth(open_dataset("sop", tmp_path)) == expected()
    first = tmp_path / "bicycle_final/110000000007_0.JPG"
    shutil.copy(first, first.with_suffix(".Jpg"))
    with pytest.raises(DataError, match=r"Ebay_train.txt: line 2 lists .* 110000000007_0.Jpg are both there"):
        open_dataset("sop", tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All 120,053 files; removed at once, as pytest would keep three of them."""
    data = tmp_path_factory.mktemp("sop")
    replicas.sop(data / "Stanford_Online_Products", *replicas.sop_sizes(), replicas.HardLinks(data))
    yield data
    shutil.rmtree(data)


@pytest.mark.long
def test_full_replica_has_the_official_counts(whole: Path) -> None:
    found = open_dataset("sop", whole)
    assert found.partial is None
    counts = found.manifest
    assert (counts.train_classes, counts.train_images) == (11_318, 59_551)
    assert (counts.test_classes, counts.test_images) == (11_316, 60_502)
    assert found.class_ids == tuple(range(1, 22_635))
    assert len(found.superclass_names) == 12
    test = whole / "Stanford_Online_Products/Ebay_test.txt"
    lines = test.read_text().splitlines()
    test.write_text("\n".join(lines[:-1]))
    assert open_dataset("sop", whole).partial == "partial (120,052 of 120,053 images)"


def test_not_found_says_what_to_get_and_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset("sop", tmp_path / "nowhere")
    for needed in ("Stanford_Online_Products.zip", "7f73d41a2f44250d4779881525aea32e", str(tmp_path), "--data"):
        assert needed in str(caught.value)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "list missing": (lambda root: (root / "Ebay_test.txt").unlink(), r"Ebay_test.txt: cannot be read"),
    "image missing": (
        lambda root: (root / "chair_final/110000000035_0.JPG").unlink(),
        r"Ebay_train.txt: line 12 lists chair_final/110000000035_0.JPG: .* is not there",
    ),
    "category missing": (lambda root: shutil.rmtree(root / "mug_final"), r"mug_final: cannot be read"),
    "no header": (edited("Ebay_train.txt", 1, "image_id", "id"), r"Ebay_train.txt: line 1: must be the header"),
    "image id twice": (edited("Ebay_train.txt", 3, "2 1", "1 1"), r"line 3: image_id 1 is there already, on line 2"),
    "path twice": (edited("Ebay_train.txt", 3, "_1.JPG", "_0.JPG"), r"line 3: path .* is there already, on line 2"),
    "class of the other side": (
        edited("Ebay_train.txt", 2, "1 1 1", "1 11319 1"),
        r"Ebay_train.txt: line 2: class_id 11319 is not .* test list's",
    ),
    "class beyond": (edited("Ebay_test.txt", 2, "11319", "22635"), r"Ebay_test.txt: line 2: class_id 22635 is not"),
    "class of two categories": (
        edited("Ebay_train.txt", 2, "1 1 1", "1 3 1"),
        r"line 7: class 3 lies in bicycle_final and in cabinet_final",
    ),
    "super-class of two categories": (
        edited("Ebay_train.txt", 7, " 2 cabinet", " 1 cabinet"),
        r"line 7: super_class_id 1 of cabinet_final is that of bicycle_final",
    ),
    "two super-classes of a category": (
        edited("Ebay_test.txt", 3, " 1 bicycle", " 2 bicycle"),
        r"Ebay_test.txt: line 3: super_class_id of bicycle_final is 2, but 1 on line 2 of Ebay_train.txt",
    ),
    "outside": (edited("Ebay_train.txt", 2, "bicycle_final", ".."), r"line 2: path must be <category>/<image file>"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named(tmp_path: Path, case: str) -> None:
    make(tmp_path)
    change, message = BROKEN[case]
    change(tmp_path)
    with pytest.raises(DataError, match=message):
        open_dataset("sop", tmp_path)


def test_test_ids_that_restart(tmp_path: Path) -> None:
    make(tmp_path, first_test_class=1)
    with pytest.raises(DataError, match=r"Ebay_test.txt: line 2: class_id 1 .* they do not restart"):
        open_dataset("sop", tmp_path)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make(root)
    return root


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damaged_lists_never_give_a_wrong_split(copy: Path, data: st.DataObject) -> None:
    path = copy / data.draw(st.sampled_from(["Ebay_train.txt", "Ebay_test.txt"]))
    found = replicas.opened_damaged("sop", copy, path, data.draw)
    if found is not None:
        assert truth(found) <= expected()
