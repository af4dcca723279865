"""Finds methods: files given on the command line, the benchmark folder's, the shipped ones, entry points."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from bench import home
from bench.data import seal
from bench.errors import UsageError, unknown_name
from bench.method import Method

GROUP = "bench.methods"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class MethodInfo:
    """A method that was found.

    Attributes:
        cls: its class.
        path: its source file, relative to the working folder where it lies inside.
        hash: 12 hex digits over the code of that file: comments, docstrings and formatting do not count.
    """

    cls: type[Method]
    path: str
    hash: str


def methods(include: Sequence[Path] = ()) -> dict[str, MethodInfo]:
    """All methods by name, sorted.

    Four sources in this order, an earlier one shadowing the later: `include` (files or folders), the
    benchmark folder's `methods/`, the shipped methods, packages with entry points in the group
    'bench.methods'. Files whose name starts with an underscore are skipped.

    Raises:
        UsageError: a path does not exist, a file cannot be imported or holds no method, or one
            source has two methods of one name.
    """
    sources: list[Iterator[tuple[type[Method], Path]]] = [_from_files(_included(include))]
    sources += [_from_files(_python_files(folder)) for folder in home.folders("methods")]
    sources.append(_from_entry_points())
    found: dict[str, MethodInfo] = {}
    for source in sources:
        for name, info in _unique(source).items():
            found.setdefault(name, info)
    return dict(sorted(found.items()))


def get(name: str, include: Sequence[Path] = ()) -> MethodInfo:
    """One method by name.

    Raises:
        UsageError: no such method; the message suggests the nearest name. Else as `methods`.
    """
    found = methods(include)
    if name not in found:
        raise unknown_name("method", name, found)
    return found[name]


def select(names: Sequence[str] | None, include: Sequence[Path] = ()) -> dict[str, MethodInfo]:
    """The named methods in the order given, or all for None.

    Raises:
        UsageError: an unknown name; the message suggests the nearest. Else as `methods`.
    """
    found = methods(include)
    for name in names or ():
        if name not in found:
            raise unknown_name("method", name, found)
    return found if names is None else {name: found[name] for name in names}


def code_hash(source: str) -> str:
    """First 12 hex digits of the SHA-256 over Python source without comments, docstrings and formatting."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:12]


def _unique(source: Iterator[tuple[type[Method], Path]]) -> dict[str, MethodInfo]:
    found: dict[str, MethodInfo] = {}
    for cls, path in source:
        shown = str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
        if cls.name in found:
            raise UsageError(f"method '{cls.name}' is defined twice: in {found[cls.name].path} and in {shown}.")
        found[cls.name] = MethodInfo(cls, shown, code_hash(path.read_text("utf-8")))
    return found


def _included(include: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in include:
        if path.is_dir():
            inside = _python_files(path)
            if not inside:
                raise UsageError(f"--include {path}: the folder has no Python file with a method.")
            files += inside
        elif path.is_file():
            files.append(path.resolve())
        else:
            raise UsageError(f"--include {path}: no such file or folder.")
    return list(dict.fromkeys(files))


def _python_files(folder: Path) -> list[Path]:
    return sorted(path.resolve() for path in folder.glob("*.py") if not path.name.startswith("_"))


def _from_files(files: Sequence[Path]) -> Iterator[tuple[type[Method], Path]]:
    for path in files:
        try:
            source = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"method file {path}: cannot be read ({error}).") from None
        module = _load(path, hashlib.sha256(f"{path}\n{source}".encode()).hexdigest()[:12])
        for cls in _classes(module, f"method file {path}"):
            yield cls, path


@cache
def _load(path: Path, content: str) -> ModuleType:
    """Import a file by path, once for each content: classes stay identical between calls."""
    name = f"bench_method_{path.stem}_{content}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"method file {path}: is not a Python file (its name must end in .py).")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before running it: dataclasses and pickling look their module up
    try:
        _explained(f"method file {path}", partial(spec.loader.exec_module, module))
    except UsageError:
        del sys.modules[name]
        raise
    return module


def _from_entry_points() -> Iterator[tuple[type[Method], Path]]:
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        where = f"entry point '{point.name} = {point.value}' of group {GROUP}"
        loaded = _explained(where, point.load)
        classes = _classes(loaded, where) if isinstance(loaded, ModuleType) else [_single(loaded, where)]
        for cls in classes:
            yield cls, Path(inspect.getfile(cls)).resolve()


def _single(loaded: Any, where: str) -> type[Method]:
    if not (isinstance(loaded, type) and issubclass(loaded, Method)):
        raise UsageError(f"{where}: is neither a module nor a subclass of bench.method.Method.")
    return _named(loaded, where)


def _classes(module: ModuleType, where: str) -> list[type[Method]]:
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    public = [_named(cls, where) for cls in dict.fromkeys(own) if not cls.__name__.startswith("_")]
    if not public:
        raise UsageError(
            f"{where}: has no subclass of bench.method.Method. Files that are not methods start with an underscore."
        )
    return public


def _named(cls: type[Method], where: str) -> type[Method]:
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"{where}: class {cls.__name__} needs `name`, lower-case letters, digits, '_' and '-', found {name!r}."
        )
    return cls


def _explained(where: str, action: Callable[[], Any]) -> Any:
    try:
        with seal.sealed("a method is being imported"):
            return action()
    except (Exception, SystemExit) as error:
        line = "" if isinstance(error, SyntaxError) else _line(error, where)
        raise UsageError(f"{where}: cannot be imported: {type(error).__name__}: {error}{line}.") from error


def _line(error: BaseException, where: str) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in where]
    return f" (line {frames[-1].lineno})" if frames else ""
