"""A server's tool, as one of the tools a model may call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pydantic import ConfigDict, JsonValue, RootModel, model_validator

from kodkod_engine.messages import ToolSpec
from kodkod_tools.base import Effect, ToolContext, ToolStream
from kodkod_tools.mcp.connection import Connection
from kodkod_tools.mcp.definitions import Definition
from kodkod_tools.mcp.results import told


class RemoteArguments(RootModel[dict[str, JsonValue]]):
    """Arguments that a server's own schema admits; each tool has a class of its own."""

    model_config = ConfigDict(frozen=True)

    find_faults: ClassVar[Callable[[Mapping[str, Any]], list[str]]]

    @model_validator(mode="before")
    @classmethod
    def _admitted(cls, data: Any) -> Any:
        if faults := cls.find_faults(data):
            raise ValueError("\n".join(faults))
        return data


class McpTool:
    """See `ForeignTool`. Facts: `server`, `is_error`."""

    effect = Effect.EXTERNAL

    def __init__(self, definition: Definition, connection: Connection) -> None:
        self._definition = definition
        self._connection = connection
        self.arguments: type[RemoteArguments] = type(
            "McpArguments", (RemoteArguments,), {"find_faults": staticmethod(definition.checker.faults)}
        )

    @property
    def spec(self) -> ToolSpec:
        """As the model is told of it."""
        return self._definition.spec

    @property
    def server(self) -> str:
        """Name of the server's entry."""
        return self._connection.name

    @property
    def fingerprint(self) -> str:
        """Names this very definition."""
        return self._definition.fingerprint

    async def run(self, arguments: RemoteArguments, context: ToolContext) -> ToolStream:
        """Ask the server."""
        answer = await self._connection.call(self._definition.remote_name, arguments.root)
        # In a thread: an answer may have any length.
        yield await asyncio.to_thread(told, answer, self.server, context)
