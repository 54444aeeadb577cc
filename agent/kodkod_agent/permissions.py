"""What one session may do: the mode, the rules, and the folder they are judged in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kodkod_agent.policy import Decision, PermissionMode, judge
from kodkod_agent.rules import Rule, Rules
from kodkod_engine.messages import ToolCall
from kodkod_tools.base import ForeignTool


@dataclass(slots=True)
class Permissions:
    """A person may change the mode, and allow more, while the session goes on."""

    work_tree: Path
    mode: PermissionMode = PermissionMode.DEFAULT
    rules: Rules = field(default_factory=Rules)
    trusted: bool = False
    """The person trusts this folder."""
    sandboxed: bool = False
    """The box holds the work tree alone and has no network."""
    more: Mapping[str, ForeignTool] = field(default_factory=dict)
    """Tools of other programs, by name."""

    @property
    def plan_only(self) -> bool:
        """Nothing may be changed."""
        return self.mode is PermissionMode.PLAN

    def judge(self, call: ToolCall) -> Decision:
        """Whether a call may go ahead."""
        return judge(
            call,
            mode=self.mode,
            rules=self.rules,
            work_tree=self.work_tree,
            trusted=self.trusted,
            sandboxed=self.sandboxed,
            more=self.more,
        )

    def allow(self, rules: Iterable[Rule]) -> None:
        """Allow such calls for the rest of the session."""
        self.rules = self.rules.with_allowed(*rules)
