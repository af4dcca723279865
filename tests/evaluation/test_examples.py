"""The worked numbers in docstrings."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["bench.evaluation", "bench.evaluation.retrieval", "bench.evaluation.clustering"])
def test_worked_numbers(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
