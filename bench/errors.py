"""Errors a user can act on: each message names what is wrong, where, and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BenchError(Exception):
    """Base of all errors whose message is meant for the user; shown without a traceback."""


class UsageError(BenchError):
    """A wrong call: unknown name, wrong option, unreadable or invalid configuration file."""


class DataError(BenchError):
    """A data set is missing, incomplete where it may not be, or damaged."""


class MethodError(BenchError):
    """A method plug-in broke its contract (shape, dtype, NaN, batch size, parameters)."""


class SealedError(BenchError):
    """Something reached for test images or labels before the run had finished training."""


class Diverged(BenchError):
    """The loss or an embedding became NaN or infinite."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name that does not exist, with the nearest existing name and the whole list."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return UsageError(f"unknown {kind} '{name}'.{hint} Known: {', '.join(names) or 'none'}.")
