"""The seal over the test split: closed while a run trains, opened once, after the checkpoint choice is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.errors import SealedError

_closed_by: str | None = None


@contextmanager
def sealed(why: str) -> Iterator[None]:
    """While inside, this process refuses to open data sets, test images, test labels and test features."""
    global _closed_by
    previous, _closed_by = _closed_by, why
    try:
        yield
    finally:
        _closed_by = previous


def check(what: str) -> None:
    """Called by everything that can yield test data.

    Raises:
        SealedError: the seal is closed.
    """
    if _closed_by is not None:
        raise SealedError(
            f"{what} was asked for while {_closed_by}: test classes stay sealed until the run's checkpoint "
            "choice is written. A method gets its data from the batch and the training view only."
        )
