"""Glyphs: 609 characters in up to 21 font faces as jittered 32 x 32 grey images; the embedded default data set.

Super-class: script. Nuisance: font face. Class groups: look-alike components, which stay on one side of the split
and of every fold. The images are the committed `images.png`, made by `render.py`; font licences lie beside it.
"""

from __future__ import annotations

import csv
import hashlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.data.dataset import Dataset, Split
from bench.data.manifest import manifest_of_arrays
from bench.errors import DataError

FOLDER = Path(__file__).resolve().parent
CELL = 32  # pixels
SHEET_COLUMNS = 65
COLUMNS = ("code_point", "name", "script", "component", "side", "faces")
FACES = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    *("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10"),
)
_SHA256 = {
    "images.png": "871db5bc5fdfc61f07dfc5fddf9184b74414b10d9a4e790febc21dcddadbc82d",
    "classes.csv": "147640a2ff66e883236dc84e6adbf0c9b6e16e233948fb8848c9550b13969830",
}


def read_classes() -> list[dict[str, str]]:
    """The rows of `classes.csv` in official order: by code point."""
    return list(csv.DictReader(io.StringIO((FOLDER / "classes.csv").read_text("utf-8"))))


def load(data: Path) -> Dataset:
    """The whole data set; `data` is not used, the images come with the package.

    Raises:
        DataError: a file of the package is missing or is not the one that was released.
    """
    for name, expected in _SHA256.items():
        _check(FOLDER / name, expected)
    rows = read_classes()
    having = [[int(face) for face in row["faces"].split()] for row in rows]
    labels = np.repeat(np.arange(len(rows)), [len(faces) for faces in having])
    images = _cells(len(labels))
    on_train_side = np.array([row["side"] == "train" for row in rows])[labels]
    scripts = sorted({row["script"] for row in rows})
    components = sorted({row["component"] for row in rows})
    split = Split(train=np.flatnonzero(on_train_side), query=np.flatnonzero(~on_train_side))
    return Dataset(
        name="glyphs",
        title="Glyphs",
        images=images,
        labels=labels,
        class_ids=tuple(int(row["code_point"], 16) for row in rows),
        class_names=tuple(f"{chr(int(row['code_point'], 16))} {row['name']}" for row in rows),
        split=split,
        manifest=manifest_of_arrays(images, labels, split, layout="shipped with bench"),
        default_protocol="quick",
        photographs=False,
        superlabels=np.array([scripts.index(row["script"]) for row in rows], np.int64)[labels],
        superclass_names=tuple(scripts),
        nuisance=np.concatenate(having).astype(np.int64),
        class_groups=np.array([components.index(row["component"]) for row in rows], np.int64),
        notes=(f"{len(FACES)} font faces of matplotlib; one stored jitter for each character and face",),
    )


def _check(path: Path, expected: str) -> None:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): reinstall bench, it ships this file.") from None
    if found != expected:
        raise DataError(
            f"{path} is not the released file (SHA-256 {found[:12]}..., expected {expected[:12]}...): reinstall "
            "bench, or restore the file from the repository. Results on other images are not comparable."
        )


def _cells(count: int) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(FOLDER / "images.png") as sheet:
        grid = np.asarray(sheet.convert("L"))
    rows = grid.shape[0] // CELL
    cells = grid.reshape(rows, CELL, SHEET_COLUMNS, CELL).transpose(0, 2, 1, 3).reshape(-1, CELL, CELL)
    return np.ascontiguousarray(cells[:count])
