"""What a call may be by its tool's JSON schema alone: declared arguments, each of its type, the required ones given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kodkod_engine.chat.arguments import argument_kinds, declared_properties
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.acceptors import OneOf, ValueAcceptor
from kodkod_engine.constraints.free_text import AnyText
from kodkod_engine.constraints.json_values import JsonValue
from kodkod_engine.constraints.patterns import CallPattern, OpenCall
from kodkod_engine.messages import ToolSpec


def schema_pattern(tokenizer: Tokenizer, spec: ToolSpec) -> CallPattern:
    """Calls of a tool of which nothing but its declaration is known, with its arguments in any order."""
    properties = declared_properties(spec.parameters)
    required = set(spec.parameters.get("required", ())) & properties.keys()

    def follows(given: Mapping[str, str]) -> list[str | None]:
        left: list[str | None] = [key for key in properties if key not in given]
        return left if required - given.keys() else [*left, None]

    def value(key: str, _given: Mapping[str, str]) -> ValueAcceptor:
        return value_by_schema(tokenizer, key, spec.parameters, spec.parameters)

    return OpenCall(spec.name, follows, value).pattern


def value_by_schema(
    tokenizer: Tokenizer, key: str, parameters: Mapping[str, Any], root: Mapping[str, Any]
) -> ValueAcceptor:
    """What an argument may be.

    Args:
        tokenizer: the model's.
        key: names the argument.
        parameters: the declaration, which tells its type.
        root: the schema that bounds it, which may say more than the declaration.
    """
    kinds = argument_kinds(key, parameters)
    schema = declared_properties(root).get(key)
    if not isinstance(schema, Mapping):
        return AnyText(tokenizer)
    if kinds <= {"string", "null"} and "string" in kinds:
        return _text(tokenizer, schema, root)
    if not kinds or "string" in kinds:
        return AnyText(tokenizer)
    return JsonValue(tokenizer, _with_definitions(schema, root))


def _text(tokenizer: Tokenizer, schema: Mapping[str, Any], root: Mapping[str, Any]) -> ValueAcceptor:
    """A string is written as it is, without quotes."""
    merged = _resolved(schema, root, frozenset())
    values = merged.get("enum", [merged["const"]] if "const" in merged else None)
    if values:
        return OneOf(tokenizer, map(str, values))
    return AnyText(tokenizer, may_be_empty=not merged.get("minLength"))


def _with_definitions(schema: Mapping[str, Any], root: Mapping[str, Any]) -> dict[str, Any]:
    """An argument's schema as one of its own: what it refers to comes along."""
    return {**schema, **{name: root[name] for name in ("$defs", "definitions") if name in root}}


def _resolved(schema: Mapping[str, Any], root: Mapping[str, Any], seen: frozenset[str]) -> Mapping[str, Any]:
    """A string's schema without references and without the choice of null. `seen` are the references followed."""
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference not in seen:
        target: Any = root
        for step in reference.removeprefix("#/").split("/"):
            target = target.get(step, {}) if isinstance(target, Mapping) else {}
        return _resolved(target, root, seen | {reference}) if isinstance(target, Mapping) else {}
    for choice in schema.get("anyOf", ()):
        if isinstance(choice, Mapping) and choice.get("type") != "null":
            return _resolved(choice, root, seen)
    return schema
