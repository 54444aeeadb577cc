"""An MCP server made with the SDK, over stdio: plain tools, one that adds another, one that ends the server."""

import os
from typing import Literal

from mcp.server.mcpserver import Context, MCPServer

server = MCPServer("notes")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def note(text: str, kind: Literal["idea", "task"] = "idea", tags: list[str] | None = None) -> str:
    """Keep a note."""
    return f"kept {kind}: {text} {tags or []} for {os.environ.get('NOTES_FOR', 'nobody')}"


@server.tool()
async def learn(context: Context) -> str:
    """Offer another tool from now on."""
    server.add_tool(lambda: "forgotten", name="forget", description="Forget it all.")
    await context.notify_tools_changed()
    return "learnt"


@server.tool()
def refuse() -> str:
    """Fail."""
    raise ValueError("not today")


@server.tool()
def leave() -> str:
    """End the server."""
    os.write(2, b"out of paper\n")
    os._exit(3)


if __name__ == "__main__":
    server.run()
