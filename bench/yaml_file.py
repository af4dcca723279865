"""Reading YAML strictly: 1e-3 is a number, a key given twice is an error, faults are explained in place."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from bench.errors import UsageError


class _Loader(yaml.SafeLoader):
    """Safe loader that refuses duplicate keys and reads floats as YAML 1.2 does."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be one word", key_node.start_mark)
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# PyYAML follows YAML 1.1, where 1e-3 (no dot) is text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UsageError: not readable, not YAML, or not a mapping at top level.
    """
    try:
        data = yaml.load(path.read_text("utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read ({error}).") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: is not valid YAML. {str(error).strip()}") from None
    if not isinstance(data, dict):
        raise UsageError(f"{path}: expected 'key: value' lines at top level, found {type(data).__name__}.")
    return data


def explain(where: Path | str, error: ValidationError, model: type[BaseModel]) -> str:
    """One line a fault: file, key, what was found, what is allowed."""
    lines = [f"{where}: {error.error_count()} invalid value(s)."]
    for fault in error.errors():
        key = ".".join(str(part) for part in fault["loc"]) or "(all)"
        if fault["type"] == "extra_forbidden":
            allowed = _keys(model, fault["loc"][:-1])
            near = difflib.get_close_matches(str(fault["loc"][-1]), allowed, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            lines.append(f"  key '{key}': unknown.{hint} Allowed here: {', '.join(allowed)}.")
        elif fault["type"] == "missing":
            lines.append(f"  key '{key}': missing; it is required.")
        elif fault["type"] == "value_error":
            lines.append(f"  key '{key}': {fault['msg'].removeprefix('Value error, ')}.")
        else:
            allowed_text = fault["msg"][0].lower() + fault["msg"][1:]
            lines.append(f"  key '{key}': found {fault['input']!r}; {allowed_text}.")
    return "\n".join(lines)


def _keys(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        if not isinstance(part, str) or part not in model.model_fields:
            return []
        annotation = model.model_fields[part].annotation
        options = [annotation, *get_args(annotation)]
        models = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
        if not models:
            return []
        model = models[0]
    return sorted(model.model_fields)
