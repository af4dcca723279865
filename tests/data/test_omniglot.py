"""Omniglot in all its layouts, generated in miniature, and the released small background set."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bench.data import official, omniglot
from bench.data.catalog import open_dataset
from bench.data.dataset import Dataset
from bench.data.decode import decode
from bench.errors import DataError
from bench.protocol import Folds
from bench.training.parts import split_training_side
from tests.data import photos

BACKGROUND = {"Greek": (394, 395), "Latin": (683, 684), "Balinese": (108,), "Korean": (643,), "Magi": (709, 710)}
EVALUATION = {"Angelic": (965, 966), "Ge_ez": (1089,)}
DRAWERS = (1, 2, 20)


def tree(root: Path, alphabets: dict[str, Sequence[int]], drawers: Sequence[int] = DRAWERS) -> Path:
    for alphabet, ids in alphabets.items():
        for number, class_id in enumerate(ids, 1):
            for drawer in drawers:
                name = f"{alphabet}/character{number:02}/{class_id:04}_{drawer:02}.png"
                photos.write(root / name, class_id * 100 + drawer, mode="1")
    return root


def sides(found: Dataset) -> tuple[list[str], list[str]]:
    assert found.superlabels is not None
    train, test = (
        sorted({found.superclass_names[label] for label in found.superlabels[rows]})
        for rows in (found.split.train, found.split.query)
    )
    return train, test


@pytest.mark.parametrize(
    "place", ["", "omniglot", "Omniglot_2015", "omniglot-py", "omniglot/omniglot-py", "omniglot/python"]
)
def test_background_trains_and_evaluation_tests(tmp_path: Path, place: str) -> None:
    tree(tmp_path / place / "images_background", BACKGROUND)
    tree(tmp_path / place / "images_evaluation", EVALUATION)
    found = open_dataset("omniglot", tmp_path)
    assert sides(found) == (sorted(BACKGROUND), sorted(EVALUATION))
    assert found.class_ids == (108, 394, 395, 643, 683, 684, 709, 710, 965, 966, 1089)
    assert found.class_names[2] == "Greek/character02"
    assert found.class_names[5] == "Latin/character02"
    assert found.nuisance.tolist() == list(DRAWERS) * 11
    assert found.partial == "partial (11 of 1,623 classes)"
    assert found.manifest.layout == "images_background and images_evaluation"
    assert not found.photographs
    assert found.default_protocol == "quick"


def test_folds_keep_alphabets_together(tmp_path: Path) -> None:
    tree(tmp_path / "images_background", BACKGROUND)
    tree(tmp_path / "images_evaluation", EVALUATION)
    found = open_dataset("omniglot", tmp_path)
    for fold in range(5):
        training, validation = split_training_side(found, Folds(count=5), fold)
        assert validation is not None
        assert set(training.superlabels).isdisjoint(validation.superlabels)
        assert len(set(validation.superlabels)) == 1


@pytest.mark.parametrize(
    ("folder", "alphabets"),
    [
        ("images_background", {"Greek": (394, 395), "Latin": (683,), "Korean": (643,)}),
        ("images_background_small1", {"Greek": (394, 395), "Latin": (683,), "Korean": (643,)}),
        ("images_evaluation", EVALUATION),
        ("", BACKGROUND),
    ],
)
def test_alone_each_set_is_halved_by_alphabet(tmp_path: Path, folder: str, alphabets: dict[str, Sequence[int]]) -> None:
    tree(tmp_path / "omniglot" / folder, alphabets)
    found = open_dataset("omniglot", tmp_path)
    names = sorted(alphabets)
    half = (len(names) + 1) // 2
    assert sides(found) == (names[:half], names[half:])
    assert found.class_groups is None
    assert any("half of the alphabets" in note for note in found.notes)
    assert any("training alphabets: validation folds cut through" in note for note in found.notes)
    split_training_side(found, Folds(count=2), 0)


def test_alphabets_of_both_sets_in_one_folder(tmp_path: Path) -> None:
    tree(tmp_path, BACKGROUND | EVALUATION)
    assert sides(open_dataset("omniglot", tmp_path)) == (sorted(BACKGROUND), sorted(EVALUATION))


def test_small_sets_add_up_and_the_whole_one_replaces_them(tmp_path: Path) -> None:
    tree(tmp_path / "images_background_small1", {"Greek": (394,), "Latin": (683,)})
    tree(tmp_path / "images_background_small2", {"Latin": (683,), "Korean": (643,)})
    tree(tmp_path / "images_evaluation", EVALUATION)
    small = open_dataset("omniglot", tmp_path)
    assert small.class_ids[:3] == (394, 643, 683)
    assert np.bincount(small.labels).tolist() == [3] * 6
    tree(tmp_path / "images_background", BACKGROUND)
    assert sides(open_dataset("omniglot", tmp_path))[0] == sorted(BACKGROUND)


def test_macos_left_overs_and_doubled_folders(tmp_path: Path) -> None:
    tree(tmp_path / "images_background/images_background", BACKGROUND)
    (tmp_path / "images_background/images_background/Greek/character01/._0394_01.png").write_bytes(b"macOS")
    tree(tmp_path / "images_background/__MACOSX", {"Greek": (1,)})
    assert open_dataset("omniglot", tmp_path).manifest.images == 8 * len(DRAWERS)


def test_official_numbers() -> None:
    def found(train: int, test: int) -> str | None:
        return official.partial(omniglot.BENCHMARK, {"train": 964, "query": 659}, {"train": train, "query": test})

    assert found(19_280, 13_180) is None
    assert found(19_280, 13_179) == "partial (32,459 of 32,460 images)"


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("images_background/Greek/character01/alpha.png", r"alpha.png: is not named <character>_<drawer>"),
        ("images_background/Greek/character01/0394_21.png", r"0394_21.png: is not named"),
        ("images_background/Greek/character01/0394_00.png", r"0394_00.png: is not named"),
        ("images_background/Greek/character01/0965_03.png", r"0965 is not one of images_background \(1-964\)"),
        ("images_background/Greek/character01/0400_03.png", r"has the id 0400, .* Greek/character01 is 0394"),
        ("images_background/Greek/character09/0394_03.png", r"has the id 0394, which is that of Greek/character01"),
        ("images_background/Greek/character01/0394_01.gif", r"the same drawing as 0394_01"),
        ("images_evaluation/Greek/character01/0394_03.png", r"character 0394 is not one of images_evaluation"),
    ],
)  # fmt: skip
def test_misplaced_files_are_named(tmp_path: Path, place: str, message: str) -> None:
    tree(tmp_path / "images_background", BACKGROUND)
    photos.write(tmp_path / place, 5)
    with pytest.raises(DataError, match=message):
        open_dataset("omniglot", tmp_path)


def test_one_alphabet_cannot_be_split(tmp_path: Path) -> None:
    tree(tmp_path / "images_background", {"Greek": (394, 395)})
    with pytest.raises(DataError, match="alphabet Greek only"):
        open_dataset("omniglot", tmp_path)


def test_not_found_and_not_unpacked(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset("omniglot", tmp_path)
    for needed in ("68d2efa1b9178cc56df9314c21c6e718", str(tmp_path / "omniglot"), "--data"):
        assert needed in str(caught.value)
    (tmp_path / "omniglot").mkdir()
    (tmp_path / "omniglot/images_evaluation.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"images_evaluation.zip: is there, but not unpacked"):
        open_dataset("omniglot", tmp_path)
    (tmp_path / "omniglot/images_background").mkdir()
    with pytest.raises(DataError, match=r"holds no image"):
        open_dataset("omniglot", tmp_path)


def test_released_small_background_set(real_photos: Path, tmp_path: Path) -> None:
    archive = real_photos / "omniglot_small/images_background_small1.zip"
    if not archive.is_file():
        pytest.skip("BENCH_DATA holds no omniglot_small")
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "omniglot_small")
    found = open_dataset("omniglot", tmp_path)
    assert found.partial == "partial (136 of 1,623 classes)"
    assert sides(found) == (["Balinese", "Early_Aramaic", "Greek"], ["Korean", "Latin"])
    counts = found.manifest
    assert (counts.train_classes, counts.train_images) == (70, 1_400)
    assert (counts.test_classes, counts.test_images) == (66, 1_320)
    assert np.bincount(found.labels).tolist() == [20] * 136
    assert np.bincount(found.nuisance)[1:].tolist() == [136] * 20
    pixels = decode(found.images[0], None, 1)
    assert pixels.shape == (105, 105, 1)
    assert set(np.unique(pixels)) == {0, 255}
    assert (pixels == 255).mean() > 0.8, "ink is dark, paper is light"
    before = counts.hash
    shutil.copy(found.images[0], found.images[1])
    assert open_dataset("omniglot", tmp_path).manifest.hash != before
