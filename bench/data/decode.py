"""From an image file to uint8 pixels of a given shorter side, or of a given square."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from bench.errors import DataError
from bench.protocol import Fit

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_MOST_PIXELS = 178_956_970  # of which Pillow refuses a file as a decompression bomb
_WIDE_MODES = ("I", "F")  # more than 8 bits a channel: converting would clip


def is_image(path: Path) -> bool:
    """Whether a file name is an image's: known suffix in any case, not hidden (macOS archives leave `._` files)."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


Fault = Literal["empty", "truncated", "unreadable", "too large", "more than 8 bits", "inaccessible"]


class DamagedImage(DataError):
    """An image file that gives no pixels; the message names the file and what is wrong with it, but no way out."""

    def __init__(self, path: Path, fault: Fault, reason: str) -> None:
        super().__init__(f"{path}: {reason}.")
        self.path, self.fault, self.reason = path, fault, reason


def decode(path: Path, resize: int | None, channels: int, fit: Fit = "crop") -> NDArray[np.uint8]:
    """Pixels (H, W, channels) of an image file.

    Args:
        path: any format that Pillow reads; palette, grey, CMYK and transparent images are converted. An EXIF
            orientation is not followed: pixels are taken as they are stored.
        resize: shorter side in pixels, the longer one keeps the aspect ratio; smaller images are enlarged. None:
            as it is.
        channels: 1 (grey) or 3 (RGB).
        fit: "stretch" makes both sides `resize`, whatever the image's shape.

    Raises:
        DamagedImage: missing, empty, truncated, not an 8-bit image, or too large; the message names the file.
    """
    with opened(path) as image:
        if resize is not None:
            # JPEG decoders, and no others, can decode at 1/2, 1/4, 1/8 size; twice the target keeps the
            # antialiasing honest.
            width, height = _affordable(path, image.size, resize, fit)
            image.draft(None, (2 * width, 2 * height))
        return pixels(image, resize, channels, fit)


@contextmanager
def opened(path: Path) -> Iterator[ImageFile]:
    """An 8-bit image file to take pixels from; whatever goes wrong inside becomes a `DamagedImage`."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode.startswith(_WIDE_MODES):
                raise DamagedImage(path, "more than 8 bits", f"has more than 8 bits a channel (mode {image.mode})")
            yield image
    except DataError:
        raise
    except Exception as error:  # damaged files make Pillow's parsers raise nearly anything
        raise DamagedImage(path, *_fault(path, error)) from None


def _fault(path: Path, error: Exception) -> tuple[Fault, str]:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, OSError) and error.errno is not None:
        return "inaccessible", f"cannot be read ({error.strerror})"
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return "too large", f"is refused, it has too many pixels ({error})"
    if path.stat().st_size == 0:
        return "empty", "cannot be decoded (it is empty)"
    if isinstance(error, UnidentifiedImageError):
        return "unreadable", "cannot be decoded (it is not an image of a known format)"
    fault: Fault = "truncated" if isinstance(error, EOFError) or "truncated" in str(error).lower() else "unreadable"
    return fault, f"cannot be decoded ({error or type(error).__name__})"


def _affordable(path: Path, size: tuple[int, int], resize: int, fit: Fit) -> tuple[int, int]:
    # Pillow refuses a file of more pixels than this; so do we where only enlarging makes that many.
    width, height = resized(*size, resize, fit)
    if width * height > _MOST_PIXELS:
        raise DamagedImage(
            path, "too large", f"is refused, {size[0]} x {size[1]} pixels would become {width:,} x {height:,}"
        )
    return width, height


def pixels(image: Image, resize: int | None, channels: int, fit: Fit = "crop") -> NDArray[np.uint8]:
    """Convert and resize an opened image (bilinear, antialiased) to an array (H, W, channels)."""
    from PIL import Image

    if "transparency" in image.info and image.mode == "P":
        image = image.convert("RGBA")
    image = image.convert("L" if channels == 1 else "RGB")
    size = image.size if resize is None else resized(*image.size, resize, fit)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    array = np.asarray(image)
    return array[:, :, None] if channels == 1 else array


def resized(width: int, height: int, side: int, fit: Fit = "crop") -> tuple[int, int]:
    """Width and height after scaling the shorter side to `side`, the longer one cut to whole pixels, or both."""
    if fit == "stretch":
        return side, side
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side
