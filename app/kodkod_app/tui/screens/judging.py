"""Asking the session's permissions what they would say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from kodkod_agent.permissions import Permissions
from kodkod_agent.policy import Decision
from kodkod_agent.rules import Rule
from kodkod_engine.messages import ToolCall

Judge: TypeAlias = Callable[[ToolCall, tuple[Rule, ...]], Decision]
"""What would be said of a call, were these rules allowed as well."""


def judge_of(permissions: Permissions) -> Judge:
    """As the session would judge now."""

    def judge(call: ToolCall, more: tuple[Rule, ...]) -> Decision:
        return replace(permissions, rules=permissions.rules.with_allowed(*more)).judge(call)

    return judge
