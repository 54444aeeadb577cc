"""The declarations, and what becomes of calls no tool should see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kodkod_engine.messages import ToolCall
from kodkod_tools.base import ErrorCode, ToolContext, ToolError, ToolResult
from kodkod_tools.config import ToolsConfig
from kodkod_tools.registry import TOOLS, get, parse_call, run_call, specs

NAMES = ["shell", "view", "edit", "write", "search", "find", "git", "test", "finish"]


def test_the_order_is_fixed() -> None:
    assert [tool.spec.name for tool in TOOLS] == NAMES
    assert list(specs()) == [get(name).spec for name in NAMES]


def test_all_declarations_together_are_small() -> None:
    told = json.dumps([spec.model_dump() for spec in specs()])
    assert len(told) < 8_000
    for noise in ("$defs", "$ref", "title", "anyOf", "null", 'default":', "minimum"):
        assert noise not in told


def test_a_declaration_says_all_a_model_needs() -> None:
    for tool in TOOLS:
        schema = tool.arguments.model_json_schema()
        assert list(tool.spec.parameters["properties"]) == list(schema["properties"])
        assert tool.spec.parameters.get("required", []) == schema.get("required", [])
        assert all("type" in value for value in tool.spec.parameters["properties"].values())
        assert tool.spec.description


async def run(call: ToolCall, context: ToolContext) -> ToolResult:
    items = [item async for item in run_call(call, context)]
    assert [isinstance(item, ToolResult) for item in items] == [False] * (len(items) - 1) + [True]
    return items[-1]


@pytest.mark.parametrize(
    ("name", "near"), [("Edit", "edit"), ("serch", "search"), ("run_shell", "shell"), ("qqq", "finish")]
)
async def test_an_unknown_tool_names_the_nearest(name: str, near: str, context: ToolContext) -> None:
    result = await run(ToolCall(id="1", name=name), context)
    assert result.error is ErrorCode.UNKNOWN_TOOL
    assert near in result.for_model


async def test_a_malformed_call_is_a_result(context: ToolContext) -> None:
    result = await run(ToolCall(id="1", name="view", raw="<x", fault="no closing tag"), context)
    assert (result.error, result.for_model) == (
        ErrorCode.MALFORMED_CALL,
        "error: the call could not be read: no closing tag",
    )


async def test_bad_arguments_are_told_one_per_line(context: ToolContext) -> None:
    call = ToolCall(id="1", name="view", arguments={"start": "ten", "lines": 5})
    result = await run(call, context)
    assert result.error is ErrorCode.BAD_ARGUMENTS
    assert result.for_model.splitlines() == [
        "error: bad arguments for view",
        "path: is required",
        "start: should be a valid integer, unable to parse string as an integer, got 'ten'",
        "lines: is no argument of this tool",
    ]


@pytest.mark.parametrize("word", ["a\0b", "\ud83d", "x" * 128 * 1024])
@pytest.mark.parametrize(
    ("name", "key"),
    [("shell", "command"), ("test", "targets"), ("search", "pattern"), ("git", "revision"), ("view", "path")],
)
async def test_what_no_program_can_be_given_is_a_bad_argument(name, key, word, context: ToolContext) -> None:
    more = {"action": "log"} if name == "git" else {}
    arguments = {**more, key: [word] if key == "targets" else word}
    result = await run(ToolCall(id="1", name=name, arguments=arguments), context)
    assert result.error in (ErrorCode.BAD_ARGUMENTS, ErrorCode.SYSTEM)
    assert len(result.for_model) < 1_000


def test_numbers_and_booleans_may_come_as_text() -> None:
    written = {"path": "a", "old": "b", "new": "c", "line": "3", "replace_all": "true"}
    tool, arguments = parse_call(ToolCall(id="1", name="edit", arguments=written))
    assert tool is get("edit")
    assert (arguments.line, arguments.replace_all) == (3, True)
    with pytest.raises(ToolError):
        parse_call(ToolCall(id="1", name="nothing"))


async def test_a_result_is_bounded_whatever_it_lists(tree: Path, context: ToolContext) -> None:
    for number in range(150):
        (tree / f"{number:03}{'x' * 200}").write_text("")
    result = await run(ToolCall(id="1", name="find", arguments={"name": "*"}), context)
    assert len(result.for_model) <= context.config.max_result_chars
    assert str(result.for_log).count("\n") == 149


async def test_finish_ends_the_run(context: ToolContext) -> None:
    result = await run(ToolCall(id="1", name="finish", arguments={"summary": "done", "verified": "true"}), context)
    assert result.facts == {"finishes": True, "summary": "done", "verified": True}
    assert result.for_person == "done"
    assert (await run(ToolCall(id="1", name="finish", arguments={}), context)).error is ErrorCode.BAD_ARGUMENTS


fields = ["path", "pattern", "name", "old", "new", "content", "start", "end", "glob", "line"]
texts = st.text(max_size=8)
values = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), texts, st.lists(texts, max_size=2))
arguments_of_any_kind = st.dictionaries(st.sampled_from(fields), values, max_size=5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["view", "edit", "write", "find"]), arguments_of_any_kind)
async def test_whatever_the_model_writes_a_result_comes(
    context: ToolContext, name: str, arguments: dict[str, object]
) -> None:
    result = await run(ToolCall(id="1", name=name, arguments=arguments), context)
    assert result.for_model
    assert len(result.for_model) <= ToolsConfig().max_result_chars


def test_importing_the_tools_loads_nothing_heavy() -> None:
    heavy = ("git", "torch", "docker", "langgraph")
    code = f"import sys, kodkod_tools.registry; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
