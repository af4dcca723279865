from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from bench import registry
from bench.errors import UsageError

METHOD = '''
from bench.method import Method

class {cls}(Method):
    """{doc}"""
    name = "{name}"

    def loss(self, batch):
        return batch.embeddings.sum() * {factor}
'''


def write(path: Path, name: str, cls: str = "Mine", doc: str = "Mine.", factor: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(METHOD.format(cls=cls, name=name, doc=doc, factor=factor))
    return path


def test_shipped_methods_are_found_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = registry.methods()
    assert {"contrastive", "triplet", "margin", "multi_similarity", "proxy_nca", "proxy_anchor"} <= set(found)
    assert {"normalized_softmax", "untrained", "raw_trunk"} <= set(found)
    assert list(found) == sorted(found)
    assert all(Path(info.path).is_file() and len(info.hash) == 12 for info in found.values())


def test_include_takes_files_and_folders_and_skips_private_files(tmp_path: Path) -> None:
    one = write(tmp_path / "one.py", "one")
    write(tmp_path / "many" / "two.py", "two")
    (tmp_path / "many" / "_shared.py").write_text("raise RuntimeError('not a method')")
    found = registry.methods([one, tmp_path / "many", one])
    assert {"one", "two", "margin"} <= set(found)
    assert found["one"].cls().name == "one"
    assert sys.modules[found["one"].cls.__module__].Mine is found["one"].cls


def test_classes_are_the_same_objects_until_the_file_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "one.py", "one")
    first = registry.get("one", [path])
    assert registry.get("one", [path]).cls is first.cls
    write(path, "one", factor=2)
    changed = registry.get("one", [path])
    assert changed.cls is not first.cls
    assert changed.hash != first.hash


def test_earlier_sources_shadow_later_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "protocols").mkdir()
    own = write(tmp_path / "methods" / "mine.py", "margin")
    write(tmp_path / "methods" / "other.py", "other", cls="Other")
    extra = write(tmp_path / "extra.py", "other")
    monkeypatch.chdir(tmp_path)
    found = registry.methods([extra])
    assert found["margin"].path == str(own.relative_to(tmp_path))
    assert found["other"].cls.__name__ == "Mine"
    assert "triplet" in found


def test_one_source_may_not_define_a_name_twice(tmp_path: Path) -> None:
    write(tmp_path / "a.py", "same")
    write(tmp_path / "b.py", "same")
    with pytest.raises(UsageError, match=r"'same' is defined twice.*a\.py.*b\.py"):
        registry.methods([tmp_path])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import no_such_module_at_all", r"broken\.py.*ModuleNotFoundError.*no_such_module_at_all.*line 1"),
        ("x = 1\nraise ValueError('boom')", r"broken\.py.*ValueError: boom \(line 2\)"),
        ("def oops(:", r"broken\.py.*SyntaxError"),
        ("import sys\nsys.exit(3)", r"broken\.py.*SystemExit"),
        ("x = 1", r"broken\.py.*no subclass of bench\.method\.Method"),
        ("from bench.method import Method", r"broken\.py.*no subclass"),
        ("from bench.method import Method\nclass A(Method): pass", r"broken\.py.*class A needs `name`"),
        ("from bench.method import Method\nclass A(Method): name = 'A b'", r"broken\.py.*class A needs `name`.*'A b'"),
    ],
)
def test_a_file_that_is_no_method_is_named_with_the_cause(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(content)
    for _ in range(2):  # a failed import leaves nothing behind that would pass the second time
        with pytest.raises(UsageError, match=message):
            registry.methods([path])


def test_paths_that_do_not_exist_or_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        registry.methods([tmp_path / "absent.py"])
    with pytest.raises(UsageError, match="no Python or YAML file"):
        registry.methods([tmp_path])
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(UsageError, match="not a Python file"):
        registry.methods([text])


def test_unknown_names_get_the_nearest_suggestion() -> None:
    with pytest.raises(UsageError, match="Did you mean 'multi_similarity'"):
        registry.get("multi_similarty")
    with pytest.raises(UsageError, match="Did you mean 'margin'"):
        registry.select(["triplet", "margni"])
    assert list(registry.select(["triplet", "margin"])) == ["triplet", "margin"]


def test_entry_points_are_the_last_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "site" / "plugged_in.py", "plugged")
    write(tmp_path / "site" / "plugged_too.py", "margin")
    (tmp_path / "site" / "not_a_method.py").write_text("thing = 3")
    info = tmp_path / "site" / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    points = info / "entry_points.txt"
    points.write_text("[bench.methods]\na = plugged_in:Mine\nb = plugged_too\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    importlib.invalidate_caches()
    found = registry.methods()
    assert found["plugged"].path.endswith("plugged_in.py")
    assert found["margin"].path.endswith("methods/margin.py")
    points.write_text("[bench.methods]\nc = not_a_method:thing\n")
    with pytest.raises(UsageError, match=r"entry point 'c = not_a_method:thing'.*neither a module nor a subclass"):
        registry.methods()


def test_hash_is_over_code_only() -> None:
    plain = "class A:\n    def f(self):\n        return 1\n"
    documented = (
        '"""Module."""\nclass A:  # why\n    """Class."""\n\n'
        '    def f(self):\n        """Method."""\n        return (1)\n'
    )
    assert registry.code_hash(plain) == registry.code_hash(documented)
    assert registry.code_hash(plain) != registry.code_hash(plain.replace("1", "2"))
    assert registry.code_hash('def f():\n    """Only this."""') == registry.code_hash("def f():\n    pass")
    assert registry.code_hash("x = 'text'") != registry.code_hash("x = 'other'")
