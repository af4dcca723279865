"""BN-Inception: the published structure, layer by layer, and its published file."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.errors import UsageError
from bench.models import weights
from bench.models.bn_inception import BNInception, check_sides
from bench.models.trunks import TrunkModule, build_trunk
from bench.protocol import Trunk

# Input and output channels of every convolution, as the published network lists them.
STEM = {"conv1_7x7_s2": (3, 64), "conv2_3x3_reduce": (64, 64), "conv2_3x3": (64, 192)}
LAYERS = ("1x1", "3x3_reduce", "3x3", "double_3x3_reduce", "double_3x3_1", "double_3x3_2", "pool_proj")
INCEPTION = {
    "3a": ((192, 64), (192, 64), (64, 64), (192, 64), (64, 96), (96, 96), (192, 32)),
    "3b": ((256, 64), (256, 64), (64, 96), (256, 64), (64, 96), (96, 96), (256, 64)),
    "3c": (None, (320, 128), (128, 160), (320, 64), (64, 96), (96, 96), None),
    "4a": ((576, 224), (576, 64), (64, 96), (576, 96), (96, 128), (128, 128), (576, 128)),
    "4b": ((576, 192), (576, 96), (96, 128), (576, 96), (96, 128), (128, 128), (576, 128)),
    "4c": ((576, 160), (576, 128), (128, 160), (576, 128), (128, 160), (160, 160), (576, 128)),
    "4d": ((608, 96), (608, 128), (128, 192), (608, 160), (160, 192), (192, 192), (608, 128)),
    "4e": (None, (608, 128), (128, 192), (608, 192), (192, 256), (256, 256), None),
    "5a": ((1056, 352), (1056, 192), (192, 320), (1056, 160), (160, 224), (224, 224), (1056, 128)),
    "5b": ((1024, 352), (1024, 192), (192, 320), (1024, 192), (192, 224), (224, 224), (1024, 128)),
}
CONVOLUTIONS = STEM | {
    f"inception_{block}_{layer}": shape
    for block, shapes in INCEPTION.items()
    for layer, shape in zip(LAYERS, shapes, strict=True)
    if shape is not None
}
PUBLISHED_PARAMETERS = 11_295_240  # with the classifier of 1,000 classes
CLASSIFIER_PARAMETERS = 1024 * 1000 + 1000
HALVING = ("conv1_7x7_s2", "inception_3c_3x3", "inception_3c_double_3x3_2", "inception_4e_3x3",
           "inception_4e_double_3x3_2")  # fmt: skip


def kernel(name: str) -> int:
    return 7 if "7x7" in name else 3 if "3x3" in name and not name.endswith("reduce") else 1


def published_state() -> dict[str, Tensor]:
    """Random tensors under the names and in the shapes of the published file."""
    draw = torch.Generator().manual_seed(5)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(shape).uniform_(low, high, generator=draw)

    state = {}
    for name, (before, after) in CONVOLUTIONS.items():
        size, bound = kernel(name), math.sqrt(6 / (before * kernel(name) ** 2))
        state[f"{name}.weight"] = uniform(-bound, bound, after, before, size, size)
        state[f"{name}.bias"] = uniform(-0.1, 0.1, after)
        state[f"{name}_bn.weight"] = uniform(0.8, 1.2, after)
        state[f"{name}_bn.bias"] = uniform(-0.2, 0.2, after)
        state[f"{name}_bn.running_mean"] = uniform(-0.1, 0.1, after)
        state[f"{name}_bn.running_var"] = uniform(0.8, 1.2, after)
    state["conv1_7x7_s2.weight"] /= 70  # inputs reach 150
    state["last_linear.weight"] = uniform(-1, 1, 1000, 1024)
    state["last_linear.bias"] = uniform(-1, 1, 1000)
    return state


def reference_maps(state: dict[str, Tensor], bgr: Tensor) -> Tensor:
    """The published network in functions: BGR images to the last feature maps."""

    def unit(name: str, maps: Tensor) -> Tensor:
        stride = 2 if name in HALVING else 1
        maps = F.conv2d(maps, state[f"{name}.weight"], state[f"{name}.bias"], stride, kernel(name) // 2)
        mean, var = state[f"{name}_bn.running_mean"], state[f"{name}_bn.running_var"]
        return F.batch_norm(maps, mean, var, state[f"{name}_bn.weight"], state[f"{name}_bn.bias"], eps=1e-5).relu()

    halve = nn.MaxPool2d(3, 2, ceil_mode=True)
    mean_pool = nn.AvgPool2d(3, 1, 1, ceil_mode=True, count_include_pad=True)
    max_pool = nn.MaxPool2d(3, 1, 1, ceil_mode=True)
    maps = halve(unit("conv1_7x7_s2", bgr))
    maps = halve(unit("conv2_3x3", unit("conv2_3x3_reduce", maps)))
    for block in INCEPTION:
        at = f"inception_{block}_"
        three = unit(at + "3x3", unit(at + "3x3_reduce", maps))
        double = unit(at + "double_3x3_2", unit(at + "double_3x3_1", unit(at + "double_3x3_reduce", maps)))
        if block in ("3c", "4e"):
            maps = torch.cat((three, double, halve(maps)), 1)
        else:
            pooled = (max_pool if block == "5b" else mean_pool)(maps)
            maps = torch.cat((unit(at + "1x1", maps), three, double, unit(at + "pool_proj", pooled)), 1)
    return maps


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return published_state()


@pytest.fixture(scope="module")
def file(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "bn_inception.pth"
    torch.save(state, path)
    return path


def trunk(source: Path | str = "none", batch_norm: str = "train", crop: int = 224) -> TrunkModule:
    spec = {"name": "bn_inception", "weights": str(source), "batch_norm": batch_norm}
    return build_trunk(Trunk.model_validate(spec), crop)


def normalised(pixels: Tensor, form: TrunkModule) -> Tensor:
    """RGB pixels of 0 to 255 as the harness hands them to a trunk."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (form.input.mean, form.input.std))
    return (pixels / 255 - mean) / std


def random_pixels(side: int, count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(side)).float()


@pytest.mark.parametrize("side", [224, 227])
def test_last_maps_are_seven_by_seven(side: int) -> None:
    net = BNInception().eval()
    with torch.inference_mode():
        assert net.maps(torch.zeros(1, 3, side, side)).shape == (1, 1024, 7, 7)


def test_it_has_the_published_number_of_parameters() -> None:
    count = sum(p.numel() for p in trunk().parameters())
    assert count == PUBLISHED_PARAMETERS - CLASSIFIER_PARAMETERS
    assert count == sum(b * a * kernel(name) ** 2 + 3 * a for name, (b, a) in CONVOLUTIONS.items())


@pytest.mark.parametrize("side", [64, 227])
def test_a_published_file_gives_the_published_network(state: dict[str, Tensor], file: Path, side: int) -> None:
    own = trunk(file).eval()
    pixels = random_pixels(side)
    bgr = pixels[:, [2, 1, 0]] - torch.tensor([104.0, 117.0, 128.0])[:, None, None]
    with torch.inference_mode():
        expected = reference_maps(state, bgr)
        assert expected.mean() > 0.1
        maps = own.net.maps(normalised(pixels, own))  # type: ignore[operator]
        torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-3)
        features = own(normalised(pixels, own))
        torch.testing.assert_close(features, expected.mean((2, 3)), rtol=1e-3, atol=1e-3)


def test_every_tensor_of_the_file_arrives(state: dict[str, Tensor], file: Path) -> None:
    own = trunk(file).net.state_dict()
    for key, value in state.items():
        if not key.startswith("last_linear."):
            assert torch.equal(own.pop(key), value), key
    assert all(key.endswith("num_batches_tracked") for key in own)


def test_a_red_image_arrives_as_blue_green_red_less_the_mean() -> None:
    own = trunk(crop=32).eval()
    seen: list[Tensor] = []
    own.net.get_submodule("conv1_7x7_s2").register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    own(normalised(torch.tensor([255.0, 0.0, 0.0])[:, None, None].expand(1, 3, 32, 32), own))
    assert seen[0][0, :, 5, 5].tolist() == pytest.approx([-104, -117, 127], abs=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inception_4c_pool_proj_bn.running_var": None}, r"missing inception_4c_pool_proj_bn\.running_var\.$"),
        ({"inception_3c_1x1.weight": torch.zeros(1)}, r"unexpected inception_3c_1x1\.weight\.$"),
        (
            {"inception_5b_3x3.weight": torch.zeros(320, 192, 1, 1)},
            r"inception_5b_3x3\.weight has shape \(320, 192, 1, 1\) instead of \(320, 192, 3, 3\)",
        ),
        ({"conv2_3x3_bn.bias": torch.zeros(1, 191)}, r"conv2_3x3_bn\.bias has shape \(1, 191\)"),
    ],
)
def test_a_file_that_differs_in_one_tensor_is_refused(
    state: dict[str, Tensor], tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    torch.save({k: v for k, v in (state | change).items() if v is not None}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=rf"not of trunk 'bn_inception': {message}"):
        trunk(tmp_path / "w.pth")


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes text as Python 2 wrote it: strings of bytes."""

    dispatch: ClassVar[dict[type, object]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_str(self, text: str) -> None:
        self.write(pickle.SHORT_BINSTRING + bytes([len(text)]) + text.encode("ascii"))
        self.memoize(text)

    dispatch[str] = save_str


def test_a_file_of_the_first_torch_versions_loads_the_same(
    state: dict[str, Tensor], file: Path, tmp_path: Path
) -> None:
    rows = {k: v[None] if "_bn." in k else v for k, v in state.items()}
    old_pickle = SimpleNamespace(__name__="pickle", dump=pickle.dump, Pickler=Python2Pickler)
    torch.save(rows, tmp_path / "old.pth", old_pickle, _use_new_zipfile_serialization=False)
    assert b"U\x13conv1_7x7_s2.weight" in (tmp_path / "old.pth").read_bytes()
    old, new = trunk(tmp_path / "old.pth").state_dict(), trunk(file).state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key], new[key]) for key in new)


def test_imagenet_weights_are_the_file_in_the_hub_cache(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=r"bench weights fetch bn_inception.*bn_inception-52deb4733\.pth"):
        trunk("imagenet")
    wanted = weights.hub_folder() / "bn_inception-52deb4733.pth"
    wanted.parent.mkdir(parents=True)
    wanted.symlink_to(file)
    assert torch.equal(trunk("imagenet").net.state_dict()["conv2_3x3.bias"], published_state()["conv2_3x3.bias"])


def test_frozen_batch_norm_keeps_its_statistics_while_every_parameter_learns(file: Path) -> None:
    own = trunk(file, batch_norm="frozen", crop=64).train()
    before = {k: v.clone() for k, v in own.state_dict().items()}
    optimizer = torch.optim.SGD(own.parameters(), lr=0.01)
    own(normalised(random_pixels(64), own)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in own.parameters())
    optimizer.step()
    for key, value in own.state_dict().items():
        assert torch.equal(value, before[key]) == ("running_" in key or "num_batches" in key), key
    assert not any(m.training for m in own.modules() if isinstance(m, nn.BatchNorm2d))


def test_training_batch_norm_follows_its_batches() -> None:
    own = trunk(crop=64).train()
    own(normalised(random_pixels(64), own))
    layers = [m for m in own.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(layers) == len(CONVOLUTIONS)
    assert all(m.running_mean is not None and m.running_mean.abs().sum() > 0 for m in layers)


def test_evaluation_is_deterministic_and_an_image_does_not_depend_on_its_batch(file: Path) -> None:
    own = trunk(file).eval()
    images = normalised(random_pixels(64, count=3), own)
    with torch.inference_mode():
        features = own(images)
        assert torch.equal(own(images), features)
        torch.testing.assert_close(own(images[1:2]), features[1:2], rtol=1e-4, atol=1e-4)
        assert not torch.allclose(features[0], features[1])


def branches_agree(side: int) -> bool:
    """Whether convolution and pooling of both halving blocks end in the same size."""
    conv, pool = nn.Conv2d(1, 1, 3, 2, 1), nn.MaxPool2d(3, 2, ceil_mode=True)
    maps = pool(pool(nn.Conv2d(1, 1, 7, 2, 3)(torch.zeros(1, 1, side, 32))))
    for _ in range(2):
        if conv(maps).shape != pool(maps).shape:
            return False
        maps = pool(maps)
    return True


def test_sides_are_refused_exactly_where_the_branches_would_not_fit() -> None:
    for side in range(31, 300):
        try:
            check_sides(side)
            taken = True
        except UsageError:
            taken = False
        assert taken == branches_agree(side), side


@pytest.mark.parametrize("side", [8, 240])
def test_a_crop_that_does_not_fit_names_the_keys_and_the_way_out(side: int) -> None:
    hint = {8: "31 to 38, or 63 to 70", 240: "223 to 230, or 255 to 262"}[side]
    with pytest.raises(UsageError, match=rf"{side} pixels.*{hint}.*images\.crop and images\.train\.size"):
        trunk(crop=side)
    with pytest.raises(UsageError, match=hint):
        trunk()(torch.zeros(1, 3, 224, side))
