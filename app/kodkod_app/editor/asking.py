"""A question of the agent's as a permission request of the protocol's, and the answer back."""

from __future__ import annotations

from acp.schema import AllowedOutcome, PermissionOption, RequestPermissionResponse

from kodkod_agent.approval import Approval
from kodkod_agent.events import ApprovalRequest
from kodkod_agent.rules import Rule
from kodkod_app.render import one_line
from kodkod_engine.messages import ToolCall

ONCE, ALWAYS, REFUSE = "once", "always", "refuse"
_MAX_RULES_CHARS = 120


def options_for(rules: tuple[Rule, ...]) -> list[PermissionOption]:
    """What a person may answer. `rules` are what `always` would allow, and are shown; without any it is not offered."""
    always = one_line(" | ".join(map(str, rules)), _MAX_RULES_CHARS)
    return [
        PermissionOption(option_id=ONCE, name="Allow", kind="allow_once"),
        *([PermissionOption(option_id=ALWAYS, name=f"Always allow {always}", kind="allow_always")] if rules else []),
        PermissionOption(option_id=REFUSE, name="Refuse", kind="reject_once"),
    ]


def approval_of(call: ToolCall, answer: RequestPermissionResponse, rules: tuple[Rule, ...]) -> Approval:
    """What was answered. Whatever was not offered is a refusal."""
    chosen = answer.outcome.option_id if isinstance(answer.outcome, AllowedOutcome) else REFUSE
    if chosen == ALWAYS and rules:
        return Approval(call_id=call.id, allowed=True, always=rules)
    return Approval(call_id=call.id, allowed=chosen == ONCE)


def told_question(request: ApprovalRequest, box: str) -> str:
    """Why it is asked, and where it would be done."""
    return f"{request.reason}\n{box}"
