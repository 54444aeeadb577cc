"""An MCP server made with the SDK, with one tool whose every call ends."""

from typing import Literal

from mcp.server.mcpserver import MCPServer

server = MCPServer("paint")


@server.tool()
def mix(colour: Literal["red", "green", "blue"], strong: bool) -> str:
    """Mix a colour."""
    return f"{'strong' if strong else 'pale'} {colour}"


if __name__ == "__main__":
    server.run()
