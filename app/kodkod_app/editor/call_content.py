"""Calls as editors show them: kind, title, places in files, and what they would change or gave."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import acp
from acp.schema import ContentToolCallContent, FileEditToolCallContent, ToolCallLocation, ToolKind

from kodkod_app.render import for_terminal, one_line
from kodkod_engine.messages import ToolCall
from kodkod_tools.base import FileDiff
from kodkod_tools.text.lines import with_ends

Content = ContentToolCallContent | FileEditToolCallContent
KINDS: Mapping[str, ToolKind] = {
    "view": "read",
    "search": "search",
    "find": "search",
    "edit": "edit",
    "write": "edit",
    "shell": "execute",
    "test": "execute",
    "finish": "think",
}
MAX_SHOWN_CHARS = 20_000
"""Of what a call gave: its end. The whole is in the session's logs."""
_MAX_TITLE_CHARS = 120
_TELLING = ("command", "path", "pattern", "query", "targets", "action", "job", "summary")
"""Arguments that tell what a call is about, the most telling first."""
_FENCES = re.compile("`{3,}")
_HUNK = re.compile(r"^@@ -\d+(?:,\d+)? \+(\d+)(?:,\d+)? @@")


@dataclass(frozen=True, slots=True)
class Sides:
    """A change: the changed parts and the lines around them, before and after."""

    before: str | None
    """None for a new file."""
    after: str
    line: int
    """Of the first line that changes, from 1."""


def kind_of(name: str) -> ToolKind:
    """What sort of thing a tool does."""
    return KINDS.get(name, "other")


def title_of(call: ToolCall) -> str:
    """A call in one line."""
    for key in _TELLING:
        if value := call.arguments.get(key):
            told = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            return one_line(f"{call.name} {told}", _MAX_TITLE_CHARS)
    return one_line(call.name or "a call", _MAX_TITLE_CHARS)


def arguments_of(call: ToolCall) -> dict[str, Any]:
    """A call's arguments; of one that cannot be read, what was written and what is wrong with it."""
    return {"call": call.raw, "fault": call.fault} if call.fault is not None else dict(call.arguments)


def places_of(call: ToolCall, work_tree: Path) -> list[ToolCallLocation]:
    """The file a call is about, for an editor that follows along."""
    path = call.arguments.get("path")
    if call.fault is not None or not isinstance(path, str) or not path:
        return []
    line = next((call.arguments[key] for key in ("around", "start", "line") if key in call.arguments), None)
    return [ToolCallLocation(path=absolute(path, work_tree), line=line if isinstance(line, int) else None)]


def absolute(path: str, work_tree: Path) -> str:
    """As editors want it."""
    return str(work_tree / path)


def text_content(text: str, chars_before: int = 0) -> ContentToolCallContent:
    """Text that a tool gave: fenced, so that no markup is seen in it, and not more than can be looked at."""
    shown = for_terminal(text[-MAX_SHOWN_CHARS:])
    if chars_before := chars_before + len(text) - len(shown):
        shown = f"[{chars_before:,} characters before this]\n{shown}"
    longest = max(map(len, _FENCES.findall(shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return acp.tool_content(acp.text_block(f"{fence}\n{shown}\n{fence}"))


def diff_content(diff: FileDiff, work_tree: Path) -> FileEditToolCallContent:
    """A change of a file."""
    sides = sides_of(diff)
    return acp.tool_diff_content(absolute(diff.path, work_tree), sides.after, sides.before)


def quoted_change(call: ToolCall, work_tree: Path) -> FileEditToolCallContent | None:
    """What an edit or a write asked for, in its own words: for those long done, whose change itself was not kept."""
    path, old, new, whole = (call.arguments.get(key) for key in ("path", "old", "new", "content"))
    if not isinstance(path, str):
        return None
    if call.name == "edit" and isinstance(old, str) and isinstance(new, str):
        return acp.tool_diff_content(absolute(path, work_tree), new, old)
    if call.name == "write" and isinstance(whole, str):
        return acp.tool_diff_content(absolute(path, work_tree), whole)
    return None


def sides_of(diff: FileDiff) -> Sides:
    """A change's two sides, read off its unified form."""
    before: list[str] = []
    after: list[str] = []
    first = at = 0
    for row in with_ends(diff.unified):
        if (hunk := _HUNK.match(row)) is not None:
            at = int(hunk[1])
        elif at and row[0] in "- +":
            before += [row[1:]] if row[0] in "- " else []
            after += [row[1:]] if row[0] in "+ " else []
            first = first or (at if row[0] in "-+" else 0)
            at += row[0] in "+ "
    return Sides(None if diff.created else "".join(before), "".join(after), max(1, first))
