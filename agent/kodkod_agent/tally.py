"""Counts what a run did, from its events."""

from __future__ import annotations

from dataclasses import dataclass

from kodkod_agent import events
from kodkod_engine.messages import ToolCall
from kodkod_tools.base import ErrorCode

_MALFORMED = (ErrorCode.MALFORMED_CALL, ErrorCode.UNKNOWN_TOOL)


@dataclass(slots=True)
class Tally:
    """Of one run, or of one candidate."""

    calls: int = 0
    malformed_calls: int = 0
    """That could not be read, or name no tool."""
    failed_calls: int = 0
    """That ended with an error of whatever kind, the malformed ones among them."""
    test_runs: int = 0
    """By the model and by the agent."""
    change: str = ""
    """The first edit that was written, in one line; later ones may take it back."""

    def count(self, event: events.Event) -> None:
        """Take in one event."""
        match event:
            case events.CallFinished():
                self.calls += 1
                self.malformed_calls += event.error in _MALFORMED
                self.failed_calls += event.error is not None
                self.test_runs += event.name == "test" and not event.refused
            case events.CallWritten(call) if call.name == "edit" and not self.change:
                self.change = _told(call)
            case events.TestsRan():
                self.test_runs += 1
            case _:
                pass


def _told(edit: ToolCall) -> str:
    path, line, old, new = (edit.arguments.get(name) for name in ("path", "line", "old", "new"))
    place = path if line is None else f"{path}:{line}"
    return f"{place}: {old} → {new}"
