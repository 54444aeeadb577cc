"""What a call would do, for the person who is asked: the change an edit would make, before it is made."""

from __future__ import annotations

from kodkod_agent.session import Session
from kodkod_app.tui.updates import CallFacts
from kodkod_engine.messages import ToolCall
from kodkod_sandbox.choose import SandboxKind
from kodkod_tools.base import FileDiff, ToolContext, ToolError
from kodkod_tools.edit import EditArguments
from kodkod_tools.files import file_diff, read_text
from kodkod_tools.paths import resolve_writable
from kodkod_tools.registry import parse_call
from kodkod_tools.text.replace import Applied, replace
from kodkod_tools.write import WriteArguments


def facts_of(call: ToolCall, session: Session) -> CallFacts:
    """What a person should know before agreeing to a call. Blocking: it reads files."""
    return CallFacts(
        where=_told_place(call, session),
        rules=session.permissions.judge(call).suggested_rules,
        diff=would_change(call, session.tools),
    )


def _told_place(call: ToolCall, session: Session) -> str:
    foreign = session.tools.more.get(call.name)
    return told_box(session) if foreign is None else f"the MCP server {foreign.server}, outside the box"


def told_box(session: Session) -> str:
    """Where commands run, in a few words."""
    box = session.setup.sandbox
    if box.name == SandboxKind.NONE:
        return "no box: it runs as you do"
    return f"{box.name} box, {'with' if box.options.network else 'no'} network"


def would_change(call: ToolCall, tools: ToolContext) -> FileDiff | None:
    """The change an edit or a write would make; None where it makes none, or is no such call."""
    try:
        _, arguments = parse_call(call)
        if isinstance(arguments, EditArguments):
            return _edited(arguments, tools)
        if isinstance(arguments, WriteArguments):
            return _written(arguments, tools)
    except (ToolError, OSError):
        return None
    return None


def _edited(arguments: EditArguments, tools: ToolContext) -> FileDiff | None:
    file = read_text(resolve_writable(tools, arguments.path), tools.config.max_edit_bytes)
    outcome = replace(file.text, arguments.old, arguments.new, replace_all=arguments.replace_all, line=arguments.line)
    return file_diff(file.place.relative, file.text, outcome.text) if isinstance(outcome, Applied) else None


def _written(arguments: WriteArguments, tools: ToolContext) -> FileDiff:
    place = resolve_writable(tools, arguments.path)
    before = read_text(place, tools.config.max_edit_bytes).text if place.absolute.is_file() else None
    return file_diff(place.relative, before, arguments.content)
