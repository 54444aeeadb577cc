"""Every setting with its words, its default and where its value comes from: read off the models themselves."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum, StrEnum
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from kodkod_app.settings import Layer, Layers, Settings


class Source(StrEnum):
    """Where a value comes from, from the weakest word to the strongest."""

    DEFAULT = "default"
    USER = "yours"
    PROJECT = "project"
    ENVIRONMENT = "environment"
    FLAGS = "command line"


@dataclass(frozen=True, slots=True)
class SettingField:
    """One thing that can be set."""

    key: str
    """With its section: `agent.max_turns`."""
    doc: str
    kind: str
    """What it takes, in a word or two."""
    choices: tuple[str, ...]
    """All it can be; empty where that is open."""
    default: str
    value: str
    source: Source
    saved: str | None
    """What the person's own file says; None where it is silent."""


def setting_fields(layers: Layers, values: Settings) -> list[SettingField]:
    """All of them, section by section, in the order they are declared."""
    return list(_fields("", Settings, values, Settings(), layers))


def _fields(prefix: str, model: type[Any], values: Any, defaults: Any, layers: Layers) -> Iterator[SettingField]:
    words, hints = attribute_words(model), get_type_hints(model)
    for name in _names(model):
        key, value, default = f"{prefix}{name}", getattr(values, name), getattr(defaults, name)
        if isinstance(value, BaseModel) or is_dataclass(value):
            yield from _fields(f"{key}.", type(value), value, default, layers)
            continue
        choices = _choices(hints[name])
        saved = find(layers.user, key)
        yield SettingField(
            key=key,
            doc=words.get(name, ""),
            kind=_kind(hints[name], choices),
            choices=choices,
            default=as_text(default),
            value=as_text(value),
            source=_source(layers, key),
            saved=None if saved is None else as_text(saved),
        )


def _names(model: type[Any]) -> list[str]:
    return list(model.model_fields) if issubclass(model, BaseModel) else [field.name for field in fields(model)]


def _source(layers: Layers, key: str) -> Source:
    named = (
        (Source.FLAGS, layers.said),
        (Source.ENVIRONMENT, layers.environment),
        (Source.PROJECT, layers.project),
        (Source.USER, layers.user),
    )
    return next((source for source, layer in named if find(layer, key) is not None), Source.DEFAULT)


def find(layer: Layer, key: str) -> Any:
    """What a source says of a key; None where it is silent."""
    found: Any = layer
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def attribute_words(model: type[Any]) -> Mapping[str, str]:
    """The docstring under each attribute of a class, on one line."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    except (OSError, SyntaxError):  # installed without its source
        return {}
    words: dict[str, str] = {}
    name = ""
    for node in getattr(body, "body", []):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            words[name] = " ".join(str(node.value.value).split())
            name = ""
        else:
            name = ""
    return words


def _choices(hint: Any) -> tuple[str, ...]:
    if hint is bool:
        return ("true", "false")
    if get_origin(hint) is Literal:
        return tuple(str(one) for one in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        inner = [one for one in get_args(hint) if one is not type(None)]
        return _choices(inner[0]) if len(inner) == 1 else ()
    if isinstance(hint, type) and issubclass(hint, Enum):
        return tuple(str(one.value) for one in hint)
    return ()


def _kind(hint: Any, choices: tuple[str, ...]) -> str:
    if choices:
        return "yes or no" if choices == ("true", "false") else "one of " + ", ".join(choices)
    parts = [one for one in (get_args(hint) or (hint,)) if one is not type(None)]
    if get_origin(hint) is dict or any(_is_model(one) for one in get_args(hint)):
        return "tables, in the file"
    if get_origin(hint) is tuple:
        return 'a list, as in ["a", "b"]'
    named = {int: "a whole number", float: "a number", str: "text"}
    return named.get(parts[0], "a path" if getattr(parts[0], "__name__", "") == "Path" else "text")


def _is_model(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, BaseModel)


def as_text(value: Any) -> str:
    """A value as it is shown and typed; empty for one that is not set."""
    if value is None or value is MISSING or value is PydanticUndefined:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(map(str, value))
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        return f"{len(value)} of them"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return json.dumps([str(one) for one in value], ensure_ascii=False)
    return str(value.value) if isinstance(value, Enum) else str(value)


def read_typed(text: str) -> Any:
    """A value as it was typed: TOML where it is that, else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text
