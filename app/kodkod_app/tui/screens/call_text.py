"""A call in words, for the person who is asked about it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue
from textual.content import Content

from kodkod_app.tui.inert import inert, inert_line
from kodkod_engine.messages import ToolCall

_DEEDS = {
    "shell": "run a command",
    "edit": "change a file",
    "write": "write a file",
    "git": "use git",
    "test": "run the tests",
}
_MAX_SHOWN_CHARS = 8_000
_MAX_LINE_CHARS = 200


def deed_of(call: ToolCall) -> str:
    """In two or three words."""
    return _DEEDS.get(call.name, f"call {inert_line(call.name, 40)}")


def subject_of(call: ToolCall) -> str:
    """What it is about, on one line: the command, the path, or the arguments."""
    for key in ("command", "path", "action"):
        if isinstance(found := call.arguments.get(key), str):
            return inert_line(found, _MAX_LINE_CHARS)
    return inert_line(json.dumps(dict(call.arguments), ensure_ascii=False), _MAX_LINE_CHARS) if call.arguments else ""


def call_content(call: ToolCall) -> Content:
    """The whole of it: the command, or the arguments one by one."""
    command = call.arguments.get("command")
    if call.name == "shell" and isinstance(command, str):
        rest = {key: value for key, value in call.arguments.items() if key != "command"}
        return Content("\n").join([_command(command), *([Content(), _arguments(rest)] if rest else [])])
    return _arguments(call.arguments) if call.arguments else Content.styled("no arguments", "dim")


def _command(command: str) -> Content:
    first, *rest = _bounded(command).split("\n")
    lines = [Content.assemble(("$ ", "dim"), (first, "bold"))]
    lines += [Content.assemble("  ", (line, "bold")) for line in rest]
    return Content("\n").join(lines)


def _arguments(arguments: Mapping[str, JsonValue]) -> Content:
    lines = []
    for key, value in arguments.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        sign = "\n" if "\n" in text else " "
        lines.append(Content.assemble((f"{inert_line(key, _MAX_LINE_CHARS)}:", "dim"), sign, _bounded(text)))
    return Content("\n").join(lines)


def _bounded(text: str) -> str:
    """Inert, and short enough to be drawn; what is left out of the middle is said."""
    if len(text) > _MAX_SHOWN_CHARS:
        half = _MAX_SHOWN_CHARS // 2
        text = f"{text[:half]}\n⋯ {len(text) - 2 * half:,} characters not shown ⋯\n{text[-half:]}"
    return inert(text)
