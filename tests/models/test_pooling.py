from __future__ import annotations

import pytest
import torch

from bench.models.pooling import GlobalPool


def test_worked_example() -> None:
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]])
    gem = ((1 + 8 + 27 + 216) / 4) ** (1 / 3)
    assert GlobalPool(("mean", "max", "gem"))(maps).tolist()[0] == pytest.approx([3.0, 6.0, gem])
    assert GlobalPool(("max", "mean"))(maps).tolist() == [[6.0, 3.0]]


def test_empty_maps_have_finite_gradients() -> None:
    maps = torch.zeros(2, 3, 4, 4, requires_grad=True)
    GlobalPool(("gem",))(maps).sum().backward()
    assert torch.isfinite(maps.grad).all()
