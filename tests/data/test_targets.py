"""Continuous labels from a file, and the recovery of coordinates from distances."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from bench import protocol
from bench.data import targets
from bench.errors import DataError
from bench.evaluation import evaluate

PATHS = ("a/1.png", "a/2.png", "b/ü.png")


def write(
    root: Path, paths: object = PATHS, values: object = ((1.0, 2.0), (3.0, 4.0), (5.0, 6.0)), **more: object
) -> Path:
    np.savez(root / "targets.npz", path=np.asarray(paths), targets=np.asarray(values), **more)
    return root


def test_rows_are_joined_by_path_not_by_position(tmp_path: Path) -> None:
    write(tmp_path, ["./b/ü.png", "a/2.png", "a/1.png"])
    found = targets.beside(tmp_path, PATHS)
    assert found.tolist() == [[5.0, 6.0], [3.0, 4.0], [1.0, 2.0]]
    assert found.dtype == np.float64
    (tmp_path / "empty").mkdir()
    assert targets.beside(tmp_path / "empty", PATHS) is None


@pytest.mark.parametrize(
    ("paths", "values", "message"),
    [
        (PATHS[:2], [[1.0], [2.0]], r"has no target of b/ü.png \(1 of 3 images have none\)"),
        ((*PATHS, "c.png"), [[1.0]] * 4, r"row 3: c.png is not an image"),
        (("a/1.png", "a/2.png", "./a/1.png"), [[1.0]] * 3, r"row 2: a/1.png is there already, in row 0"),
        (PATHS, [[1.0], [np.nan], [2.0]], r"row 1: the target of a/2.png is not finite"),
        (PATHS, [[1.0], [2.0]], r"has 3 paths but 2 targets"),
        (PATHS, [1.0, 2.0, 3.0], r"array 'targets' must be numbers \(N, T\), found float64 \(3,\)"),
        (PATHS, [["1"], ["2"], ["3"]], r"array 'targets' must be numbers"),
        (PATHS, [[1j], [2j], [3j]], r"array 'targets' must be numbers"),
        (PATHS, np.zeros((3, 0)), r"array 'targets' must be numbers"),
        ([1, 2, 3], [[1.0]] * 3, r"array 'path' must be text"),
        ([b"a/1.png", b"a/2.png", b"b"], [[1.0]] * 3, r"array 'path' must be text"),
    ],
)
def test_faults_are_named(tmp_path: Path, paths: object, values: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        targets.beside(write(tmp_path, paths, values), PATHS)


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(ran),)

    np.savez(tmp_path / "targets.npz", path=np.array(PATHS), targets=np.array([Hostile()] * 3, dtype=object))
    with pytest.raises(DataError, match=r"'targets' holds Python objects"):
        targets.beside(tmp_path, PATHS)
    assert not ran.exists()


@pytest.mark.parametrize("claimed", [10**6, 10**12])
def test_a_header_that_claims_more_than_there_is(tmp_path: Path, claimed: int) -> None:
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (claimed, 1)})
    with zipfile.ZipFile(tmp_path / "targets.npz", "w") as archive:
        archive.writestr("path.npy", member.getvalue())
        archive.writestr("targets.npy", member.getvalue())
    with pytest.raises(DataError, match=r"which is not what the file holds"):
        targets.beside(tmp_path, PATHS)


def test_other_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "targets.npz", path=np.array(PATHS))
    with pytest.raises(DataError, match=r"targets.npz: cannot be read as .npz with the arrays path, targets"):
        targets.beside(tmp_path, PATHS)
    (tmp_path / "targets.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"cannot be read as .npz"):
        targets.beside(tmp_path, PATHS)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.integers(0, 255), st.booleans())
def test_damage_is_an_error_or_does_no_harm(tmp_path: Path, place: int, byte: int, cut: bool) -> None:
    content = bytearray((write(tmp_path) / "targets.npz").read_bytes())
    place %= len(content)
    content[place:] = b"" if cut else bytes([byte]) + content[place + 1 :]
    (tmp_path / "targets.npz").write_bytes(content)
    try:
        found = targets.beside(tmp_path, PATHS)
    except DataError as error:
        found = str(error)
    if isinstance(found, str):
        assert "targets.npz" in found
        return
    assert found.tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


@pytest.mark.parametrize("dimensions", [1, 3, 28])
def test_recovered_points_have_the_given_distances(dimensions: int) -> None:
    truth = np.random.default_rng(dimensions).standard_normal((150, dimensions)) * 40 + 1000
    distances = cdist(truth, truth).astype(np.float32)
    points, enough = targets.coordinates(distances, "matrix")
    assert enough <= dimensions
    found = cdist(points[:, :enough], points[:, :enough])
    assert np.linalg.norm(found - distances) <= targets.TOLERANCE * np.linalg.norm(distances)
    if enough > 1:
        fewer = cdist(points[:, : enough - 1], points[:, : enough - 1])
        assert np.linalg.norm(fewer - distances) > targets.TOLERANCE * np.linalg.norm(distances)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_recovery_does_not_depend_on_the_unit(scale: float) -> None:
    truth = np.random.default_rng(0).standard_normal((40, 4)) * [9, 5, 3, 1] * scale
    points, enough = targets.coordinates(cdist(truth, truth).astype(np.float32), "matrix")
    assert enough == 4
    np.testing.assert_allclose(cdist(points[:, :4], points[:, :4]), cdist(truth, truth), atol=scale * 1e-2)


def test_distances_of_no_points_are_refused() -> None:
    truth = np.random.default_rng(1).standard_normal((120, 14, 2))
    joints = np.linalg.norm(truth[:, None] - truth[None], axis=3).mean(2)
    with pytest.raises(DataError, match=r"matrix: its distances are not Euclidean .* miss them by \d\.\d+%"):
        targets.coordinates(joints.astype(np.float32), "matrix")


def test_a_matrix_of_no_distances_is_refused() -> None:
    truth = np.random.default_rng(2).standard_normal((20, 2))
    right = cdist(truth, truth).astype(np.float32)

    def refused(message: str, row: int, column: int, value: float) -> None:
        wrong = right.copy()
        wrong[row, column] = value
        with pytest.raises(DataError, match=message):
            targets.coordinates(wrong, "matrix")

    refused("row 3 holds a distance that is negative", 3, 4, -1.0)
    refused("row 3 holds a distance that is negative or not a number", 3, 4, np.nan)
    refused("row 0 holds", 0, 19, np.inf)
    refused("from image 3 to 4, but .* back", 3, 4, right[3, 4] + 1)
    refused("image 5 has the distance 2 to itself", 5, 5, 2.0)
    with pytest.raises(DataError, match="not a square matrix"):
        targets.coordinates(right[:, :5], "matrix")
    with pytest.raises(DataError, match="all distances are zero"):
        targets.coordinates(np.zeros((4, 4), np.float32), "matrix")


def test_without_classes_continuous_labels_are_evaluated_alone() -> None:
    rng = np.random.default_rng(3)
    rows, values = rng.standard_normal((30, 4)).astype(np.float32), rng.standard_normal((30, 2))
    graded = protocol.Graded(distance_at=(1, 3), ndcg_at=(5,))
    for query in (None, np.arange(30) < 10):
        alone = evaluate(
            rows, np.arange(30), query=query, targets=values, graded=graded, clustering=protocol.Clustering()
        )
        beside = evaluate(rows, np.arange(30) % 5, query=query, targets=values, graded=graded)
        assert set(alone.metrics) == {"label_distance_at_1", "label_distance_at_3", "ndcg_at_5"}
        assert alone.metrics.items() <= beside.metrics.items()
        assert alone.per_query == {}
        assert alone.counts == {"queries": 30 if query is None else 10, "lone_queries": 0}
        for asking, nearest in zip(alone.queries, alone.neighbours, strict=True):
            away = np.linalg.norm(rows.astype(float) - rows[asking], axis=1)
            away[asking if query is None else query] = np.inf
            assert nearest.tolist() == np.argsort(away)[:10].tolist()


def test_without_classes_and_continuous_labels_there_is_nothing_to_evaluate() -> None:
    rows = np.eye(4, dtype=np.float32)
    with pytest.raises(DataError, match="no retrieval metric is defined"):
        evaluate(rows, np.arange(4), targets=np.zeros((4, 1)))
    with pytest.raises(DataError, match="no retrieval metric is defined"):  # classes that no query shares
        evaluate(rows, np.array([0, 1, 1, 2]), query=np.array([True, False, False, True]))


def test_one_query_with_an_answer_keeps_the_class_metrics() -> None:
    rows, graded = np.eye(4, dtype=np.float32), protocol.Graded(distance_at=(1,), ndcg_at=(1,))
    found = evaluate(rows, np.array([0, 0, 1, 2]), targets=np.arange(4.0)[:, None], graded=graded)
    assert found.counts == {"queries": 2, "lone_queries": 2}
    assert {"map_at_r", "ndcg_at_1"} <= set(found.metrics)
