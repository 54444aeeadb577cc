"""Names of servers' tools, as the model calls them and permission rules speak of them."""

from __future__ import annotations

PREFIX = "mcp__"


def full_name(server: str, tool: str) -> str:
    """`mcp__SERVER__TOOL`. No tool of ours begins so, and a server's name has no `__`."""
    return f"{PREFIX}{server}__{tool.replace('.', '-')}"
