"""Omniglot (Lake et al., Science 2015): 1,623 handwritten characters of 50 alphabets, each drawn by 20 people.

A class is a character of an alphabet, the super-class is the alphabet, the nuisance is who drew it (two digits at the
end of a file name). The four digits at its beginning are the official class id: 1-964 are the background set of 30
alphabets, which trains; 965-1623 the evaluation set of 20, which tests. Where one of the two is missing, the first
half of the alphabets in sorted order trains and the second half tests, and the set is partial.

The drawings are 1-bit files, black ink on white paper (the built-in glyphs are white on black): a trunk that learns
from scratch does not mind.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from bench.data.dataset import Dataset
from bench.data.decode import is_image
from bench.data.official import Benchmark, Photo, again, build, candidates
from bench.errors import DataError

BACKGROUND, CHARACTERS, DRAWERS = 964, 1_623, 20

_MISSING = """data set 'omniglot' was not found in {data} (nor in a folder omniglot* there).
Get images_background.zip (MD5 68d2efa1b9178cc56df9314c21c6e718, trains) and images_evaluation.zip
(MD5 6b91aef0f799c5bb55b94e3f2daec811, tests), 16 MB together, from the folder python of github.com/brendenlake/omniglot
and unpack both in {data}/omniglot; the folder omniglot-py of torchvision holds the same. One of them, or
images_background_small1.zip or _small2.zip, makes a partial set.
Elsewhere? Name the folder with --data DIR (make: DATA=DIR) or in the environment variable BENCH_DATA."""

BENCHMARK = Benchmark(
    "omniglot",
    "Omniglot",
    images={"train": BACKGROUND * DRAWERS, "query": (CHARACTERS - BACKGROUND) * DRAWERS},
    classes={"train": BACKGROUND, "query": CHARACTERS - BACKGROUND},
    missing=_MISSING,
    default_protocol="quick",
)

_WHOLE, _EVALUATION = "images_background", "images_evaluation"
_SMALL = ("images_background_small1", "images_background_small2")  # alphabets of the whole background set
_FOLDS = 5  # of the default protocol: with fewer training alphabets the folds have to cut through them
_NAME = re.compile(r"(\d{4})_(\d{2})")


class _Drawing(NamedTuple):
    class_id: int
    path: PurePosixPath
    alphabet: str
    character: str
    drawer: int


def load(data: Path) -> Dataset:
    """Find Omniglot in `data`, or in a folder `omniglot*` of it, torchvision's layout included; whole or partial.

    Raises:
        DataError: not found, or not unpacked (says what to get and where to put it); a file is not named after a
            character and a drawer; two characters share an id, or one has two; there is one alphabet only.
    """
    zipped = None
    for folder in candidates(data, "omniglot"):
        for root in (folder, folder / "omniglot-py", folder / "python"):
            trees = _trees(root)
            if trees:
                return _dataset(root, trees)
            zipped = zipped or next(iter(sorted(root.glob("images_*.zip"))), None)
    if zipped is not None:
        raise DataError(f"{zipped}: is there, but not unpacked. Unpack it in its folder, {zipped.parent}.")
    raise BENCHMARK.not_found(data)


def _trees(root: Path) -> list[PurePosixPath]:
    """The folders that hold alphabets. The small background sets repeat alphabets of the whole one."""
    background = (_WHOLE,) if (root / _WHOLE).is_dir() else _SMALL
    named = [name for name in (*background, _EVALUATION) if (root / name).is_dir()]
    if named:  # some unpackers make a folder of the archive's name around the folder in it
        return [PurePosixPath(name, name) if (root / name / name).is_dir() else PurePosixPath(name) for name in named]
    alphabets = any(path.is_dir() for path in root.glob("*/character[0-9][0-9]"))
    return [PurePosixPath()] if alphabets else []


def _dataset(root: Path, trees: list[PurePosixPath]) -> Dataset:
    layout = " and ".join(tree.name for tree in trees if tree.name) or "alphabet folders"
    drawings = _one_id_a_character(root, [drawing for tree in trees for drawing in _drawings(root, tree)])
    whole = {drawing.class_id <= BACKGROUND for drawing in drawings} == {True, False}
    alphabets = sorted({drawing.alphabet for drawing in drawings})
    if not whole and len(alphabets) == 1:
        raise DataError(
            f"{root}: has the alphabet {alphabets[0]} only; training and test alphabets are different ones."
        )
    first_half = set(alphabets[: (len(alphabets) + 1) // 2])
    photos, names = [], {}
    for drawing in drawings:
        trains = drawing.class_id <= BACKGROUND if whole else drawing.alphabet in first_half
        photos.append(Photo(drawing.class_id, drawing.path, "train" if trains else "query", drawing.alphabet))
        names[drawing.class_id] = f"{drawing.alphabet}/{drawing.character}"
    notes = () if whole else ("background or evaluation set missing: half of the alphabets found trains",)
    found = build(BENCHMARK, root, layout, photos, names, notes=notes)
    drawer_of = {root / drawing.path: drawing.drawer for drawing in drawings}
    found = replace(found, photographs=False, nuisance=np.array([drawer_of[path] for path in found.images], np.int64))
    return _keep_alphabets_together(found)


def _drawings(root: Path, tree: PurePosixPath) -> Iterator[_Drawing]:
    low, high = (
        (BACKGROUND + 1, CHARACTERS) if tree.name == _EVALUATION else (1, BACKGROUND if tree.name else CHARACTERS)
    )
    for path in sorted(path for path in (root / tree).glob("*/*/*") if is_image(path)):
        place = PurePosixPath(path.relative_to(root).as_posix())
        alphabet, character = place.parts[-3:-1]
        if alphabet.startswith((".", "__")):  # __MACOSX
            continue
        parsed = _NAME.fullmatch(path.stem)
        if not parsed or not 1 <= int(parsed[2]) <= DRAWERS:
            raise DataError(
                f"{path}: is not named <character>_<drawer>, four and two digits (0108_01.png). {again(root / tree)}"
            )
        if not low <= int(parsed[1]) <= high:
            raise DataError(
                f"{path}: character {parsed[1]} is not one of {tree.name or 'Omniglot'} ({low}-{high}). {again(root)}"
            )
        yield _Drawing(int(parsed[1]), place, alphabet, character, int(parsed[2]))


def _one_id_a_character(root: Path, drawings: list[_Drawing]) -> list[_Drawing]:
    """Check that ids and characters agree, and drop what the second small set repeats of the first."""
    folder_of: dict[int, PurePosixPath] = {}
    id_of: dict[PurePosixPath, int] = {}
    kept: dict[tuple[int, int], _Drawing] = {}
    for drawing in drawings:
        character = PurePosixPath(drawing.alphabet, drawing.character)
        if (folder_of.setdefault(drawing.class_id, character), id_of.setdefault(character, drawing.class_id)) != (
            character,
            drawing.class_id,
        ):
            raise DataError(
                f"{root / drawing.path}: has the id {drawing.class_id:04}, which is that of "
                f"{folder_of[drawing.class_id]}, while {character} is {id_of[character]:04}. {again(root)}"
            )
        first = kept.setdefault((drawing.class_id, drawing.drawer), drawing)
        if first.path.parent == drawing.path.parent and first is not drawing:
            raise DataError(f"{root / drawing.path}: the same drawing as {first.path.name} beside it. {again(root)}")
    return list(kept.values())


def _keep_alphabets_together(dataset: Dataset) -> Dataset:
    assert dataset.superlabels is not None
    alphabets = len(np.unique(dataset.superlabels[dataset.split.train]))
    if alphabets < _FOLDS:
        note = f"{alphabets} training alphabets: validation folds cut through alphabets"
        return replace(dataset, notes=(*dataset.notes, note))
    first_image = np.unique(dataset.labels, return_index=True)[1]
    return replace(dataset, class_groups=dataset.superlabels[first_image])
