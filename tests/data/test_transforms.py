"""Crops against torchvision and against their own definition; determinism; memory that is used again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as sampled
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from bench.data.cache import ImageStore, open_images
from bench.data.catalog import open_dataset, restrict
from bench.data.input_format import InputFormat
from bench.data.transforms import corner_crops, eval_batch, random_crops, resample, train_batch
from bench.protocol import Images, Subset, TrainImages
from bench.training.inputs import ImageInputs

RGB = InputFormat(3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GREY = InputFormat(1, (0.3,), (0.7,))
PLAIN = InputFormat(3, (0.0,) * 3, (1.0,) * 3)


def store(sizes: list[tuple[int, int]], channels: int, seed: int = 0) -> ImageStore:
    rng = np.random.default_rng(seed)
    flat = rng.integers(0, 256, sum(h * w * channels for h, w in sizes), dtype=np.uint8)
    return ImageStore(flat, np.array(sizes, dtype=np.int64), channels)


RAGGED = store([(40, 60), (90, 40), (40, 40), (41, 77)], 3)
UNIFORM = store([(32, 32)] * 6, 1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("crop", [40, 39, 24])
def test_centre_crop_is_torchvisions(crop: int) -> None:
    batch = eval_batch(RAGGED, np.arange(4), crop, RGB)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    for row in range(4):
        expected = v2.Compose(
            [v2.CenterCrop(crop), v2.ToDtype(torch.float32, scale=True), v2.Normalize(RGB.mean, RGB.std)]
        )
        torch.testing.assert_close(batch[row], expected(RAGGED.image(row)), atol=2e-6, rtol=1e-5)


def test_centre_crop_of_equal_sizes_is_the_same_as_one_by_one() -> None:
    positions = np.array([5, 0, 0, 3])
    batch = eval_batch(UNIFORM, positions, 27, GREY)
    for row, position in enumerate(positions):
        torch.testing.assert_close(batch[row], eval_batch(UNIFORM, positions[row : row + 1], 27, GREY)[0])
        expected = (functional.center_crop(UNIFORM.image(position), [27, 27]) / 255 - 0.3) / 0.7
        torch.testing.assert_close(batch[row], expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("images", "fmt", "size"),
    [(RAGGED, PLAIN, 32), (RAGGED, PLAIN, 96), (UNIFORM, GREY, 20), (UNIFORM, GREY, 48)],
)
def test_training_crops_are_torchvisions_resized_crops(images: ImageStore, fmt: InputFormat, size: int) -> None:
    settings = TrainImages(size=size, crop_area=(0.1, 1.0), flip=0.5)
    positions = np.tile(np.arange(len(images)), 5)
    batch = train_batch(images, positions, settings, fmt, rng(3))
    boxes, flips = random_crops(images.sizes[positions], settings, rng(3))
    assert batch.shape == (len(positions), fmt.channels, size, size)
    assert 0 < flips.sum() < len(flips)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (fmt.mean, fmt.std))
    for row, (position, box) in enumerate(zip(positions, boxes.tolist(), strict=True)):
        image = images.image(position) if images is RAGGED else images.image(position).float()  # small: not rounded
        expected = functional.resized_crop(image, *box, [size, size], antialias=True).float()
        expected = functional.horizontal_flip(expected) if flips[row] else expected
        found = (batch[row] * std + mean) * 255
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)


@sampled(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(4, 90), st.integers(4, 90)), min_size=1, max_size=4),
    channels=st.sampled_from([1, 3]),
    size=st.integers(1, 50),
    low=st.floats(0.02, 1.0),
    seed=st.integers(0, 2**32),
)
def test_crops_one_by_one_and_all_together_are_within_a_level_of_torchvisions(
    sizes: list[tuple[int, int]], channels: int, size: int, low: float, seed: int
) -> None:
    images, settings = store([*sizes, (70, 90)], channels, seed), TrainImages(size=size, crop_area=(low, 1.0))
    positions = np.arange(len(images))
    boxes, flips = random_crops(images.sizes, settings, rng(seed))
    plain = InputFormat(channels, (0.0,) * channels, (1.0,) * channels)
    one_by_one = train_batch(images, positions, settings, plain, rng(seed)) * 255
    canvas, moved = corner_crops(images, positions, boxes)
    together = resample(canvas, moved, flips, size)
    assert together.shape == one_by_one.shape
    for row, box in enumerate(boxes.tolist()):
        expected = functional.resized_crop(images.image(row).float(), *box, [size, size], antialias=True)
        expected = functional.horizontal_flip(expected) if flips[row] else expected
        torch.testing.assert_close(together[row], expected, atol=2e-2, rtol=0)
        torch.testing.assert_close(one_by_one[row], expected, atol=1.05, rtol=0)  # rounded to levels twice


def test_crops_of_real_photographs_are_torchvisions(real_photos: Path) -> None:
    few = restrict(open_dataset("cars196", real_photos), Subset(train_classes=2, test_classes=1))
    images = open_images(few, "train", 256, 3, progress=False)
    settings, positions = TrainImages(size=224, crop_area=(0.16, 1.0)), np.arange(0, len(images), 5)
    batch = train_batch(images, positions, settings, PLAIN, rng(4)) * 255
    boxes, flips = random_crops(images.sizes[positions], settings, rng(4))
    for row, (position, box) in enumerate(zip(positions, boxes.tolist(), strict=True)):
        expected = functional.resized_crop(images.image(int(position)), *box, [224, 224], antialias=True)
        expected = functional.horizontal_flip(expected) if flips[row] else expected
        torch.testing.assert_close(batch[row], expected.float(), atol=1.0, rtol=0)


@pytest.mark.parametrize(("images", "fmt"), [(RAGGED, RGB), (store([(80, 70)] * 4, 1), GREY)])
def test_spare_memory_changes_nothing_but_where_the_batch_lies(images: ImageStore, fmt: InputFormat) -> None:
    settings, positions = TrainImages(size=24, crop_area=(0.3, 1.0)), np.array([3, 1, 0, 0])
    expected = train_batch(images, positions, settings, fmt, rng(2))
    spare = train_batch(images, positions[::-1], settings, fmt, rng(1))
    found = train_batch(images, positions, settings, fmt, rng(2), spare=spare)
    assert found.data_ptr() == spare.data_ptr()
    assert found.stride() == expected.stride()
    assert torch.equal(found, expected)
    fewer = train_batch(images, positions[:3], settings, fmt, rng(5), spare=spare)
    assert fewer.shape == (3, fmt.channels, 24, 24)
    assert torch.equal(spare, expected)  # too large to be written over


def test_inputs_give_the_same_batches_over_the_same_memory() -> None:
    settings = Images(resize=40, crop=40, train=TrainImages(size=24, crop_area=(0.3, 1.0)))
    inputs, stream, twin = ImageInputs(RAGGED, settings, RGB), rng(6), rng(6)
    assert settings.train is not None
    for positions in (np.array([0, 1, 2]), np.array([3, 2, 1]), np.array([1, 1, 1])):
        expected = train_batch(RAGGED, positions, settings.train, RGB, twin)
        assert torch.equal(inputs.train(positions, stream), expected)
    assert torch.equal(inputs.evaluation(np.arange(4)), eval_batch(RAGGED, np.arange(4), 40, RGB))


def test_crop_statistics_follow_the_definition() -> None:
    settings = TrainImages(size=32, crop_area=(0.2, 0.8), flip=0.25)
    sizes = np.tile(np.array([[400, 600]]), (20_000, 1))
    boxes, flips = random_crops(sizes, settings, rng())
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 400).all()
    assert (left + width <= 600).all()
    share = height * width / (400 * 600)
    aspect = np.log(width / height)
    assert abs(share.min() - 0.2) < 5e-3
    assert abs(share.max() - 0.8) < 5e-3
    assert np.abs(aspect).max() < np.log(4 / 3) + 0.01
    assert abs(aspect.mean()) < 0.05
    assert abs(flips.mean() - 0.25) < 0.02
    small = share < 0.4  # any aspect ratio fits: the area is uniform and so is the place
    quantiles = np.quantile(share[small], [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quantiles, [0.25, 0.3, 0.35], atol=6e-3)
    np.testing.assert_allclose((top[small] / (400 - height[small])).mean(), 0.5, atol=0.02)


def test_crop_statistics_equal_torchvisions() -> None:
    settings = TrainImages(size=32, crop_area=(0.16, 1.0))
    image = torch.empty(3, 256, 480)
    theirs = np.array([v2.RandomResizedCrop.make_params(v2.RandomResizedCrop(32, (0.16, 1.0)), [image])[key]
                       for _ in range(1_500) for key in ("top", "left", "height", "width")]).reshape(-1, 4)  # fmt: skip
    ours, _ = random_crops(np.tile(np.array([[256, 480]]), (20_000, 1)), settings, rng())
    spread = theirs.std(axis=0) / np.sqrt(len(theirs))
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) < 5 * spread).all()


def test_impossible_aspect_falls_back_to_the_largest_centred_crop() -> None:
    settings = TrainImages(size=8, crop_area=(0.9, 1.0))
    boxes, _ = random_crops(np.array([[10, 200], [200, 10]]), settings, rng())
    np.testing.assert_array_equal(boxes, [[0, 93, 10, 13], [93, 0, 13, 10]])


def test_always_and_never_flip() -> None:
    whole = TrainImages(size=32, crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), flip=1.0)
    flipped = train_batch(UNIFORM, np.arange(6), whole, GREY, rng())
    upright = train_batch(UNIFORM, np.arange(6), whole.model_copy(update={"flip": 0.0}), GREY, rng())
    torch.testing.assert_close(flipped.flip(3), upright)
    torch.testing.assert_close(upright, eval_batch(UNIFORM, np.arange(6), 32, GREY), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("images", "fmt"), [(RAGGED, RGB), (UNIFORM, GREY)])
def test_same_stream_same_bits_and_draws_depend_on_the_batch_size_only(images: ImageStore, fmt: InputFormat) -> None:
    settings = TrainImages(size=24, crop_area=(0.3, 1.0))
    one, two = rng(9), rng(9)
    positions: NDArray[np.int64] = np.array([0, 1, 2, 3])
    first = train_batch(images, positions, settings, fmt, one)
    assert torch.equal(first, train_batch(images, positions, settings, fmt, two))
    train_batch(images, positions, settings, fmt, one)
    train_batch(store([(300, 20)] * 4, 3), positions, TrainImages(size=8, crop_area=(0.9, 1.0)), RGB, two)
    assert one.bit_generator.state == two.bit_generator.state


def test_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1 channels, the trunk expects 3"):
        eval_batch(UNIFORM, np.arange(2), 32, RGB)
