"""The human-pose set in miniature: coordinates come back from distances, and nothing is unpickled."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat
from scipy.spatial.distance import cdist

from bench import home
from bench.data import human_pose, official
from bench.data.catalog import open_dataset
from bench.data.dataset import Dataset
from bench.errors import DataError
from tests.data import photos

TRAIN, VALIDATION, DIMENSIONS = 60, 40, 6


def poses(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIMENSIONS)) * 25 + 100


def ranked(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Other images by distance, and these distances, as released."""
    distances = cdist(points, points)
    order = np.argsort(distances + np.where(np.eye(len(points)), np.inf, 0), axis=1)[:, :-1]
    return order, np.take_along_axis(distances, order, axis=1)


def images(root: Path, train: int = TRAIN, validation: int = VALIDATION) -> None:
    for half, count in (("trn", train), ("val", validation)):
        for number in range(count):
            photos.write(root / half / f"{number:05}.jpg", number, 8, 8)


def released(root: Path, matrix: bool = True, validation: np.ndarray | None = None) -> Path:
    images(root)
    halves = {"trn": poses(TRAIN, 1), "val": poses(VALIDATION, 2)}
    np.savez(root / "list_nn.npz", **{key: ranked(points)[0] for key, points in halves.items()})
    np.savez(root / "dist_nn.npz", **{key: ranked(points)[1] for key, points in halves.items()})
    if matrix:
        points = halves["val"] if validation is None else validation
        savemat(root / "dist_pose_val.mat", {"dist_pose_val": cdist(points, points)})
    return root


def label_distances(found: Dataset, rows: np.ndarray) -> np.ndarray:
    return cdist(found.targets[rows], found.targets[rows])


@pytest.mark.parametrize("place", ["", "human_pose", "fullbody", "human_pose/fullbody"])
@pytest.mark.parametrize("matrix", [True, False])
def test_recovered_label_distances_are_the_given_ones(tmp_path: Path, place: str, matrix: bool) -> None:
    released(tmp_path / place, matrix)
    found = open_dataset("human_pose", tmp_path)
    assert found.targets.shape == (TRAIN + VALIDATION, DIMENSIONS)
    for rows, truth in ((found.split.train, poses(TRAIN, 1)), (found.split.test, poses(VALIDATION, 2))):
        np.testing.assert_allclose(label_distances(found, rows), cdist(truth, truth), rtol=0.01, atol=0.2)
    names = [path.relative_to(tmp_path / place).as_posix() for path in found.images]
    assert names == sorted(names)
    assert (len(found.split.train), len(found.split.query), len(found.split.gallery)) == (60, 8, 32)
    assert np.bincount(found.labels).tolist() == [1] * 100
    assert found.partial == "partial (68 of 14,285 classes)"
    assert found.default_protocol == "graded"


def test_official_numbers() -> None:
    whole = {"train": 12_366, "query": 1_919, "gallery": 8_000}
    assert official.partial(human_pose.BENCHMARK, whole, whole) is None
    fewer = whole | {"gallery": 7_999}
    assert official.partial(human_pose.BENCHMARK, fewer, fewer) == "partial (22,284 of 22,285 images)"


def test_recovery_is_kept_until_the_files_change(tmp_path: Path) -> None:
    released(tmp_path)
    first = open_dataset("human_pose", tmp_path)
    kept = max((home.cache_folder() / "targets").glob("human_pose-*.npz"), key=os.path.getmtime)
    with np.load(kept) as arrays:
        np.testing.assert_array_equal(arrays["points"], first.targets)
    np.savez(kept, points=first.targets + 1)
    assert open_dataset("human_pose", tmp_path).targets[0, 0] == first.targets[0, 0] + 1
    kept.write_bytes(b"damaged")
    np.testing.assert_array_equal(open_dataset("human_pose", tmp_path).targets, first.targets)
    released(tmp_path, validation=poses(VALIDATION, 7))
    other = open_dataset("human_pose", tmp_path)
    truth = poses(VALIDATION, 7)
    np.testing.assert_allclose(label_distances(other, other.split.test), cdist(truth, truth), rtol=0.01, atol=0.2)
    assert other.manifest.hash != first.manifest.hash


def test_coordinates_of_the_user_go_first(tmp_path: Path) -> None:
    images(tmp_path, 5, 4)
    paths = [f"trn/{n:05}.jpg" for n in range(5)] + [f"val/{n:05}.jpg" for n in range(4)]
    np.savez(tmp_path / "targets.npz", path=np.array(paths[::-1]), targets=np.arange(9.0)[::-1, None])
    found = open_dataset("human_pose", tmp_path)
    assert found.targets[:, 0].tolist() == list(range(9))
    (tmp_path / "list_nn.pkl").write_bytes(b"not even looked at")
    assert open_dataset("human_pose", tmp_path).manifest.hash == found.manifest.hash


def test_pickles_are_not_opened_and_the_printed_conversion_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released(tmp_path)
    for name in ("list_nn", "dist_nn"):
        with np.load(tmp_path / f"{name}.npz") as arrays:
            (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps({key: list(arrays[key]) for key in arrays.files}))
        (tmp_path / f"{name}.npz").unlink()
    with pytest.raises(DataError, match=r"list_nn.npz: is missing. The released list_nn.pkl .* are pickles") as caught:
        open_dataset("human_pose", tmp_path)
    monkeypatch.chdir(tmp_path)
    exec("\n".join(line.strip() for line in str(caught.value).splitlines() if line.startswith("  ")))
    assert open_dataset("human_pose", tmp_path).targets.shape == (100, DIMENSIONS)


def changed(root: Path, file: str, key: str, row: int, column: int, value: float) -> Dataset:
    released(root)
    with np.load(root / file) as arrays:
        content = dict(arrays)
    content[key][row, column] = value
    np.savez(root / file, **content)
    return open_dataset("human_pose", root)


@pytest.mark.parametrize(
    ("file", "row", "column", "value", "message"),
    [
        ("list_nn.npz", 3, 5, 3, "list_nn.npz: row 3 of 'trn' is not a list of all other images"),
        ("list_nn.npz", 3, 5, 60, "list_nn.npz: row 3 of 'trn'"),
        ("list_nn.npz", 3, 5, -1, "list_nn.npz: row 3 of 'trn'"),
        ("dist_nn.npz", 3, 5, -1, r"dist_nn.npz \(trn\): row 3 holds a distance that is negative"),
        ("dist_nn.npz", 3, 5, np.nan, r"row 3 holds a distance that is negative or not a number"),
        ("dist_nn.npz", 3, 5, 1e300, r"row 3 holds a distance that is negative or not a number"),
        ("dist_nn.npz", 3, 5, 1.0, r"from image \d+ to \d+, but .* back"),
    ],
)
def test_damaged_lists_are_named(tmp_path: Path, file: str, row: int, column: int, value: float, message: str) -> None:
    with pytest.raises(DataError, match=message):
        changed(tmp_path, file, "trn", row, column, value)


def test_distances_that_no_points_have(tmp_path: Path) -> None:
    released(tmp_path)
    joints = poses(VALIDATION, 3).reshape(VALIDATION, 3, 2)
    mean = np.linalg.norm(joints[:, None] - joints[None], axis=3).mean(2)
    savemat(tmp_path / "dist_pose_val.mat", {"dist_pose_val": mean})
    with pytest.raises(DataError, match=r"dist_pose_val.mat: its distances are not Euclidean.*targets.npz"):
        open_dataset("human_pose", tmp_path)


def test_sizes_must_be_those_of_the_folders(tmp_path: Path) -> None:
    released(tmp_path)
    photos.write(tmp_path / "trn/99999.jpg", 1)
    with pytest.raises(DataError, match=r"list_nn.npz: array 'trn' is int64 \(60, 59\), expected \(61, 60\)"):
        open_dataset("human_pose", tmp_path)
    (tmp_path / "trn/99999.jpg").unlink()
    photos.write(tmp_path / "val/99999.jpg", 1)
    with pytest.raises(DataError, match=r"dist_pose_val.mat: is \(40, 40\), but there are 41 validation images"):
        open_dataset("human_pose", tmp_path)
    photos.write(tmp_path / "more/1.jpg", 1)
    with pytest.raises(DataError, match=r"has 3 folders of images \(more, trn, val\), expected two"):
        open_dataset("human_pose", tmp_path)


def test_not_found_says_what_to_get(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset("human_pose", tmp_path)
    for needed in ("dist_pose_val.mat", str(tmp_path / "human_pose"), "pickle", "targets.npz", "--data"):
        assert needed in str(caught.value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["list_nn.npz", "dist_nn.npz", "dist_pose_val.mat"]),
    st.integers(0, 10**6),
    st.integers(0, 255),
    st.booleans(),
)
def test_damage_is_an_error_or_within_tolerance(tmp_path: Path, name: str, place: int, byte: int, cut: bool) -> None:
    if not (tmp_path / "list_nn.npz").is_file():
        released(tmp_path)
    sound = (tmp_path / name).read_bytes()
    content = bytearray(sound)
    place %= len(content)
    content[place:] = b"" if cut else bytes([byte]) + content[place + 1 :]
    (tmp_path / name).write_bytes(content)
    try:
        found = open_dataset("human_pose", tmp_path)
    except DataError as error:
        found = str(error)
    finally:
        (tmp_path / name).write_bytes(sound)
    if isinstance(found, str):
        assert str(tmp_path) in found
        return
    for rows, truth in ((found.split.train, poses(TRAIN, 1)), (found.split.test, poses(VALIDATION, 2))):
        np.testing.assert_allclose(label_distances(found, rows), cdist(truth, truth), rtol=0.02, atol=1)
