"""Images of the fit 'stretch': stored as squares whatever their shape, seen whole at evaluation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from bench.data.cache import ImageStore, open_images, prepare_images
from bench.data.catalog import open_dataset
from bench.data.decode import decode
from bench.data.input_format import InputFormat
from bench.data.transforms import eval_batch, random_crops, train_batch
from bench.errors import UsageError
from bench.models.features import features_key
from bench.protocol import Images, TrainImages, load_protocol
from bench.training.inputs import ImageInputs
from bench.training.sides import open_side, prepare
from tests.data import photos

RGB = InputFormat(3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN = InputFormat(3, (0.0,) * 3, (1.0,) * 3)
SHAPES = [(20, 14), (14, 20), (64, 48), (24, 24), (300, 9)]


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


def written(root: Path) -> Path:
    for index, name in enumerate(("a", "b", "c", "d")):
        for number, (width, height) in enumerate(SHAPES):
            photos.write(root / name / f"{number}.png", 100 * index + number, width=width, height=height)
    return root


def squares(side: int, seed: int = 0) -> ImageStore:
    flat = np.random.default_rng(seed).integers(0, 256, 4 * side * side * 3, dtype=np.uint8)
    return ImageStore(flat, np.full((4, 2), side, dtype=np.int64), 3)


def test_an_image_of_any_shape_is_stored_as_pillow_stretches_it(tmp_path: Path) -> None:
    dataset = open_dataset("image_folder", written(tmp_path / "data"))
    for side, rows in (("train", dataset.split.train), ("test", dataset.split.test)):
        store = open_images(dataset, side, 24, 3, progress=False, fit="stretch")  # type: ignore[arg-type]
        assert store.uniform is not None
        for position, row in enumerate(rows):
            image = Image.open(dataset.images[row]).convert("RGB").resize((24, 24), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(store.image(position).permute(1, 2, 0), np.asarray(image))


def test_a_large_jpeg_is_decoded_reduced_but_looks_the_same(tmp_path: Path) -> None:
    path = photos.write(tmp_path / "a.jpg", 3, width=1600, height=700)
    found = decode(path, 64, 3, "stretch").astype(int)
    whole = Image.open(path).resize((64, 64), Image.Resampling.BILINEAR)
    assert found.shape == (64, 64, 3)
    assert np.abs(found - np.asarray(whole)).mean() < 3


def test_a_long_image_that_keeping_its_shape_would_make_huge_is_stretched(tmp_path: Path) -> None:
    path = photos.write(tmp_path / "a.png", 1, 1, 12_000)
    assert decode(path, 256, 3, "stretch").shape == (256, 256, 3)


def test_both_fits_have_a_cache_of_their_own(tmp_path: Path, fresh_cache: Path) -> None:
    dataset = open_dataset("image_folder", written(tmp_path / "data"))
    prepare_images(dataset, 24, 3, progress=False)
    kept = {path: path.stat().st_mtime_ns for path in fresh_cache.glob("*/pixels.bin")}
    prepare_images(dataset, 24, 3, progress=False, fit="stretch")
    assert len(list(fresh_cache.glob("*/pixels.bin"))) == 2 * len(kept) == 4
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert open_images(dataset, "train", 24, 3).uniform is None


def test_images_in_memory_are_stretched_too() -> None:
    whole = open_dataset("glyphs", Path("data"))
    few = dataclasses.replace(
        whole, images=whole.images[:, :20], split=dataclasses.replace(whole.split, train=whole.split.train[:3])
    )
    store = open_images(few, "train", 32, 1, fit="stretch")
    assert store.sizes.tolist() == [[32, 32]] * 3
    for position, row in enumerate(few.split.train):
        image = Image.fromarray(np.asarray(few.images[row]).squeeze()).resize((32, 32), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(store.image(position)[0], np.asarray(image))


@pytest.mark.parametrize(("side", "crop"), [(100, 90), (90, 90), (70, 66)])
def test_evaluation_sees_the_whole_square_as_torchvision_scales_it(side: int, crop: int) -> None:
    store = squares(side)
    batch = eval_batch(store, np.arange(4), crop, RGB, fit="stretch")
    assert batch.is_contiguous(memory_format=torch.channels_last)
    theirs = v2.Compose([
        v2.Resize((crop, crop), antialias=True), v2.ToDtype(torch.float32, scale=True), v2.Normalize(RGB.mean, RGB.std)
    ])  # fmt: skip
    for row in range(4):
        torch.testing.assert_close(batch[row], theirs(store.image(row)), atol=2e-6, rtol=1e-5)
    if side > crop:
        assert not torch.equal(batch, eval_batch(store, np.arange(4), crop, RGB))
    else:
        assert torch.equal(batch, eval_batch(store, np.arange(4), crop, RGB))


def test_evaluation_of_small_squares_is_the_same_within_a_level() -> None:
    store = squares(40)
    batch = 255 * eval_batch(store, np.arange(4), 30, PLAIN, fit="stretch")
    for row in range(4):
        expected = v2.functional.resize(store.image(row), [30, 30], antialias=True).float()
        torch.testing.assert_close(batch[row], expected, atol=1.01, rtol=0)


def test_inputs_evaluate_by_the_fit_of_their_protocol() -> None:
    store = squares(100)
    train = TrainImages(size=90, crop_area=(0.8, 0.8))
    for fit in ("crop", "stretch"):
        inputs = ImageInputs(store, Images(resize=100, crop=90, train=train, fit=fit), RGB)
        assert torch.equal(inputs.evaluation(np.arange(4)), eval_batch(store, np.arange(4), 90, RGB, fit=fit))


def test_a_side_is_opened_as_its_protocol_says(tiny: Any, tmp_path: Path) -> None:
    dataset = open_dataset("image_folder", written(tmp_path / "data"))
    images = {"resize": 36, "crop": 32, "train": {"size": 32, "crop_area": [0.8, 1.0]}, "fit": "stretch"}
    protocol = load_protocol(tiny(images=images))
    prepare(dataset, protocol, torch.device("cpu"), progress=False)
    inputs, _ = open_side(dataset, "train", protocol, torch.device("cpu"))
    store = open_images(dataset, "train", 36, 1, fit="stretch")
    found = inputs.evaluation(np.arange(len(store)))
    assert found.shape == (len(store), 1, 32, 32)
    grey = InputFormat(1, (0.5,), (0.5,))
    assert torch.equal(found, eval_batch(store, np.arange(len(store)), 32, grey, fit="stretch"))


def test_cached_features_are_told_apart(tiny: Any) -> None:
    dataset = open_dataset("digits", Path("data"))
    keys = set()
    for fit in ({}, {"fit": "crop"}, {"fit": "stretch"}):
        images = {"resize": 32, "crop": 32, "train": None, **fit}
        protocol = load_protocol(tiny(trunk={"frozen": True}, images=images))
        keys.add(features_key(dataset, "train", protocol))
    assert len(keys) == 2


def test_a_crop_may_be_the_whole_image() -> None:
    sizes = np.tile([[40, 60], [60, 40]], (3_000, 1))
    part = TrainImages(size=32, crop_area=(0.3, 0.5), crop_aspect=(1.0, 1.0), flip=0.25, whole=0.3)
    boxes, flips = random_crops(sizes, part, np.random.default_rng(0))
    entire = (boxes[:, 2:] == sizes).all(axis=1)
    assert abs(entire.mean() - 0.3) < 0.02
    assert (boxes[entire, :2] == 0).all()
    assert (boxes[~entire, 2] == boxes[~entire, 3]).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= sizes).all()
    for chosen in (entire, ~entire):
        assert abs(flips[chosen].mean() - 0.25) < 0.03


def test_whole_images_of_stretched_squares_are_scaled_as_in_evaluation() -> None:
    store, always = squares(100), TrainImages(size=90, crop_area=(0.1, 0.1), flip=0.0, whole=1.0)
    found = train_batch(store, np.arange(4), always, RGB, np.random.default_rng(0))
    torch.testing.assert_close(found, eval_batch(store, np.arange(4), 90, RGB, fit="stretch"))


@pytest.mark.parametrize("name", ["embedding-expansion", "loop"])
def test_recipes_that_leave_half_of_the_images_whole_cut_the_others_without_a_change_of_scale(name: str) -> None:
    images = load_protocol(f"papers/{name}").images
    assert images.train is not None
    boxes, _ = random_crops(np.full((4_000, 2), images.resize), images.train, np.random.default_rng(0))
    sides, counts = np.unique(boxes[:, 2:], axis=0, return_counts=True)
    assert sides.tolist() == [[227, 227], [255, 255]]
    assert abs(counts[0] / 4_000 - 0.5) < 0.03
    assert set(boxes[boxes[:, 2] == 227, 0]) == set(range(29))


def test_the_recipe_that_crops_all_stretched_images_keeps_their_scale() -> None:
    images = load_protocol("papers/cgd").images
    assert images.train is not None
    boxes, _ = random_crops(np.full((4_000, 2), images.resize), images.train, np.random.default_rng(0))
    assert (boxes[:, 2:] == 224).all()
    assert set(boxes[:, 0]) == set(boxes[:, 1]) == set(range(29))


def test_another_word_is_refused_with_those_allowed(tiny: Any) -> None:
    with pytest.raises(UsageError, match=r"images\.fit.*'squash'.*'crop' or 'stretch'"):
        load_protocol(tiny(images={"fit": "squash"}))
    hashes = [load_protocol(tiny(images=images)).hash for images in ({}, {"fit": "crop"}, {"fit": "stretch"})]
    assert hashes[0] == hashes[1] != hashes[2]
