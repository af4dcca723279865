"""Fashion-MNIST's idx files, generated, whole and small, and the ways in which they can be broken."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.data.catalog import open_dataset
from bench.data.dataset import Dataset
from bench.errors import DataError

SMALL = {"train": 40, "t10k": 20}
TRAIN_LABELS = "train-labels-idx1-ubyte"
TRAIN_IMAGES = "train-images-idx3-ubyte"


def idx(path: Path, array: np.ndarray, magic: int | None = None, shape: tuple[int, ...] | None = None) -> None:
    head = (magic or 0x0800 + array.ndim, *(shape or array.shape))
    content = struct.pack(f">{len(head)}I", *head) + array.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


def images_of(labels: np.ndarray) -> np.ndarray:
    images = np.zeros((len(labels), 28, 28), np.uint8)
    images[:, 0, 0] = labels  # tells which label each image came with
    images[:, 0, 1] = np.arange(len(labels)) % 251
    return images


def files(root: Path, sizes: dict[str, int] = SMALL, end: str = "", dot: str = "-") -> Path:
    for part, count in sizes.items():
        labels = np.random.default_rng(count).permutation(np.arange(count) % 10)
        idx(root / f"{part}-images{dot}idx3-ubyte{end}", images_of(labels))
        idx(root / f"{part}-labels{dot}idx1-ubyte{end}", labels)
    return root


@pytest.mark.parametrize(
    "place",
    ["", "fashion_mnist", "fashion_mnist_2017", "Fashion-MNIST", "FashionMNIST/raw", "fashion_mnist/FashionMNIST/raw"],
)
@pytest.mark.parametrize(("end", "dot"), [("", "-"), (".gz", "-"), ("", ".")])
def test_files_are_found_wherever_they_lie(tmp_path: Path, place: str, end: str, dot: str) -> None:
    files(tmp_path / place, end=end, dot=dot)
    found = open_dataset("fashion_mnist", tmp_path)
    assert found.images.shape == (60, 28, 28)
    assert found.images[:, 0, 0].tolist() == found.labels.tolist()
    assert set(found.labels[found.split.train]) == {0, 1, 2, 3, 4}
    assert set(found.labels[found.split.query]) == {5, 6, 7, 8, 9}
    assert found.class_names[9] == "Ankle boot"
    assert found.partial == "partial (60 of 70,000 images)"
    assert any("not the closed-set split" in note for note in found.notes)


def test_the_whole_set(tmp_path: Path) -> None:
    files(tmp_path, {"train": 60_000, "t10k": 10_000})
    found = open_dataset("fashion_mnist", tmp_path)
    assert found.partial is None
    assert np.bincount(found.labels).tolist() == [7_000] * 10
    assert (found.manifest.train_images, found.manifest.test_images) == (35_000, 35_000)


def test_files_of_mnist_are_told_from_these(tmp_path: Path) -> None:
    files(tmp_path, {"t10k": 10_000})
    path = tmp_path / "t10k-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    content[-1] = (content[-1] + 1) % 10
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"999 to 1001 images a class.*MNIST has files of the same names"):
        open_dataset("fashion_mnist", tmp_path)


def test_one_part_alone_is_partial(tmp_path: Path) -> None:
    files(tmp_path, {"t10k": 10_000})
    assert open_dataset("fashion_mnist", tmp_path).partial == "partial (10,000 of 70,000 images)"


def test_missing_classes_keep_their_ids(tmp_path: Path) -> None:
    labels = np.array([0, 2, 2, 7, 9, 7])
    idx(tmp_path / TRAIN_IMAGES, images_of(labels))
    idx(tmp_path / TRAIN_LABELS, labels)
    found = open_dataset("fashion_mnist", tmp_path)
    assert found.class_ids == (0, 2, 7, 9)
    assert found.labels.tolist() == [0, 1, 1, 2, 3, 2]
    assert found.partial == "partial (4 of 10 classes)"


def broken(root: Path, name: str, array: np.ndarray, **head: object) -> Dataset:
    files(root)
    idx(root / name, array, **head)
    return open_dataset("fashion_mnist", root)


@pytest.mark.parametrize(
    ("name", "array", "head", "message"),
    [
        (TRAIN_LABELS, np.zeros(40), {"magic": 2051}, "begins with 2051, not 2049"),
        (TRAIN_IMAGES, np.zeros((40, 28, 28)), {"magic": 2049}, "begins with 2049, not 2051"),
        (TRAIN_IMAGES, np.zeros((40, 28, 27)), {}, "40 x 28 x 27 bytes, expected up to 60,000 x 28 x 28"),
        (TRAIN_IMAGES, np.zeros((39, 28, 28)), {"shape": (40, 28, 28)}, "holds fewer bytes than the 31,360"),
        (TRAIN_IMAGES, np.zeros((41, 28, 28)), {"shape": (40, 28, 28)}, "holds more bytes"),
        (TRAIN_IMAGES, np.zeros((0, 0, 0)), {"shape": (2**32 - 1,) * 3}, "4294967295 x 4294967295 x 4294967295 bytes"),
        (TRAIN_LABELS, np.zeros(41), {}, "has 41 labels, but train-images-idx3-ubyte has 40 images"),
        (TRAIN_LABELS, np.full(40, 10), {}, "label 10 of image 0 is not one of 0-9"),
        (TRAIN_LABELS, np.zeros(0), {"shape": (60_001,)}, "expected up to 60,000"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, array: np.ndarray, head: dict, message: str) -> None:
    with pytest.raises(DataError, match=rf"{name}: .*{message}"):
        broken(tmp_path, name, array, **head)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_forged_header_takes_no_memory(tmp_path: Path, end: str) -> None:
    files(tmp_path, end=end)
    idx(tmp_path / (TRAIN_IMAGES + end), np.zeros((40, 28, 28)), shape=(60_000, 28, 28))
    tracemalloc.start()
    with pytest.raises(DataError, match="holds fewer bytes than the 47,040,000"):
        open_dataset("fashion_mnist", tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6, "no more than an honest file takes"


def test_missing_partner_and_empty_side(tmp_path: Path) -> None:
    files(tmp_path)
    (tmp_path / TRAIN_LABELS).unlink()
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte is missing"):
        open_dataset("fashion_mnist", tmp_path)
    other = tmp_path / "other"
    idx(other / TRAIN_IMAGES, np.zeros((3, 28, 28)))
    idx(other / TRAIN_LABELS, np.array([0, 1, 4]))
    with pytest.raises(DataError, match=r"none of 5-9"):
        open_dataset("fashion_mnist", other)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([TRAIN_LABELS, TRAIN_IMAGES]),
    st.booleans(),
    st.integers(0, 10**5),
    st.integers(0, 255),
    st.booleans(),
)
def test_damage_is_an_error_or_changes_the_hash(
    tmp_path: Path, name: str, packed: bool, place: int, byte: int, cut: bool
) -> None:
    root = tmp_path / ("packed" if packed else "plain")
    name += ".gz" if packed else ""
    files(root, end=".gz" if packed else "")
    sound = open_dataset("fashion_mnist", root)
    content = bytearray((root / name).read_bytes())
    place %= len(content)
    content[place:] = b"" if cut else bytes([byte]) + content[place + 1 :]
    (root / name).write_bytes(content)
    try:
        found = open_dataset("fashion_mnist", root)
    except DataError as error:
        found = str(error)
    if isinstance(found, str):
        assert str(root) in found
        return
    same = np.array_equal(found.images, sound.images) and np.array_equal(found.labels, sound.labels)
    assert same == (found.manifest.hash == sound.manifest.hash)


def test_not_found_says_what_to_get(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset("fashion_mnist", tmp_path)
    for needed in ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", str(tmp_path / "fashion_mnist"), "FashionMNIST/raw", "--data"):
        assert needed in str(caught.value)
