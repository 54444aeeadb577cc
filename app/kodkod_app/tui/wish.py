"""What a person opened the app with. Light: read before the first frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
