"""Reading the text lists of official data sets: one row a line, fields apart by any run of spaces.

Such files reach people truncated, re-saved by an editor or mixed up with a namesake. Whatever is wrong is named with
file and line here, before it can become a wrong label or a wrong split.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from bench.errors import DataError

_LONGEST = 18  # digits: every such number fits the 64-bit integers of labels


def read_rows(path: Path, fields: int, *, skip: int = 0) -> Iterator[tuple[int, list[str]]]:
    """(line number from 1, fields) of every row; empty lines may stand at the end only, a byte-order mark is dropped.

    Args:
        path: a UTF-8 text file.
        fields: how many each row must have.
        skip: lines before the first row, which the caller checks with `header`.

    Raises:
        DataError: unreadable, not UTF-8 text, no row at all, or a row with more or fewer fields.
    """
    lines = _lines(path)
    if len(lines) <= skip:
        raise DataError(f"{path}: holds no row{f' after line {len(lines)}' if lines else ''}. {_AGAIN}")
    for line, text in enumerate(lines[skip:], skip + 1):
        row = text.split()
        if len(row) != fields or not all(map(str.isprintable, row)):
            raise fault(path, line, f"is not {fields} fields apart by spaces: {_shown(text)}")
        yield line, row


def header(path: Path, line: int = 1) -> list[str]:
    """The fields of a line before the rows; empty where the file ends sooner.

    Raises:
        DataError: unreadable or not UTF-8 text.
    """
    lines = _lines(path)
    return lines[line - 1].split() if line <= len(lines) else []


def check_header(path: Path, names: Sequence[str], line: int = 1) -> None:
    """Check that a line holds these column names, in this order.

    Raises:
        DataError: anything else is there.
    """
    found = header(path, line)
    if found != list(names):
        raise fault(path, line, f"must be the header '{' '.join(names)}', but is {_shown(' '.join(found))}")


def positive(path: Path, line: int, name: str, text: str, *, least: int = 1) -> int:
    """The whole number from 1 (or `least`) that a field holds.

    Raises:
        DataError: something else is there (zero, a sign, a fraction, words).
    """
    if not (text.isascii() and text.isdecimal() and len(text) <= _LONGEST and int(text) >= least):
        raise fault(path, line, f"{name} must be a whole number from {least}, but is {_shown(text)}")
    return int(text)


def relative(path: Path, line: int, text: str) -> PurePosixPath:
    """The listed place of an image, which may not leave the data set's folder.

    Raises:
        DataError: absolute, or with `..`.
    """
    place = PurePosixPath(text)
    if place.is_absolute() or ".." in place.parts or not place.parts:
        raise fault(path, line, f"path must be relative and without '..', but is {_shown(text)}")
    return place


def unique(path: Path, line: int, name: str, value: Hashable, seen: dict[Hashable, int]) -> None:
    """Note that a line holds this value in `seen`, which an earlier line may not have.

    Raises:
        DataError: an earlier line has it too.
    """
    first = seen.setdefault(value, line)
    if first != line:
        raise fault(path, line, f"{name} {value} is there already, on line {first}")


def fault(path: Path, line: int, what: str) -> DataError:
    """The error for a line."""
    return DataError(f"{path}: line {line}: {what}. {_AGAIN}")


_AGAIN = "The file is damaged, or another one of that name: get it again."


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes().count(b"\n", 0, error.start) + 1
        raise fault(path, line, f"is not UTF-8 text (byte {error.start}: {error.reason})") from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}), and with it the labels. Take it from the data set's archive."
        ) from None
    return text.rstrip().split("\n") if text.strip() else []


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
