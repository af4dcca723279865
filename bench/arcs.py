"""Shortest distances between great-circle arcs, in closed form, for all pairs of arcs at once.

An arc runs the short way from one unit vector x to another, y. Its points are x cos a + m sin a, where m
is the direction from x towards y, for angles a from 0 to the arc's length. The cosine between points of
two arcs is then a bilinear form of (cos a, sin a) and (cos b, sin b) whose coefficients are dot products:
a pair of arcs costs a few numbers, whatever the dimension.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SHORT = 1e-4  # sine of an arc's length below which its ends hardly define a direction


def distances(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], floor: float = 1e-4) -> Tensor:
    """Least Euclidean distance of each of T arcs to each of U arcs, (T, U), not below `floor`.

    The gradient is that of the distance between the nearest points: zero at the floor (arcs that meet),
    and finite for arcs whose ends coincide or are opposite.

    Args:
        first: both ends of the T arcs, (T, D) each, unit rows.
        second: both ends of the U arcs, (U, D) each.
        floor: smaller distances count as this one: their squares are accurate to a few units in the
            last place of 1.
    """
    one, two = _vectors(*first), _vectors(*second)  # (3, T, D), (3, U, D)
    products = torch.einsum("itd,jud->ijtu", one, two)
    with torch.no_grad():
        # In double precision: near an optimum the cosine is flat, and rounding would hide which try is best.
        length1, length2 = _length(*first)[:, None], _length(*second)
        a, b = _nearest(products[:2, :2].double(), length1, length2)
        # Constants: an end is an end, and where an angle is free, the distance is stationary in it.
        weights1, weights2 = _weights(a, length1).to(one.dtype), _weights(b, length2).to(one.dtype)
    dot = (weights1[:, None] * weights2 * products).sum((0, 1))
    squared1 = (weights1[:, None] * weights1 * _products(one)[..., None]).sum((0, 1))  # 1, but for rounding
    squared2 = (weights2[:, None] * weights2 * _products(two)[:, :, None]).sum((0, 1))
    return (squared1 + squared2 - 2 * dot).clamp(min=floor**2).sqrt()


def _length(start: Tensor, end: Tensor) -> Tensor:
    return (start.double() * end.double()).sum(1).clamp(-1, 1).acos()


def _vectors(start: Tensor, end: Tensor) -> Tensor:
    """The vectors that points of arcs are made of, (3, T, D): start, unit direction towards the end, and end."""
    direction = F.normalize(end - (start * end).sum(1, keepdim=True) * start, eps=SHORT)
    return torch.stack([start, direction, end])


def _products(vectors: Tensor) -> Tensor:
    return (vectors[:, None] * vectors).sum(3)


def _weights(angle: Tensor, length: Tensor) -> Tensor:
    """Weights (3, T, U) of `_vectors` in the points at these angles: exactly the ends at the arcs' ends."""
    at_end = angle >= length
    return torch.stack([angle.cos() * ~at_end, angle.sin() * ~at_end, at_end.double()])


def _nearest(form: Tensor, length1: Tensor, length2: Tensor) -> tuple[Tensor, Tensor]:
    """Angles a and b (T, U) of the nearest points: form (2, 2, T, U), lengths (T, 1) and (U).

    The best b for a given a is known in closed form, on the arc too. So it remains to try both ends of
    the first arc, both of the second, and the one optimum inside both: the major axis of the form (its
    minor axis gives a saddle). Every try is a pair of points of the arcs, so the best try is the optimum
    and none needs a test of whether its case applies.
    """
    (xx, xm), (mx, mm) = form
    transposed = form.transpose(0, 1)
    axis = torch.atan2(2 * (xx * mx + xm * mm), xx**2 + xm**2 - mx**2 - mm**2) / 2 % math.pi
    zero = torch.zeros_like(length1)
    tries = [(a, _best(form, a, length2)) for a in (zero, length1, torch.minimum(axis, length1))]
    tries += [(_best(transposed, b, length1), b) for b in (zero, length2)]
    nearest, a, b = torch.full_like(xx, -math.inf), torch.zeros_like(xx), torch.zeros_like(xx)
    for tried_a, tried_b in tries:
        cosine = _cosine(form, tried_a, tried_b)
        nearer = cosine > nearest
        nearest, a, b = (torch.where(nearer, new, old) for new, old in ((cosine, nearest), (tried_a, a), (tried_b, b)))
    return a, b


def _cosine(form: Tensor, a: Tensor, b: Tensor) -> Tensor:
    (xx, xm), (mx, mm) = form
    cosine: Tensor = a.cos() * (xx * b.cos() + xm * b.sin()) + a.sin() * (mx * b.cos() + mm * b.sin())
    return cosine


def _best(form: Tensor, a: Tensor, length: Tensor) -> Tensor:
    """The best b in [0, length] for given a: that on the whole circle, or the end next to it."""
    (xx, xm), (mx, mm) = form
    free = torch.atan2(xm * a.cos() + mm * a.sin(), xx * a.cos() + mx * a.sin())
    half = length / 2
    from_middle = torch.remainder(free - half + math.pi, 2 * math.pi) - math.pi
    return torch.minimum(torch.maximum(from_middle, -half), half) + half
