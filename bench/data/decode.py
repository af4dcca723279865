"""From an image file to uint8 pixels of a given shorter side."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_WIDE_MODES = ("I", "F")  # more than 8 bits a channel: converting would clip


def is_image(path: Path) -> bool:
    """Whether a file name is an image's: known suffix in any case, not hidden (macOS archives leave `._` files)."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def decode(path: Path, resize: int | None, channels: int) -> NDArray[np.uint8]:
    """Pixels (H, W, channels) of an image file.

    Args:
        path: any format that Pillow reads; palette, grey, CMYK and transparent images are converted.
        resize: shorter side in pixels, the longer one keeps the aspect ratio; smaller images are enlarged. None:
            as it is.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        DataError: missing, empty, truncated or not an 8-bit image; the message names the file.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if resize is not None:
                # JPEG decoders can decode at 1/2, 1/4, 1/8 size; twice the target keeps the antialiasing honest.
                width, height = resized(image.width, image.height, resize)
                image.draft(None, (2 * width, 2 * height))
            if image.mode.startswith(_WIDE_MODES):
                raise DataError(f"{path}: has more than 8 bits a channel (mode {image.mode}): convert it to 8 bits.")
            return pixels(image, resize, channels)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        reason = "it is empty" if path.is_file() and path.stat().st_size == 0 else error
        raise DataError(
            f"{path}: cannot be decoded ({reason}). Fetch the file again; `bench data verify` lists all damaged files."
        ) from None


def pixels(image: Image, resize: int | None, channels: int) -> NDArray[np.uint8]:
    """Convert and resize an opened image (bilinear, antialiased) to an array (H, W, channels)."""
    from PIL import Image

    if "transparency" in image.info and image.mode == "P":
        image = image.convert("RGBA")
    image = image.convert("L" if channels == 1 else "RGB")
    if resize is not None and min(image.size) != resize:
        image = image.resize(resized(image.width, image.height, resize), Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return array[:, :, None] if channels == 1 else array


def resized(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height after scaling the shorter side to `side`; the longer one is cut to whole pixels."""
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side
