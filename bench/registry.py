"""Finds methods: files given on the command line, the benchmark folder's, the shipped ones, entry points."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from bench import home, variants
from bench.data import seal
from bench.errors import UsageError, unknown_name
from bench.method import Method

GROUP = "bench.methods"
ALL = "all"
YAML = (".yaml", ".yml")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_in_use: tuple[Path, ...] = ()


@dataclass(frozen=True)
class MethodInfo:
    """A method that was found.

    Attributes:
        cls: its class.
        path: its source file, relative to the working folder where it lies inside.
        hash: 12 hex digits over the code of that file: comments, docstrings and formatting do not count.
            Of a method declared in YAML: over its declaration and the hash of what it builds on.
    """

    cls: type[Method]
    path: str
    hash: str


def methods(include: Sequence[Path] = ()) -> dict[str, MethodInfo]:
    """All methods by name, sorted.

    Four sources in this order, an earlier one shadowing the later: `include` (files or folders), the
    benchmark folder's `methods/`, the shipped methods, packages with entry points in the group
    'bench.methods'. A source holds Python files and YAML files of variants (`bench.variants`), whose
    methods may build on those of any source, their own first. Files whose name starts with an underscore are skipped.

    Raises:
        UsageError: a path does not exist, a file cannot be imported or holds no method, or one
            source has two methods of one name.
    """
    files = [_included(include), *(_method_files(folder) for folder in home.folders("methods"))]
    written: list[dict[str, MethodInfo]] = [_written(_from_files(source)) for source in files]
    written.append(_written(_from_entry_points()))
    known: dict[str, MethodInfo] = {}
    for source in written:
        known = {**source, **known}
    found: dict[str, MethodInfo] = {}
    for own, paths in zip(written, [*files, []], strict=True):
        found = {**own, **_declared(paths, own, known), **found}
    return dict(sorted(found.items()))


def identity(name: str, values: Mapping[str, Any], include: Sequence[Path] = ()) -> str:
    """12 hex digits over a method's code and that of the methods which its values name as its base.

    Raises:
        UsageError: no such method, or no such base.
    """
    found = methods(include)
    if name not in found:
        raise unknown_name("method", name, found)
    return _identity(name, values, found)


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
    """The named methods in the order given; those of the default table for None; every one for ['all'].

    Raises:
        UsageError: an unknown name; the message suggests the nearest. Else as `methods`.
    """
    found = methods(include)
    if names is None:
        return {name: info for name, info in found.items() if info.cls.by_default}
    if list(names) == [ALL]:
        return found
    for name in names:
        if name not in found:
            raise unknown_name("method", name, [*found, ALL])
    return {name: found[name] for name in names}


def use(include: Sequence[Path]) -> None:
    """Make methods of these paths known to `compose.create` in this process."""
    global _in_use
    _in_use = tuple(include)


def in_use() -> tuple[Path, ...]:
    """The paths given to `use`."""
    return _in_use


def defaults(method: type[Method]) -> dict[str, float | int | bool | str]:
    """A method's hyper-parameters at their defaults."""
    return {key: declared.default for key, declared in method.hyperparameters.items()}


@cache
def code_hash(source: str) -> str:
    """First 12 hex digits of the SHA-256 over Python source without comments, docstrings and formatting."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:12]


def _written(source: Iterator[tuple[type[Method], Path]]) -> dict[str, MethodInfo]:
    found: dict[str, MethodInfo] = {}
    for cls, path in source:
        _refuse_twice(cls.name, path, found)
        found[cls.name] = MethodInfo(cls, _shown(path), code_hash(path.read_text("utf-8")))
    return found


def _declared(
    paths: Sequence[Path], own: Mapping[str, MethodInfo], known: Mapping[str, MethodInfo]
) -> dict[str, MethodInfo]:
    bases = {name: (info.cls, info.hash) for name, info in {**known, **own}.items()}
    found: dict[str, MethodInfo] = {}
    for path in paths:
        if path.suffix not in YAML:
            continue
        for name, entry in variants.read(path).items():
            _refuse_twice(name, path, {**own, **found})
            if not _NAME.fullmatch(name):
                raise UsageError(f"{path}: '{name}' is no method name: lower-case letters, digits, '_' and '-'.")
            cls, content = _declare(name, entry.model_dump_json(), path, tuple(bases.items()))
            found[name] = MethodInfo(cls, _shown(path), content)
    return found


@cache
def _declare(
    name: str, entry: str, path: Path, bases: tuple[tuple[str, tuple[type[Method], str]], ...]
) -> tuple[type[Method], str]:
    """Once for each content: classes stay identical between calls."""
    return variants.declare(name, variants.Entry.model_validate_json(entry), path, dict(bases))


def _refuse_twice(name: str, path: Path, found: Mapping[str, MethodInfo]) -> None:
    if name == ALL:
        raise UsageError(f"{_shown(path)}: '{ALL}' cannot name a method: it stands for every one.")
    if name in found:
        raise UsageError(f"method '{name}' is defined twice: in {found[name].path} and in {_shown(path)}.")


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _identity(name: str, values: Mapping[str, Any], found: Mapping[str, MethodInfo]) -> str:
    info = found[name]
    inner = [str(values[key]) for key, declared in info.cls.hyperparameters.items() if declared.method]
    if not inner:
        return info.hash
    for base in inner:
        if base not in found:
            raise UsageError(f"method '{name}': {unknown_name('method', base, found)}")
    parts = [info.hash, *(_identity(base, defaults(found[base].cls), found) for base in inner)]
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:12]


def _included(include: Sequence[Path]) -> list[Path]:
    files: list[Path] = []
    for path in include:
        if path.is_dir():
            inside = _method_files(path)
            if not inside:
                raise UsageError(f"--include {path}: the folder has no Python or YAML file with a method.")
            files += inside
        elif path.is_file():
            files.append(path.resolve())
        else:
            raise UsageError(f"--include {path}: no such file or folder.")
    return list(dict.fromkeys(files))


def _method_files(folder: Path) -> list[Path]:
    files = [path for path in folder.iterdir() if path.suffix in (".py", *YAML)]
    return sorted(path.resolve() for path in files if not path.name.startswith("_"))


def _from_files(files: Sequence[Path]) -> Iterator[tuple[type[Method], Path]]:
    for path in files:
        if path.suffix in YAML:
            continue
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
