"""Where hooks are heard: what each is told, and what becomes of its words."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from kodkod_agent import events
from kodkod_agent.hooks import Heard, HookEvent
from kodkod_agent.journal import Outcome
from kodkod_agent.resources import Resources
from kodkod_agent.state import AgentState, Node, Status
from kodkod_engine.messages import ToolCall

OBJECTED = "A hook of the user's objects to ending here:"
_ENDS = (Status.DONE, Status.UNVERIFIED)


@dataclass(frozen=True, slots=True)
class Before:
    """What was said before a call."""

    objection: str | None
    messages: tuple[str, ...]
    """As the model reads them behind the result."""


async def hear_before(call: ToolCall, res: Resources) -> Before:
    """Before a call that was allowed."""
    heard = await res.hooks.hear(HookEvent.BEFORE_TOOL, call.name, _of_call(call, res), res.tools.work_tree)
    return Before(heard.objection, _said(heard))


async def hear_after(call: ToolCall, outcome: Outcome, res: Resources) -> list[str]:
    """After a call; what the model reads behind the result."""
    told = {**_of_call(call, res), "result": outcome.for_model, "error": outcome.error}
    heard = await res.hooks.hear(HookEvent.AFTER_TOOL, call.name, told, res.tools.work_tree)
    _tell_faults(heard, res)
    objection = [] if heard.objection is None else [f"[a hook objects: {heard.objection}]"]
    return [*_said(heard), *objection]


async def hear_at_end(update: AgentState, state: AgentState, res: Resources) -> AgentState:
    """When a run would end in order: what follows instead, where a hook objects."""
    objections = state.get("stop_objections", 0)
    ends = update.get("next") == Node.FINISH and update.get("status") in _ENDS
    if not ends or objections >= res.config.max_stop_objections:
        return update
    told: dict[str, JsonValue] = {
        "session_id": res.session_id,
        "status": update["status"],
        "summary": update.get("summary", state["summary"]),
    }
    heard = await res.hooks.hear(HookEvent.STOP, "", told, res.tools.work_tree)
    _tell_faults(heard, res)
    if heard.objection is None:
        return update
    res.tell_model("\n".join([f"{OBJECTED} {heard.objection}", *heard.messages]), res.step)
    res.emit(events.Notice(f"a hook objects to the end: {heard.objection.splitlines()[0]}"))
    return AgentState(next=Node.PREPARE, stop_objections=objections + 1, ledger_mark=res.log.sync(res.ledger))


def _of_call(call: ToolCall, res: Resources) -> dict[str, JsonValue]:
    return {"session_id": res.session_id, "call_id": call.id, "arguments": dict(call.arguments)}


def _said(heard: Heard) -> tuple[str, ...]:
    return tuple(f"[a hook says: {message}]" for message in heard.messages)


def _tell_faults(heard: Heard, res: Resources) -> None:
    for fault in heard.faults:
        res.emit(events.Notice(fault))
