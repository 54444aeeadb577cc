"""From an argument model to the declaration a model reads: as small a JSON schema as says the same."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from pydantic import BaseModel, ValidationError

from kodkod_engine.messages import ToolSpec

_KEPT = ("type", "description", "enum", "items")


def declare(name: str, arguments: type[BaseModel]) -> ToolSpec:
    """The specification of tool `name`: its page in `prompts/` and the schema of its arguments."""
    page = resources.files("kodkod_tools").joinpath("prompts", f"{name}.md").read_text(encoding="utf-8")
    schema = arguments.model_json_schema()
    definitions = schema.get("$defs", {})
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": {field: _simplified(value, definitions) for field, value in schema.get("properties", {}).items()},
    }
    if required := schema.get("required"):
        parameters["required"] = required
    return ToolSpec(name=name, description=page.strip(), parameters=parameters)


def _simplified(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """References followed, `X or null` as X, titles and bounds dropped (a bound broken comes back as a result)."""
    merged = dict(schema)
    if reference := merged.pop("$ref", None):
        merged = {**definitions[reference.rsplit("/", 1)[-1]], **merged}
    for choice in merged.pop("anyOf", ()):
        if choice.get("type") != "null":
            merged = {**_simplified(choice, definitions), **merged}
    kept = {key: merged[key] for key in _KEPT if key in merged}
    if "items" in kept:
        kept["items"] = _simplified(kept["items"], definitions)
    return kept


def faults(error: ValidationError) -> list[str]:
    """One line per fault: the field and what is expected of it."""
    return [_fault(dict(entry)) for entry in error.errors(include_url=False)]


def in_plain_words(message: str) -> str:
    """What pydantic says of a value, for whoever wrote it in TOML or JSON, which know lists and no tuples."""
    message = message.removeprefix("Value error, ")
    return message.replace("Tuple should", "List should").replace("valid tuple", "valid list")


def _fault(entry: dict[str, Any]) -> str:
    field = ".".join(str(part) for part in entry["loc"])
    if entry["type"] == "missing":
        return f"{field}: is required"
    if entry["type"] == "extra_forbidden":
        return f"{field}: is no argument of this tool"
    message = in_plain_words(entry["msg"]).removeprefix("Input ")
    if not field:
        return str(message)
    return f"{field}: {message}, got {_short(entry['input'])}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
