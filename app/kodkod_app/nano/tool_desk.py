"""The real tools on a scratch tree: what they print is what nano will read.

Only tools that read and write files are of use here; the box is never started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

from pydantic import JsonValue

from kodkod_engine.messages import ToolCall
from kodkod_sandbox.base import BoxOptions
from kodkod_sandbox.none import NoSandbox
from kodkod_tools.base import ToolContext, ToolResult
from kodkod_tools.config import ToolsConfig
from kodkod_tools.registry import run_call

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _AtOnce(ThreadPoolExecutor):
    """Does the work where it is submitted: handing it to a thread takes longer than the work itself."""

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Done when it returns."""
        done: Future[_T] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as fault:  # noqa: BLE001  # handed on to whoever awaits the work, as a thread would
            done.set_exception(fault)
        return done


class ToolDesk:
    """Runs single calls on the files of a folder. A context manager; one per thread."""

    def __init__(self, tree: Path, config: ToolsConfig | None = None) -> None:
        """Use a folder; its absolute path has no links in it."""
        self.tree = tree
        self.config = config or ToolsConfig()
        self._context = ToolContext(NoSandbox(BoxOptions(tree)), tree, self.config, tree / ".logs")
        self._runner = asyncio.Runner()
        self._runner.get_loop().set_default_executor(_AtOnce())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.close()

    def put(self, path: str, text: str) -> None:
        """Make a file be there."""
        place = self.tree / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")

    def call(self, tool: str, arguments: Mapping[str, JsonValue]) -> ToolResult:
        """What the tool answers.

        Raises:
            ValueError: it answers with an error; no transcript is to have one.
        """
        result = self._runner.run(called(self._context, tool, arguments))
        if result.error is not None:
            raise ValueError(f"{tool} answered: {result.for_model}")
        return result


async def called(context: ToolContext, tool: str, arguments: Mapping[str, JsonValue]) -> ToolResult:
    """Run a tool to its end, as the agent does with a model's call."""
    call = ToolCall(id="1", name=tool, arguments=dict(arguments))
    items = [item async for item in run_call(call, context)]
    result = items[-1]
    assert isinstance(result, ToolResult)
    return result
