"""What can be found wrong or unusual in a data set, and what to do about each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Severity = Literal["problem", "warning", "note"]

EXAMPLES = 10  # kept of kinds that can be all of a data set


class _Kind(NamedTuple):
    severity: Severity
    said: str  # after the number
    advice: str
    noun: str = "image"


_STOPS = "or leave them out with --leave-out: runs stop at them."
_NOTHING = "Nothing is needed:"
_KINDS = {
    "empty": _Kind("problem", "of zero bytes", f"Get these files again, {_STOPS}"),
    "truncated": _Kind("problem", "cut short", f"Get these files again, {_STOPS}"),
    "unreadable": _Kind("problem", "not decodable", f"Get these files again, {_STOPS}"),
    "too large": _Kind("problem", "of too many pixels", f"Make these images smaller, {_STOPS}"),
    "more than 8 bits": _Kind("problem", "of more than 8 bits a channel", f"Convert these images to 8 bits, {_STOPS}"),
    "inaccessible": _Kind(
        "problem", "that cannot be read", "Check permissions and the disk: such files cannot be left out as damaged."
    ),
    "copy across the split": _Kind(
        "problem",
        "both on the training and on the test side",
        "Delete the copies of one side: a test image that was trained on flatters every method.",
        "picture",
    ),
    "left out": _Kind(
        "warning",
        "damaged, and left out by your choice",
        f"{_NOTHING} get these files again and verify once more to have them back.",
    ),
    "copy across classes": _Kind(
        "warning",
        "under more than one class of a side",
        "Find out which class is right and delete the others, unless the official set has it so.",
        "picture",
    ),
    "copy within a class": _Kind(
        "warning",
        "more than once in a class",
        "Delete all copies but one, unless the official set has it so: to find a copy is no skill.",
        "picture",
    ),
    "rotated": _Kind(
        "warning",
        "with an EXIF orientation, which decoding does not follow",
        "Rotate the pixels themselves where it matters that images stand upright.",
    ),
    "._ files": _Kind(
        "warning",
        "beginning with '._', left by a macOS archive and ignored",
        f"{_NOTHING} they can be deleted.",
        "file",
    ),
    "16 bits": _Kind("note", "of 16 bits a channel", f"{_NOTHING} the upper 8 bits of each channel are read."),
    "grey": _Kind("note", "in grey", f"{_NOTHING} they become RGB where the trunk takes colour."),
    "palette": _Kind("note", "with a palette", f"{_NOTHING} they become RGB."),
    "CMYK": _Kind("note", "in CMYK", f"{_NOTHING} they become RGB, without a colour profile."),
}
KINDS = tuple(_KINDS)


class Instance(NamedTuple):
    """One case: the image, or all copies of one picture, and what else there is to say."""

    images: tuple[str, ...]
    detail: str = ""


@dataclass(frozen=True)
class Finding:
    """All cases of a kind.

    Attributes:
        severity: a 'problem' makes results wrong or runs fail, a 'warning' is a known blemish, a 'note' is harmless.
        kind: one of `KINDS`.
        count: number of cases.
        message: what was found, one line.
        advice: what to do about it, one sentence.
        instances: all cases, or the first few of harmless kinds.
    """

    severity: Severity
    kind: str
    count: int
    message: str
    advice: str
    instances: tuple[Instance, ...]


def finding(kind: str, instances: Sequence[Instance], count: int | None = None) -> Finding:
    """The cases of a kind in words; `count` where `instances` are not all."""
    severity, said, advice, noun = _KINDS[kind]
    count = len(instances) if count is None else count
    message = f"{count:,} {noun}{'' if count == 1 else 's'} {said}"
    return Finding(severity, kind, count, message, advice, tuple(instances))
