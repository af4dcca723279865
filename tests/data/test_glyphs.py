"""The embedded data sets: counts, hash, split, and what keeps look-alikes apart."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from bench.data import glyphs
from bench.data.catalog import open_dataset
from bench.errors import DataError

GLYPHS = open_dataset("glyphs", Path("unused"))


def test_counts_are_those_of_the_release() -> None:
    found = GLYPHS.manifest
    assert (found.classes, found.images) == (609, 7_670)
    assert (found.train_classes, found.train_images) == (305, 3_934)
    assert (found.test_classes, found.test_images) == (304, 3_736)
    assert found.content == "6f7dd011bf6b4a2b3688349fa2bf23e58b3700e8589981b7699ac7a67132017d"
    assert GLYPHS.images.shape == (7_670, 32, 32)
    assert GLYPHS.images.dtype == np.uint8
    assert GLYPHS.partial is None
    assert GLYPHS.default_protocol == "quick"


def test_split_is_disjoint_whole_and_keeps_look_alikes_on_one_side() -> None:
    train, test = set(GLYPHS.labels[GLYPHS.split.train]), set(GLYPHS.labels[GLYPHS.split.test])
    assert not train & test
    assert len(train | test) == 609
    assert len(np.union1d(GLYPHS.split.train, GLYPHS.split.test)) == 7_670
    groups = GLYPHS.class_groups
    assert groups is not None
    assert len(np.unique(groups)) == 439
    assert not set(groups[sorted(train)]) & set(groups[sorted(test)])


def test_every_class_has_8_to_21_faces_each_once_and_one_script() -> None:
    faces, scripts = GLYPHS.nuisance, GLYPHS.superlabels
    assert faces is not None
    assert scripts is not None
    sizes = np.bincount(GLYPHS.labels)
    assert sizes.min() == 8
    assert sizes.max() == 21
    assert len(np.unique(np.stack([GLYPHS.labels, faces]), axis=1).T) == 7_670
    assert all(len(np.unique(scripts[GLYPHS.labels == label])) == 1 for label in range(609))
    assert GLYPHS.superclass_names == ("ARMENIAN", "CYRILLIC", "DIGIT", "GEORGIAN", "GREEK", "LAO", "LATIN")
    assert set(faces) == set(range(len(glyphs.FACES)))
    assert chr(GLYPHS.class_ids[0]) == "0"
    assert GLYPHS.class_names[0] == "0 DIGIT ZERO"


def test_no_two_images_have_the_same_pixels() -> None:
    assert len(np.unique(GLYPHS.images.reshape(7_670, -1), axis=0)) == 7_670


def test_font_licences_travel_with_the_images() -> None:
    texts = {path.stem: path.read_text() for path in (glyphs.FOLDER / "LICENSES").glob("*.txt")}
    assert set(texts) == {"DejaVu", "STIX", "BaKoMa"}
    assert "Bitstream" in texts["DejaVu"]
    assert "SIL OPEN FONT LICENSE" in texts["STIX"]
    assert "Permission to copy and distribute these fonts" in texts["BaKoMa"]


def test_changed_or_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(glyphs.FOLDER, tmp_path / "glyphs")
    monkeypatch.setattr(glyphs, "FOLDER", tmp_path / "glyphs")
    sheet = tmp_path / "glyphs" / "images.png"
    sheet.write_bytes(sheet.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"images.png is not the released file"):
        open_dataset("glyphs", tmp_path)
    sheet.unlink()
    with pytest.raises(DataError, match=r"images.png cannot be read"):
        open_dataset("glyphs", tmp_path)


def test_rendering_again_gives_nearly_the_same_images() -> None:
    pytest.importorskip("matplotlib", reason="rendering needs the extra 'fonts' (matplotlib)")
    from bench.data.glyphs import render

    faces = render.Faces()
    rng = np.random.default_rng(render.SEED)
    rows = glyphs.read_classes()[:12]
    count = 0
    for row in rows:
        character = chr(int(row["code_point"], 16))
        having = faces.having(character)
        assert " ".join(map(str, having)) == row["faces"]
        for face in having:
            cell = render.jittered(faces.draw(character, face), rng).astype(float)
            # Other versions of FreeType differ by some grey levels along the edges.
            assert np.abs(cell - GLYPHS.images[count]).mean() < 8
            count += 1


def test_digits() -> None:
    digits = open_dataset("digits", Path("unused"))
    assert digits.images.shape == (1_797, 8, 8)
    assert digits.images.max() == 255
    assert set(digits.labels[digits.split.train]) == {0, 1, 2, 3, 4}
    assert set(digits.labels[digits.split.test]) == {5, 6, 7, 8, 9}
    assert digits.default_protocol == "few-classes"
