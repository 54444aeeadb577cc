"""What a person opened the app, or a session in an editor, with. Light: read before the app's first frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kodkod_tools.mcp.config import McpServer


@dataclass(frozen=True, slots=True)
class Wish:
    """Where to work, and which session to open."""

    work_tree: Path
    """Absolute and resolved."""
    said: Mapping[str, Any] = field(default_factory=dict)
    """Flags, as a layer of settings."""
    session_id: str | None = None
    """None begins a session."""
    fork: bool = False
    """Leave that session as it is, and go on in a new one."""
    fork_step: int | None = None
    """From this step; None takes its last."""
    allow_build_network: bool = False
    """A missing Docker image may be built over the network."""
    trusts: bool = False
    """The project may start the programs it names, for this once."""
    servers: Mapping[str, McpServer] = field(default_factory=dict)
    """MCP servers that an editor names; its settings are the person's."""
