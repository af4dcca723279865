"""PKU VehicleID generated in miniature and in full size, its fixed draws, and the ways a copy can be broken."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from bench.data import official, vehicleid
from bench.data.catalog import keep_rows, open_dataset, restrict
from bench.data.dataset import Dataset
from bench.data.draws import draw
from bench.errors import DataError
from bench.evaluation.drawn import drawn_metrics
from bench.plan import Setting, make_plan
from bench.protocol import Subset
from bench.published import load
from bench.report import markdown
from bench.report.model import build_report
from bench.run import run
from bench.store import Store
from tests.data import photos

Rows = list[tuple[str, int]]
BENCHMARKS = {"small": vehicleid.SMALL, "medium": vehicleid.MEDIUM, "large": vehicleid.LARGE}
SIZES = {size: benchmark.classes["query"] for size, benchmark in BENCHMARKS.items()}
TRAIN: Rows = [("0265099", 22551), ("0265098", 22551), ("0000012", 9), ("0000011", 9), ("0000010", 9), ("0009999", 66)]
TEST: Rows = [("0279029", 23781), ("0279028", 23781), ("0279027", 23781), ("0052091", 4407), ("0052090", 4407)]
LONE: Rows = [("0100000", 5)]

PINNED = [[4, 2], [4, 2], [4, 1], [3, 1], [4, 2], [4, 1], [4, 1], [3, 1], [4, 2], [3, 1]]


def write_list(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{image} {vehicle}\n" for image, vehicle in rows))


def write_images(root: Path, rows: Rows) -> None:
    """Hard links of tiny pictures: file systems allow some ten thousand links of one file."""
    (root / "image").mkdir(parents=True, exist_ok=True)
    for number, (image, _) in enumerate(rows):
        if number % 20_000 == 0:
            source = photos.write(root / f"source/{image}.jpg", number)
        os.link(source, root / f"image/{image}.jpg")


def write_set(root: Path, train: Rows, test: Rows, size: str = "small", train_list: str = "train_list.txt") -> None:
    write_images(root, train + test)
    write_list(root / "train_test_split" / train_list, train)
    write_list(root / f"train_test_split/test_list_{SIZES[size]}.txt", test)


def listed(dataset: Dataset, rows: np.ndarray) -> set[tuple[str, int]]:
    return {(Path(dataset.images[row]).stem, dataset.class_ids[dataset.labels[row]]) for row in rows}


def gallery_by_the_rule(rows: Rows, number: int) -> list[str]:
    """The definition of a draw, vehicle by vehicle."""
    images: dict[int, list[str]] = {}
    for image, vehicle in rows:
        images.setdefault(vehicle, []).append(image)
    return [
        min(images[vehicle], key=lambda image: hashlib.sha256(f"{number}/{image}".encode()).hexdigest())
        for vehicle in sorted(images)
    ]


def galleries(dataset: Dataset) -> list[list[str]]:
    assert dataset.draws is not None
    return [[Path(dataset.images[row]).stem for row in gallery] for gallery in dataset.draws]


@pytest.mark.parametrize("place", ["", "VehicleID_V1.0", "vehicle_id", "VehicleID"])
@pytest.mark.parametrize("size", SIZES)
def test_each_list_is_read_wherever_the_set_lies(tmp_path: Path, size: str, place: str) -> None:
    write_set(tmp_path / place, TRAIN, TEST + LONE, size)
    found = open_dataset(f"vehicleid_{size}", tmp_path)
    assert found.class_ids == (5, 9, 66, 4407, 22551, 23781)
    assert found.class_names == ("5", "9", "66", "4407", "22551", "23781")
    assert listed(found, found.split.train) == set(TRAIN)
    assert listed(found, found.split.test) == set(TEST + LONE)
    assert found.split.gallery is None
    assert found.partial == f"partial (6 of {13_164 + SIZES[size]:,} classes)"
    assert found.notes == ()
    assert found.draws is not None
    assert (found.draws.dtype, found.draws.shape) == (np.int64, (10, 3))
    assert galleries(found) == [gallery_by_the_rule(TEST + LONE, number) for number in range(10)]


def test_other_lists_are_left_alone(tmp_path: Path) -> None:
    write_set(tmp_path, TRAIN, TEST)
    write_list(tmp_path / "train_test_split/test_list_1600.txt", TRAIN)
    write_list(tmp_path / "train_test_split/train_50000.txt", TEST)
    assert listed(open_dataset("vehicleid_small", tmp_path), np.arange(11)) == set(TRAIN + TEST)
    with pytest.raises(DataError, match=r"test_list_1600.txt: line 1: image 0265099 is in .*train_list.txt too"):
        open_dataset("vehicleid_medium", tmp_path)
    with pytest.raises(DataError, match=r"test_list_2400.txt: is missing"):
        open_dataset("vehicleid_large", tmp_path)


def test_recut_training_list_is_named(tmp_path: Path) -> None:
    write_set(tmp_path, TRAIN, TEST, train_list="train_50000.txt")
    found = open_dataset("vehicleid_small", tmp_path)
    assert "train_50000.txt" in found.manifest.layout
    assert "partial" in found.notes[0]
    assert "train_50000.txt" in found.notes[0]
    assert listed(found, found.split.train) == set(TRAIN)


def test_official_counts() -> None:
    for size, images in {"small": 6_493, "medium": 13_377, "large": 19_777}.items():
        whole, counts = {"train": 13_164, "query": SIZES[size]}, {"train": 113_346, "query": images}
        assert official.partial(BENCHMARKS[size], whole, counts) is None
        assert official.partial(BENCHMARKS[size], whole, {**counts, "query": images - 1}) is not None
        assert official.partial(BENCHMARKS[size], {**whole, "train": 13_163}, counts) is not None


def test_draws_are_fixed_for_ever() -> None:
    images, labels = ["0279029", "0279028", "0279027", "0052091", "0052090"], np.array([1, 1, 1, 0, 0])
    assert draw(images, labels).tolist() == PINNED
    order = np.array([3, 0, 4, 2, 1])
    assert np.array_equal(order[draw([images[i] for i in order], labels[order])], PINNED)
    without_another_class = draw(images[:3], labels[:3])[:, 0]
    assert without_another_class.tolist() == [second for _, second in PINNED]


def test_order_of_a_list_does_not_matter(tmp_path: Path) -> None:
    write_set(tmp_path / "a", TRAIN, TEST)
    write_set(tmp_path / "b", TRAIN[::-1], TEST[::-1])
    first, second = (open_dataset("vehicleid_small", tmp_path / name) for name in "ab")
    assert first.manifest.hash == second.manifest.hash
    assert galleries(first) == galleries(second)


def test_draws_follow_a_restriction(tmp_path: Path) -> None:
    write_set(tmp_path, TRAIN, TEST + LONE)
    found = open_dataset("vehicleid_small", tmp_path)
    part = restrict(found, Subset(train_classes=2, test_classes=2))
    assert listed(part, part.split.test) == {("0100000", 5), *TEST[3:]}
    assert galleries(part) == [gallery[:2] for gallery in galleries(found)]


def test_a_gallery_image_that_is_left_out_is_replaced_by_the_rule(tmp_path: Path) -> None:
    write_set(tmp_path, TRAIN, TEST + LONE)
    found = open_dataset("vehicleid_small", tmp_path)
    gone = "0279027"
    assert any(gone in gallery for gallery in galleries(found))
    rows = np.array([row for row, path in enumerate(found.images) if Path(path).stem != gone])
    left = [row for row in TEST + LONE if row[0] != gone]
    assert galleries(keep_rows(found, rows, "without one")) == [gallery_by_the_rule(left, n) for n in range(10)]


def changed(root: Path, name: str, content: str | bytes) -> None:
    write_set(root, TRAIN, TEST)
    path = root / "train_test_split" / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


GOOD = "0279029 23781\n0279028 23781\n"


@pytest.mark.parametrize("name", ["train_list.txt", "test_list_800.txt"])
@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (f"image_id vehicle_id\n{GOOD}", 1, "image id must be 7 digits"),
        ("23781 0279029\n", 1, "image id must be 7 digits, but is '23781'"),
        (f"{GOOD}279027 23781\n", 3, "image id must be 7 digits"),
        (f"{GOOD}027902７ 23781\n", 3, "image id must be 7 digits"),
        (f"{GOOD}-279027 23781\n", 3, "image id must be 7 digits"),
        (f"{GOOD}0279027 -23781\n", 3, "vehicle id must be a whole number"),
        (f"{GOOD}0279027 23781.0\n", 3, "vehicle id must be a whole number"),
        (f"{GOOD}0279027 {'9' * 30}\n", 3, "vehicle id must be a whole number"),
        (f"{GOOD}0279028 23781\n", 3, "image 0279028 is there already, on line 2"),
        (f"{GOOD}0279028 23782\n", 3, "image 0279028 is there already, on line 2"),
        (f"{GOOD}0279027\n", 3, "2 fields"),
        (f"{GOOD}0279027 23781 7\n", 3, "2 fields"),
        (f"{GOOD}0279027,23781\n", 3, "2 fields"),
        (f"{GOOD}0279027 237", 3, "may be cut off"),
        (GOOD.encode("utf-16"), 1, "UTF-8"),
        (GOOD.encode() + b"\xff\xfe", 3, "UTF-8"),
    ],
)
def test_damaged_lists_are_named_with_their_line(
    tmp_path: Path, name: str, content: str | bytes, line: int, message: str
) -> None:
    changed(tmp_path, name, content)
    with pytest.raises(DataError, match=rf"{name}: line {line}: .*{message}"):
        open_dataset("vehicleid_small", tmp_path)


def test_empty_list_is_named(tmp_path: Path) -> None:
    changed(tmp_path, "test_list_800.txt", "\n")
    with pytest.raises(DataError, match=r"test_list_800.txt: holds no row"):
        open_dataset("vehicleid_small", tmp_path)


def test_sides_must_be_apart(tmp_path: Path) -> None:
    changed(tmp_path, "test_list_800.txt", f"{GOOD}0279027 66\n")
    with pytest.raises(DataError, match=r"test_list_800.txt: line 3: vehicle 66 is in .*train_list.txt too, line 6"):
        open_dataset("vehicleid_small", tmp_path)
    changed(tmp_path / "other", "test_list_800.txt", f"{GOOD}0000011 23781\n")
    with pytest.raises(DataError, match=r"test_list_800.txt: line 3: image 0000011 is in .*train_list.txt too, line 4"):
        open_dataset("vehicleid_small", tmp_path / "other")


def test_missing_files_are_named(tmp_path: Path) -> None:
    root = tmp_path / "VehicleID_V1.0"
    write_set(root, TRAIN, TEST)
    (root / "image/0000011.jpg").unlink()
    with pytest.raises(DataError, match=r"image/0000011.jpg: is listed .* Unpack"):
        open_dataset("vehicleid_small", tmp_path)
    (root / "train_test_split/train_list.txt").unlink()
    with pytest.raises(DataError, match=r"VehicleID_V1.0/train_test_split/train_list.txt: is missing"):
        open_dataset("vehicleid_small", tmp_path)
    (root / "train_test_split/test_list_800.txt").unlink()
    with pytest.raises(DataError, match=r"VehicleID_V1.0/train_test_split/train_list.txt: is missing"):
        open_dataset("vehicleid_small", tmp_path)


@pytest.mark.parametrize("size", SIZES)
def test_not_found_says_whom_to_ask_and_where_to_put_it(tmp_path: Path, size: str) -> None:
    for data in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError) as caught:
            open_dataset(f"vehicleid_{size}", data)
        needed = ("request", "Peking University", f"{data}/VehicleID_V1.0", f"test_list_{SIZES[size]}.txt", "--data")
        assert [text for text in needed if text not in str(caught.value)] == []


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set whose test list the fuzzing below writes anew each time."""
    root = tmp_path_factory.mktemp("vehicleid")
    write_set(root, TRAIN, TEST)
    return root


def outcome(root: Path, content: bytes) -> set[tuple[str, int]] | None:
    """What the test list is read as, or None where it is refused."""
    (root / "train_test_split/test_list_800.txt").write_bytes(content)
    try:
        found = open_dataset("vehicleid_small", root)
    except DataError as error:
        if "test_list_800.txt" in str(error) or ".jpg: is listed" in str(error):
            return None
        raise
    assert not set(found.labels[found.split.train]) & set(found.labels[found.split.test])
    return listed(found, found.split.test)


WHOLE = "".join(f"{image} {vehicle}\n" for image, vehicle in TEST).encode()


def test_a_list_cut_anywhere_is_refused_or_read_as_its_whole_lines(shared: Path) -> None:
    for end in range(len(WHOLE)):
        read = outcome(shared, WHOLE[:end])
        whole_lines = WHOLE[: end + 1].count(b"\n")  # the cut may take a line break and nothing else
        assert read is None or read == set(TEST[:whole_lines])


@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=3), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_damaged_bytes_are_refused_or_read_as_they_stand(shared: Path, at: int, put: bytes, over: int) -> None:
    content = WHOLE[:at] + put + WHOLE[at + over :]
    read = outcome(shared, content)
    if read is not None:
        lines = content.decode("utf-8-sig").split("\n")
        assert read == {(line.split()[0], int(line.split()[1])) for line in lines if line.strip()}


@given(st.permutations(range(len(TEST))), st.lists(st.integers(0, len(TEST) - 1), max_size=2), st.booleans())
@settings(max_examples=60, deadline=None)
def test_rows_moved_are_the_same_set_and_rows_doubled_or_turned_are_refused(
    shared: Path, order: list[int], more: list[int], turned: bool
) -> None:
    rows = [TEST[i] for i in (*order, *more)]
    lines = [f"{vehicle} {image}\n" if turned else f"{image} {vehicle}\n" for image, vehicle in rows]
    assert outcome(shared, "".join(lines).encode()) == (None if turned or more else set(TEST))


def read_rows(path: Path) -> Rows:
    return [(image, int(vehicle)) for image, vehicle in map(str.split, path.read_text().splitlines())]


def lists_of(real_photos: Path) -> Path:
    lists = real_photos / "vehicleid_lists"
    if not lists.is_dir():
        pytest.skip("BENCH_DATA holds no vehicleid_lists")
    return lists


def test_real_test_list(real_photos: Path, tmp_path: Path) -> None:
    lists = lists_of(real_photos)
    test = read_rows(lists / "test_list_800.txt")
    write_set(tmp_path, TRAIN[:5], test)
    (tmp_path / "train_test_split/test_list_800.txt").write_bytes((lists / "test_list_800.txt").read_bytes())
    found = open_dataset("vehicleid_small", tmp_path)
    assert (found.manifest.test_classes, found.manifest.test_images) == (800, 6_493)
    assert listed(found, found.split.test) == set(test)
    chosen = galleries(found)
    assert chosen == [gallery_by_the_rule(test, number) for number in range(10)]
    digest = hashlib.sha256(" ".join(image for gallery in chosen for image in gallery).encode()).hexdigest()
    assert digest == "f84f275c24c0a1c21c67fbb5215b2c88d2fc48a64051a6cba388a9c02b0cabd0"


@pytest.mark.long
def test_real_recut_training_list(real_photos: Path, tmp_path: Path) -> None:
    lists = lists_of(real_photos)
    train = read_rows(lists / "train_50000.txt")
    write_images(tmp_path, train + read_rows(lists / "test_list_800.txt"))
    (tmp_path / "train_test_split").symlink_to(lists)
    found = open_dataset("vehicleid_small", tmp_path)
    assert (found.manifest.train_classes, found.manifest.train_images) == (5_055, 49_999)
    assert (found.manifest.test_classes, found.manifest.test_images) == (800, 6_493)
    assert listed(found, found.split.train) == set(train)
    assert found.partial == "partial (5,855 of 13,964 classes)"
    assert "partial" in found.notes[0]


def replica(seed: int, vehicles: int, images: int, first_image: int, ids: np.ndarray) -> Rows:
    """Rows in the format and of the size of an official list: sparse ids, at least two photographs each."""
    rng = np.random.default_rng(seed)
    sizes = 2 + rng.multinomial(images - 2 * vehicles, rng.dirichlet(np.full(vehicles, 2.0)))
    names = (f"{number:07}" for number in range(first_image, first_image + images))
    return [(next(names), int(vehicle)) for vehicle, size in zip(ids, sizes, strict=True) for _ in range(size)]


@pytest.mark.long
def test_full_replicas_are_complete(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).permutation(np.arange(1, 28_000))
    train = replica(1, 13_164, 113_346, 1, ids[:13_164])
    write_images(tmp_path, train)
    write_list(tmp_path / "train_test_split/train_list.txt", train)
    first, start = 113_347, 13_164
    for size, images in {"small": 6_493, "medium": 13_377, "large": 19_777}.items():
        vehicles = SIZES[size]
        test = replica(vehicles, vehicles, images, first, ids[start : start + vehicles])
        write_images(tmp_path, test)
        write_list(tmp_path / f"train_test_split/test_list_{vehicles}.txt", test)
        first, start = first + images, start + vehicles
        found = open_dataset(f"vehicleid_{size}", tmp_path)
        assert found.partial is None
        assert (found.manifest.train_classes, found.manifest.train_images) == (13_164, 113_346)
        assert (found.manifest.test_classes, found.manifest.test_images) == (vehicles, images)
        assert found.draws is not None
        assert np.array_equal(found.labels[found.draws], np.tile(np.unique(found.labels[found.split.test]), (10, 1)))


def generated_rows() -> tuple[Rows, Rows]:
    sizes = dict.fromkeys(range(11, 31), 5) | {vehicle: 1 + vehicle % 4 for vehicle in range(501, 511)}
    rows = [(f"{vehicle * 100 + number:07}", vehicle) for vehicle in sizes for number in range(sizes[vehicle])]
    train, test = rows[:100], rows[100:]
    return train, test


def test_a_run_scores_both_evaluations(tiny: Callable[..., str], tmp_path: Path) -> None:
    root = tmp_path / "data/VehicleID_V1.0"
    train, test = generated_rows()
    for number, (image, _) in enumerate(train + test):
        photos.write(root / f"image/{image}.jpg", number)
    write_list(root / "train_test_split/train_list.txt", train)
    write_list(root / "train_test_split/test_list_800.txt", test)
    setting = Setting(tiny(), tmp_path / "data", tmp_path / "results", ())
    plan = make_plan("vehicleid_small", setting, ["contrastive"], [0])
    record = run(plan.specs[0], plan.protocol, plan.setting, lambda *_: None, lambda: False)
    assert record.reason is None
    for scores in record.metrics.values():
        assert {"recall_at_1", "map_at_r", "cmc_at_1", "cmc_at_5", "cmc_at_10"} <= set(scores)
        assert 0 <= scores["cmc_at_1"] <= scores["cmc_at_5"] <= scores["cmc_at_10"] == 1.0  # 8 vehicles in the gallery
    assert not any("cmc_at_1" in (point.test or {}) for point in record.curves)
    part = restrict(open_dataset("vehicleid_small", tmp_path / "data"), Subset(train_classes=16, test_classes=8))
    images = len(part.split.test)
    lone = int((np.bincount(part.labels[part.split.test]) == 1).sum())
    assert lone
    assert (record.counts["drawn_queries"], record.counts["lone_queries"]) == (images - 8, lone)
    stored = load_file(next((tmp_path / "results").rglob("embeddings.safetensors")))
    names = [Path(part.images[row]).stem for row in part.split.test]
    kept = [row for row in test if row[0] in names]
    assert [[names[i] for i in gallery] for gallery in stored["draws"]] == [
        gallery_by_the_rule(kept, number) for number in range(10)
    ]
    again = drawn_metrics(stored["embeddings"], stored["labels"], stored["draws"])
    assert again == {name: record.metrics["best_validation"][name] for name in again}
    page = markdown.write(build_report(Store(tmp_path / "results"), load()))
    assert "CMC@5" in page
    assert "harder task than Recall@K" in page
