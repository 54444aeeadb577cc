"""The tools there are, in the one order in which they are declared, and running a call as the model wrote it."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from kodkod_engine.messages import ToolCall, ToolSpec
from kodkod_tools.base import ErrorCode, ForeignTool, Tool, ToolContext, ToolError, ToolResult, ToolStream
from kodkod_tools.edit import Edit
from kodkod_tools.find import Find
from kodkod_tools.finish import Finish
from kodkod_tools.git import Git
from kodkod_tools.run_tests import Test
from kodkod_tools.schema import faults
from kodkod_tools.search import Search
from kodkod_tools.shell import Shell
from kodkod_tools.text.truncate import cut_middle
from kodkod_tools.view import View
from kodkod_tools.write import Write

TOOLS: tuple[Tool[Any], ...] = (Shell(), View(), Edit(), Write(), Search(), Find(), Git(), Test(), Finish())
"""All of them. The order is part of every prompt: it never changes within a version."""
_BY_NAME = {tool.spec.name: tool for tool in TOOLS}


def specs() -> tuple[ToolSpec, ...]:
    """The declarations, in order."""
    return tuple(tool.spec for tool in TOOLS)


def get(name: str, more: Mapping[str, ForeignTool] = MappingProxyType({})) -> Tool[Any]:
    """The tool of that name: one of ours, else one of `more`.

    Raises:
        ToolError: `UNKNOWN_TOOL`, naming the nearest.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    if name in more:
        return more[name]
    near = difflib.get_close_matches(name.casefold(), [*_BY_NAME, *more], n=2, cutoff=0.5) or list(_BY_NAME)
    raise ToolError(ErrorCode.UNKNOWN_TOOL, f"there is no tool {name[:60]!r}; use {' or '.join(near)}")


async def run_call(call: ToolCall, context: ToolContext) -> ToolStream:
    """Do what a call asks: pieces of output, then exactly one result, last. Whatever the model wrote, a result comes.

    Close the iterator (`contextlib.aclosing`), or cancel the task, to end the call early.

    Raises:
        SandboxError: the box failed.
    """
    try:
        tool, arguments = parse_call(call, context.more)
        async with contextlib.aclosing(tool.run(arguments, context)) as items:
            async for item in items:
                yield _bounded(item, context) if isinstance(item, ToolResult) else item
    except ToolError as error:
        yield _bounded(error.as_result(), context)
    except OSError as error:
        yield ToolError(ErrorCode.SYSTEM, f"the system refused: {error.strerror or error}").as_result()


def _bounded(result: ToolResult, context: ToolContext) -> ToolResult:
    """Tools keep to the limit where they can choose what to leave out; here it is kept whatever comes."""
    if len(result.for_model) <= context.config.max_result_chars:
        return result
    cut = cut_middle(result.for_model, context.config.max_result_chars)
    return replace(result, for_model=cut, for_log=result.for_log or result.for_model)


def parse_call(call: ToolCall, more: Mapping[str, ForeignTool] = MappingProxyType({})) -> tuple[Tool[Any], Any]:
    """The tool a call names and its arguments, checked. What permissions are decided on.

    Raises:
        ToolError: `MALFORMED_CALL`, `UNKNOWN_TOOL`, or `BAD_ARGUMENTS` with one line per fault.
    """
    if call.fault is not None:
        raise ToolError(ErrorCode.MALFORMED_CALL, f"the call could not be read: {call.fault}")
    tool = get(call.name, more)
    try:
        return tool, tool.arguments.model_validate(dict(call.arguments))
    except ValidationError as error:
        raise ToolError(
            ErrorCode.BAD_ARGUMENTS, "\n".join([f"bad arguments for {call.name}", *faults(error)])
        ) from error
