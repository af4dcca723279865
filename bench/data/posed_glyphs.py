"""Posed glyphs: characters turned, slanted and scaled by known amounts; continuous labels for graded retrieval.

Made on the spot from the embedded glyphs, by a fixed seed: eight poses of each character, drawn from its first font
face. The continuous label is (rotation, slant, logarithm of scale), each over its range [-1, 1]; the class label is the
character. Look for images in the same pose: those of other characters count as much as those of the same one.

The stored jitter of the glyphs is known, since it was drawn from a seed too: each pose is applied on top of the inverse
of the image's own jitter, so that labels are exact.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data import glyphs
from bench.data.dataset import Dataset, Split
from bench.data.glyphs import render
from bench.data.manifest import manifest_of_arrays

SEED = 21
POSES = 8  # of each character
ROTATION = 60.0  # degrees, plus or minus
SLANT = 0.4  # shear, plus or minus
SCALE = (0.6, 1.1)
NOISE = 12.0  # standard deviation, grey levels of 255
BACKGROUND = 80  # grey level up to which a stored pixel is noise

Doubles = NDArray[np.float64]


def load(data: Path) -> Dataset:
    """The whole data set; `data` is not used, the images come with the package.

    Raises:
        DataError: a file of the package is missing or is not the one that was released.
    """
    source = glyphs.load(data)
    chosen = np.repeat(np.unique(source.labels, return_index=True)[1], POSES)
    labels = source.labels[chosen]
    rng = np.random.default_rng(SEED)
    targets = rng.uniform(-1, 1, (len(chosen), 3))
    upright, shift = (part[chosen] for part in _stored_jitter(len(source.labels)))
    wanted = _pose(
        np.radians(ROTATION) * targets[:, 0],
        SLANT * targets[:, 1],
        np.exp(np.log(SCALE[0]) + (np.log(SCALE[1]) - np.log(SCALE[0])) * (targets[:, 2] + 1) / 2),
    )
    assert isinstance(source.images, np.ndarray)
    ink = np.clip((source.images[chosen].astype(np.float64) - BACKGROUND) * 255 / (255 - BACKGROUND), 0, 255)
    grey = _warped(ink, upright @ np.linalg.inv(wanted), shift) + rng.normal(0, NOISE, ink.shape)
    images = np.clip(np.round(grey), 0, 255).astype(np.uint8)
    on_train_side = np.isin(labels, source.labels[source.split.train])
    split = Split(train=np.flatnonzero(on_train_side), query=np.flatnonzero(~on_train_side))
    return Dataset(
        name="posed_glyphs",
        title="Posed glyphs",
        images=images,
        labels=labels,
        class_ids=source.class_ids,
        class_names=source.class_names,
        split=split,
        manifest=manifest_of_arrays(
            images, labels, split, layout="made from the glyphs shipped with bench", targets=targets
        ),
        default_protocol="graded",
        photographs=False,
        targets=targets,
        class_groups=source.class_groups,
        notes=(f"continuous labels: rotation within {ROTATION:g} degrees, slant within {SLANT:g}, scale {SCALE}",),
    )


def _pose(angle: Doubles, slant: Doubles, scale: Doubles) -> Doubles:
    """Linear maps (N, 2, 2): shear, then rotation and scale, as the glyphs were rendered."""
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    shear = np.zeros((len(slant), 2, 2))
    shear[:, 0, 0] = shear[:, 1, 1] = 1
    shear[:, 0, 1] = slant
    return np.asarray(scale[:, None, None] * (rotation @ shear))


def _stored_jitter(count: int) -> tuple[Doubles, Doubles]:
    """Linear map (N, 2, 2) and shift in pixels (N, 2) of each stored glyph: the draws of `render`, repeated."""
    rng = np.random.default_rng(render.SEED)
    drawn = np.empty((count, 5))
    for row in drawn:
        row[0] = rng.uniform(-render.ROTATION, render.ROTATION)
        row[1], row[2] = rng.uniform(*render.SCALE), rng.uniform(-render.SHEAR, render.SHEAR)
        row[3:] = rng.uniform(-render.SHIFT, render.SHIFT, size=2)
        rng.uniform(*render.CONTRAST), rng.uniform(*render.NOISE)
        rng.normal(size=(glyphs.CELL, glyphs.CELL))
    return _pose(np.radians(drawn[:, 0]), drawn[:, 2], drawn[:, 1]), drawn[:, 3:]


def _warped(images: Doubles, inverse: Doubles, shift: Doubles) -> Doubles:
    """Bilinear samples (N, H, W): output pixel q shows the input at inverse q + shift, both from the cell's centre."""
    size = images.shape[1]
    axis = np.arange(size) - (size - 1) / 2
    grid = np.stack(np.meshgrid(axis, axis, indexing="xy"), -1).reshape(-1, 2)  # (x, y) as Pillow's affine maps
    at = grid @ inverse.transpose(0, 2, 1) + shift[:, None] + (size - 1) / 2
    low = np.floor(at).astype(np.int64)
    part = at - low
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    rows = np.arange(len(images))[:, None]
    result = np.zeros(at.shape[:2])
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = (np.clip(low[..., axis] + step + 1, 0, size + 1) for axis, step in ((0, dx), (1, dy)))
            weight = np.abs(1 - dx - part[..., 0]) * np.abs(1 - dy - part[..., 1])
            result += weight * padded[rows, y, x]
    return result.reshape(images.shape)
