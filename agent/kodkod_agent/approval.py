"""A person's word on one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from pydantic import BaseModel, ConfigDict, JsonValue

from kodkod_agent.policy import Decision, Verdict
from kodkod_agent.rules import Rule
from kodkod_agent.state import Ruling
from kodkod_engine.messages import ToolCall


class Approval(BaseModel):
    """The answer to one `ApprovalRequest`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    call_id: str
    allowed: bool
    message: str = ""
    """For the model, with a refusal: what to do instead."""
    arguments: Mapping[str, JsonValue] | None = None
    """With a yes: the arguments to take in place of the model's."""
    always: tuple[Rule, ...] = ()
    """With a yes: rules that allow such calls for the rest of the session."""


def rule_on(call: ToolCall, approval: Approval, asked: Iterable[str], judge: Callable[[ToolCall], Decision]) -> Ruling:
    """What becomes of a call that was asked about. Changed arguments may not pass what a rule denies.

    Args:
        call: as the model wrote it.
        approval: the answer.
        asked: what the person was asked about (`Decision.asked`).
        judge: by the rules that hold now.
    """
    if not approval.allowed:
        said = f": {approval.message}" if approval.message else ""
        return Ruling(by_person=True, allowed=False, reason=f"the user refused{said}")
    if approval.arguments is None:
        return Ruling(by_person=True, allowed=True, reason="the user agreed", asked=sorted(asked))
    changed = dict(approval.arguments)
    decision = judge(call.model_copy(update={"arguments": changed}))
    if decision.verdict is Verdict.DENY:
        return Ruling(
            by_person=True, allowed=False, reason=f"the user changed it to what may not be done: {decision.reason}"
        )
    named = sorted(decision.asked)
    return Ruling(by_person=True, allowed=True, reason="the user changed it", arguments=changed, asked=named)


def changed_since(call: ToolCall, ruling: Ruling, judge: Callable[[ToolCall], Decision]) -> str:
    """Why a call that was allowed may not be done as things are now; empty when it may.

    Files may lead elsewhere by then and tools of other programs come or change: what was not judged is not done.
    """
    decision = judge(call)
    holds = decision.verdict is Verdict.ASK and decision.asked <= set(ruling.get("asked", ()))
    if decision.verdict is Verdict.ALLOW or holds:
        return ""
    return f"what it would do has changed since it was allowed; {decision.reason}"
