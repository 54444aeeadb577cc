"""Argument values of tool calls, as the text between value tags and back.

The call syntax has no escaping: a string is written as it is, anything else as JSON. Only the tool's schema tells
which of the two a text is.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn

from kodkod_engine.chat.surrogates import without_lone_surrogates

_UNREADABLE = (ValueError, TypeError, SyntaxError, RecursionError, MemoryError)
_STRING_OR_BARE_KEY = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|(?<!\w)[A-Za-z_]\w*(?=\s*:)', re.DOTALL)


def write_value(value: Any) -> str:
    """The text that stands for an argument: strings verbatim, everything else as one line of JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def read_argument(text: str, name: str, parameters: Mapping[str, Any]) -> Any:
    """The value `text` stands for as the argument `name` of a tool with this JSON schema.

    A string is taken verbatim, to the last space and newline. Otherwise JSON, then a Python literal (`True`, `None`,
    single quotes), then the text itself: what it should have been is for the tool to say.
    """
    kinds = argument_kinds(name, parameters)
    if kinds == {"string"} or (kinds == {"string", "null"} and text != "null"):
        return text
    for read in (_read_json, _read_literal):
        try:
            return read(text)
        except _UNREADABLE:
            continue
    return text


def argument_kinds(name: str, parameters: Mapping[str, Any]) -> set[str]:
    """The JSON types that the argument `name` of a tool with this JSON schema may have; empty when it does not say."""
    return _kinds(declared_properties(parameters).get(name), parameters, frozenset())


def read_object(text: str) -> dict[str, Any] | None:
    """The mapping a text spells as JSON, as a Python literal, or as either with unquoted keys; None if none of them."""
    if not text.lstrip().startswith("{"):
        return None
    quoted = _STRING_OR_BARE_KEY.sub(_quoted, text)
    for read, source in ((_read_json, text), (_read_literal, text), (_read_json, quoted), (_read_literal, quoted)):
        try:
            value = read(source)
        except _UNREADABLE:
            continue
        if isinstance(value, dict):
            return value
    return None


def read_list(text: str) -> list[Any] | None:
    """The list a JSON text spells; a lone object counts as a list of one. None for anything else."""
    try:
        value = _read_json(text)
    except _UNREADABLE:
        return None
    if isinstance(value, dict):
        return [value]
    return value if isinstance(value, list) else None


def declared_properties(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schemas of a tool's arguments by name; empty when it declares none."""
    properties = parameters.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _kinds(schema: Any, root: Mapping[str, Any], seen: frozenset[str]) -> set[str]:
    """The JSON types a schema admits; empty when it does not say. `seen` are the references on the way here."""
    if not isinstance(schema, Mapping):
        return set()
    if isinstance(reference := schema.get("$ref"), str):
        return set() if reference in seen else _kinds(_target(reference, root), root, seen | {reference})
    named = schema.get("type")
    if isinstance(named, str):
        return {named}
    if isinstance(named, list):
        return {kind for kind in named if isinstance(kind, str)}
    options = schema.get("anyOf", schema.get("oneOf"))
    if isinstance(options, list):
        kinds = [_kinds(option, root, seen) for option in options]
        return set().union(*kinds) if all(kinds) else set()
    values = schema.get("enum", [schema.get("const")])
    return {"string"} if values and all(isinstance(value, str) for value in values) else set()


def _target(reference: str, root: Mapping[str, Any]) -> Any:
    """What a local reference such as `#/$defs/Mode` points at; None when there is no such part."""
    target: Any = root
    for step in reference.removeprefix("#/").split("/"):
        target = target.get(step) if isinstance(target, Mapping) else None
    return target


def _read_json(text: str) -> Any:
    return _plain(json.loads(text, parse_constant=_refuse))


def _read_literal(text: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler remarks on odd literals; the text is data, not our program
        return _plain(ast.literal_eval(text.strip()))


def _plain(value: Any) -> Any:
    """The value in JSON's own types. Raises when it has parts JSON does not know, such as NaN, bytes or a set."""
    return json.loads(without_lone_surrogates(json.dumps(value, ensure_ascii=False, allow_nan=False)))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _quoted(match: re.Match[str]) -> str:
    return match[0] if match[0][0] in "\"'" else f'"{match[0]}"'
