"""A close look at one image: does it decode, what is unusual about it, and a digest of its pixels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.data.decode import DamagedImage, Fault, opened, pixels

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

DIGEST_BYTES = 16
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright
_ODD_MODES = {"L": "grey", "LA": "grey", "1": "grey", "P": "palette", "PA": "palette", "CMYK": "CMYK", "YCCK": "CMYK"}


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen.

    Attributes:
        digest: of the decoded RGB pixels and their shape; equal for one picture in two files. Empty where damaged.
        fault: None, or why there are no pixels.
        reason: the fault in words.
        oddities: 'grey', 'palette', 'CMYK', 'rotated' (an EXIF orientation), '16 bits' (only the upper 8 are read).
    """

    digest: bytes = b""
    fault: Fault | None = None
    reason: str = ""
    oddities: tuple[str, ...] = ()


def look(image: Path | NDArray[np.uint8]) -> Look:
    """Decode an image file in full, or take an image that is in memory."""
    if isinstance(image, np.ndarray):
        return Look(_digest(image))
    try:
        with opened(image) as file:
            oddities = _stored(file)
            digest = _digest(pixels(file, None, 3))
            return Look(digest, oddities=(*oddities, *(["rotated"] if _rotated(file) else [])))
    except DamagedImage as error:
        return Look(fault=error.fault, reason=error.reason)


def _stored(image: ImageFile) -> list[str]:
    found = [_ODD_MODES[image.mode]] if image.mode in _ODD_MODES else []
    # The stored format, as the decoder is told it: the mode says 8 bits already.
    return [*found, "16 bits"] if ";16" in str(image.tile) else found


def _rotated(image: ImageFile) -> bool:
    try:
        return image.getexif().get(_ORIENTATION, 1) not in (0, 1)
    except Exception:  # a damaged EXIF block harms nothing: decoding does not read it
        return False


def _digest(image: NDArray[np.uint8]) -> bytes:
    digest = hashlib.sha256(f"{image.shape}".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()[:DIGEST_BYTES]
