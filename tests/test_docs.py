from pathlib import Path

import pytest

from bench import docs

ROOT = Path(__file__).parents[1]


def test_the_committed_pages_are_what_the_sources_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    pages = docs.pages()
    stale = [name for name, text in pages.items() if not _same(ROOT / "docs" / name, text)]
    assert not stale, "run `make docs`"
    generated = {f"methods/{path.name}" for path in (ROOT / "docs" / "methods").glob("*.md")}
    assert generated == {name for name in pages if name.startswith("methods/")}


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text("utf-8") == text
