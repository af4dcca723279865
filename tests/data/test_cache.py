"""Decoding to the cache: exact pixels, damaged files, concurrent and killed builds, the seal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.data import seal
from bench.data.cache import open_images, prepare_images
from bench.data.catalog import open_dataset
from bench.data.dataset import Dataset
from bench.data.decode import resized
from bench.errors import DataError, SealedError
from tests.data import photos

MODES = [("L", "jpg"), ("CMYK", "jpg"), ("P", "png"), ("1", "png"), ("RGBA", "png")]
PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


def make(root: Path, *, images: int = 3, **options: object) -> Dataset:
    for index, name in enumerate(("a", "b", "c", "d")):
        for number in range(images):
            photos.write(root / name / f"{number}.png", 100 * index + number, **options)  # type: ignore[arg-type]
    return open_dataset("image_folder", root)


def expected(path: Path, resize: int) -> torch.Tensor:
    image = Image.open(path).convert("RGB")
    scale = resize / min(image.size)
    size = (int(image.width * scale), int(image.height * scale))
    return torch.from_numpy(np.asarray(image.resize(size, Image.Resampling.BILINEAR)).copy()).permute(2, 0, 1)


@pytest.mark.parametrize(("width", "height"), [(20, 14), (14, 20), (64, 48), (48, 48)])
def test_shorter_side_and_pixels(tmp_path: Path, width: int, height: int) -> None:
    dataset = make(tmp_path / "data", width=width, height=height)
    for side in ("train", "test"):
        store = open_images(dataset, side, 24, 3, progress=False)
        rows = dataset.split.train if side == "train" else dataset.split.test
        assert len(store) == 6
        assert min(store.image(0).shape[1:]) == 24
        for position, row in enumerate(rows):
            assert torch.equal(store.image(position), expected(dataset.images[row], 24))


def test_ragged_sizes_and_grey(tmp_path: Path) -> None:
    make(tmp_path)
    photos.write(tmp_path / "a/0.png", 5, width=90, height=30)
    dataset = open_dataset("image_folder", tmp_path)
    store = open_images(dataset, "train", 16, 1, progress=False)
    assert store.uniform is None
    assert store.image(0).shape == (1, 16, 48)
    assert store.image(1).shape == (1, 16, 22)
    grey = Image.open(dataset.images[0]).convert("L").resize((48, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(store.image(0)[0].numpy(), np.asarray(grey))


@pytest.mark.parametrize(("mode", "suffix"), MODES)
def test_other_colour_modes_become_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    make(tmp_path)
    (tmp_path / "a/0.png").unlink()
    path = photos.write(tmp_path / f"a/0.{suffix}", 1, mode=mode)
    store = open_images(open_dataset("image_folder", tmp_path), "train", 14, 3, progress=False)
    np.testing.assert_array_equal(store.image(0).permute(1, 2, 0), np.asarray(Image.open(path).convert("RGB")))


def test_large_jpeg_is_decoded_reduced_but_looks_the_same(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "a/0.png").unlink()
    path = photos.write(tmp_path / "a/0.jpg", 1, width=800, height=600)
    store = open_images(open_dataset("image_folder", tmp_path), "train", 32, 3, progress=False)
    difference = store.image(0).float() - expected(path, 32).float()
    assert difference.shape == (3, 32, 42)
    assert difference.abs().mean() < 1.5


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "gone", "deep"])
def test_damaged_image_is_named_and_leaves_nothing(tmp_path: Path, fresh_cache: Path, damage: str) -> None:
    make(tmp_path / "data")
    (tmp_path / "data/a/1.png").unlink()
    path = photos.write(tmp_path / "data/a/1.jpg", 3, width=200, height=200)
    dataset = open_dataset("image_folder", tmp_path / "data")
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "gone":
        path.unlink()
    elif damage == "deep":
        Image.fromarray(np.full((20, 20), 40_000, dtype=np.uint16)).save(path, "PNG")
    else:
        path.write_bytes(b"" if damage == "empty" else b"not an image at all")
    way_out = (
        r"Get the file again: .*verify" if damage == "gone" else r"again, or leave damaged images out: .*--leave-out"
    )
    with pytest.raises(DataError, match=rf"data/a/1.jpg: .* {way_out}"):
        prepare_images(dataset, 16, 3, progress=False)
    assert not [entry for entry in fresh_cache.iterdir() if entry.is_dir()]


def test_content_and_settings_have_caches_of_their_own(tmp_path: Path, fresh_cache: Path) -> None:
    dataset = make(tmp_path / "data")
    prepare_images(dataset, 16, 3, progress=False)
    prepare_images(dataset, 16, 1, progress=False)
    prepare_images(make(tmp_path / "data", images=4), 16, 3, progress=False)
    assert len([entry for entry in fresh_cache.iterdir() if entry.is_dir()]) == 6


def test_second_opening_reads_the_cache_only(tmp_path: Path) -> None:
    dataset = make(tmp_path / "data")
    prepare_images(dataset, 16, 3, progress=False)
    for path in dataset.images:
        path.unlink()
    assert len(open_images(dataset, "test", 16, 3)) == 6


def test_writing_to_a_store_does_not_reach_the_disk(tmp_path: Path) -> None:
    dataset = make(tmp_path / "data")
    before = open_images(dataset, "train", 16, 3, progress=False).flat.copy()
    open_images(dataset, "train", 16, 3).image(0).zero_()
    np.testing.assert_array_equal(open_images(dataset, "train", 16, 3).flat, before)


def test_arrays_need_no_disk(tmp_path: Path, fresh_cache: Path) -> None:
    glyphs = open_dataset("glyphs", tmp_path)
    prepare_images(glyphs, 32, 1)
    store = open_images(glyphs, "test", 32, 1)
    np.testing.assert_array_equal(store.image(7)[0].numpy(), glyphs.images[glyphs.split.test[7]])
    rgb = open_images(open_dataset("digits", tmp_path), "train", 32, 3)
    assert rgb.image(0).shape == (3, 32, 32)
    assert torch.equal(rgb.image(0)[0], rgb.image(0)[2])
    assert not fresh_cache.exists()


def test_test_side_is_sealed(tmp_path: Path) -> None:
    dataset = make(tmp_path / "data")
    prepare_images(dataset, 16, 3, progress=False)
    with seal.sealed("some-run"):
        assert len(open_images(dataset, "train", 16, 3)) == 6
        with pytest.raises(SealedError, match=r"some-run"):
            open_images(dataset, "test", 16, 3)
        with pytest.raises(SealedError):
            prepare_images(dataset, 16, 3)
        with pytest.raises(SealedError):
            open_dataset("image_folder", tmp_path / "data")


def test_cache_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"image cache in .*file.* cannot be written.*BENCH_CACHE"):
        prepare_images(make(tmp_path / "data"), 16, 3, progress=False)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = open
    monkeypatch.setattr("builtins.open", lambda file, *rest, **more: real(
        "/dev/full" if str(file).endswith("pixels.bin") else file, *rest, **more))  # fmt: skip
    with pytest.raises(DataError, match=r"disk is full.*BENCH_CACHE"):
        prepare_images(make(tmp_path / "data"), 16, 3, progress=False)


def test_disk_that_is_too_small_is_named_with_numbers_before_the_work(tmp_path: Path, fresh_cache: Path) -> None:
    dataset = make(tmp_path / "data")
    with pytest.raises(DataError, match=r"needs about 25,714.28 GB for 6 images, but [\d,.]+ GB are free.*BENCH_CACHE"):
        prepare_images(dataset, 1_000_000, 3, progress=False)
    assert not [entry for entry in fresh_cache.iterdir() if entry.is_dir()]


@pytest.mark.parametrize(("width", "height"), [(1, 300), (300, 1), (1, 1), (2, 999)])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_extreme_aspects(tmp_path: Path, width: int, height: int, suffix: str) -> None:
    make(tmp_path)
    photos.write(tmp_path / f"a/9.{suffix}", 1, width, height)
    dataset = open_dataset("image_folder", tmp_path)
    row = next(row for row, path in enumerate(dataset.images) if path.stem == "9")
    for channels in (1, 3):
        shape = open_images(dataset, "train", 24, channels, progress=False).image(row).shape
        scaled = (24, 24 * width // height) if width > height else (24 * height // width, 24)
        assert shape == (channels, *scaled)


@given(st.integers(1, 100_000), st.integers(1, 100_000), st.integers(1, 1024))
def test_shorter_side_is_met_whatever_the_aspect(width: int, height: int, side: int) -> None:
    assert min(resized(width, height, side)) == side


def test_image_that_only_enlarging_makes_huge_is_refused(tmp_path: Path) -> None:
    dataset = make(tmp_path / "data")
    photos.write(tmp_path / "data/a/1.png", 1, 1, 12_000)
    with pytest.raises(DataError, match=r"a/1.png: is refused, 1 x 12000 pixels would become 256 x 3,072,000"):
        prepare_images(dataset, 256, 3, progress=False)


def test_cache_stays_until_content_or_settings_change(tmp_path: Path, fresh_cache: Path) -> None:
    def built() -> dict[str, int]:
        return {entry.name: entry.stat().st_ino for entry in fresh_cache.iterdir() if entry.is_dir()}

    prepare_images(make(tmp_path / "data"), 16, 3, progress=False)
    first = built()
    prepare_images(open_dataset("image_folder", tmp_path / "data"), 16, 3, progress=False)
    assert built() == first
    (tmp_path / "data/a").rename(tmp_path / "data/e")  # same pictures, other labels
    prepare_images(open_dataset("image_folder", tmp_path / "data"), 16, 3, progress=False)
    assert len(built()) == 4
    assert built().items() > first.items()


@pytest.mark.parametrize("file", ["pixels.bin", "sizes.npy"])
@pytest.mark.parametrize("left", [0, 100, None])
def test_cache_that_was_cut_short_is_built_again(
    tmp_path: Path, fresh_cache: Path, file: str, left: int | None
) -> None:
    dataset = make(tmp_path / "data")
    before = open_images(dataset, "train", 16, 3, progress=False).flat.copy()
    path = next(fresh_cache.glob(f"*train*/{file}"))
    path.chmod(0o644)
    if left is None:
        path.unlink()
    else:
        os.truncate(path, left)
    np.testing.assert_array_equal(open_images(dataset, "train", 16, 3, progress=False).flat, before)


def test_cached_files_are_read_only(tmp_path: Path, fresh_cache: Path) -> None:
    prepare_images(make(tmp_path / "data"), 16, 3, progress=False)
    assert {oct(path.stat().st_mode & 0o777) for path in fresh_cache.glob("*/*")} == {"0o444"}


BUILD = """
import sys
from pathlib import Path
from bench.data.cache import prepare_images
from bench.data.catalog import open_dataset
dataset = open_dataset("image_folder", Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
prepare_images(dataset, 256, 3, progress=False)
"""


def build(data: Path) -> subprocess.Popen[str]:
    """A process that has opened the data set and waits for a line to build its cache."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(data)], env={**os.environ, "PYTHONPATH": str(PROJECT)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_killed_build_leaves_no_half_cache_and_two_builders_agree(tmp_path: Path, fresh_cache: Path) -> None:
    dataset = make(tmp_path / "data", images=60)
    victim, *both = [build(tmp_path / "data") for _ in range(3)]
    go(victim)
    deadline = time.monotonic() + 60
    while not list(fresh_cache.glob("*.tmp/pixels.bin")) and time.monotonic() < deadline:
        time.sleep(0.002)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    assert list(fresh_cache.glob("*.tmp")), "killed too late to test anything"
    for process in both:
        go(process)
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert not list(fresh_cache.glob("*.tmp"))
    for side, rows in (("train", dataset.split.train), ("test", dataset.split.test)):
        store = open_images(dataset, side, 256, 3)
        assert len(store) == 120
        for position in range(0, 120, 30):
            assert torch.equal(store.image(position), expected(dataset.images[rows[position]], 256))
