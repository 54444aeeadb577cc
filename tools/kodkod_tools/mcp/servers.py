"""All the MCP servers of a session: started side by side, and their tools as one changing list.

async with McpServers(named, work_tree, logs, environment) as servers:
    await servers.settled()
    servers.tools        # what may be called now, by full name
    servers.notes()      # what a person should know and was not told yet
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Self

from kodkod_tools.base import ForeignTool
from kodkod_tools.mcp.config import McpServer
from kodkod_tools.mcp.connection import Connection
from kodkod_tools.mcp.definitions import Definitions, take
from kodkod_tools.mcp.tool import McpTool
from kodkod_tools.text.cleaned import one_line

MAX_TOOLS = 128
"""Of all servers together."""


class McpServers(Mapping[str, ForeignTool]):
    """See the module. A mapping of the tools by full name; those of a server that has ended stay, and say so."""

    def __init__(
        self,
        servers: Mapping[str, McpServer],
        work_tree: Path,
        logs: Path,
        environment: Mapping[str, str],
        way_back: str = "",
    ) -> None:
        """Nothing is started yet.

        Args:
            servers: by name, variables not filled in.
            work_tree: where programs are started.
            logs: folder for what they say on standard error.
            environment: the variables.
            way_back: what a person may do where a server has ended, for the note that says so; `{name}` is its name.
        """
        self._way_back = way_back
        self._tools: dict[str, McpTool] = {}
        self._notes: list[str] = []
        self._told: set[str] = set()
        self._connections: dict[str, Connection] = {}
        self._definitions: dict[str, Definitions] = {}
        self._unstarted: dict[str, str] = {}
        for name, server in servers.items():
            try:
                expanded = server.expanded(environment)
            except ValueError as fault:
                self._unstarted[name] = one_line(fault)
                self._note(f"MCP server {name} is not started: {self._unstarted[name]}")
                continue
            log = logs / f"mcp-{name}.log"
            self._connections[name] = Connection(name, expanded, work_tree, log, partial(self._look, name))

    async def __aenter__(self) -> Self:
        for connection in self._connections.values():
            connection.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def settled(self) -> None:
        """Wait until every server is ready or has ended; each has a limit of its own."""
        await asyncio.gather(*(connection.settled() for connection in self._connections.values()))

    async def close(self) -> None:
        """End them all. Idempotent."""
        await asyncio.gather(*(connection.close() for connection in self._connections.values()))

    async def restart(self, name: str) -> None:
        """Start one again, ended or not, and wait until it is ready or has ended: its connection's fault says which.

        Raises:
            LookupError: no server of this name was started.
        """
        if name not in self._connections:
            raise LookupError(f"no MCP server {one_line(name)!r} was started")
        self._told.discard(self._end_of(name))
        await self._connections[name].restart()

    @property
    def connections(self) -> Mapping[str, Connection]:
        """Those that were started, by name."""
        return self._connections

    @property
    def unstarted(self) -> Mapping[str, str]:
        """Why the others were not, in one line each, by name."""
        return self._unstarted

    def definitions(self, name: str) -> Definitions:
        """What was taken of a server's tools, and what was not."""
        return self._definitions.get(name, Definitions())

    def notes(self) -> list[str]:
        """What a person should know, a line each; each is given once."""
        notes, self._notes = self._notes, []
        return notes

    def _note(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._notes.append(text)

    def _end_of(self, name: str) -> str:
        way_back = self._way_back and f"; {self._way_back.format(name=name)}"
        return f"MCP server {name} {self._connections[name].fault}{way_back}"

    def _look(self, name: str) -> None:
        """Take over what a server offers now; a name that is taken belongs to whoever had it first."""
        connection = self._connections[name]
        if connection.fault:
            self._note(self._end_of(name))
            return
        found = take(name, connection.offered)
        self._definitions[name] = found
        for refused in found.refused:
            self._note(refused)
        others = {key: tool for key, tool in self._tools.items() if tool.server != name}
        own = {key: McpTool(definition, connection) for key, definition in found.taken.items() if key not in others}
        if len(others) + len(own) > MAX_TOOLS:
            self._note(f"MCP server {name} brings more than {MAX_TOOLS} tools in all; the rest are left out")
            own = dict(list(own.items())[: MAX_TOOLS - len(others)])
        self._tools = {**others, **own}

    def __getitem__(self, name: str) -> ForeignTool:
        return self._tools[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)
