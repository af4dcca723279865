"""Renders the glyphs data set from the font faces that matplotlib ships: `python -m bench.data.glyphs.render`.

Writes `images.png` (a sheet of 32 x 32 cells) and the `faces` column of `classes.csv` beside this file. The
images are committed, because FreeType and font versions differ in pixels; this script is how they were made.
Needs the `fonts` extra (matplotlib). The characters, their script, look-alike component and side are the
committed facts of `classes.csv`: characters of one component are hard to tell apart in some face.

Each image is one character in one face, jittered once: rotation, shear, scale and shift about the centre of the
ink, then contrast and Gaussian noise, from one seed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.glyphs import CELL, COLUMNS, FACES, FOLDER, SHEET_COLUMNS, read_classes

SEED = 20
LEVELS = 8  # grey levels stored: noise in 256 levels does not compress
FONT_SIZE = 20  # pixels, in a cell of 32
OVERSAMPLING = 4
ROTATION = 12.0  # degrees, plus or minus
SCALE = (0.85, 1.15)
SHEAR = 0.15
SHIFT = 2.5  # pixels
CONTRAST = (0.6, 1.0)
NOISE = (5.0, 25.0)  # standard deviation, grey levels of 255


class Faces:
    """The font faces at the plain size (to see which faces have a character) and oversampled (to draw it)."""

    def __init__(self) -> None:
        import matplotlib
        from matplotlib.ft2font import FT2Font
        from PIL import ImageFont

        folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        files = [str(folder / f"{face}.ttf") for face in FACES]
        self._plain = [ImageFont.truetype(file, FONT_SIZE) for file in files]
        self._large = [ImageFont.truetype(file, FONT_SIZE * OVERSAMPLING) for file in files]
        self._known = [set(FT2Font(file).get_charmap()) for file in files]

    def having(self, character: str) -> list[int]:
        """Faces that draw the character within its cell, without those that draw an earlier face's pixels."""
        seen: set[tuple[tuple[int, int], bytes]] = set()
        found = []
        for face, font in enumerate(self._plain):
            # The Computer Modern faces put other symbols at code points beyond ASCII.
            if ord(character) not in self._known[face] or (FACES[face].startswith("cm") and not character.isascii()):
                continue
            mask = font.getmask(character)
            box = mask.getbbox()
            if box is None or max(box[2] - box[0], box[3] - box[1]) > CELL:
                continue
            pixels = (mask.size, bytes(mask))
            if pixels not in seen:
                seen.add(pixels)
                found.append(face)
        return found

    def draw(self, character: str, face: int) -> Any:
        """The oversampled character as a grey Pillow image of 4 cells' width, its ink centred."""
        from PIL import Image

        mask = self._large[face].getmask(character)
        ink = Image.frombytes("L", mask.size, bytes(mask)).crop(mask.getbbox())
        side = 2 * CELL * OVERSAMPLING  # room for ink that leaves its cell when it is enlarged and turned
        sheet = Image.new("L", (side, side))
        sheet.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
        return sheet


def jittered(drawn: Any, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One cell (32, 32) of a drawn character under a random affine map, contrast and noise."""
    from PIL import Image

    angle = math.radians(rng.uniform(-ROTATION, ROTATION))
    scale, shear = rng.uniform(*SCALE), rng.uniform(-SHEAR, SHEAR)
    shift = rng.uniform(-SHIFT, SHIFT, size=2) * OVERSAMPLING
    contrast, noise = rng.uniform(*CONTRAST), rng.uniform(*NOISE)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    inverse = np.linalg.inv(scale * rotation @ np.array([[1.0, shear], [0.0, 1.0]]))
    side = CELL * OVERSAMPLING
    # Pillow maps output pixels to input pixels: centre of the cell, minus the shift, to centre of the drawing.
    offset = drawn.width / 2 - inverse @ (side / 2 + shift)
    matrix = (*inverse[0], offset[0], *inverse[1], offset[1])
    turned = drawn.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    grey = contrast * np.asarray(turned.reduce(OVERSAMPLING), dtype=np.float64)
    grey += rng.normal(0.0, noise, size=grey.shape)
    step = 255 / (LEVELS - 1)
    return np.asarray(np.round(np.round(np.clip(grey, 0, 255) / step) * step), dtype=np.uint8)


def render() -> tuple[NDArray[np.uint8], list[list[int]]]:
    """All images (N, 32, 32), class by class in face order, and the faces of each class."""
    faces = Faces()
    rng = np.random.default_rng(SEED)
    cells, having = [], []
    for row in read_classes():
        character = chr(int(row["code_point"], 16))
        having.append(faces.having(character))
        cells += [jittered(faces.draw(character, face), rng) for face in having[-1]]
    return np.stack(cells), having


def main() -> None:
    """Render, write the sheet and the table, and print the hash that the loader asserts."""
    images, having = render()
    sheet = _sheet(images)
    (FOLDER / "images.png").write_bytes(sheet)
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row, faces in zip(read_classes(), having, strict=True):
        writer.writerow({**row, "faces": " ".join(map(str, faces))})
    (FOLDER / "classes.csv").write_text(table.getvalue(), "utf-8")
    print(f"{len(images):,} images of {len(having)} classes, {len(sheet):,} bytes")
    for name in ("images.png", "classes.csv"):
        print(f"SHA-256 of {name}: {hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()}")


def _sheet(images: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    rows = -(-len(images) // SHEET_COLUMNS)
    cells = np.zeros((rows * SHEET_COLUMNS, CELL, CELL), np.uint8)
    cells[: len(images)] = images
    grid = cells.reshape(rows, SHEET_COLUMNS, CELL, CELL).transpose(0, 2, 1, 3)
    file = io.BytesIO()
    levels = np.linspace(0, 255, LEVELS).round().astype(np.uint8)
    image = Image.fromarray(np.searchsorted(levels, grid.reshape(rows * CELL, -1)).astype(np.uint8))
    image.putpalette(np.repeat(levels, 3).tobytes())
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


if __name__ == "__main__":
    main()
