from pathlib import Path

import pytest

from bench import docs

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["methods", "protocols"])
def test_the_committed_page_is_what_the_sources_say(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = getattr(docs, f"{name}_page")()
    assert (ROOT / "docs" / f"{name}.md").read_text() == page, "run `make docs`"
