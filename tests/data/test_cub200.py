"""CUB-200-2011 in all its layouts, generated, and the ways in which a copy can be broken or another edition."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data import cub200
from bench.data.catalog import open_dataset
from bench.data.dataset import Dataset
from bench.data.decode import decode
from bench.errors import DataError
from tests.data import replicas

SIZES = {1: 3, 2: 2, 9: 2, 100: 4, 101: 2, 150: 3, 200: 2}
PATHS = replicas.cub_paths(SIZES)
OFFICIAL = "official lists (images.txt, image_class_labels.txt)"


def official(root: Path) -> None:
    replicas.cub(root, SIZES, Path.touch)


def folders(root: Path, parent: str = "images") -> None:
    replicas.cub_images(root / parent, PATHS, Path.touch)
    (root / parent / PATHS[0]).with_name("._left_over.jpg").write_bytes(b"macOS")


def bare_folders(root: Path) -> None:
    folders(root, "")
    (root / "parts").mkdir()


def comma_lists(root: Path) -> None:
    folders(root)
    for name, classes in (("train.txt", range(1, 101)), ("test.txt", range(101, 201))):
        rows = [(path, int(path[:3])) for path in PATHS if int(path[:3]) in classes]
        (root / name).write_text("".join(f"images/{path},{class_id - 1}\n" for path, class_id in rows))


def lists_with_header(root: Path) -> None:
    """Labels restart at 0 in the test list."""
    folders(root)
    for name, first in (("train.txt", 1), ("test.txt", 101)):
        rows = [
            f"{number} {int(path[:3]) - first} images/{path}"
            for number, path in enumerate(PATHS, 1)
            if first <= int(path[:3]) < first + 100
        ]
        (root / name).write_text("\n".join(["image_id class_id path", *rows]))
    (root / "bbox.txt").write_text("1 60.0 27.0 325.0 304.0\n")


LAYOUTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "official": (OFFICIAL, official),
    "folders": ("class folders", folders),
    "bare folders": ("class folders", bare_folders),
    "comma lists": ("lists train.txt and test.txt", comma_lists),
    "lists with header": ("lists train.txt and test.txt", lists_with_header),
}


def truth(found: Dataset) -> list[tuple[str, int, bool]]:
    """(path below the class folders' parent, official class id, on the training side) of every image."""
    on_train_side = np.isin(np.arange(len(found.images)), found.split.train)
    return [
        ("/".join(path.parts[-2:]), found.class_ids[label], bool(side))
        for path, label, side in zip(found.images, found.labels, on_train_side, strict=True)
    ]


@pytest.mark.parametrize("place", ["", "cub200", "cub2011/CUB_200_2011", "CUB_200_2011", "cub200_part"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_recognised_wherever_it_lies(tmp_path: Path, layout: str, place: str) -> None:
    name, make = LAYOUTS[layout]
    make(tmp_path / place)
    found = open_dataset("cub200", tmp_path)
    assert found.manifest.layout == name
    assert found.class_ids == tuple(SIZES)
    assert found.class_names[-1] == "200.Common_Yellowthroat"
    assert found.partial == "partial (7 of 200 classes)"
    assert truth(found) == [(path, int(path[:3]), int(path[:3]) <= 100) for path in sorted(PATHS)]
    assert found.split.gallery is None
    assert found.photographs
    assert all(path.is_file() for path in found.images)


def test_photographs_decode(tmp_path: Path) -> None:
    replicas.cub(tmp_path / "CUB_200_2011", {1: 1, 200: 1}, replicas.picture)
    found = open_dataset("cub200", tmp_path)
    assert decode(found.images[0], 16, 3).shape[2] == 3


def test_full_replica_has_the_official_counts(tmp_path: Path) -> None:
    replicas.cub(tmp_path / "CUB_200_2011", replicas.cub_sizes(), replicas.HardLinks(tmp_path))
    found = open_dataset("cub200", tmp_path)
    assert found.partial is None
    counts = found.manifest
    assert (counts.train_classes, counts.train_images) == (100, 5_864)
    assert (counts.test_classes, counts.test_images) == (100, 5_924)
    found.images[7].unlink()
    shutil.rmtree(tmp_path / "CUB_200_2011/images/200.Common_Yellowthroat")
    for name in ("images.txt", "image_class_labels.txt"):
        (tmp_path / "CUB_200_2011" / name).unlink()
    assert open_dataset("cub200", tmp_path).partial == "partial (199 of 200 classes)"


def test_released_lists(real_photos: Path, tmp_path: Path) -> None:
    lists = real_photos / "cub200_excerpt/annotations_full"
    if not (lists / "images.txt").is_file():
        pytest.skip("BENCH_DATA does not hold the released lists of CUB-200-2011")
    names = [line.split()[1] for line in (lists / "classes.txt").read_text().splitlines()]
    assert list(cub200.official_names()) == names
    root = tmp_path / "CUB_200_2011"
    paths = [line.split()[1] for line in (lists / "images.txt").read_text().splitlines()]
    replicas.cub_images(root / "images", paths, replicas.HardLinks(tmp_path))
    assert open_dataset("cub200", tmp_path).partial is None
    for name in ("images.txt", "image_class_labels.txt", "classes.txt", "train_test_split.txt"):
        shutil.copy(lists / name, root)
    found = open_dataset("cub200", tmp_path)
    assert found.manifest.layout == OFFICIAL
    assert found.partial is None
    assert (found.manifest.train_images, found.manifest.test_images) == (5_864, 5_924)
    assert np.bincount(found.labels).min() == 41
    assert np.bincount(found.labels).max() == 60


def test_excerpt_lacks_the_test_side(real_photos: Path) -> None:
    root = real_photos / "cub200_excerpt/CUB_200_2011"
    if len(list((root / "images").glob("*"))) != 10:
        pytest.skip("BENCH_DATA does not hold the excerpt of ten classes")
    with pytest.raises(DataError, match=r"CUB_200_2011: holds no test image of CUB-200-2011 \(official lists"):
        open_dataset("cub200", real_photos / "cub200_excerpt")


def test_not_found_says_what_to_get_and_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset("cub200", tmp_path / "nowhere")
    for needed in ("97eceeb196236b17998738112f37df78", "CUB_200_2011.tgz", str(tmp_path / "nowhere"), "--data"):
        assert needed in str(caught.value)


def flickr(path: str) -> str:
    return path.replace(".jpg", "0123456789.jpg")


@pytest.mark.parametrize("names", [flickr, str], ids=["by file names", "by count"])
def test_edition_of_2010_is_named(tmp_path: Path, names: Callable[[str], str]) -> None:
    sizes = dict(enumerate(replicas.even(6_033, 200), 1))
    paths = [names(path) for path in replicas.cub_paths(sizes)]
    replicas.cub_images(tmp_path / "cub200/images", paths, replicas.HardLinks(tmp_path))
    with pytest.raises(DataError, match=r"edition of 2010 \(6,033 images .* Get CUB_200_2011.tgz"):
        open_dataset("cub200", tmp_path)
    official(tmp_path / "cub2011")
    assert open_dataset("cub200", tmp_path).manifest.layout == OFFICIAL


def edited(name: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        lines = (root / name).read_text().splitlines()
        (root / name).write_text("\n".join(change(lines)))

    return apply


def replaced(line: int, text: str) -> Callable[[list[str]], list[str]]:
    return lambda lines: [*lines[: line - 1], text, *lines[line:]]


BROKEN: dict[str, tuple[Callable[[Path], None], Callable[[Path], object], str]] = {
    "image missing": (
        official,
        lambda root: (root / "images" / PATHS[4]).unlink(),
        "is listed in line 5 of images.txt",
    ),
    "labels missing": (official, lambda root: (root / "image_class_labels.txt").unlink(), "class_labels.txt: cannot"),
    "images.txt missing": (official, lambda root: (root / "images.txt").unlink(), r"images.txt: cannot be read"),
    "labels shifted by a line": (
        official,
        edited("image_class_labels.txt", lambda lines: [f"{n} {x.split()[1]}" for n, x in enumerate(lines[1:], 1)]),
        r"images.txt: line 3: 001.* class 1, but line 3 of image_class_labels.txt gives image id 3 class 2",
    ),
    "label cut off": (
        official,
        edited("image_class_labels.txt", replaced(18, "18 20")),
        r"images.txt: line 18: .* folder of class 200, .* class 20\.",
    ),
    "labels end sooner": (
        official,
        edited("image_class_labels.txt", lambda lines: lines[:-1]),
        "images.txt: line 18: image id 18 has no class",
    ),
    "images end sooner": (
        official,
        edited("images.txt", lambda lines: lines[:-2]),
        r"image_class_labels.txt: line 17: image id 17 is not in images.txt",
    ),
    "id twice": (official, edited("images.txt", replaced(2, f"1 {PATHS[1]}")), "images.txt: line 2: image id 1 is th"),
    "path twice": (official, edited("images.txt", replaced(2, f"2 {PATHS[0]}")), "images.txt: line 2: path .*line 1"),
    "id from zero": (official, edited("images.txt", replaced(1, f"0 {PATHS[0]}")), "line 1: image id must be a whole"),
    "outside": (official, edited("images.txt", replaced(1, f"1 ../{PATHS[0]}")), "line 1: path must be relative"),
    "three fields": (official, edited("images.txt", replaced(1, f"1 {PATHS[0]} 1")), "line 1: is not 2 fields"),
    "no text": (official, edited("images.txt", replaced(1, f"1 {PATHS[0]}\0")), "images.txt: line 1: is not 2 fields"),
    "folder instead of image": (
        official,
        lambda root: ((root / "images" / PATHS[4]).unlink(), (root / "images" / PATHS[4]).mkdir()),
        "is listed in line 5 of images.txt but is no file",
    ),
    "class unknown": (
        official,
        edited("images.txt", replaced(1, "1 001.Black_foot_Albatross/x.jpg")),
        r"line 1: .*Did you mean '001.Black_footed_Albatross'",
    ),
    "classes in another order": (
        official,
        edited("classes.txt", replaced(1, "1 002.Laysan_Albatross")),
        r"classes.txt: line 1: class 1 is not officially called '002.Laysan_Albatross'",
    ),
    "folder unknown": (
        folders,
        lambda root: (root / "images/002.Laysan_Albatros").mkdir(),
        r"Albatros: is not named .*Did you mean '002.Laysan_Albatross'",
    ),
    "folder with another number": (
        bare_folders,
        lambda root: (root / "002.Laysan_Albatross").rename(root / "003.Laysan_Albatross"),
        r"003.Laysan_Albatross: is not named after a class",
    ),
    "labels from one": (
        comma_lists,
        edited("train.txt", lambda lines: [f"{x.split(',')[0]},{int(x.split(',')[1]) + 1}" for x in lines]),
        r"train.txt: line 1: label 1 does not belong to class 1",
    ),
    "list for classification": (
        comma_lists,
        edited("train.txt", lambda lines: [*lines, f"images/{PATHS[-1]},199"]),
        r"train.txt: line 12: class 200 is on the other side .* Remove train.txt",
    ),
    "list without comma": (comma_lists, edited("test.txt", replaced(1, "a b")), r"test.txt: line 1: is neither"),
    "one list only": (lists_with_header, lambda root: (root / "test.txt").unlink(), r"test.txt: cannot be read"),
    "labels of another class": (
        lists_with_header,
        edited("test.txt", replaced(4, f"14 7 images/{PATHS[13]}")),
        r"test.txt: line 4: label 7 does not belong to class 150",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_named(tmp_path: Path, case: str) -> None:
    make, change, message = BROKEN[case]
    make(tmp_path / "CUB_200_2011")
    change(tmp_path / "CUB_200_2011")
    with pytest.raises(DataError, match=message):
        open_dataset("cub200", tmp_path)


def test_lists_saved_by_an_editor_of_another_system(tmp_path: Path) -> None:
    official(tmp_path)
    before = truth(open_dataset("cub200", tmp_path))
    for name in ("images.txt", "image_class_labels.txt", "classes.txt"):
        content = (tmp_path / name).read_bytes().replace(b"\n", b"\r\n")
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content + b"\r\n")
    assert truth(open_dataset("cub200", tmp_path)) == before


@pytest.fixture(scope="module", params=[official, comma_lists, lists_with_header])
def copy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("data") / "CUB_200_2011"
    request.param(root)
    yield root
    shutil.rmtree(root)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damaged_lists_never_give_a_wrong_split(copy: Path, data: st.DataObject) -> None:
    known = ("images.txt", "image_class_labels.txt", "classes.txt", "train.txt", "test.txt")
    path = data.draw(st.sampled_from([copy / name for name in known if (copy / name).is_file()]))
    found = replicas.opened_damaged("cub200", copy, path, data.draw)
    if found is not None:
        expected = {(name, int(name[:3]), int(name[:3]) <= 100) for name in PATHS}
        assert set(truth(found)) <= expected
