"""Cached features of a frozen trunk: equal to a direct pass, keyed by all that changes them, sealed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench import home
from bench.data import seal
from bench.data.cache import open_images
from bench.data.catalog import open_dataset
from bench.data.dataset import Dataset
from bench.data.transforms import eval_batch
from bench.errors import SealedError
from bench.models.features import features_key, open_features, prepare_features
from bench.models.trunks import build_trunk, trunk_input
from bench.protocol import Protocol, load_protocol

CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def digits() -> Dataset:
    """The first 60 digits of each side."""
    whole = open_dataset("digits", Path("data"))
    split = dataclasses.replace(whole.split, train=whole.split.train[:60], query=whole.split.query[:60])
    return dataclasses.replace(whole, split=split)


@pytest.fixture
def frozen(tiny: Any, tmp_path: Path) -> Any:
    """The tiny protocol with a frozen trunk whose weights are a local file."""
    torch.manual_seed(5)
    trunk = build_trunk(load_protocol(tiny()).trunk, 32)
    torch.save(trunk.net.state_dict(), tmp_path / "w.pth")

    def protocol(**changes: Any) -> Protocol:
        spec = {"name": "conv4", "weights": str(tmp_path / "w.pth"), "frozen": True}
        return load_protocol(tiny(**{"trunk": spec, "images": {"resize": 32, "crop": 32, "train": None}, **changes}))

    return protocol


def direct(dataset: Dataset, protocol: Protocol, side: Any) -> torch.Tensor:
    form = trunk_input(protocol.trunk.name)
    store = open_images(dataset, side, protocol.images.resize, form.channels)
    trunk = build_trunk(protocol.trunk, protocol.images.crop).eval()
    with torch.inference_mode():
        images = eval_batch(store, np.arange(len(store)), protocol.images.crop, form)
        return torch.as_tensor(trunk(images))


def test_features_are_the_trunk_output_of_each_position(cache: Path, digits: Dataset, frozen: Any) -> None:
    protocol = frozen()
    prepare_features(digits, protocol, CPU, progress=False)
    for side, rows in (("train", digits.split.train), ("test", digits.split.test)):
        features = open_features(digits, side, protocol)  # type: ignore[arg-type]
        assert features.shape == (len(rows), 128)
        assert features.dtype == torch.float32
        torch.testing.assert_close(features, direct(digits, protocol, side), rtol=1e-4, atol=1e-5)


def test_the_second_call_reads_the_cache(cache: Path, digits: Dataset, frozen: Any) -> None:
    prepare_features(digits, frozen(), CPU, progress=False)
    files = sorted((home.cache_folder() / "features").glob("*.safetensors"))
    before = [f.stat().st_mtime_ns for f in files]
    assert len(files) == 2
    prepare_features(digits, frozen(), CPU, progress=False)
    open_features(digits, "train", frozen())
    assert [f.stat().st_mtime_ns for f in files] == before
    assert not list((home.cache_folder() / "features").glob("*.tmp"))


def test_low_precision_features_are_others_but_close(cache: Path, digits: Dataset, frozen: Any) -> None:
    exact, low = (open_features(digits, "train", frozen(precision=p)) for p in ("float32", "bfloat16"))
    assert not torch.equal(exact, low)
    assert torch.nn.functional.cosine_similarity(exact, low).min() > 0.99


def test_key_follows_whatever_changes_a_feature(cache: Path, digits: Dataset, frozen: Any, tmp_path: Path) -> None:
    def key(dataset: Dataset = digits, side: Any = "train", **changes: Any) -> str:
        return features_key(dataset, side, frozen(**changes))

    manifest = dataclasses.replace(digits.manifest, content="other pixels")
    keys = [
        key(),
        key(side="test"),
        key(images={"resize": 40, "crop": 32, "train": None}),
        key(images={"resize": 32, "crop": 28, "train": None}),
        key(precision="bfloat16"),
        key(trunk={"weights": "none", "frozen": True}),
        key(dataset=dataclasses.replace(digits, manifest=manifest)),
    ]
    first = key()
    state = torch.load(tmp_path / "w.pth", weights_only=True)
    state["blocks.0.weight"] = state["blocks.0.weight"] * 2
    protocol = frozen()
    torch.save(state, tmp_path / "w.pth")
    keys.append(features_key(digits, "train", protocol))
    assert len(set(keys)) == len(keys)
    assert keys[0] == first


def test_key_ignores_what_training_does(cache: Path, digits: Dataset, frozen: Any) -> None:
    other = frozen(budget={"iterations": 100}, embedding={"size": 8}, seeds=[7])
    assert features_key(digits, "train", other) == features_key(digits, "train", frozen())


def test_training_features_open_under_the_seal_and_test_features_do_not(
    cache: Path, digits: Dataset, frozen: Any
) -> None:
    prepare_features(digits, frozen(), CPU, progress=False)
    with seal.sealed("a run is training"):
        assert len(open_features(digits, "train", frozen())) == len(digits.split.train)
        with pytest.raises(SealedError, match="test features"):
            open_features(digits, "test", frozen())
        with pytest.raises(SealedError):
            prepare_features(digits, frozen(), CPU, progress=False)
    assert len(open_features(digits, "test", frozen())) == len(digits.split.test)


def test_random_frozen_trunk_is_one_and_the_same_whatever_the_global_seed(
    cache: Path, digits: Dataset, frozen: Any
) -> None:
    protocol = frozen(trunk={"weights": "none", "frozen": True})
    torch.manual_seed(1)
    first = open_features(digits, "train", protocol)
    for file in (home.cache_folder() / "features").glob("*.safetensors"):
        file.unlink()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(open_features(digits, "train", protocol), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_threads_are_given_back(cache: Path, digits: Dataset, frozen: Any) -> None:
    before = torch.get_num_threads()
    open_features(digits, "train", frozen())
    assert torch.get_num_threads() == before
