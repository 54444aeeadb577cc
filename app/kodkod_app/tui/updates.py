"""What the workbench tells the screen, beside the agent's own events. Light: no pydantic, no agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kodkod_agent.rules import Rule
    from kodkod_app.tui.store import Entry
    from kodkod_tools.base import FileDiff


@dataclass(frozen=True, slots=True)
class Loading:
    """Something is being opened."""

    what: str
    done: int = 0
    total: int = 0
    """Bytes; 0 where there is nothing to count."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A session is open, and something may be said."""

    session_id: str
    title: str
    model: str
    """Short, for a line."""
    box: str
    mode: str
    branch: str
    """Of git; empty outside a repository."""
    max_context_tokens: int
    max_step_tokens: int
    entries: Sequence[Entry]
    """What was said in it before."""
    is_unfinished: bool = False
    """A run was cut short; `proceed` goes on with it."""
    context_tokens: int = 0


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What a person should know before agreeing to a call."""

    where: str
    """The box, in words."""
    rules: tuple[Rule, ...] = ()
    """What `always` would save; empty where that is not offered."""
    diff: FileDiff | None = None
    """What the call would change."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Calls wait for a person's word."""

    requests: tuple[Any, ...]
    """`ApprovalRequest`s of the agent."""
    facts: tuple[CallFacts, ...]
    """One per request."""


@dataclass(frozen=True, slots=True)
class Idle:
    """A run is over, in whatever way; the next thing may be said."""


@dataclass(frozen=True, slots=True)
class ModeSet:
    """The permission mode changed."""

    mode: str


@dataclass(frozen=True, slots=True)
class BranchSeen:
    """The branch of git that is checked out."""

    branch: str


@dataclass(frozen=True, slots=True)
class Told:
    """A fact for the person."""

    text: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Something failed; the cause and a way out in one line."""

    text: str
    exit_code: int = 1
    is_fatal: bool = False
    """No session is open and none can be."""


@dataclass(frozen=True, slots=True)
class ShellBegan:
    """The person runs a command in the box."""

    command: str


@dataclass(frozen=True, slots=True)
class ShellSaid:
    """Output of it."""

    text: str


@dataclass(frozen=True, slots=True)
class ShellEnded:
    """It ended."""

    exit_code: int
    duration_s: float
