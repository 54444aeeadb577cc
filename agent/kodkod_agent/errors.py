"""What ends a run early, and what can go wrong with a session.

    AgentError                 1   any fault of the agent
    ├── WorkTreeUnfit          2   a folder whose name is no line of text, or with far too much in it
    ├── SessionNotFound        2   no session of that name
    ├── SessionBusy            2   it is open in another process, or a run is going on already
    ├── FilesHalfMoved         1   going to a step failed in its middle, and so did going back
    └── SessionDamaged         1   a file of its folder cannot be read

    RunFlow                        no fault: ends the run in order, with messages for the conversation
    ├── LimitReached         124   turns, tokens or seconds are used up
    │   ├── ContextFull      124   the conversation no longer fits the model's context
    │   └── NoProgress       124   the same calls in the same world, or only malformed ones
    └── Interrupted          130   the person said stop

A `RunFlow` leaves a node and is caught in one place, around every node (`graph.py`). A fault of the engine or of the
box passes through and keeps its own exit code.
"""

from __future__ import annotations

from pydantic import ValidationError

from kodkod_agent.state import Status


class AgentError(Exception):
    """Any fault of the agent."""

    exit_code = 1


class WorkTreeUnfit(AgentError):
    """A folder that cannot be a work tree: its name is no line of text, or every session would copy far too much."""

    exit_code = 2


class SessionNotFound(AgentError):
    """No session of that name."""

    exit_code = 2


class SessionBusy(AgentError):
    """The session is open in another process, or a run is going on already."""

    exit_code = 2


class FilesHalfMoved(AgentError):
    """Going to a step failed in its middle, and the files could not be put back; what they were is on record."""


class SessionDamaged(AgentError):
    """A file of the session's folder cannot be read."""


def cause_of(fault: Exception) -> str:
    """Why a file could not be read, in a few words on one line."""
    if isinstance(fault, OSError):
        return fault.strerror or type(fault).__name__
    if not isinstance(fault, ValidationError):
        return str(fault).splitlines()[0]
    first = fault.errors(include_url=False)[0]
    return ": ".join([*map(str, first["loc"][-1:]), first["msg"].removeprefix("Value error, ").splitlines()[0]])


class RunFlow(Exception):
    """Ends a run in order."""

    status = Status.LIMIT

    def __init__(self, reason: str, messages: tuple[str, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        """One line for the person."""
        self.messages = messages or (f"The run ends here: {reason}.",)
        """Notices to append to the conversation, so that a later turn knows how this one ended."""


class LimitReached(RunFlow):
    """Turns, tokens or seconds are used up."""


class ContextFull(LimitReached):
    """The conversation does not fit the model's context, even after a rebuild."""


class NoProgress(LimitReached):
    """The model repeats itself."""


class Interrupted(RunFlow):
    """The person said stop."""

    status = Status.INTERRUPTED
