"""Pairs of images of one class by their place in a batch: the first with the second, the third with the fourth."""

from __future__ import annotations

import torch
from torch import Tensor


def consecutive(labels: Tensor) -> Tensor:
    """Each class's images two by two, in the order of the batch, wherever in the batch they stand.

    A batch of P classes times K images has P * K / 2 such pairs if K is even; the last image of a class
    of odd size has none.

    Args:
        labels: int64 (B,).

    Returns:
        int64 (T, 2), first before second in the batch, ordered by the first.
    """
    order = labels.argsort(stable=True)
    grouped = labels[order]
    place = torch.arange(len(labels), device=labels.device)
    turn = place - torch.searchsorted(grouped, grouped)  # 0, 1, 2 ... within each class
    opens = (turn[:-1] % 2 == 0) & (grouped[:-1] == grouped[1:])
    found = torch.stack([order[:-1][opens], order[1:][opens]], 1)
    return found[found[:, 0].argsort()]


def partners(labels: Tensor) -> Tensor:
    """The other image of each image's pair of `consecutive`, int64 (B,); an image without one is its own."""
    first, second = consecutive(labels).unbind(1)
    partner = torch.arange(len(labels), device=labels.device)
    partner[first], partner[second] = second, first
    return partner
