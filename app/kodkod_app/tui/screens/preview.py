"""What a call would do, as it is shown to the person who is asked about it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from pydantic import JsonValue
from textual.content import Content

from kodkod_app.render import for_terminal
from kodkod_app.tui.screens.diff_text import diff_content
from kodkod_engine.chat.surrogates import without_lone_surrogates
from kodkod_engine.messages import ToolCall
from kodkod_tools.base import FileDiff
from kodkod_tools.files import file_diff
from kodkod_tools.text.replace import Applied, replace

ReadFile = Callable[[str], str | None]
"""Text of a project file by its path; None where there is none, or none that can be shown."""
_DEEDS = {
    "shell": "run a command",
    "edit": "change a file",
    "write": "write a file",
    "git": "use git",
    "test": "run the tests",
}
_MAX_SHOWN_CHARS = 8_000


def deed_of(call: ToolCall) -> str:
    """In two or three words."""
    return _DEEDS.get(call.name, f"call {for_terminal(call.name[:40])}")


def subject_of(call: ToolCall) -> str:
    """What it is about, on one line: the command, the path, or the arguments."""
    for key in ("command", "path", "action"):
        if isinstance(found := call.arguments.get(key), str):
            return shown(" ".join(found[:_MAX_SHOWN_CHARS].split()))
    return shown(json.dumps(dict(call.arguments), ensure_ascii=False)[:_MAX_SHOWN_CHARS]) if call.arguments else ""


def preview(call: ToolCall, read_file: ReadFile) -> Content:
    """What would be done: the whole command, the change word by word, or the arguments."""
    diff = change_of(call, read_file)
    if diff is not None:
        signs = f"+{diff.added} −{diff.removed}" if not diff.created else f"new, {diff.added} lines"
        head = Content.assemble((shown(diff.path), "bold"), "  ", (signs, "dim"))
        return Content("\n").join([head, Content(), diff_content(diff)])
    command = call.arguments.get("command")
    if call.name == "shell" and isinstance(command, str):
        rest = {key: value for key, value in call.arguments.items() if key != "command"}
        lines = [_command(command), *([Content(), _arguments(rest)] if rest else [])]
        return Content("\n").join(lines)
    return _arguments(call.arguments) if call.arguments else Content.styled("no arguments", "dim")


def change_of(call: ToolCall, read_file: ReadFile) -> FileDiff | None:
    """The change an edit or a write would make to its file; None for other calls."""
    given = call.arguments
    path = given.get("path")
    if not isinstance(path, str) or call.fault is not None:
        return None
    if call.name == "write" and isinstance(content := given.get("content"), str):
        return file_diff(path, read_file(path), content)
    old, new = given.get("old"), given.get("new")
    if call.name != "edit" or not isinstance(old, str) or not isinstance(new, str):
        return None
    text = read_file(path)
    line = given.get("line")
    found = text is not None and replace(
        text, old, new, replace_all=given.get("replace_all") is True, line=line if isinstance(line, int) else None
    )
    return file_diff(path, text, found.text) if isinstance(found, Applied) else file_diff(path, old, new)


def _command(command: str) -> Content:
    first, *rest = shown(command).split("\n")
    lines = [Content.assemble(("$ ", "dim"), (first, "bold"))]
    lines += [Content.assemble("  ", (line, "bold")) for line in rest]
    return Content("\n").join(lines)


def _arguments(arguments: Mapping[str, JsonValue]) -> Content:
    lines = []
    for key, value in arguments.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        sign = "\n" if "\n" in text else " "
        lines.append(Content.assemble((f"{shown(key)}:", "dim"), sign, shown(text)))
    return Content("\n").join(lines)


def shown(text: str) -> str:
    """Inert and of bounded length; what is left out of the middle is said."""
    if len(text) > _MAX_SHOWN_CHARS:
        half = _MAX_SHOWN_CHARS // 2
        text = f"{text[:half]}\n⋯ {len(text) - 2 * half:,} characters not shown ⋯\n{text[-half:]}"
    return for_terminal(without_lone_surrogates(text)).expandtabs(4)
