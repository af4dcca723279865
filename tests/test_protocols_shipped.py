"""Protocols that repeat others' work: a source on every value, the published numbers, nothing that escapes the hash."""

from __future__ import annotations

import copy
import re
import types
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import yaml

from bench import registry
from bench.data.dataset import Dataset, Manifest, Split
from bench.protocol import (
    Clustering,
    Folds,
    Graded,
    Protocol,
    Range,
    Search,
    Section,
    Shape,
    Subset,
    TrainImages,
    load_protocol,
    protocol_files,
)
from bench.training.parts import split_training_side
from tests.test_protocol import FILES, comments

SOURCES = ("paper", "code", "docs", "README", "ours")
TEXTS = ("name", "summary", "corrections", "departures")
DATASETS = ("cub200", "cars196", "sop", "inshop", "vehicleid_small")
IMAGES = {"cub200": 5_864, "cars196": 8_054, "sop": 59_551, "inshop": 25_882, "vehicleid_large": 113_346}
STUDY = ("reality-check", "reality-check-as-released", "reality-check-small")
FIELD = sorted(
    path.relative_to(FILES).with_suffix("").as_posix()
    for path in FILES.rglob("*.yaml")
    if re.search(r"^# paper: ", path.read_text("utf-8"), re.MULTILINE)
)

load = cache(load_protocol)


def test_what_repeats_others_work_says_so_in_its_header() -> None:
    repeats = {n for n in protocol_files() if "/" in n or load(n).corrections or load(n).departures}
    assert repeats == set(FIELD)
    assert len(FIELD) == 16


@pytest.mark.parametrize("name", FIELD)
def test_every_value_names_its_source(name: str) -> None:
    header = (FILES / f"{name}.yaml").read_text("utf-8").partition("name:")[0]
    told = {*re.findall(r"^# (\w+): \S", header, re.MULTILINE), "ours"}
    found = comments(FILES / f"{name}.yaml")
    assert len(found) > 40
    for key, comment in found.items():
        kind, _, why = comment.partition(": ")
        assert kind in SOURCES, f"{name}: {key} has no source: '{comment}'"
        assert why.strip(), f"{name}: {key}"
        used = set(re.findall(r"(?:^|; )(\w+): ", comment))
        assert used <= told, f"{name}: {key} names {sorted(used - told)}, which the header does not"


@pytest.mark.parametrize("name", FIELD)
def test_every_protocol_holds_on_every_data_set(name: str) -> None:
    protocol = load(name)
    for dataset in {*DATASETS, *protocol.datasets}:
        held = protocol.on(dataset)
        assert held.datasets == {}
        assert held.name == name
        changed = protocol.datasets.get(dataset)
        assert (held.hash == protocol.model_copy(update={"datasets": {}}).hash) == (changed is None)


@pytest.mark.parametrize("name", FIELD)
def test_looking_at_the_test_side_is_said(name: str) -> None:
    protocol = load(name)
    assert (protocol.selection.split == "test") == ("optimistic" in protocol.summary)
    assert protocol.departures, "nothing is repeated to the last detail"


def test_only_a_fork_shares_its_parents_recipe() -> None:
    by_hash: dict[str, set[str]] = {}
    for name in protocol_files():
        by_hash.setdefault(load(name).hash, set()).add(name)
    assert [names for names in by_hash.values() if len(names) > 1] == [{"papers/loop", "papers/embedding-expansion"}]


# ---------------------------------------------------------------------------------------------------- folds


def stand_in(images: list[int], name: str = "stand-in") -> Dataset:
    """A data set without pixels: so many images of each training class (ids from 1), and one test class more."""
    counts = np.array([*images, 1])
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(len(labels))
    split = Split(train=rows[labels < len(images)], query=rows[labels == len(images)])
    manifest = Manifest(len(counts), len(rows), len(images), sum(images), 1, 1, "stand-in", "0" * 64)
    paths = tuple(Path(f"{row}.jpg") for row in rows)
    ids = tuple(range(1, len(counts) + 1))
    return Dataset(name, name, paths, labels, ids, tuple(map(str, ids)), split, manifest, "quick", True)


def validated(dataset: Dataset, folds: Folds, fold: int) -> list[int]:
    """Official ids of the classes that validate."""
    part, held = split_training_side(dataset, folds, fold)
    assert held is not None
    ids, trained = (np.unique(dataset.labels[dataset.split.train[p.positions]]) + 1 for p in (held, part))
    assert len(np.intersect1d(ids, trained)) == 0
    assert len(ids) + len(trained) == dataset.manifest.train_classes
    return [int(i) for i in ids]


# 0-based positions in the training half: those that the study's own splitting code gave.
PUBLISHED = {
    ("reality-check", "cub200", 100): [(75, 99), (0, 24), (25, 49), (50, 74)],
    ("reality-check", "cars196", 98): [(74, 97), (0, 23), (25, 48), (49, 72)],
    ("reality-check-as-released", "sop", 11_317): [(8488, 11316), (0, 2828), (2829, 5657), (5658, 8486)],
    ("reality-check", "sop", 11_318): None,  # the official side: the rule alone says
}


@pytest.mark.parametrize(("key", "positions"), PUBLISHED.items(), ids=lambda key: "-".join(map(str, key or ())))
def test_listed_folds_are_those_of_the_rule(key: tuple[str, str, int], positions: list[tuple[int, int]] | None) -> None:
    name, data, count = key
    folds = load(name).on(data).folds
    assert folds is not None
    assert folds.lists
    dataset = stand_in([1] * count)
    by_rule = folds.model_copy(update={"lists": ()})
    for fold in folds.use:
        listed = validated(dataset, folds, fold)
        assert listed == validated(dataset, by_rule, fold)
        if positions is not None:
            first, last = positions[fold]
            assert listed == list(range(first + 1, last + 2))
    assert folds.use == (0, 1, 2, 3)


# Photographs of the classes 1-98, counted from meta/CARS196/train.txt of clovaai/embedding-expansion.
CARS_SIZES = """
    89 64 86 84 81 89 78 90 82 66 76 73 82 85 86 87 81 85 81 92 84 85 79 90 79 68 71 82 85 83 88 83 84 89 82 82 77
    81 73 78 71 69 92 89 65 87 70 85 75 84 86 82 89 80 79 93 75 88 89 73 86 74 88 59 90 83 77 80 76 85 70 90 89 87
    88 87 81 75 97 86 90 90 81 84 87 85 88 79 88 82 77 80 78 87 91 82 84 92
"""


def test_validation_images_of_cars196_are_as_many_as_published() -> None:
    dataset = stand_in([int(size) for size in CARS_SIZES.split()])
    assert len(dataset.labels[dataset.split.train]) == 8_054
    folds = load_protocol("reality-check").on("cars196").folds
    assert folds is not None
    found = [split_training_side(dataset, folds, fold)[1] for fold in range(4)]
    assert [len(part.positions) for part in found if part is not None] == [2_039, 1_975, 1_909, 1_965]


def test_validation_images_of_cub200_are_as_many_as_counted(real_photos: Path) -> None:
    file = real_photos / "cub200_excerpt" / "annotations_full" / "image_class_labels.txt"
    if not file.is_file():
        pytest.skip("the official label file of all CUB images is not there")
    classes = [int(line.split()[1]) for line in file.read_text().splitlines()]
    dataset = stand_in([classes.count(c) for c in range(1, 101)])
    assert dataset.manifest.train_images == IMAGES["cub200"]
    for name in ("reality-check", "reality-check-as-released"):
        folds = load(name).on("cub200").folds
        parts = [split_training_side(dataset, folds, fold)[1] for fold in range(4)]
        assert [len(part.positions) for part in parts if part is not None] == [1_491, 1_402, 1_487, 1_484]
    two_stages = load("trainval-two-stage")
    first, _ = split_training_side(dataset, two_stages.folds, 1)
    assert len(first.positions) == 2_889
    assert two_stages.budget.epoch == -(-(2_889 - 32) // 32)  # batches while count + 32 < images


@pytest.mark.parametrize(("count", "trains"), [(100, 50), (98, 49), (11_318, 5_659)])
def test_the_first_of_two_stages_trains_on_the_first_half(count: int, trains: int) -> None:
    protocol = load("trainval-two-stage")
    assert protocol.folds is not None
    assert protocol.folds.use == (1,)
    assert protocol.selection.retrain
    assert validated(stand_in([1] * count), protocol.folds, 1) == list(range(trains + 1, count + 1))


# --------------------------------------------------------------------------------------- the reality check


@pytest.mark.parametrize(("data", "interval", "stops_after"), [("cub200", 2, 10), ("cars196", 5, 15), ("sop", 20, 40)])
def test_the_study_stops_after_the_epochs_of_its_configuration(data: str, interval: int, stops_after: int) -> None:
    for name in STUDY[:2]:
        budget = load(name).on(data).budget
        assert budget.patience is not None
        assert budget.epoch == 100
        assert budget.evaluate_every == interval * budget.epoch
        assert budget.evaluate_every * budget.patience == stops_after * budget.epoch
        assert budget.iterations == 1_000 * budget.epoch


def test_as_released_differs_in_the_slips_only() -> None:
    corrected, released = load("reality-check"), load("reality-check-as-released")
    assert differing(corrected, released) == {"sides", "search.winner_counts", "search.spaces", "datasets"}
    for data in ("cub200", "cars196"):
        assert differing(corrected.on(data), released.on(data)) == {"sides", "search.winner_counts", "search.spaces"}
    slips = differing(corrected.on("sop"), released.on("sop"))
    assert slips == {"sides", "search.winner_counts", "search.spaces", "folds.lists"}


@pytest.mark.parametrize("name", ["reality-check-small", "reality-check-glyphs"])
def test_the_small_ones_keep_the_procedure(name: str) -> None:
    whole, small = load("reality-check"), load(name)
    for kept in ("batch", "folds", "ensemble", "interval", "precision"):
        assert getattr(small, kept) == getattr(whole, kept)
    assert small.selection == whole.selection.model_copy(update={"candidates": None})  # few: all are looked at
    assert small.budget_share == small.budget.iterations / whole.budget.iterations
    assert whole.budget_share == 1
    assert small.search is not None
    assert small.search.reproductions == len(small.seeds)


def differing(one: Protocol, other: Protocol) -> set[str]:
    def found(a: Section, b: Section, prefix: str = "") -> Iterator[str]:
        for name in type(a).model_fields:
            x, y = getattr(a, name), getattr(b, name)
            if isinstance(x, Section) and isinstance(y, Section):
                yield from found(x, y, f"{prefix}{name}.")
            elif x != y and name not in TEXTS:
                yield prefix + name

    return set(found(one, other))


SEARCHED = (
    "contrastive_distance", "triplet_all", "nt_xent", "proxy_nca", "margin", "margin_per_class", "normalized_softmax",
    "cosface", "arcface", "fastap", "snr", "multi_similarity_unmined", "multi_similarity", "soft_triple",
)  # fmt: skip


@pytest.mark.parametrize("data", ["cub200", "cars196", "sop"])
def test_the_corrected_space_holds_all_that_the_study_searched(data: str) -> None:
    corrected, released = load("reality-check").on(data).search, load("reality-check-as-released").on(data).search
    assert corrected is not None
    assert released is not None
    for name in SEARCHED:
        for key, span in released.spaces[name].items():
            ours = corrected.spaces[name][key]
            assert set(span.choices) <= set(ours.choices) or (name, key) == ("soft_triple", "merging")
            if span.low is not None and span.high is not None:
                assert ours.low is not None
                assert ours.high is not None
                assert ours.scale == span.scale
                lowest = 0.0 if key == "pos_margin" else span.low  # the study's own regret
                assert ours.low <= lowest < span.high <= ours.high


@pytest.mark.parametrize("name", SEARCHED)
def test_a_method_takes_every_value_of_its_search_space(name: str) -> None:
    cls = registry.get(name).cls
    for protocol in STUDY[:2]:
        for data in ("cub200", "cars196", "sop"):
            search = load(protocol).on(data).search
            assert search is not None
            assert sorted(search.spaces) == sorted(SEARCHED)
            for key, span in search.spaces[name].items():
                kind = type(cls.hyperparameters[key].default)
                for end in span.choices or (span.low, span.high):
                    assert getattr(cls(**{key: kind(end)}), key) == end
    one_image_a_class = {"proxy_nca", "normalized_softmax", "cosface", "arcface", "soft_triple"}
    shape = load("reality-check").batch.shape(cls.needs_pairs)
    assert (shape.classes, shape.per_class) == ((32, 1) if name in one_image_a_class else (8, 4))


# ------------------------------------------------------------------------------------------------- recipes

EPOCHS = [
    ("roth2020", "cub200", 150), ("roth2020", "cars196", 150), ("roth2020", "sop", 100),
    ("papers/mic", "cub200", 100), ("papers/mic", "cars196", 110), ("papers/mic", "sop", 45),
    ("papers/mic", "inshop", 70), ("papers/mic", "vehicleid_large", 45),
    ("papers/divide-and-conquer", "sop", 200), ("papers/divide-and-conquer", "inshop", 200),
    ("papers/divide-and-conquer", "vehicleid_large", 200),
    ("papers/proxy-anchor", "cub200", 60), ("papers/proxy-anchor", "cars196", 60), ("papers/proxy-anchor", "sop", 60),
    ("papers/proxy-anchor", "inshop", 60), ("papers/cgd", "cub200", 20), ("papers/cgd", "cars196", 20),
    ("papers/cgd", "sop", 20), ("papers/cgd", "inshop", 20),
]  # fmt: skip

DECAYS = {
    "papers/mic": {"cub200": [50], "cars196": [60], "sop": [20, 35], "inshop": [50], "vehicleid_large": [20, 35]},
    "papers/proxy-anchor": {
        "cub200": [10, 20, 30, 40, 50], "cars196": [20, 40], "sop": [20, 40], "inshop": [20, 40],
    },
    "papers/cgd": {data: [12, 16] for data in ("cub200", "cars196", "sop", "inshop")},
}  # fmt: skip


@pytest.mark.parametrize(("name", "data", "epochs"), EPOCHS)
def test_epochs_are_turned_into_iterations(name: str, data: str, epochs: int) -> None:
    protocol = load(name).on(data)
    epoch = IMAGES[data] // protocol.batch.size
    assert protocol.budget.epoch == protocol.budget.evaluate_every == epoch
    assert protocol.budget.iterations == epochs * epoch
    decays = DECAYS.get(name, {}).get(data, [])
    assert protocol.optimizer.milestones == tuple(decay * epoch for decay in decays)
    if name == "papers/proxy-anchor":
        assert protocol.optimizer.trunk_rests == epoch
        assert protocol.optimizer.method.lr == pytest.approx(100 * protocol.optimizer.trunk.lr)


# ---------------------------------------------------------------------------------------------------- hash

EXAMPLES: dict[Any, Any] = {
    TrainImages: TrainImages(size=1, crop_area=(0.5, 0.5)),
    Shape: Shape(classes=3, per_class=2),
    Folds: Folds(count=7),
    Clustering: Clustering(seed=7),
    Graded: Graded(),
    Subset: Subset(train_classes=7, test_classes=7),
    Search: Search(trials=7, reproductions=7),
}


def other(value: Any, annotation: Any) -> Any:
    """Another value of the same kind."""
    kinds = get_args(annotation) if get_origin(annotation) in (types.UnionType, Literal) else (annotation,)
    if get_origin(annotation) is Literal:
        return next(kind for kind in kinds if kind != value)
    if value is None:
        return next((EXAMPLES[kind] for kind in kinds if kind in EXAMPLES), 7)
    if isinstance(value, Section):
        return None
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (*value, value[-1] if value else 7)
    if isinstance(value, dict):
        return {**value, "other": {"key": Range(low=0.0, high=1.0)}}
    return f"{value}-other" if isinstance(value, str) else value + 1


def variations(section: Section, prefix: str = "") -> Iterator[tuple[str, Section]]:
    """Copies of a section with one value changed each, and the key of it."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if not prefix and name in (*TEXTS, "seeds"):
            continue
        if isinstance(value, Section):
            for key, changed in variations(value, f"{prefix}{name}."):
                yield key, section.model_copy(update={name: changed})
        if not isinstance(value, Section) or type(None) in get_args(field.annotation):
            yield prefix + name, section.model_copy(update={name: other(value, field.annotation)})


@pytest.mark.parametrize("name", FIELD)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_whatever_a_protocol_fixes_is_in_its_hash(name: str) -> None:
    protocol = load(name)
    hashes = {"": protocol.hash}
    for key, changed in variations(protocol):
        assert isinstance(changed, Protocol)
        hashes[key] = changed.hash
    assert len(hashes) > 50
    assert len(set(hashes.values())) == len(hashes), "two of the changes give one hash"


@pytest.mark.parametrize("name", FIELD)
def test_whatever_a_data_set_changes_is_in_the_hash(name: str) -> None:
    protocol = load(name)

    def changes(values: dict[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        for key, value in values.items():
            yield from changes(value, (*place, key)) if isinstance(value, dict) else [(*place, key)]

    for place in changes(protocol.datasets):
        altered = copy.deepcopy(protocol.datasets)
        inner: Any = altered
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = "other"
        assert protocol.model_copy(update={"datasets": altered}).hash != protocol.hash, place


@pytest.mark.parametrize("name", FIELD)
def test_words_are_not_in_the_hash(name: str, tmp_path: Path) -> None:
    data = yaml.safe_load(re.sub(r"(\d)e-", r"\1.0e-", (FILES / f"{name}.yaml").read_text("utf-8")))
    data |= {"name": "copy", "summary": "said otherwise", "corrections": ["x"], "departures": [], "seeds": [77]}
    (tmp_path / "copy.yaml").write_text(yaml.safe_dump(data))  # without a comment
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_protocol(str(tmp_path / "copy.yaml")).hash == load(name).hash
