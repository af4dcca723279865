from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.data import catalog, glyphs, posed_glyphs
from bench.errors import UsageError
from bench.plan import Setting, make_plan


@pytest.fixture(scope="module")
def posed():
    return catalog.open_dataset("posed_glyphs", Path())


def test_it_has_eight_exact_poses_of_each_character(posed) -> None:
    assert posed.images.shape == (8 * 609, 32, 32)
    assert np.bincount(posed.labels).tolist() == [8] * 609
    assert np.abs(posed.targets).max() <= 1
    assert not set(posed.labels[posed.split.train]) & set(posed.labels[posed.split.query])
    assert catalog.open_dataset("posed_glyphs", Path()).manifest == posed.manifest


def orientation(image: np.ndarray) -> float:
    """Angle in degrees of the long axis of the ink, from its second moments; 0 is upright."""
    ink = np.where(image > 90, image.astype(float), 0.0)
    y, x = np.mgrid[:32, :32]
    x, y = x - (ink * x).sum() / ink.sum(), y - (ink * y).sum() / ink.sum()
    xx, yy, xy = ((ink * a).sum() for a in (x * x, y * y, x * y))
    return float(np.degrees(0.5 * np.arctan2(2 * xy, xx - yy))) % 180 - 90


def test_an_upright_stroke_shows_the_pose_that_its_label_says(posed) -> None:
    """The long axis of 'l' follows the map of the vertical direction; the ink grows with the scale."""
    checked = 0
    for character in "ꟾǃǀ":
        if ord(character) not in posed.class_ids:
            continue
        for row in np.flatnonzero(posed.labels == posed.class_ids.index(ord(character))):
            rotation, slant, scale = posed.targets[row]
            factor = np.exp(np.log(0.6) + (np.log(1.1) - np.log(0.6)) * (scale + 1) / 2)
            pose = posed_glyphs._pose(*(np.array([v]) for v in (np.radians(60) * rotation, 0.4 * slant, factor)))[0]
            x, y = pose @ [0, -1]  # up, in image coordinates
            expected = (np.degrees(np.arctan2(y, x)) + 90) % 180
            found = (orientation(posed.images[row]) + 180) % 180
            assert min(abs(found - expected), 180 - abs(found - expected)) < 12
            checked += 1
    assert checked >= 8


def test_the_replayed_jitter_is_that_of_the_renderer() -> None:
    """Undoing the stored jitter makes the faces of one character more alike."""
    source = glyphs.load(Path())
    upright, shift = posed_glyphs._stored_jitter(len(source.labels))
    rows = np.flatnonzero(source.labels == source.class_ids.index(ord("H")))
    rows = rows[source.nuisance[rows] < 4]
    stored = source.images[rows].astype(float)
    undone = posed_glyphs._warped(stored, upright[rows], shift[rows])

    def spread(images: np.ndarray) -> float:
        flat = images.reshape(len(images), -1)
        return -float(np.corrcoef(flat)[np.triu_indices(len(flat), 1)].mean())

    assert spread(undone) < spread(stored) - 0.05


def test_graded_protocols_need_continuous_labels(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'graded'.*continuous labels.*'glyphs'"):
        make_plan("glyphs", Setting("graded", tmp_path, tmp_path))
    with pytest.raises(UsageError, match=r"log_ratio.*continuous labels"):
        make_plan("glyphs", Setting("quick", tmp_path, tmp_path), ["log_ratio"])
    everything = make_plan("glyphs", Setting("quick", tmp_path, tmp_path), ["all"])
    assert "log_ratio" not in {spec.method for spec in everything.specs}
    assert any("log_ratio" in note for note in everything.left_out)
    default = make_plan("posed_glyphs", Setting("", tmp_path, tmp_path))
    assert default.protocol.name == "graded"
