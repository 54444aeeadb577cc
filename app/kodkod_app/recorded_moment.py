"""What a recorded session was told of its moment, told again at the same places; its hooks are not run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pydantic import JsonValue

from kodkod_agent.context import Budget
from kodkod_agent.hooks import Heard, HookEvent, NoHooks
from kodkod_agent.moment import Allowance, Moment
from kodkod_agent.policy import PermissionMode
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.chat.ledger_state import Declaration
from kodkod_engine.messages import ToolSpec
from kodkod_tools.base import ToolContext


class FollowedRecording(Protocol):
    """A recording, and where in it a replay is."""

    def is_full(self, budget: Budget, ledger: TokenLedger) -> bool:
        """Whether the recorded conversation was compacted here."""
        ...

    def facts(self) -> list[str]:
        """What was told of the moment at this place."""
        ...

    def declared(self) -> Declaration | None:
        """What was declared at this place."""
        ...

    def objection(self) -> str | None:
        """What a hook said against the end of the run at this place."""
        ...


class RecordedMoment(Moment):
    """Does what was recorded, at the place where it was."""

    def __init__(self, follower: FollowedRecording) -> None:
        self._follower = follower

    def is_full(self, budget: Budget, ledger: TokenLedger) -> bool:
        """See `Moment`."""
        return self._follower.is_full(budget, ledger)

    async def facts(self, tools: ToolContext) -> list[str]:
        """See `Moment`."""
        del tools
        return self._follower.facts()

    def skills(self, listing: str) -> list[str]:
        """See `Moment`."""
        del listing
        return self._follower.facts()

    def mode(self, before: str, now: PermissionMode) -> list[str]:
        """See `Moment`."""
        del before, now
        return self._follower.facts()

    def tools(self, new: Sequence[ToolSpec], gone: Sequence[str]) -> tuple[Sequence[ToolSpec], Sequence[str]]:
        """See `Moment`."""
        del new, gone
        found = self._follower.declared()
        return ((), ()) if found is None else (found.tools, found.withdrawn)

    def budgets(self, low: Sequence[Allowance]) -> list[str]:
        """See `Moment`."""
        del low
        return self._follower.facts()


class RecordedHooks(NoHooks):
    """Runs no hook: what was said against the end of a run is said again."""

    def __init__(self, follower: FollowedRecording) -> None:
        self._follower = follower

    async def hear(self, event: HookEvent, tool: str, told: Mapping[str, JsonValue], work_tree: Path) -> Heard:
        """See `Hooks`."""
        if event is HookEvent.STOP:
            return Heard(self._follower.objection())
        return await super().hear(event, tool, told, work_tree)
