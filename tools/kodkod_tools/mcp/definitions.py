"""A server's definition of a tool as it is taken: cleaned, bounded, named so that it can be taken for no other."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kodkod_engine.messages import ToolSpec
from kodkod_tools.mcp.names import full_name
from kodkod_tools.mcp.schemas import Checker
from kodkod_tools.text.cleaned import cleaned

MAX_TOOLS = 64
"""Of one server."""
MAX_DESCRIPTION_CHARS = 2_000
MAX_ARGUMENTS = 64
FINGERPRINT_CHARS = 16
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ARGUMENT_NAME = re.compile(r"[A-Za-z_$][A-Za-z0-9_.$-]{0,63}")
_MAX_SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True)
class Offered:
    """A tool as a server describes it."""

    name: str
    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Definition:
    """A tool as the model is told of it."""

    remote_name: str
    """As the server knows it."""
    spec: ToolSpec
    checker: Checker
    fingerprint: str
    """Of all that the server said of it."""


@dataclass(frozen=True, slots=True)
class Definitions:
    """What was taken of a server's tools, by full name, and what was not, a line each."""

    taken: Mapping[str, Definition] = field(default_factory=dict)
    refused: tuple[str, ...] = ()


def take(server: str, offered: Iterable[Offered]) -> Definitions:
    """The definitions that can be used."""
    taken: dict[str, Definition] = {}
    refused: list[str] = []
    for number, one in enumerate(offered):
        if number >= MAX_TOOLS:
            refused.append(f"MCP server {server} offers more than {MAX_TOOLS} tools; the rest are left out")
            break
        try:
            definition = define(server, one)
        except ValueError as fault:
            refused.append(f"MCP server {server}: its tool {shown(one.name)} is left out: {fault}")
            continue
        if taken.setdefault(definition.spec.name, definition) is not definition:
            refused.append(f"MCP server {server}: its tool {shown(one.name)} is left out: another has that name")
    return Definitions(taken, tuple(refused))


def define(server: str, offered: Offered) -> Definition:
    """One definition.

    Raises:
        ValueError: it cannot be used; the message says why.
    """
    if not _TOOL_NAME.fullmatch(offered.name):
        raise ValueError("a name has up to 64 letters, digits, _, - and .")
    checker = Checker(offered.schema)
    arguments = offered.schema.get("properties", {})
    if len(arguments) > MAX_ARGUMENTS:
        raise ValueError(f"it takes more than {MAX_ARGUMENTS} arguments")
    if odd := next((name for name in arguments if not _ARGUMENT_NAME.fullmatch(name)), None):
        raise ValueError(f"an argument cannot be called {shown(odd)}")
    description = cleaned(offered.description).strip()
    if len(description) > MAX_DESCRIPTION_CHARS:
        description = f"{description[: MAX_DESCRIPTION_CHARS - 1]}…"
    schema = {key: _clean(value) for key, value in offered.schema.items() if key not in ("$schema", "$id", "title")}
    spec = ToolSpec(name=full_name(server, offered.name), description=description, parameters=schema)
    return Definition(offered.name, spec, checker, _fingerprint(offered))


def shown(text: str) -> str:
    """A stranger's word in a line of ours: short, and every odd character as its escape."""
    cut = text if len(text) <= _MAX_SHOWN_CHARS else f"{text[: _MAX_SHOWN_CHARS - 1]}…"
    return ascii(cut) if not cut.isascii() or not cut.isprintable() else repr(cut)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return cleaned(value)
    if isinstance(value, Mapping):
        return {key: _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value


def _fingerprint(offered: Offered) -> str:
    whole = json.dumps([offered.name, offered.description, offered.schema], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:FINGERPRINT_CHARS]
