"""A client's messages and tools in the engine's vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from jsonschema import Draft202012Validator, SchemaError

from kodkod_app.serving.faults import bad
from kodkod_app.serving.requests import AssistantEntry, Content, Entry, SentCall, SystemEntry, Tool, ToolEntry
from kodkod_engine.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}
_SOME_SHOWN = 3


def specs_of(tools: Sequence[Tool]) -> tuple[ToolSpec, ...]:
    """The tools a request declares.

    Raises:
        ApiFault: two have one name, or one's parameters are no JSON schema.
    """
    names = [tool.function.name for tool in tools]
    for index, tool in enumerate(tools):
        where = f"tools.{index}.function"
        if names.index(tool.function.name) != index:
            raise bad(f"{where}.name: {tool.function.name!r} is declared twice", f"{where}.name")
        _require_schema(tool.function.parameters or {}, f"{where}.parameters")
    return tuple(
        ToolSpec(
            name=tool.function.name,
            description=tool.function.description or "",
            parameters=tool.function.parameters or NO_ARGUMENTS,
        )
        for tool in tools
    )


def _require_schema(schema: dict[str, Any], where: str) -> None:
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as fault:
        raise bad(f"{where}: no JSON schema: {fault.message}", where) from fault
    except RecursionError as fault:
        raise bad(f"{where}: nested too deeply", where) from fault


def messages_of(entries: Sequence[Entry]) -> list[Message]:
    """The conversation, with the results of each turn's calls in the order of the calls.

    The model matches results to calls by their order alone, so each call needs exactly one.

    Raises:
        ApiFault: a result without a call, or a call without a result.
    """
    messages: list[Message] = []
    due: tuple[SentCall, ...] = ()
    for is_result, group in groupby(enumerate(entries), key=lambda pair: isinstance(pair[1], ToolEntry)):
        found = list(group)
        if is_result:
            messages += _results(found, due)
            due = ()
            continue
        for index, entry in found:
            if due:
                raise _unanswered(index - 1, due)
            messages.append(_message(entry))
            due = (entry.tool_calls or ()) if isinstance(entry, AssistantEntry) else ()
    if due:
        raise _unanswered(len(entries) - 1, due)
    return messages


def _message(entry: Entry) -> Message:
    match entry:
        case SystemEntry():
            return SystemMessage(text=text_of(entry.content))
        case AssistantEntry():
            return AssistantMessage(
                text=text_of(entry.content or ""),
                reasoning=entry.reasoning_content or "",
                calls=tuple(map(_call, entry.tool_calls or ())),
            )
        case _:
            return UserMessage(text=text_of(entry.content))


def text_of(content: Content) -> str:
    """A message's text."""
    return content if isinstance(content, str) else "\n".join(part.text for part in content)


def _call(call: SentCall) -> ToolCall:
    """A call as it was sent back. Arguments that are no JSON object are kept as they were written."""
    name, text = call.function.name, call.function.arguments
    arguments = read_arguments(text)
    if arguments is None:
        return ToolCall(id=call.id, name=name, raw=f"{name}\n{text}", fault="the arguments are not a JSON object")
    return ToolCall(id=call.id, name=name, arguments=arguments)


def read_arguments(text: str) -> dict[str, Any] | None:
    """The object that arguments spell; None where they spell none."""
    try:
        read = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


def _results(found: Sequence[tuple[int, Entry]], due: tuple[SentCall, ...]) -> Iterator[ToolMessage]:
    by_id: dict[str, str] = {}
    known = [call.id for call in due]
    for index, entry in found:
        assert isinstance(entry, ToolEntry)
        if entry.tool_call_id not in known or entry.tool_call_id in by_id:
            where = f"messages.{index}.tool_call_id"
            raise bad(f"{where}: answers no call of the message before, or one that has its answer", where)
        by_id[entry.tool_call_id] = text_of(entry.content)
    if left := [call for call in due if call.id not in by_id]:
        raise _unanswered(found[0][0] - 1, left)
    return (ToolMessage(call_id=call_id, text=by_id[call_id]) for call_id in known)


def _unanswered(index: int, due: Sequence[SentCall]) -> Exception:
    names = ", ".join(call.id[:40] for call in due[:_SOME_SHOWN])
    where = f"messages.{index}.tool_calls"
    return bad(f"{where}: no message with role 'tool' answers {names}; give one for each call", where)
