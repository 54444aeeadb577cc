"""A tool of another program, without the program: what it is and answers can be changed at any time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kodkod_engine.messages import ToolSpec
from kodkod_tools.base import Effect, ToolContext, ToolResult, ToolStream
from kodkod_tools.mcp.definitions import Offered, define
from kodkod_tools.mcp.tool import RemoteArguments

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}, "times": {"type": "integer"}},
          "required": ["text"]}  # fmt: skip


@dataclass
class FakeForeign:
    """See `ForeignTool`."""

    name: str = "echo"
    description: str = "Says it again."
    schema: dict[str, Any] = field(default_factory=lambda: SCHEMA)
    server: str = "far"
    answer: Callable[[dict[str, Any]], str] = lambda given: f"far away: {given['text']}"
    effect: Effect = Effect.EXTERNAL
    calls: list[dict[str, Any]] = field(default_factory=list)

    def _definition(self):
        return define(self.server, Offered(self.name, self.description, self.schema))

    @property
    def spec(self) -> ToolSpec:
        return self._definition().spec

    @property
    def fingerprint(self) -> str:
        return self._definition().fingerprint

    @property
    def arguments(self) -> type[Any]:
        faults = staticmethod(self._definition().checker.faults)
        return type("Given", (RemoteArguments,), {"find_faults": faults})

    async def run(self, arguments: RemoteArguments, context: ToolContext) -> ToolStream:
        self.calls.append(dict(arguments.root))
        yield ToolResult(self.answer(arguments.root), facts={"server": self.server})


def offering(*tools: FakeForeign) -> dict[str, FakeForeign]:
    """By full name."""
    return {tool.spec.name: tool for tool in tools}
