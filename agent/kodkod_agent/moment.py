"""Facts of the moment, told at the tail of the conversation: the date, git's status, the mode, what is left of a run.

They hold when they are said and not for long, so none is ever part of the head: what stands before them stays as it
is, and so does the model's memory of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType

from kodkod_agent.config import AgentConfig
from kodkod_agent.context import Budget, prompt
from kodkod_agent.limits import Remaining
from kodkod_agent.policy import PermissionMode
from kodkod_agent.state import AgentState
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.messages import ToolSpec
from kodkod_tools import gitstatus
from kodkod_tools.base import ToolContext, ToolError
from kodkod_tools.repository import Repository

_FACTS = "Facts of the moment:"
_MODE = "The permission mode is now"
_LEFT = "Left of this run:"
_SKILLS = "Skills:"
_SHARES = (0.25, 0.1)
"""A budget is told of when no more than such a share of it is left, once each."""
_MAX_ENTRIES = 12
_MEANING: Mapping[PermissionMode, str] = MappingProxyType(
    {
        PermissionMode.DEFAULT: "looking is free, the user is asked about changes and commands",
        PermissionMode.PLAN: "nothing may be changed or run",
        PermissionMode.ACCEPT_EDITS: "edits of project files go ahead, the user is asked about the rest",
        PermissionMode.AUTO: "edits, commits and branches go ahead, the user is asked about the rest",
        PermissionMode.DONT_ASK: "nobody is asked: what would need it is refused",
        PermissionMode.BYPASS_PERMISSIONS: "everything goes ahead without asking",
    }
)


def is_of_the_moment(text: str) -> bool:
    """Whether a notice is one of these: another time would have another."""
    return text.startswith((_FACTS, _MODE, _LEFT, _SKILLS))


@dataclass(frozen=True, slots=True)
class Allowance:
    """One of the things a run uses up."""

    name: str
    left: float
    of: float

    @property
    def crossed(self) -> list[str]:
        """Names the shares it has come down to."""
        return [f"{self.name} {share:g}" for share in _SHARES if self.left <= share * self.of]

    def __str__(self) -> str:
        return f"{max(0, self.left):,.0f} of {self.of:,.0f} {self.name}"


class Moment:
    """What there is to tell now, and whether it is time to compact. A replay does what was recorded instead."""

    def is_full(self, budget: Budget, ledger: TokenLedger) -> bool:
        """Whether the conversation is to be shortened before it goes on."""
        return budget.is_near_full(ledger)

    async def facts(self, tools: ToolContext) -> list[str]:
        """The date, and what git says of the work tree."""
        told = f"{_FACTS} it is {date.today():%A, %Y-%m-%d}."
        status = await asyncio.to_thread(_git_status, tools)
        return [f"{told} Git, before you began: {status}" if status else told]

    def tools(self, new: Sequence[ToolSpec], gone: Sequence[str]) -> tuple[Sequence[ToolSpec], Sequence[str]]:
        """Which tools of other programs to tell of, of those that came or changed and of the names that went."""
        return new, gone

    def skills(self, listing: str) -> list[str]:
        """The list of skills, where there is one that the model does not know."""
        return [prompt("skills", skills=listing)] if listing else []

    def mode(self, before: str, now: PermissionMode) -> list[str]:
        """The mode, where the model knows another."""
        return [f"{_MODE} {now}: {_MEANING[now]}."] if before and before != now else []

    def budgets(self, low: Sequence[Allowance]) -> list[str]:
        """What is left of those that came down to a share they were not told of at."""
        if not low:
            return []
        return [
            f"{_LEFT} {', '.join(map(str, low))}. Do what matters most; when the task is done and checked, call finish."
        ]


def allowances(config: AgentConfig, left: Remaining) -> tuple[Allowance, ...]:
    """All that is limited."""
    return (
        Allowance("turns", left.turns, config.max_turns),
        Allowance("tokens to write", left.tokens, config.max_tokens),
        Allowance("seconds", left.seconds, config.timeout_s),
    )


def newly_low(found: Iterable[Allowance], state: AgentState) -> tuple[list[Allowance], list[str]]:
    """The budgets to tell of, and all shares told of by then."""
    known = state.get("told_budgets", [])
    low = [one for one in found if not set(one.crossed) <= set(known)]
    return low, [*known, *(name for one in low for name in one.crossed if name not in known)]


def _git_status(tools: ToolContext) -> str:
    """Empty where there is no repository with files, or git does not answer in time."""
    try:
        with Repository(tools.work_tree, tools.config.git_timeout_s) as repository:
            if repository.is_bare:
                return ""
            return gitstatus.render(gitstatus.read(repository, ["--", "."]), _MAX_ENTRIES)
    except (ToolError, OSError):
        return ""
