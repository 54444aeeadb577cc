"""Doing one call of the model, so that a kill at any instant neither loses it nor does it twice.

Before a call that may change something, the work tree is recorded and the intent is written down; afterwards, how it
ended. Whoever runs the same call again after a kill finds one of three things:

    nothing        the call never began: do it
    an intent      it may have been done in part: put the files back as they were before it, then do it; what another
                   program does is not done twice, and the model is told so
    an outcome     it was done: take the outcome as it was written down
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TypeAlias

from pydantic import JsonValue

from kodkod_agent import events, trajectory
from kodkod_agent.approval import changed_since
from kodkod_agent.context import fit_tokens
from kodkod_agent.hearing import hear_after, hear_before
from kodkod_agent.journal import IntentRecord, Outcome, OutcomeRecord
from kodkod_agent.policy import Verdict
from kodkod_agent.resources import Resources
from kodkod_agent.state import Ruling
from kodkod_engine.messages import ToolCall, ToolMessage
from kodkod_tools import registry
from kodkod_tools.base import Effect, FileDiff, ToolError, ToolOutput, ToolResult
from kodkod_tools.text.truncate import cut_line

_HARMLESS = (Effect.READS, Effect.NONE)
_MIN_RESULT_TOKENS = 64
"""A result takes no less, however full the context is: the next turn starts with a rebuild then."""
_MAX_SHOWN_CHARS = 200
_CUT_SHORT = (
    "it was cut short, and is not done again: whether it was carried out is not known; look before you repeat it"
)
"""What another program did cannot be put back."""
_INTERRUPTED = "interrupted while it ran; it may have been done in part"
_Shown: TypeAlias = str | FileDiff


async def perform(call: ToolCall, ruling: Ruling, step: int, res: Resources) -> Outcome:
    """Do one call, or refuse it, and append its result to the ledger. It must be the next of the pending ones.

    Raises:
        SandboxError: the box failed.
    """
    key = _key(call, res)
    for_person: _Shown = ""
    outcome = res.journal.outcome(key)
    if outcome is None:
        res.record(_decided(call, ruling), step)
        outcome, for_person = await _settle(call, ruling, step, res)
        _write_down(outcome, step, res)
    _tell(outcome, for_person, res)
    _append(outcome, res)
    return outcome


def _write_down(outcome: Outcome, step: int, res: Resources) -> None:
    res.record(_finished(outcome), step)
    res.journal.add(OutcomeRecord(key=f"{res.ledger.branch_id}:{outcome.call_id}", outcome=outcome))


def _decided(call: ToolCall, ruling: Ruling) -> trajectory.Decided:
    verdict = Verdict.ALLOW if ruling["allowed"] else Verdict.DENY
    by_person = ruling.get("by_person", False)
    return trajectory.Decided(
        call_id=call.id,
        verdict=verdict,
        reason=ruling["reason"],
        by_person=by_person,
        arguments=ruling.get("arguments"),
    )


def _finished(outcome: Outcome) -> trajectory.CallFinished:
    return trajectory.CallFinished(
        call_id=outcome.call_id,
        name=outcome.name,
        for_model=outcome.for_model,
        log_path=outcome.log_path,
        error=outcome.error,
        refused=outcome.refused,
        facts=outcome.facts,
        duration_s=outcome.duration_s,
    )


async def _settle(call: ToolCall, ruling: Ruling, step: int, res: Resources) -> tuple[Outcome, _Shown]:
    if not ruling["allowed"]:
        return refusal(call, ruling["reason"]), ""
    given = ruling.get("arguments")
    done = call if given is None else call.model_copy(update={"arguments": given})
    if fault := changed_since(done, ruling, res.permissions.judge):
        return refusal(call, fault), ""
    if given is None:
        return await _heard_and_done(done, step, res)
    outcome, for_person = await _heard_and_done(done, step, res)
    told = f"{_changed_by_person(call, given)}\n{outcome.for_model}"
    return outcome.model_copy(update={"for_model": told}), for_person


async def _heard_and_done(call: ToolCall, step: int, res: Resources) -> tuple[Outcome, _Shown]:
    """Hooks may keep it from being done, and say something before and after."""
    before = await hear_before(call, res)
    if before.objection is not None:
        return refusal(call, f"a hook objects: {before.objection}"), ""
    outcome, for_person = await _do(call, step, res)
    try:
        words = [*before.messages, *await hear_after(call, outcome, res)]
    except asyncio.CancelledError:  # it was done all the same, whatever the hooks would have said of it
        _write_down(outcome, step, res)
        _tell(outcome, for_person, res)
        raise
    return outcome.model_copy(update={"for_model": "\n".join([outcome.for_model, *words])}), for_person


def _changed_by_person(call: ToolCall, given: Mapping[str, JsonValue]) -> str:
    """For the model, which would not know its own call again in the result."""
    named = [key for key in {**call.arguments, **given} if call.arguments.get(key) != given.get(key)]
    shown = (f"{key}={cut_line(repr(given[key]), _MAX_SHOWN_CHARS)}" if key in given else f"no {key}" for key in named)
    return f"[the user changed this call before it was run: {', '.join(shown) or 'nothing'}]"


def _key(call: ToolCall, res: Resources) -> str:
    return f"{res.ledger.branch_id}:{call.id}"


def _append(outcome: Outcome, res: Resources) -> None:
    room = max(_MIN_RESULT_TOKENS, res.budget.room_for_result(res.ledger))
    text = fit_tokens(res.tokenizer, outcome.for_model, room)
    res.ledger.append_tool_results([ToolMessage(call_id=outcome.call_id, text=text)])


def refusal(call: ToolCall, reason: str) -> Outcome:
    """The outcome of a call that is not run."""
    return Outcome(call_id=call.id, name=call.name, for_model=f"not run: {reason}", refused=True)


def answer_pending(reason: str, res: Resources) -> None:
    """Close what is open in the conversation: end the turn, and say of every call left that it was not run."""
    if res.ledger.turn_open:
        res.ledger.end_turn()
    for call in res.ledger.pending_calls:
        _append(res.journal.outcome(_key(call, res)) or refusal(call, reason), res)


async def _do(call: ToolCall, step: int, res: Resources) -> tuple[Outcome, _Shown]:
    if _effect(call, res) not in _HARMLESS and not await _intended(call, step, res):
        return Outcome(call_id=call.id, name=call.name, for_model=_CUT_SHORT), ""
    res.record(trajectory.CallStarted(call_id=call.id, name=call.name), step)
    started = time.monotonic()
    try:
        with res.spans.call(call) as span:
            result = await _run(call, res)
            span.done(result)
    except asyncio.CancelledError:
        cut = Outcome(call_id=call.id, name=call.name, for_model=_INTERRUPTED)
        res.journal.add(OutcomeRecord(key=_key(call, res), outcome=cut))
        raise
    outcome = Outcome(
        call_id=call.id,
        name=call.name,
        for_model=result.for_model,
        error=result.error,
        log_path=str(result.for_log) if isinstance(result.for_log, Path) else None,
        changed_paths=result.changed_paths,
        facts=dict(result.facts),
        duration_s=time.monotonic() - started,
    )
    return outcome, result.for_person


async def _intended(call: ToolCall, step: int, res: Resources) -> bool:
    """Write down that a call which may change something is about to be done; False where it must not be, again."""
    key = _key(call, res)
    intent = res.journal.intent(key)
    if intent is not None and _effect(call, res) is Effect.EXTERNAL:
        return False
    if intent is not None:
        await _put_back(intent.snapshot, step, res)
    snapshot = await res.take_snapshot(step)
    res.journal.add(IntentRecord(key=key, step=step, snapshot=snapshot))
    return True


def _effect(call: ToolCall, res: Resources) -> Effect:
    try:
        return registry.parse_call(call, res.tools.more)[0].effect
    except ToolError:
        return Effect.NONE


async def _put_back(snapshot: str, step: int, res: Resources) -> None:
    # What is there now is recorded first: a person may have worked in it since the kill.
    await res.take_snapshot(step)
    await asyncio.to_thread(res.snapshots.restore, snapshot)
    res.emit(events.Notice("a call was cut short; the files were put back as they were before it, and it is run again"))


async def _run(call: ToolCall, res: Resources) -> ToolResult:
    result: ToolResult | None = None
    async with aclosing(registry.run_call(call, res.tools)) as items:
        async for item in items:
            if isinstance(item, ToolOutput):
                res.emit(events.CallOutput(call.id, item.text, item.channel))
            else:
                result = item
    assert result is not None, "a tool's stream ends with its result"
    return result


def _tell(outcome: Outcome, for_person: _Shown, res: Resources) -> None:
    res.emit(
        events.CallFinished(
            call_id=outcome.call_id,
            name=outcome.name,
            for_model=outcome.for_model,
            for_person=for_person,
            error=outcome.error,
            refused=outcome.refused,
            facts=outcome.facts,
            duration_s=outcome.duration_s,
        )
    )
