"""The MCP servers an editor names for a session, as kodkod's own settings would name them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from acp.schema import HttpMcpServer, McpServerStdio

from kodkod_tools.mcp.config import NamedServers, read_servers


def servers_of(named: Sequence[Any]) -> NamedServers:
    """Those that can be started, and a line for each that cannot."""
    return read_servers({server.name: _entry(server) for server in named}, "the editor")


def _entry(server: Any) -> dict[str, Any]:
    match server:
        case McpServerStdio():
            variables = {one.name: one.value for one in server.env}
            return {"command": server.command, "args": list(server.args), "env": variables}
        case HttpMcpServer():
            return {"type": "http", "url": server.url, "headers": {one.name: one.value for one in server.headers}}
        case _:
            return {"type": getattr(server, "type", "unknown")}
